//! `-v` and `--tmpfs` (pure).
//!
//! `-v` is `SOURCE:DESTINATION[:MODE,…]`; a source that starts with `/` (or `.`, which is made absolute before) is a
//! bind mount, anything else names a volume.

use super::command::clean_path;
use super::error::BundleError;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the host.
    Bind(String),
    /// A fresh memory file system.
    Tmpfs,
}

/// A mount that the caller asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMount {
    /// What.
    pub source: Source,
    /// Where, absolute and clean.
    pub destination: String,
    /// Options in the words of the runtime specification.
    pub options: Vec<String>,
}

/// Parses `-v`. `directory` is the caller's working directory, for sources such as `./data`.
pub fn parse_volume(spec: &str, directory: &str) -> Result<UserMount, BundleError> {
    let wrong = |reason: &str| BundleError::Volume {
        spec: spec.to_owned(),
        reason: reason.to_owned(),
    };
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, destination, modes) = match parts[..] {
        [source, destination] => (source, destination, ""),
        [source, destination, modes] => (source, destination, modes),
        [destination] if destination.starts_with('/') => {
            return Err(wrong(
                "anonymous volumes are not there yet: name a host directory, as in -v /host/dir:/data",
            ));
        }
        _ => return Err(wrong("use /host/path:/container/path[:ro]")),
    };
    if source.is_empty() || destination.is_empty() {
        return Err(wrong("use /host/path:/container/path[:ro]"));
    }
    let destination = check_destination(destination, &wrong)?;
    let source = match source {
        source if source.starts_with('/') => source.to_owned(),
        source if source.starts_with('.') => format!("{}/{source}", directory.trim_end_matches('/')),
        _ => {
            return Err(wrong(
                "named volumes are not there yet: give an absolute host path, as in -v /host/dir:/data",
            ));
        }
    };
    let options = bind_options(modes).map_err(|mode| wrong(&format!("invalid mode: {mode}")))?;
    Ok(UserMount {
        source: Source::Bind(clean_path(&source)),
        destination,
        options,
    })
}

/// Parses `--tmpfs`: `DESTINATION[:OPTION,…]`; noexec, nosuid and nodev unless the options say otherwise.
pub fn parse_tmpfs(spec: &str) -> Result<UserMount, BundleError> {
    let wrong = |reason: &str| BundleError::Volume {
        spec: spec.to_owned(),
        reason: reason.to_owned(),
    };
    let (destination, given) = spec.split_once(':').unwrap_or((spec, ""));
    let destination = check_destination(destination, &wrong)?;
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for option in given.split(',').filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or_default();
        if !TMPFS_OPTIONS.contains(&name) {
            return Err(wrong(&format!("invalid tmpfs option {option:?}")));
        }
        let opposite = name
            .strip_prefix("no")
            .map_or_else(|| format!("no{name}"), str::to_owned);
        options.retain(|held| *held != opposite && held != option);
        options.push(option.to_owned());
    }
    Ok(UserMount {
        source: Source::Tmpfs,
        destination,
        options,
    })
}

/// What `--tmpfs` may be told.
const TMPFS_OPTIONS: &[&str] = &[
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "ro",
    "rw",
    "sync",
    "async",
    "dirsync",
    "remount",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "mode",
    "uid",
    "gid",
    "size",
    "nr_inodes",
    "nr_blocks",
    "mpol",
    "noswap",
];

fn check_destination(text: &str, wrong: &dyn Fn(&str) -> BundleError) -> Result<String, BundleError> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(wrong("the mount path must be absolute"));
    }
    match clean_path(text) {
        root if root == "/" => Err(wrong("the destination can't be '/'")),
        path => Ok(path),
    }
}

