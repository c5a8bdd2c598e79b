//! Which program a container runs, and where: entry point, command, working directory, hostname, labels (pure).

use std::collections::BTreeMap;

use super::error::BundleError;

/// Longest hostname that the kernel takes (`__NEW_UTS_LEN`) less one, as DNS labels go.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The program and its arguments. Docker's rules: an `--entrypoint` drops the image's entry point *and* its command;
/// an empty one (`--entrypoint ""`) leaves only what the caller gives; arguments replace the image's command.
pub fn arguments(
    image_entrypoint: &[String],
    image_command: &[String],
    entrypoint: Option<&str>,
    command: &[String],
) -> Result<Vec<String>, BundleError> {
    let (entrypoint, default): (Vec<String>, &[String]) = match entrypoint {
        Some("") => (Vec::new(), &[]),
        Some(program) => (vec![program.to_owned()], &[]),
        None => (image_entrypoint.to_vec(), image_command),
    };
    let command = if command.is_empty() { default } else { command };
    let all: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        return Err(BundleError::NoCommand);
    }
    Ok(all)
}

/// The working directory: the caller's, the image's, or `/`. Always absolute and without `.` and `..`.
pub fn working_directory(image: Option<&str>, caller: Option<&str>) -> Result<String, BundleError> {
    match caller {
        Some(given) if !given.starts_with('/') => Err(BundleError::WorkingDirectory(given.to_owned())),
        Some(given) => Ok(clean_path(given)),
        None => Ok(clean_path(image.unwrap_or("/"))),
    }
}

/// An absolute path without `.`, `..`, and repeated or trailing slashes, by its words alone.
pub fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Checks a hostname.
pub fn hostname(given: &str) -> Result<String, BundleError> {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte == b'-' || *byte == b'.');
    let bytes = given.as_bytes();
    let known = bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte));
    if bytes.is_empty()
        || bytes.len() > HOSTNAME_BYTES_MAX
        || !known
        || edge(bytes.first())
        || edge(bytes.last())
    {
        return Err(BundleError::Hostname(given.to_owned()));
    }
    Ok(given.to_owned())
}

/// Labels: the image's, then the caller's `NAME[=VALUE]`.
pub fn labels(
    image: BTreeMap<String, String>,
    caller: &[String],
) -> Result<BTreeMap<String, String>, BundleError> {
    let mut merged = image;
    for text in caller {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(BundleError::Label(text.clone()));
        }
        merged.insert(name.to_owned(), value.to_owned());
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn entry_point_and_command_follow_docker() {
        // image's entry point, image's command, --entrypoint, arguments, what runs
        let table = [
            ("", "sh", None, "", Some("sh")),
            ("", "sh", None, "ls -l", Some("ls -l")),
            ("/init", "serve", None, "", Some("/init serve")),
            ("/init", "serve", None, "stop", Some("/init stop")),
            ("/init", "", None, "", Some("/init")),
            ("/init", "serve", Some("sh"), "", Some("sh")),
            ("/init", "serve", Some("sh"), "-c x", Some("sh -c x")),
            ("/init", "serve", Some(""), "ls", Some("ls")),
            ("/init", "serve", Some(""), "", None),
            ("", "", None, "", None),
        ];
        for (image_entry, image_command, entry, given, expected) in table {
            let got = arguments(&words(image_entry), &words(image_command), entry, &words(given));
            assert_eq!(
                got.ok(),
                expected.map(words),
                "{image_entry} {image_command} {entry:?} {given}"
            );
        }
        assert_eq!(
            arguments(&[], &[], None, &[String::new()]),
            Err(BundleError::NoCommand)
        );
    }

    #[test]
    fn working_directories_are_absolute_and_clean() {
        let table = [
            (None, None, Some("/")),
            (Some(""), None, Some("/")),
            (Some("/srv"), None, Some("/srv")),
            (Some("srv"), None, Some("/srv")),
            (Some("/srv"), Some("/a//b/./../c/"), Some("/a/c")),
            (None, Some("/../../x"), Some("/x")),
            (None, Some("relative"), None),
            (None, Some(""), None),
        ];
        for (image, caller, expected) in table {
            assert_eq!(
                working_directory(image, caller).ok().as_deref(),
                expected,
                "{image:?} {caller:?}"
            );
        }
    }

    #[test]
    fn hostnames_are_checked() {
        for good in ["a", "web-1", "a.b.c", "x_y", &"a".repeat(63)] {
            assert_eq!(hostname(good).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "a-", ".a", "a b", "a\nb", "é", &"a".repeat(64)] {
            assert!(hostname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_of_the_caller_win() {
        let image = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let merged = labels(image, &words("b=3 c d=x=y")).unwrap();
        let expected = [("a", "1"), ("b", "3"), ("c", ""), ("d", "x=y")];
        assert!(
            merged
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .eq(expected)
        );
        assert!(labels(BTreeMap::new(), &words("=x")).is_err());
    }
}
