//! The mount interface that works on descriptors: `open_tree`, `move_mount`, `mount_setattr`, `fsopen`.
//!
//! A mount made this way is attached to a target that was *opened*, not named, so that nothing that happens to
//! the path in between can lead it elsewhere. Needs Linux 5.12.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;

use super::owned_fd;

/// What `mount_setattr` should change (`struct mount_attr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
}

impl MountAttr {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// Opens a detached copy of the mount at `path` (with everything below it when `recursive`).
pub fn open_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    if path.as_os_str().is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    // SAFETY: the path is a valid C string for the time of the call.
    let value = path.with_nix_path(|path| unsafe {
        libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags)
    })?;
    owned_fd(value)
}

/// Attaches the detached mount `mount` onto the directory or file that `target` refers to.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings that live forever.
    let value = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(value).map(drop)
}

/// Changes the attributes of the mount that `mount` refers to.
pub fn set_attr(mount: BorrowedFd<'_>, attr: MountAttr, recursive: bool) -> nix::Result<()> {
    if attr.is_empty() {
        return Ok(());
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let attr: [u64; 4] = [attr.set, attr.clear, attr.propagation, 0];
    // SAFETY: `attr` has the layout and size of `struct mount_attr`, version 0: four u64.
    let value = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    Errno::result(value).map(drop)
}

/// Maps the owners of the detached mount `mount` through the user namespace `user_namespace`.
pub fn set_idmap(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, recursive: bool) -> nix::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let attr: [u64; 4] = [libc::MOUNT_ATTR_IDMAP, 0, 0, user_namespace.as_raw_fd() as u64];
    // SAFETY: as in `set_attr`.
    let value = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    Errno::result(value).map(drop)
}

/// A file system being configured (`fsopen`).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts configuring a file system of the type `fs_type`.
    pub fn open(fs_type: &str) -> nix::Result<Self> {
        let fs_type = CString::new(fs_type).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the name is a valid C string for the time of the call.
        let value = unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), libc::FSOPEN_CLOEXEC) };
        owned_fd(value).map(Self)
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &str) -> nix::Result<()> {
        self.config(libc::FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Sets an option with a value of at most 255 bytes.
    pub fn set_string(&self, key: &str, value: &str) -> nix::Result<()> {
        self.config(libc::FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Makes the file system and returns it as a detached mount with the attributes `attr` (`MOUNT_ATTR_*`).
    pub fn mount(&self, attr: u64) -> nix::Result<OwnedFd> {
        self.config(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: a plain call with integers.
        let value = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attr as libc::c_uint,
            )
        };
        owned_fd(value)
    }

    /// What the file system has to say about the last failure, in its own words.
    pub fn message(&self) -> Option<String> {
        let mut file = std::fs::File::from(self.0.try_clone().ok()?);
        let mut buffer = [0_u8; 512];
        let mut last = None;
        while let Ok(length @ 1..) = file.read(&mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            last = Some(
                line.trim_end()
                    .trim_start_matches("e ")
                    .trim_start_matches("w ")
                    .to_owned(),
            );
        }
        last
    }

    fn config(&self, command: u32, key: Option<&str>, value: Option<&str>) -> nix::Result<()> {
        let to_c = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
        let key = key.map(to_c).transpose()?;
        let value = value.map(to_c).transpose()?;
        let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: both strings are null or valid C strings for the time of the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(&key),
                pointer(&value),
                0,
            )
        };
        Errno::result(result).map(drop)
    }
}

impl AsFd for FsContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
