//! The files that the engine makes for each container: /etc/hosts, /etc/hostname, /etc/resolv.conf. They are mounted
//! into it, so that they never enter a diff or a commit.

use std::fs;
use std::path::{Path, PathBuf};

use super::ContainerError;
use crate::bundle::Network;

/// Name in the container's directory, and destination.
const FILES: [(&str, &str); 3] = [
    ("resolv.conf", "/etc/resolv.conf"),
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
];

/// What a container without the machine's network finds in /etc/hosts.
const LOOPBACK_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The destinations, which the init layer makes.
pub(super) fn destinations() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(_, destination)| *destination)
}

/// Writes the files; gives (host path, destination) of each.
pub(super) fn write(
    directory: &Path,
    hostname: &str,
    network: Network,
) -> Result<Vec<(PathBuf, &'static str)>, ContainerError> {
    let host_file = |path: &str| fs::read(path).unwrap_or_default();
    let mut written = Vec::new();
    for (name, destination) in FILES {
        let content = match name {
            "hostname" => format!("{hostname}\n").into_bytes(),
            "hosts" if network == Network::None => hosts(LOOPBACK_HOSTS, hostname),
            "hosts" => hosts(&String::from_utf8_lossy(&host_file(destination)), hostname),
            _ => host_file(destination),
        };
        let path = directory.join(name);
        fs::write(&path, content).map_err(ContainerError::io("write", &path))?;
        written.push((path, destination));
    }
    Ok(written)
}

/// The hosts file with a line for the container's own name, where it has none.
fn hosts(base: &str, hostname: &str) -> Vec<u8> {
    let words = |line: &str| {
        line.split('#')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .skip(1)
            .any(|word| word == hostname)
    };
    let mut text = base.to_owned();
    if !text.lines().any(words) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_name_is_added_once() {
        let table = [
            ("", "127.0.1.1\tbox\n"),
            ("127.0.0.1 localhost", "127.0.0.1 localhost\n127.0.1.1\tbox\n"),
            ("127.0.0.1 localhost box\n", "127.0.0.1 localhost box\n"),
            ("# 1.2.3.4 box\n", "# 1.2.3.4 box\n127.0.1.1\tbox\n"),
            ("1.2.3.4 boxer\n", "1.2.3.4 boxer\n127.0.1.1\tbox\n"),
        ];
        for (base, expected) in table {
            assert_eq!(hosts(base, "box"), expected.as_bytes(), "{base:?}");
        }
    }

    #[test]
    fn three_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let written = write(folder.path(), "box", Network::None).unwrap();
        assert_eq!(written.len(), 3);
        assert_eq!(
            fs::read_to_string(folder.path().join("hostname")).unwrap(),
            "box\n"
        );
        assert!(
            fs::read_to_string(folder.path().join("hosts"))
                .unwrap()
                .starts_with("127.0.0.1\tlocalhost\n")
        );
    }
}
