//! Device nodes: made with mknod, or the host's own bind-mounted where the kernel does not let us.
//!
//! A node of the host is mounted read-only: the device can be written to, but its mode and owner, which are the
//! host's, cannot be changed, not even where root of the container is root of the host.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use super::Rootfs;
use super::cover::FIXED;
use super::resolve::Missing;
use crate::error::{Context, Error, Result};
use crate::spec::Device;
use crate::sys::mount as sys;

impl Rootfs {
    /// Makes one node, with exactly the owner and mode asked for.
    pub fn make_device(&self, device: &Device) -> Result<()> {
        let (parent, name) = self.open_parent(&device.path)?;
        let kind = match device.kind.as_str() {
            "b" => SFlag::S_IFBLK,
            "p" => SFlag::S_IFIFO,
            _ => SFlag::S_IFCHR,
        };
        let number = match kind {
            SFlag::S_IFIFO => 0,
            _ => makedev(device.major as u64, device.minor as u64),
        };
        let mode = Mode::from_bits_truncate(device.file_mode.unwrap_or(0o666) & 0o7777);
        match mknodat(&parent, name.as_os_str(), kind, mode, number) {
            Ok(()) => {
                // The umask took bits away, and the file belongs to whoever we are.
                fchmodat(&parent, name.as_os_str(), mode, FchmodatFlags::FollowSymlink)
                    .context(|| "set the mode")?;
                let owner = (device.uid.map(Uid::from_raw), device.gid.map(Gid::from_raw));
                fchownat(
                    &parent,
                    name.as_os_str(),
                    owner.0,
                    owner.1,
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                )
                .context(|| "set the owner")
            }
            Err(Errno::EEXIST) => {
                let stat = fstatat(&parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if is_node(&stat, kind, number) {
                    return Ok(());
                }
                Err(Error::invalid("something else is there already"))
            }
            Err(Errno::EPERM) if kind != SFlag::S_IFIFO => self.bind_device(&device.path, kind, number),
            Err(errno) => Err(errno).context(|| "make the node"),
        }
    }

    fn bind_device(&self, path: &Path, kind: SFlag, number: u64) -> Result<()> {
        let node = sys::open_tree(self.host.root.as_fd(), path, false)
            .context(|| format!("open {} of the host", path.display()))?;
        if !is_node(&fstat(&node)?, kind, number) {
            return Err(Error::invalid(format!(
                "{} of the host is another device",
                path.display()
            )));
        }
        sys::set_attr(node.as_fd(), FIXED, false).context(|| "make the node read-only")?;
        let target = self.open_or_make(path, Missing::File)?;
        sys::attach(node.as_fd(), target.as_fd()).context(|| format!("bind {} of the host", path.display()))
    }

    /// Makes a link, unless something is there already. A node at /dev/ptmx would be the host's: it goes.
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        let (parent, name) = self.open_parent(path)?;
        let link = |parent: &OwnedFd| symlinkat(target, parent, name.as_os_str());
        match link(&parent) {
            Err(Errno::EEXIST) if name == "ptmx" => {
                unlinkat(&parent, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
                    .context(|| "remove what is there")?;
                link(&parent).map_err(Error::from)
            }
            Err(Errno::EEXIST) => Ok(()),
            result => Ok(result?),
        }
    }
}

fn is_node(stat: &FileStat, kind: SFlag, number: u64) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
        && (kind == SFlag::S_IFIFO || stat.st_rdev == number)
}
