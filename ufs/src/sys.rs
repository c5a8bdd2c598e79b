//! System calls on files of a layer, relative to open directories and never through path strings.
//!
//! Everything here goes through `rustix`, so it needs no `unsafe` of ours; the little that does lies in [`process`],
//! `map`, `log`, `fuse`, `inflate` and `sha256`.
//! A file is named either by a directory descriptor and one component, or by an `O_PATH` descriptor. Extended
//! attributes have no `*at` calls on the kernels we support, so they go through `/proc/self/fd/N`, which is a
//! magic link to exactly the file that the descriptor holds.

pub(crate) mod fuse;
pub(crate) mod idle;
pub(crate) mod inflate;
pub(crate) mod log;
pub(crate) mod map;
pub(crate) mod mount;
pub mod process;
pub(crate) mod sha256;

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{
    self, AtFlags, CWD, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, StatxFlags, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::attr::{Attr, FileType, Time};
use crate::layer::Space;

pub(crate) type SysResult<T> = std::result::Result<T, Errno>;

/// Flags of every descriptor that only names a file.
pub(crate) const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const STAT_FLAGS: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// Attributes of the entry `name` of `dir`, symbolic links not followed.
pub(crate) fn stat_at(dir: impl AsFd, name: &OsStr) -> SysResult<Attr> {
    fs::statx(dir, name, STAT_FLAGS, StatxFlags::BASIC_STATS).map(|stat| Attr::from_statx(&stat))
}

/// Attributes of an open file.
pub(crate) fn stat_fd(fd: impl AsFd) -> SysResult<Attr> {
    fs::statx(fd, "", STAT_FLAGS | AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map(|stat| Attr::from_statx(&stat))
}

/// The mount that an open file was reached through. Files are renamed within one mount only.
pub(crate) fn mount_id(fd: impl AsFd) -> SysResult<u64> {
    fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
}

/// Opens `path` below `root`, component by component, refusing symbolic links and `..` on the way.
pub(crate) fn open_beneath(root: impl AsFd, path: &OsStr, flags: OFlags) -> SysResult<OwnedFd> {
    let path = if path.is_empty() { OsStr::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    retry(|| {
        fs::openat2(
            root.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    })
}

/// Opens the entry `name` of `dir`; a symbolic link is not followed. `NONBLOCK` keeps a pipe that took the file's
/// place in a race from holding up a server thread.
pub(crate) fn open_at(dir: impl AsFd, name: &OsStr, flags: OFlags) -> SysResult<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    retry(|| fs::openat(dir.as_fd(), name, flags, Mode::empty()))
}

/// Names the entry `name` of `dir` without opening it.
pub(crate) fn name_at(dir: impl AsFd, name: &OsStr) -> SysResult<OwnedFd> {
    retry(|| fs::openat(dir.as_fd(), name, PATH_ONLY, Mode::empty()))
}

/// Opens for I/O the regular file or directory that an `O_PATH` descriptor names.
pub(crate) fn reopen(fd: impl AsFd, flags: OFlags) -> SysResult<OwnedFd> {
    retry(|| {
        fs::openat(
            CWD,
            fd_path(fd.as_fd()),
            flags | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )
    })
}

/// Calls again while the call says EINTR.
pub(crate) fn retry<T>(mut call: impl FnMut() -> SysResult<T>) -> SysResult<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The magic link that leads to the file an open descriptor holds.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The same for an entry of an open directory. Only for calls that do not follow the last component.
fn entry_path(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = fd_path(dir).into_os_string();
    path.push("/");
    path.push(name);
    path.into()
}

/// One entry of a directory as the kernel lists it.
#[derive(Debug)]
pub(crate) struct RawEntry {
    pub(crate) name: OsString,
    /// `None` where the file system does not tell.
    pub(crate) file_type: Option<FileType>,
}

/// Lists a directory that is open for reading, without `.` and `..`.
pub(crate) fn list(dir: impl AsFd) -> SysResult<Vec<RawEntry>> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    let mut reader = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            entry => entry?,
        };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        entries.push(RawEntry {
            name: OsStr::from_bytes(name).to_os_string(),
            file_type: from_dirent(entry.file_type()),
        });
    }
    Ok(entries)
}

fn from_dirent(file_type: fs::FileType) -> Option<FileType> {
    Some(match file_type {
        fs::FileType::RegularFile => FileType::Regular,
        fs::FileType::Directory => FileType::Directory,
        fs::FileType::Symlink => FileType::Symlink,
        fs::FileType::CharacterDevice => FileType::CharDevice,
        fs::FileType::BlockDevice => FileType::BlockDevice,
        fs::FileType::Fifo => FileType::Fifo,
        fs::FileType::Socket => FileType::Socket,
        fs::FileType::Unknown => return None,
    })
}

/// The target of a symbolic link.
pub(crate) fn read_link_at(dir: impl AsFd, name: &OsStr) -> SysResult<OsString> {
    fs::readlinkat(dir, name, Vec::new()).map(|target| OsString::from_vec(target.into_bytes()))
}

