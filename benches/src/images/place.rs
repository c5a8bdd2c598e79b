//! Where everything lies: a fresh ext4 on a loop device, and a directory beside it for what must not lie on one.
//!
//! ```text
//! DIR/shale-bench-XXXXXX/base   the ext4: stores, unpacked trees, archives that are mounted
//!                       /mnt
//! DIR/shale-data-XXXXXX         archives that are read by imports; removed at the end
//! ```
//!
//! Whatever is mounted below either is unmounted when this is dropped, however a workload ended.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::error::{Doing, Result};
use crate::scratch::{self, Scratch};

/// The directories of a run.
#[derive(Debug)]
pub struct Place {
    scratch: Scratch,
    data: tempfile::TempDir,
}

impl Place {
    /// Makes both below `parent`.
    ///
    /// # Errors
    /// When the caller is not root, or the disk is too small.
    pub fn make(parent: &Path, size_bytes: u64, files: u64) -> Result<Self> {
        let scratch = Scratch::make_for(parent, size_bytes, Some(files))?;
        let data = tempfile::Builder::new()
            .prefix("shale-data-")
            .tempdir_in(parent)
            .doing("make a directory in", parent)?;
        Ok(Self { scratch, data })
    }

    /// The ext4.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.scratch.base()
    }

    /// The directory on the machine's own file system.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// An empty directory of this name on the ext4; what was there is removed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.base().join(name);
        remove(&dir)?;
        fs::create_dir_all(&dir).doing("make", &dir)?;
        Ok(dir)
    }

    /// A mount point outside of the ext4.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn mountpoint(&self, name: &str) -> Result<PathBuf> {
        let dir = self.data().join(format!("mnt-{name}"));
        fs::create_dir_all(&dir).doing("make", &dir)?;
        Ok(dir)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount_below(self.data());
        unmount_below(&self.base());
    }
}

/// Removes a directory with all in it, and unmounts first what is mounted there.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    unmount_below(dir);
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.doing("remove", dir),
    }
}

/// Unmounts what is mounted below a directory, the last mount first; that at the directory itself stays.
pub fn unmount_below(dir: &Path) {
    for path in mounted_below(dir).into_iter().rev() {
        if scratch::unmount(&path).is_err() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

/// Whether something is mounted below a directory.
#[must_use]
pub fn is_mounted_below(dir: &Path) -> bool {
    !mounted_below(dir).is_empty()
}

fn mounted_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(dir) && path != dir)
        .collect()
}

/// Bytes that the blocks below a directory take, each file once whatever its names.
///
/// # Errors
/// When something cannot be read.
pub fn disk_usage(dir: &Path) -> Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![dir.to_path_buf()];
    let mut blocks = 0;
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).doing("list", &dir)? {
            let entry = entry.doing("list", &dir)?;
            let metadata = entry.metadata().doing("stat an entry of", &dir)?;
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            blocks += metadata.blocks();
        }
    }
    Ok(blocks * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_a_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let one = disk_usage(dir.path()).unwrap();
        fs::hard_link(&path, dir.path().join("b")).unwrap();
        assert_eq!(disk_usage(dir.path()).unwrap(), one);
        assert!(one >= 1 << 20, "{one}");
    }
}
