//! The file systems that an upper lies on.

use crate::mount::patiently;
use crate::programs;
use crate::scratch::run;
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file system below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Below {
    Ext4,
    Xfs,
}

impl Below {
    pub(super) fn size_bytes(self) -> u64 {
        match self {
            Below::Ext4 => 64 << 20,
            // mkfs.xfs makes none smaller.
            Below::Xfs => 320 << 20,
        }
    }

    pub(super) fn make(self, disk: &Path) {
        match self {
            Below::Ext4 => run(Command::new("mkfs.ext4")
                .args([
                    "-q",
                    "-F",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0",
                    "-J",
                    "size=4",
                ])
                .arg(disk)),
            Below::Xfs => run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(disk)),
        }
    }

    /// Whether its tools and its driver are there.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let (tool, driver) = match self {
            Below::Ext4 => ("mkfs.ext4", "ext4"),
            Below::Xfs => ("mkfs.xfs", "xfs"),
        };
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let is_known = known.lines().any(|line| line.trim() == driver);
        (!is_known || programs::system_binary(tool).is_none()).then(|| format!("no {driver} or no {tool}"))
    }
}

/// A file system on a disk, mounted.
pub(super) struct Mounted(pub(super) PathBuf);

impl Mounted {
    pub(super) fn new(disk: &Path, at: &Path, below: Below) -> Mounted {
        let options = match below {
            Below::Ext4 => "loop,noatime",
            Below::Xfs => "loop,noatime,nouuid",
        };
        std::fs::create_dir_all(at).expect("make a mount point");
        run(Command::new("mount").args(["-o", options]).arg(disk).arg(at));
        Mounted(at.to_owned())
    }

    pub(super) fn unmount(self) {
        patiently(|| Ok(umount2(&self.0, MntFlags::empty())?)).expect("unmount the disk");
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
