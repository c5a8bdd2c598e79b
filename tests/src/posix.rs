//! System calls on paths with nothing in between, each returning the kernel's own error.

use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The errno of an error that came from the kernel.
#[must_use]
pub fn errno(error: &io::Error) -> i32 {
    error
        .raw_os_error()
        .unwrap_or_else(|| panic!("not an error of the kernel: {error}"))
}

/// Asserts that `result` failed with `expected`.
#[track_caller]
pub fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, expected: i32, what: &str) {
    match result {
        Err(error) if errno(&error) == expected => {}
        other => panic!(
            "{what}: expected {}, got {other:?}",
            io::Error::from_raw_os_error(expected)
        ),
    }
}

/// Opens with raw flags; `O_CLOEXEC` is added.
pub fn open(path: &Path, flags: i32, mode: u32) -> io::Result<File> {
    let access = flags & libc::O_ACCMODE;
    OpenOptions::new()
        .read(access == libc::O_RDONLY || access == libc::O_RDWR)
        .write(access != libc::O_RDONLY)
        .custom_flags(flags & !libc::O_ACCMODE & !libc::O_CREAT & !libc::O_TRUNC & !libc::O_EXCL)
        .mode(mode)
        .create(flags & libc::O_CREAT != 0)
        .truncate(flags & libc::O_TRUNC != 0)
        .create_new(flags & (libc::O_CREAT | libc::O_EXCL) == (libc::O_CREAT | libc::O_EXCL))
        .open(path)
}

/// Writes `data` at the end of an existing file.
pub fn append(path: &Path, data: &[u8]) -> io::Result<()> {
    use std::io::Write;
    OpenOptions::new().append(true).open(path)?.write_all(data)
}

/// Writes `data` at `offset` of an existing file.
pub fn write_at(path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all_at(data, offset)
}

/// `truncate(2)`: no descriptor stays behind.
pub fn truncate(path: &Path, len: u64) -> io::Result<()> {
    Ok(nix::unistd::truncate(
        path,
        i64::try_from(len).expect("length fits"),
    )?)
}

/// `chmod(2)`.
pub fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rfs::chmodat(
        CWD,
        path,
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )?)
}

/// `lchown(2)`.
pub fn lchown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

/// Sets both times of the link itself.
pub fn set_times(path: &Path, secs: i64, nanos: u32) -> io::Result<()> {
    let time = Timespec {
        tv_sec: secs,
        tv_nsec: i64::from(nanos),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rfs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// `mkdir(2)`.
pub fn mkdir(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rfs::mkdirat(CWD, path, Mode::from_raw_mode(mode))?)
}

/// `mknod(2)` of a FIFO.
pub fn mkfifo(path: &Path) -> io::Result<()> {
    Ok(rfs::mknodat(
        CWD,
        path,
        FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )?)
}

/// `mknod(2)` of a character device.
pub fn mknod_char(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    let device = rfs::makedev(major, minor);
    Ok(rfs::mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o644),
        device,
    )?)
}

/// Makes an overlayfs whiteout: a character device 0:0.
pub fn whiteout(path: &Path) -> io::Result<()> {
    mknod_char(path, 0, 0)
}

/// `link(2)`: a symbolic link is linked itself.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rfs::linkat(CWD, from, CWD, to, AtFlags::empty())?)
}

/// `symlink(2)`.
pub fn symlink(target: &OsStr, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// `renameat2(2)`.
pub fn rename(from: &Path, to: &Path, flags: rfs::RenameFlags) -> io::Result<()> {
    Ok(rfs::renameat_with(CWD, from, CWD, to, flags)?)
}

/// `lsetxattr(2)`.
pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> io::Result<()> {
    Ok(rfs::lsetxattr(path, name, value, flags)?)
}

/// `lremovexattr(2)`.
pub fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    Ok(rfs::lremovexattr(path, name)?)
}

/// `lgetxattr(2)`.
pub fn get_xattr(path: &Path, name: impl AsRef<OsStr>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 65536];
    let len = rfs::lgetxattr(path, name.as_ref(), buffer.as_mut_slice())?;
    buffer.truncate(len);
    Ok(buffer)
}

/// `llistxattr(2)`, sorted.
pub fn list_xattrs(path: &Path) -> io::Result<Vec<OsString>> {
    let mut buffer = vec![0_u8; 65536];
    let len = rfs::llistxattr(path, buffer.as_mut_slice())?;
    let mut names: Vec<OsString> = buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect();
    names.sort();
    Ok(names)
}

/// The whole content from the start, whatever the descriptor's position.
pub fn read_all_at_start(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut chunk = vec![0_u8; 65536];
    loop {
        let len = file.read_at(&mut chunk, content.len() as u64)?;
        if len == 0 {
            return Ok(content);
        }
        content.extend_from_slice(&chunk[..len]);
    }
}

/// The names in a directory, without `.` and `..`, in the order of the directory.
pub fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    std::fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().as_bytes().to_vec()))
        .collect()
}
