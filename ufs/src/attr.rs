//! What is known of a file: type, attributes, times. Plain values, no I/O.

use rustix::fs::{Statx, StatxAttributes};

/// The type of a file, as in `st_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileType {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
}

impl FileType {
    /// Reads the type bits of a mode; unknown bits count as a regular file, as `stat(2)` users expect.
    #[must_use]
    pub fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => Self::Regular,
        }
    }

    /// The type bits of a mode.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
        }
    }
}

/// A point in time as the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub secs: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

/// Attributes of one file, in one layer or as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number: the layer's own when read from a layer, the union's when shown.
    pub ino: u64,
    /// Device that holds the file; 0 when shown.
    pub dev: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's userspace encoding (`makedev(3)`).
    pub rdev: u64,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub block_size: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
    /// Something else is mounted here: the file belongs to another file system.
    pub mount_root: bool,
}

impl Attr {
    /// The file's type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Permission bits including set-id and sticky.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// What is left of the permission bits of a regular file when somebody without CAP_FSETID changes its content: no
    /// set-user-id, and no set-group-id where the group may execute (`setattr_should_drop_suidgid` in fs/attr.c).
    #[must_use]
    pub fn permissions_of_changed(&self) -> u32 {
        let mut left = self.permissions() & !libc::S_ISUID;
        if left & libc::S_IXGRP != 0 {
            left &= !libc::S_ISGID;
        }
        left
    }

    pub(crate) fn from_statx(stat: &Statx) -> Self {
        let time = |t: &rustix::fs::StatxTimestamp| Time {
            secs: t.tv_sec,
            nanos: t.tv_nsec,
        };
        Self {
            ino: stat.stx_ino,
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size_bytes: stat.stx_size,
            blocks: stat.stx_blocks,
            block_size: stat.stx_blksize,
            atime: time(&stat.stx_atime),
            mtime: time(&stat.stx_mtime),
            ctime: time(&stat.stx_ctime),
            mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_from_the_mode() {
        for (mode, expected) in [
            (libc::S_IFREG | 0o644, FileType::Regular),
            (libc::S_IFDIR | 0o755, FileType::Directory),
            (libc::S_IFLNK | 0o777, FileType::Symlink),
            (libc::S_IFCHR, FileType::CharDevice),
            (libc::S_IFBLK, FileType::BlockDevice),
            (libc::S_IFIFO, FileType::Fifo),
            (libc::S_IFSOCK, FileType::Socket),
        ] {
            assert_eq!(FileType::from_mode(mode), expected);
        }
    }
}
