//! Mount calls: private read-only views of the layers, and the FUSE mount itself.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::SysResult;

/// Opens a directory as a detached copy of the one mount it lies on: what is mounted below does not show, and
/// nothing that happens to the mount table later is seen. Where that right is missing, the plain directory.
pub(crate) fn open_detached(path: &Path) -> SysResult<OwnedFd> {
    let plain = rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match open_tree(&plain, "", flags) {
        Ok(tree) => Ok(tree),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no detached mount, using the directory itself");
            Ok(plain)
        }
    }
}

/// Opens the FUSE device.
pub(crate) fn open_device() -> SysResult<OwnedFd> {
    rustix::fs::openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// What the mount table shows of a FUSE mount, and its flags.
#[derive(Debug, Clone)]
pub(crate) struct FuseMount<'a> {
    pub(crate) source: &'a str,
    pub(crate) allow_other: bool,
    pub(crate) flags: MsFlags,
}

/// Mounts the file system behind `device` on `target`.
pub(crate) fn mount_fuse(device: &OwnedFd, target: &Path, options: &FuseMount<'_>) -> Result<(), Errno> {
    let owner = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        owner.0,
        owner.1
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mounted = mount(
        Some(options.source),
        target,
        Some("fuse.shale-ufs"),
        options.flags,
        Some(data.as_str()),
    );
    mounted.map_err(|error| Errno::from_raw_os_error(error as i32))
}

/// Takes a mount away: at once from the tree, from memory when its last user is gone.
pub(crate) fn detach(target: &Path) -> std::io::Result<()> {
    Ok(umount2(target, MntFlags::MNT_DETACH)?)
}

/// Makes a detached mount read-only and quiet about access times, so that no mistake can ever write into a layer.
/// `false` where the kernel is too old (before 5.12) or the right is missing.
pub(crate) fn protect(tree: &OwnedFd) -> bool {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the structure outlives the call, which reads exactly `size_of` bytes of it.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    set == 0
}

/// The number of the mount that a path leads to. Asks the kernel alone: a server that asked its own file system, and
/// was killed meanwhile, would wait for itself for ever.
pub(crate) fn id_at(path: &Path) -> Option<u64> {
    let named = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", named.as_raw_fd())).ok()?;
    info.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}