/// The modes of a bind mount as mount options; the word that is wrong otherwise.
fn bind_options(modes: &str) -> Result<Vec<String>, String> {
    let (mut access, mut recursion, mut propagation) = (None, None, None);
    for mode in modes.split(',').filter(|mode| !mode.is_empty()) {
        let slot = match mode {
            "ro" | "rw" => &mut access,
            "bind" | "rbind" => &mut recursion,
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => &mut propagation,
            // Labels of a security module, consistency on other systems, copying into volumes: nothing to do here.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "nocopy" => continue,
            _ => return Err(mode.to_owned()),
        };
        if slot.replace(mode).is_some() {
            return Err(modes.to_owned());
        }
    }
    let words = [
        recursion.unwrap_or("rbind"),
        access.unwrap_or("rw"),
        propagation.unwrap_or("rprivate"),
    ];
    Ok(words.map(str::to_owned).to_vec())
}

/// Refuses two mounts at one place and sorts parents before children.
pub fn arrange(mut mounts: Vec<UserMount>) -> Result<Vec<UserMount>, BundleError> {
    mounts.sort_by_key(|mount| mount.destination.matches('/').count());
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index]
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            return Err(BundleError::DuplicateMountPoint(mount.destination.clone()));
        }
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_parsed() {
        // spec, source, destination, options
        let table = [
            ("/a:/b", "/a", "/b", "rbind rw rprivate"),
            ("/a:/b:ro", "/a", "/b", "rbind ro rprivate"),
            ("/a:/b/../c/:ro,z,rslave", "/a", "/c", "rbind ro rslave"),
            ("./x:/b", "/cwd/x", "/b", "rbind rw rprivate"),
            ("..:/b", "/", "/b", "rbind rw rprivate"),
            ("/a:/b:", "/a", "/b", "rbind rw rprivate"),
        ];
        for (spec, source, destination, options) in table {
            let mount = parse_volume(spec, "/cwd").unwrap();
            assert_eq!(mount.source, Source::Bind(source.to_owned()), "{spec}");
            assert_eq!(mount.destination, destination, "{spec}");
            assert_eq!(mount.options.join(" "), options, "{spec}");
        }
    }

    #[test]
    fn wrong_volumes_say_what_is_wrong() {
        let table = [
            ("", "use /host/path"),
            (":/b", "use /host/path"),
            ("/a:", "use /host/path"),
            ("/a:/b:ro:x", "use /host/path"),
            ("/a:b", "must be absolute"),
            ("/a:/", "can't be '/'"),
            ("/a:/x/..", "can't be '/'"),
            ("/a:/b:rx", "invalid mode: rx"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("data:/b", "named volumes"),
            ("/data", "anonymous volumes"),
        ];
        for (spec, part) in table {
            let error = parse_volume(spec, "/cwd").unwrap_err().to_string();
            assert!(error.contains(part), "{spec:?}: {error}");
        }
    }

    #[test]
    fn tmpfs_options_override_the_defaults() {
        let table = [
            ("/run", Some("noexec nosuid nodev")),
            (
                "/run:size=64k,mode=1777",
                Some("noexec nosuid nodev size=64k mode=1777"),
            ),
            ("/run:exec,ro", Some("nosuid nodev exec ro")),
            ("/run:noexec", Some("nosuid nodev noexec")),
            ("/run:loop", None),
            ("run", None),
            ("/", None),
        ];
        for (spec, expected) in table {
            let got = parse_tmpfs(spec).ok().map(|mount| mount.options.join(" "));
            assert_eq!(got.as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn mounts_are_sorted_and_unique() {
        let parse = |list: &[&str]| {
            list.iter()
                .map(|spec| parse_tmpfs(spec).unwrap())
                .collect::<Vec<_>>()
        };
        let sorted = arrange(parse(&["/a/b/c", "/a", "/z/y"])).unwrap();
        let places: Vec<_> = sorted.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(places, ["/a", "/z/y", "/a/b/c"]);
        assert_eq!(
            arrange(parse(&["/a", "/a/"])),
            Err(BundleError::DuplicateMountPoint("/a".to_owned()))
        );
    }
}
