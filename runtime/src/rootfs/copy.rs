//! Copies a directory into a fresh tmpfs (`tmpcopyup`): names, types, modes, owners, contents and links.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use crate::error::{Context, Result};

/// Deeper trees than this are refused rather than exhausting the stack.
const MAX_DEPTH: usize = 128;

/// Copies what is in `from`, and its mode and owner, to `to`. Links are copied, never followed.
pub(super) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let from = openat(from, ".", flags, Mode::empty()).context(|| "open the directory")?;
    let to = openat(to, ".", flags, Mode::empty()).context(|| "open the tmpfs")?;
    let stat = fstat(&from)?;
    directory(from, &to, 0)?;
    fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .context(|| "set the owner")?;
    nix::sys::stat::fchmod(&to, mode(&stat)).context(|| "set the mode")
}

fn mode(stat: &FileStat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode)
}

fn directory(from: OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(crate::error::Error::invalid("the directories are too deep"));
    }
    let mut names = Vec::new();
    let mut listing = Dir::from_fd(from.try_clone()?)?;
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        entry(&from, to, &name, depth).context(|| format!("copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

fn entry(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, depth: usize) -> Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let inner_to = openat(to, name, flags, Mode::empty())?;
            directory(openat(from, name, flags, Mode::empty())?, &inner_to, depth + 1)?;
        }
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut source = File::from(openat(from, name, flags, Mode::empty())?);
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let mut target = File::from(openat(to, name, flags, Mode::from_bits_truncate(0o600))?);
            std::io::copy(&mut source, &mut target)?;
        }
        SFlag::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to.as_fd(), name)?,
        _ => mknodat(to, name, kind, mode(&stat), stat.st_rdev)?,
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fchownat(to, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != SFlag::S_IFLNK {
        fchmodat(to, name, mode(&stat), FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}
