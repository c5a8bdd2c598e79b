//! What masked paths are hidden behind: an empty directory, or a null device.
//!
//! The container can reach the inode of its covers, and a privileged one may change modes and owners. So no cover
//! is a file that anybody else uses:
//! - the null device is a node of its own in a private tmpfs that no path leads to; only where the kernel lets us
//!   make no nodes (a user namespace) is it the host's `/dev/null`, verified when it was opened;
//! - every cover is mounted read-only, which refuses a change of mode, owner, times and attributes even to root, and
//!   still lets a device be read and written.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};

use super::Host;
use super::mount::create_filesystem;
use crate::error::{Context, Result};
use crate::sys::mount::{self as sys, MountAttr};

/// What is shown to a container without being its own: to be used, never to be changed.
pub(super) const FIXED: MountAttr = MountAttr {
    set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
    clear: 0,
    propagation: 0,
};

/// An empty directory that stays empty.
pub(super) fn directory() -> Result<OwnedFd> {
    let limits = ["nr_blocks=1".to_owned(), "nr_inodes=1".to_owned()];
    let empty = create_filesystem("tmpfs", "tmpfs", &limits, false)?;
    sys::set_attr(empty.as_fd(), FIXED, false).context(|| "make the cover read-only")?;
    Ok(empty)
}

/// The covers of files: all are copies of the first mount.
#[derive(Debug, Default)]
pub(super) struct Covers {
    null: OnceCell<OwnedFd>,
}

impl Covers {
    /// A detached mount of a null device. The caller attaches it before it asks for the next: only what is attached
    /// can be copied.
    pub(super) fn file(&self, root: &OwnedFd, host: &Host) -> Result<OwnedFd> {
        if let Some(first) = self.null.get() {
            return copy(first.as_fd());
        }
        let first = match private_null(root) {
            Err(error) if error.errno() == Some(Errno::EPERM) => {
                tracing::debug!("{error}; masking with /dev/null of the host, read-only");
                copy(host.null.as_fd())?
            }
            result => result?,
        };
        sys::set_attr(first.as_fd(), FIXED, false).context(|| "make the cover read-only")?;
        let _ = self.null.set(first.try_clone()?);
        Ok(first)
    }
}

/// A node in a tmpfs that lies over the root only while the node is taken from it.
fn private_null(root: &OwnedFd) -> Result<OwnedFd> {
    let tmpfs = create_filesystem("tmpfs", "tmpfs", &["mode=700".to_owned()], false)?;
    let mode = Mode::from_bits_truncate(0o666);
    mknodat(&tmpfs, "null", SFlag::S_IFCHR, mode, makedev(1, 3)).context(|| "make a null device")?;
    sys::attach(tmpfs.as_fd(), root.as_fd()).context(|| "attach the tmpfs")?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let null = openat(&tmpfs, "null", flags, Mode::empty())
        .map_err(Into::into)
        .and_then(|node| copy(node.as_fd()));
    nix::unistd::fchdir(&tmpfs).context(|| "enter the tmpfs")?;
    umount2(".", MntFlags::MNT_DETACH).context(|| "detach the tmpfs")?;
    nix::unistd::fchdir(root).context(|| "enter the root")?;
    null
}

fn copy(node: BorrowedFd<'_>) -> Result<OwnedFd> {
    sys::open_tree(node, Path::new(""), false).context(|| "copy the null device")
}
