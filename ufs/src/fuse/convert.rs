//! Values of [`crate::fs`] in the FUSE library's terms, and back. Pure.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileHandle, INodeNo, Request, TimeOrNow};

use crate::attr::{Attr, FileType, Time};
use crate::error::{Errno, Error};
use crate::fs::{OpenFile, Owner, SetTime};

/// The number for the kernel; what no program should ever see the cause of is logged.
pub(super) fn errno(error: &Error) -> fuser::Errno {
    let number = error.errno();
    if matches!(number, Errno::IO | Errno::BADF) {
        tracing::error!(%error, "request failed");
    } else {
        tracing::trace!(%error, "request refused");
    }
    fuser::Errno::from_i32(number.raw_os_error())
}

pub(super) fn owner(request: &Request, mode: u32, umask: u32) -> Owner {
    Owner {
        uid: request.uid(),
        gid: request.gid(),
        mode: mode & 0o7777,
        umask,
    }
}

/// Handle 0 is named where nothing was opened.
pub(super) fn open_file(node: INodeNo, handle: FileHandle) -> OpenFile {
    match handle.0 {
        0 => OpenFile::Node(node.0),
        handle => OpenFile::Handle(handle),
    }
}

pub(super) fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub(super) fn fuser_type(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
    }
}

pub(super) fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let seconds = Duration::from_secs(time.secs.unsigned_abs());
    if time.secs < 0 {
        SystemTime::UNIX_EPOCH - seconds + nanos
    } else {
        SystemTime::UNIX_EPOCH + seconds + nanos
    }
}

pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::At(from_system_time(time)),
    }
}

/// A time that a program sets, as the library hands it on: before 1970 it takes the nanoseconds, which count up from
/// the second, away from the epoch together with the seconds (`system_time_from_time` of fuser 0.18).
pub(super) fn from_system_time(time: SystemTime) -> Time {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time {
            secs: after.as_secs().cast_signed(),
            nanos: after.subsec_nanos(),
        },
        Err(before) => Time {
            secs: before.duration().as_secs().cast_signed().wrapping_neg(),
            nanos: before.duration().subsec_nanos(),
        },
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size_bytes,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: fuser_type(attr.file_type()),
        perm: u16::try_from(attr.permissions()).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel packs device numbers into 32 bits the way makedev(3) lays out the low half.
        rdev: (attr.rdev & u64::from(u32::MAX)) as u32,
        blksize: attr.block_size,
        flags: 0,
    }
}

/// The answer "no such name, and you may remember that".
pub(super) fn absent() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel sends as (seconds, nanoseconds) comes from the library like this.
    fn as_the_library_does(secs: i64, nanos: u32) -> SystemTime {
        let apart = Duration::new(secs.unsigned_abs(), nanos);
        if secs < 0 {
            SystemTime::UNIX_EPOCH - apart
        } else {
            SystemTime::UNIX_EPOCH + apart
        }
    }

    #[test]
    fn times_are_understood_also_before_1970() {
        for (secs, nanos) in [
            (0, 0),
            (1_700_000_000, 999_999_999),
            (-1, 1),
            (-86_400, 0),
            (-1, 999_999_999),
        ] {
            assert_eq!(
                from_system_time(as_the_library_does(secs, nanos)),
                Time { secs, nanos }
            );
        }
    }

    #[test]
    fn times_are_told_also_before_1970() {
        let told = system_time(Time { secs: -2, nanos: 1 });
        let before = SystemTime::UNIX_EPOCH.duration_since(told).unwrap();
        assert_eq!(before, Duration::new(1, 999_999_999));
    }
}
