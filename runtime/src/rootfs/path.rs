//! Paths that are made, masked, made read-only or written to, and the terminal's place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::fstatfs;

use super::resolve::{Missing, file_type};
use super::{Host, Rootfs, cover};
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self as sys, MountAttr};
use crate::sys::terminal;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: libc::c_long = 0x1cd1;

const READONLY: MountAttr = MountAttr {
    set: libc::MOUNT_ATTR_RDONLY,
    clear: 0,
    propagation: 0,
};

impl Rootfs {
    /// Makes a directory and those above it.
    pub fn make_directory(&self, path: &Path) -> Result<()> {
        self.open_or_make(path, Missing::Directory).map(drop)
    }

    /// Makes the mount at `path` read-only.
    pub fn make_mount_readonly(&self, path: &Path) -> Result<()> {
        let mount = self.open(path).context(|| "open the mount")?;
        sys::set_attr(mount.as_fd(), READONLY, false).context(|| "set the mount's attributes")
    }

    /// Makes everything at and below `path` read-only; a path that does not exist is passed over.
    pub fn make_readonly(&self, path: &Path) -> Result<()> {
        let Some(target) = self.existing(path)? else {
            return Ok(());
        };
        let tree = sys::open_tree(target.as_fd(), Path::new(""), true).context(|| "copy the mount")?;
        sys::set_attr(tree.as_fd(), READONLY, true).context(|| "set the mount's attributes")?;
        sys::attach(tree.as_fd(), target.as_fd()).context(|| "attach the mount")
    }

    /// Hides a file behind a null device, a directory behind an empty one; a path that does not exist is passed over.
    pub fn mask(&self, path: &Path) -> Result<()> {
        let Some(target) = self.existing(path)? else {
            return Ok(());
        };
        let cover = match file_type(&target)? {
            SFlag::S_IFDIR => cover::directory()?,
            _ => self.covers.file(&self.root, &self.host)?,
        };
        sys::attach(cover.as_fd(), target.as_fd()).context(|| "attach the cover")
    }

    fn existing(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.open(path) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno).context(|| "open the path"),
        }
    }

    /// Opens a new terminal of the container's own: (master, slave). Neither is ever reached by a name that the
    /// container could have changed.
    pub fn open_terminal(&self) -> Result<(OwnedFd, OwnedFd)> {
        let ptmx = self
            .open(Path::new("/dev/pts/ptmx"))
            .context(|| "open /dev/pts/ptmx (is devpts mounted?)")?;
        let stat = fstat(&ptmx)?;
        let is_ptmx = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
            && stat.st_rdev == nix::sys::stat::makedev(5, 2)
            && fstatfs(&ptmx)?.filesystem_type().0 == DEVPTS_MAGIC;
        if !is_ptmx {
            return Err(Error::invalid(
                "/dev/pts/ptmx is not that of a devpts file system",
            ));
        }
        let master = self
            .host
            .reopen(ptmx.as_fd())
            .context(|| "open a pseudo-terminal")?;
        terminal::unlock(master.as_fd()).context(|| "unlock the pseudo-terminal")?;
        let slave = terminal::peer(master.as_fd()).context(|| "open the other end of the pseudo-terminal")?;
        Ok((master, slave))
    }

    /// Shows the terminal at `/dev/console`.
    pub fn mount_console(&self, slave: BorrowedFd<'_>) -> Result<()> {
        let target = self.open_or_make(Path::new("/dev/console"), Missing::File)?;
        let tree = sys::open_tree(slave, Path::new(""), false).context(|| "copy the terminal's node")?;
        sys::attach(tree.as_fd(), target.as_fd()).context(|| "mount the terminal on /dev/console")
    }
}

impl Host {
    /// Opens for reading and writing what was opened as a mere place.
    fn reopen(&self, fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
        use nix::fcntl::{OFlag, openat};
        use std::os::fd::AsRawFd;
        let name = format!("self/fd/{}", fd.as_raw_fd());
        openat(
            &self.proc,
            name.as_str(),
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
    }
}