/// How an extended attribute's file is named.
#[derive(Clone, Copy)]
pub(crate) enum XattrOf<'a> {
    /// The entry of a directory; symbolic links are not followed.
    Entry(BorrowedFd<'a>, &'a OsStr),
    /// The file that a descriptor names, `O_PATH` or open.
    Fd(BorrowedFd<'a>),
}

/// Reads one extended attribute; `None` when it is not set or the file system has none.
pub(crate) fn xattr(of: XattrOf<'_>, name: &OsStr) -> SysResult<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(256);
    loop {
        let spare = rustix::buffer::spare_capacity(&mut value);
        let read = match of {
            XattrOf::Entry(dir, entry) => fs::lgetxattr(entry_path(dir, entry), name, spare),
            XattrOf::Fd(fd) => fs::getxattr(fd_path(fd), name, spare),
        };
        match read {
            Ok(_) => return Ok(Some(value)),
            Err(Errno::RANGE) if value.capacity() < 65536 => value.reserve(65536),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The names of a file's extended attributes.
pub(crate) fn xattr_names(of: XattrOf<'_>) -> SysResult<Vec<OsString>> {
    let mut names = Vec::with_capacity(1024);
    loop {
        let spare = rustix::buffer::spare_capacity(&mut names);
        let read = match of {
            XattrOf::Entry(dir, entry) => fs::llistxattr(entry_path(dir, entry), spare),
            XattrOf::Fd(fd) => fs::listxattr(fd_path(fd), spare),
        };
        match read {
            Ok(_) => break,
            Err(Errno::RANGE) if names.capacity() < 65536 => names.reserve(65536),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
    let split = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(split.map(|name| OsStr::from_bytes(name).to_os_string()).collect())
}

/// Sets an extended attribute on the file that a descriptor names.
pub(crate) fn set_xattr(fd: impl AsFd, name: &OsStr, value: &[u8], flags: XattrFlags) -> SysResult<()> {
    fs::setxattr(fd_path(fd.as_fd()), name, value, flags)
}

/// Removes an extended attribute from the file that a descriptor names.
pub(crate) fn remove_xattr(fd: impl AsFd, name: &OsStr) -> SysResult<()> {
    fs::removexattr(fd_path(fd.as_fd()), name)
}

/// Changes the owner, the group or both of the file that a descriptor names.
pub(crate) fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

/// Changes the permission bits of the file that a descriptor names; it must not be a symbolic link.
pub(crate) fn chmod(fd: impl AsFd, permissions: u32) -> SysResult<()> {
    fs::chmodat(
        CWD,
        fd_path(fd.as_fd()),
        Mode::from_raw_mode(permissions & 0o7777),
        AtFlags::empty(),
    )
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Keep,
    /// The present.
    Now,
    /// This one.
    At(Time),
}

/// Sets access and modification time of the file that a descriptor names.
pub(crate) fn set_times(fd: impl AsFd, atime: SetTime, mtime: SetTime) -> SysResult<()> {
    let times = Timestamps {
        last_access: timespec(atime),
        last_modification: timespec(mtime),
    };
    fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
}

fn timespec(time: SetTime) -> fs::Timespec {
    match time {
        SetTime::Keep => fs::Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        SetTime::Now => fs::Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW,
        },
        SetTime::At(time) => fs::Timespec {
            tv_sec: time.secs,
            tv_nsec: i64::from(time.nanos),
        },
    }
}

/// What `statvfs(3)` tells of the file system that holds an open file.
pub(crate) fn space(fd: impl AsFd) -> SysResult<Space> {
    let stat = fs::fstatvfs(fd)?;
    Ok(Space {
        blocks: stat.f_blocks,
        blocks_free: stat.f_bfree,
        blocks_available: stat.f_bavail,
        files: stat.f_files,
        files_free: stat.f_ffree,
        block_bytes: stat.f_bsize,
        fragment_bytes: stat.f_frsize,
        name_bytes_max: stat.f_namemax,
    })
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_fully(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> SysResult<usize> {
    let fd = fd.as_fd();
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset + filled as u64;
        match retry(|| rustix::io::pread(fd, &mut buffer[filled..], at))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Writes until all is written or an error comes: how much that was, and the error.
pub(crate) fn write_fully(fd: impl AsFd, data: &[u8], offset: u64) -> (usize, Option<Errno>) {
    let fd = fd.as_fd();
    let mut written = 0;
    while written < data.len() {
        let at = offset + written as u64;
        match retry(|| rustix::io::pwrite(fd, &data[written..], at)) {
            Ok(0) => return (written, Some(Errno::IO)),
            Ok(count) => written += count,
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// The next stretch of a file at or after `at` and before `end` that is no hole. All is data where the file system
/// knows no holes.
pub(crate) fn data_from(fd: impl AsFd, at: u64, end: u64) -> SysResult<Option<Range<u64>>> {
    if at >= end {
        return Ok(None);
    }
    let fd = fd.as_fd();
    let start = match fs::seek(fd, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some(at..end)),
        Err(error) => return Err(error),
    };
    if start >= end {
        return Ok(None);
    }
    let stop = match fs::seek(fd, SeekFrom::Hole(start)) {
        Ok(stop) => stop.clamp(start + 1, end),
        // Cut short meanwhile.
        Err(Errno::NXIO) => end,
        Err(error) => return Err(error),
    };
    Ok(Some(start..stop))
}
