//! The tree of a running container, which is mounted in its server's mount namespace.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::confined::Root;
use super::process::Processes;
use crate::error::StoreError;
use crate::store::{ContainerRecord, Store};

/// Where this process can reach the tree; `None` when nobody serves it.
pub(super) fn root(directory: &Path) -> Option<PathBuf> {
    let server = Processes::load(directory).server;
    let server = server.filter(|server| server.is_alive())?;
    let mut root = OsString::from(format!("/proc/{}/root", server.pid));
    root.push(directory.join("merged"));
    Some(root.into())
}

/// Has the kernel hand on what programs have changed in files that they have mapped, so that it is in the upper. It does
/// that by itself when they sync or unmap them, or after some seconds; syncfs(2) need not wait for it.
///
/// # Errors
/// When the upper takes it not. A container that has ended has nothing left to hand on.
pub fn write_back(store: &Store, record: &ContainerRecord) -> Result<(), StoreError> {
    let Some(root) = root(&store.container_dir(&record.id)) else {
        return Ok(());
    };
    // Its server may end meanwhile.
    let (Ok(attributes), Ok(tree)) = (root.metadata(), Root::open(&root)) else {
        return Ok(());
    };
    sync(&tree, mapped(attributes.dev()))
}

/// Brings files of a tree to the disk. What has another name by now, or none, is of no use to whoever reads the tree.
fn sync(tree: &Root, paths: Vec<PathBuf>) -> Result<(), StoreError> {
    for path in paths {
        if let Ok(Some(file)) = tree.regular(&path) {
            file.sync_data().map_err(StoreError::io("write back", &path))?;
        }
    }
    Ok(())
}

/// The files of a device that programs have mapped so that they change by it, as paths below the root of the mount.
fn mapped(device: u64) -> Vec<PathBuf> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = format!("{major:02x}:{minor:02x}");
    let mut found = Vec::new();
    for process in Path::new("/proc").read_dir().into_iter().flatten().flatten() {
        // What is no process, is gone, or is somebody else's has none.
        let maps = std::fs::read(process.path().join("maps")).unwrap_or_default();
        let paths = maps
            .split(|byte| *byte == b'\n')
            .filter_map(|line| changed_path(line, &device));
        found.extend(paths);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The path of a line of `/proc/PID/maps` (proc_pid_maps(5)), if the mapping is writable, shared, and of that device.
fn changed_path(line: &[u8], device: &str) -> Option<PathBuf> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let (_range, rights, _offset) = (words.next()?, words.next()?, words.next()?);
    let (found, _inode, path) = (words.next()?, words.next()?, words.next()?);
    if rights.get(1) != Some(&b'w') || rights.get(3) != Some(&b's') || found != device.as_bytes() {
        return None;
    }
    let path = path.trim_ascii_start().strip_prefix(b"/")?;
    Some(PathBuf::from(OsStr::from_bytes(&without_escapes(path))))
}

/// A line break is written as `\012` there, and nothing else is escaped.
fn without_escapes(path: &[u8]) -> Vec<u8> {
    const ESCAPED: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(ESCAPED) {
            Some(after) => {
                plain.push(b'\n');
                rest = after;
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_took_the_place_of_a_mapped_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "content").unwrap();
        // Opened without care, each of these would wait for a writer.
        nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();
        nix::unistd::mkfifo(&folder.path().join("outside"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("up")).unwrap();
        let paths = ["file", "pipe", "absolute", "up", "gone"]
            .map(PathBuf::from)
            .to_vec();
        sync(&Root::open(&root).unwrap(), paths).unwrap();
    }

    #[test]
    fn shared_mappings_that_change_the_file_count() {
        let path = |line: &str| changed_path(line.as_bytes(), "00:3e");
        let line = "7f00-7f01 rw-s 00000000 00:3e 12                         /var/lib/a b\\012c";
        assert_eq!(path(line), Some("var/lib/a b\nc".into()));
        for other in [
            line.replace("rw-s", "r--s"),
            line.replace("rw-s", "rw-p"),
            line.replace("00:3e", "00:3f"),
            "7f00-7f01 rw-s 00000000 00:3e 12 ".to_owned(),
            "7f00-7f01 rw-p 00000000 00:00 0 [heap]".to_owned(),
            String::new(),
        ] {
            assert_eq!(path(&other), None, "{other}");
        }
    }
}
