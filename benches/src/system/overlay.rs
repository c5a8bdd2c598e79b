//! The kernel's overlayfs with its default options.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::Layout;
use crate::error::{Doing, Result};
use crate::scratch;

/// Mounts layer by layer, so that any number of them fits; kernels before 6.8 take all in one page of options.
///
/// In a user namespace the marks are `user.overlay.*` attributes: the others cannot be set there.
pub(super) fn mount(layout: &Layout, mountpoint: &Path) -> Result<()> {
    match mount_by_layer(layout, mountpoint) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let mut options = layout.options();
            if !scratch::is_root() {
                options.push(",userxattr");
            }
            let (kind, flags) = (Some("overlay"), MsFlags::empty());
            let mounted = nix::mount::mount(kind, mountpoint, kind, flags, Some(options.as_os_str()));
            mounted.doing("mount overlayfs at", mountpoint)
        }
        result => result
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
            .doing("mount overlayfs at", mountpoint),
    }
}

/// `lowerdir+` is in `Documentation/filesystems/overlayfs.rst` of Linux, "Multiple lower layers".
fn mount_by_layer(layout: &Layout, mountpoint: &Path) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for lower in &layout.lowers {
        fsconfig_set_string(&context, "lowerdir+", lower)?;
    }
    fsconfig_set_string(&context, "upperdir", &layout.upper)?;
    fsconfig_set_string(&context, "workdir", &layout.work)?;
    if !scratch::is_root() {
        fsconfig_set_flag(&context, "userxattr")?;
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(
        &mounted,
        "",
        CWD,
        mountpoint,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}
