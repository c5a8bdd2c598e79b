//! The environment of a container: the defaults, then the image's, then the caller's (pure).

use super::error::BundleError;

/// The search path of a container whose image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks a variable up in the environment of the caller.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The value of `-e`: `NAME=VALUE`, or `NAME` alone, which takes the caller's value, and removes the variable when
/// the caller has none (Docker's rule; the bare name is kept in the result to say so).
pub fn parse_variable(text: &str, lookup: Lookup<'_>) -> Result<String, BundleError> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() || text.contains('\0') {
        return Err(BundleError::Environment(text.replace('\0', "\\0")));
    }
    if name.len() < text.len() {
        return Ok(text.to_owned());
    }
    Ok(lookup(name).map_or_else(|| name.to_owned(), |value| format!("{name}={value}")))
}

/// The variables of an `--env-file`: a line each, `#` starts a comment, values are taken as they stand.
pub fn parse_file(name: &str, content: &[u8], lookup: Lookup<'_>) -> Result<Vec<String>, BundleError> {
    let wrong = |line: usize, what: &str| BundleError::Environment(format!("{name}: line {line}: {what}"));
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut variables = Vec::new();
    for (index, line) in content.split(|&byte| byte == b'\n').enumerate() {
        let text = str::from_utf8(line).map_err(|_| wrong(index + 1, "is not UTF-8"))?;
        let text = text.strip_suffix('\r').unwrap_or(text).trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let variable = text.split('=').next().unwrap_or_default();
        if variable.is_empty() {
            return Err(wrong(index + 1, "no variable name"));
        }
        if variable.contains(char::is_whitespace) {
            return Err(wrong(
                index + 1,
                &format!("variable {variable:?} contains whitespace"),
            ));
        }
        let parsed = parse_variable(text, lookup).map_err(|_| wrong(index + 1, "contains a zero byte"))?;
        // A bare name without a value on the host says nothing in a file, where `-e NAME` removes.
        if parsed.contains('=') {
            variables.push(parsed);
        }
    }
    Ok(variables)
}

/// Puts the environment together. `caller` is what [`parse_variable`] and [`parse_file`] gave, the files first: the
/// last one wins. The order is Docker's: PATH, HOSTNAME, TERM, the caller's, the image's.
pub fn merge(image: &[String], caller: &[String], hostname: &str, terminal: bool) -> Vec<String> {
    let mut merged: Vec<String> = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if terminal {
        merged.push("TERM=xterm".to_owned());
    }
    for variable in image {
        set(&mut merged, variable);
    }
    for variable in caller {
        set(&mut merged, variable);
    }
    merged
}

/// What is the container's own of it: the image's and the caller's, without what every container is given. A commit
/// keeps this.
pub fn own(image: &[String], caller: &[String]) -> Vec<String> {
    let mut merged = Vec::new();
    for variable in image.iter().chain(caller) {
        set(&mut merged, variable);
    }
    merged
}

/// Adds HOME when nothing set it.
pub fn with_home(mut environment: Vec<String>, home: &str) -> Vec<String> {
    if value(&environment, "HOME").is_none_or(str::is_empty) {
        set(&mut environment, &format!("HOME={home}"));
    }
    environment
}

/// The value of a variable.
pub fn value<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment
        .iter()
        .find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
}

/// Sets `NAME=VALUE`, or removes `NAME`.
fn set(environment: &mut Vec<String>, variable: &str) {
    let Some((name, _)) = variable.split_once('=') else {
        environment.retain(|held| held.split('=').next() != Some(variable));
        return;
    };
    match environment
        .iter_mut()
        .find(|held| held.split('=').next() == Some(name))
    {
        Some(held) => variable.clone_into(held),
        None => environment.push(variable.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Option<String> {
        (name == "LANG").then(|| "C.UTF-8".to_owned())
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn variables_are_parsed_as_docker_does() {
        let table = [
            ("A=b", Some("A=b")),
            ("A=", Some("A=")),
            ("A=b=c", Some("A=b=c")),
            ("LANG", Some("LANG=C.UTF-8")),
            ("LANG=", Some("LANG=")),
            ("NOT_SET", Some("NOT_SET")),
            ("", None),
            ("=x", None),
            ("A=\0", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_variable(text, &host).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn files_are_parsed_line_by_line() {
        let good = b"\xef\xbb\xbf# comment\n\nA=1\r\n  B= two words \nLANG\nNOT_SET\nC='quoted'";
        let expected = ["A=1", "B= two words ", "LANG=C.UTF-8", "C='quoted'"];
        assert_eq!(parse_file("f", good, &host).unwrap(), expected);
        for (bad, part) in [
            (&b"A=1\nB C=2"[..], "line 2: variable \"B C\" contains whitespace"),
            (b"=x", "line 1: no variable name"),
            (b"A=\xff", "line 1: is not UTF-8"),
        ] {
            let error = parse_file("f", bad, &host).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn later_sources_win() {
        let path = format!("PATH={DEFAULT_PATH}");
        let table = [
            ("", "", false, format!("{path} HOSTNAME=h")),
            ("", "", true, format!("{path} HOSTNAME=h TERM=xterm")),
            (
                "PATH=/x A=1",
                "A=2 B=3",
                false,
                "PATH=/x HOSTNAME=h A=2 B=3".to_owned(),
            ),
            ("A=1 AB=2", "A", false, format!("{path} HOSTNAME=h AB=2")),
            (
                "",
                "A=1 A=2 TERM=dumb HOSTNAME=z",
                true,
                format!("{path} HOSTNAME=z TERM=dumb A=2"),
            ),
        ];
        for (image, caller, terminal, expected) in table {
            assert_eq!(
                merge(&words(image), &words(caller), "h", terminal),
                words(&expected),
                "{image} | {caller}"
            );
        }
    }

    #[test]
    fn what_is_kept_has_no_defaults() {
        assert_eq!(
            own(&words("PATH=/x A=1 B=2"), &words("A=3 B")),
            words("PATH=/x A=3")
        );
        assert_eq!(own(&[], &[]), words(""));
    }

    #[test]
    fn home_is_added_only_when_missing() {
        assert_eq!(with_home(words("A=1"), "/root"), words("A=1 HOME=/root"));
        assert_eq!(with_home(words("HOME=/h"), "/root"), words("HOME=/h"));
        assert_eq!(value(&words("HOMER=no HOME=/h"), "HOME"), Some("/h"));
    }
}
