//! The root file system: making it a mount, reaching into it, making it the root.
//!
//! A root file system is hostile input. The rules that keep a symbolic link in it, or another container that
//! changes it meanwhile, from leading anything outside (CVE-2019-16884, CVE-2021-30465, CVE-2025-31133,
//! CVE-2025-52565, CVE-2025-52881):
//! - it is reached through one descriptor, and every path in it is resolved by the kernel with
//!   `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS` (`resolve.rs`);
//! - what is resolved is a descriptor, and mounts are attached to descriptors, never to names (`mount.rs`);
//! - what masks a path is a null device that nobody else uses, mounted read-only (`cover.rs`);
//! - kernel parameters and labels are written through the host's `/proc`, opened and verified as well.
//!
//! Everything here runs in the process of the container, in its own mount namespace.

mod copy;
mod cover;
mod device;
mod mount;
mod path;
mod resolve;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::cgroup::Tree;
use crate::error::{Context, Error, Result};
use crate::plan::Namespaces;
use crate::plan::mount::Propagation;
use crate::sys::mount as sys;

/// The root file system of a container, before and after it became the root.
#[derive(Debug)]
pub struct Rootfs {
    root: OwnedFd,
    host: Host,
    covers: cover::Covers,
}

/// What is needed of the host once its paths can no longer be trusted.
#[derive(Debug)]
pub struct Host {
    proc: OwnedFd,
    null: OwnedFd,
    root: OwnedFd,
    /// Relative sources of bind mounts start here.
    bundle: PathBuf,
    /// The namespaces that the container does not share.
    namespaces: Namespaces,
    /// What the container may see of each cgroup hierarchy.
    cgroup_views: Vec<(Tree, PathBuf)>,
}

impl Host {
    /// Opens what is needed, and verifies that it is what it seems.
    pub fn open(bundle: &Path, namespaces: &Namespaces, cgroup_views: Vec<(Tree, PathBuf)>) -> Result<Self> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = open("/proc", directory, Mode::empty()).context(|| "open /proc")?;
        if fstatfs(&proc).context(|| "look at /proc")?.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Error::invalid(
                "/proc of the host is not a proc file system: mount it",
            ));
        }
        let null = open(
            "/dev/null",
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .context(|| "open /dev/null")?;
        let stat = fstat(&null).context(|| "look at /dev/null")?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFCHR
            || stat.st_rdev != nix::sys::stat::makedev(1, 3)
        {
            return Err(Error::invalid("/dev/null of the host is not the null device"));
        }
        let root = open("/", directory, Mode::empty()).context(|| "open /")?;
        Ok(Self {
            proc,
            null,
            root,
            bundle: bundle.to_owned(),
            namespaces: namespaces.clone(),
            cgroup_views,
        })
    }

    /// Writes to a file below `/proc`, without following links or mounts on the way.
    pub fn write_proc(&self, path: &str, value: &str) -> Result<()> {
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let file = openat2(&self.proc, path, how).context(|| format!("open /proc/{path}"))?;
        nix::unistd::write(&file, value.as_bytes()).context(|| format!("write {value:?} to /proc/{path}"))?;
        Ok(())
    }

    /// The path of an open descriptor, for messages and for what has no other interface.
    fn fd_path(&self, fd: BorrowedFd<'_>) -> Result<PathBuf> {
        use std::os::fd::AsRawFd;
        let link = format!("self/fd/{}", fd.as_raw_fd());
        let target =
            nix::fcntl::readlinkat(&self.proc, link.as_str()).context(|| format!("read /proc/{link}"))?;
        Ok(target.into())
    }
}

impl Rootfs {
    /// Makes the directory `path` a mount of its own, in a namespace whose mounts travel as `propagation` says.
    pub fn prepare(path: &Path, propagation: Propagation, host: Host) -> Result<Self> {
        let mut flags = MsFlags::from_bits_retain(propagation.mode);
        flags.set(MsFlags::MS_REC, propagation.recursive);
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .context(|| "set the propagation of the mounts")?;
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let target = open(path, directory, Mode::empty())
            .context(|| format!("open the root file system {}", path.display()))?;
        if propagation.mode == libc::MS_SHARED {
            make_parent_private(path)?;
        }
        let root = sys::open_tree(target.as_fd(), Path::new(""), true)
            .context(|| format!("copy the mount of {}", path.display()))?;
        sys::attach(root.as_fd(), target.as_fd())
            .context(|| format!("mount {} on itself", path.display()))?;
        // What is mounted below must not travel back to where it was copied from.
        if propagation.mode == libc::MS_SHARED {
            let private = Propagation {
                mode: libc::MS_PRIVATE,
                recursive: true,
            };
            sys::set_attr(root.as_fd(), private.attr(), true).context(|| "make the root private")?;
        }
        Ok(Self {
            root,
            host,
            covers: cover::Covers::default(),
        })
    }

    /// The root of a container that this process has entered.
    pub fn adopt(host: Host) -> Result<Self> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            root: open("/", directory, Mode::empty()).context(|| "open /")?,
            host,
            covers: cover::Covers::default(),
        })
    }

    /// What is needed of the host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes this the root directory and forgets the old one.
    pub fn pivot(&self, no_pivot: bool) -> Result<()> {
        nix::unistd::fchdir(&self.root).context(|| "enter the new root")?;
        if no_pivot {
            return self.move_to_root();
        }
        nix::unistd::pivot_root(".", ".").context(|| "pivot_root")?;
        // The old root now lies on top of the new one: take it off, without a trace on the host.
        nix::unistd::fchdir(&self.host.root).context(|| "enter the old root")?;
        let private = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        nix::mount::mount(None::<&str>, ".", None::<&str>, private, None::<&str>)
            .context(|| "detach the old root from the host")?;
        umount2(".", MntFlags::MNT_DETACH).context(|| "unmount the old root")?;
        nix::unistd::chdir("/").context(|| "enter /")
    }

    /// Without pivot_root the old root stays below: what could reveal the host must go first.
    fn move_to_root(&self) -> Result<()> {
        let own = self.host.fd_path(self.root.as_fd())?;
        for (path, fs_type) in mount_points()? {
            if !matches!(fs_type.as_str(), "proc" | "sysfs") || path.starts_with(&own) {
                continue;
            }
            if umount2(&path, MntFlags::MNT_DETACH).is_err() {
                let cover = Some("tmpfs");
                nix::mount::mount(cover, &path, cover, MsFlags::empty(), None::<&str>)
                    .context(|| format!("hide {}", path.display()))?;
            }
        }
        sys::attach(self.root.as_fd(), self.host.root.as_fd()).context(|| "move the root over /")?;
        nix::unistd::chroot(".").context(|| "chroot")?;
        nix::unistd::chdir("/").context(|| "enter /")
    }

    /// Sets how mounts travel between this root and its copies.
    pub fn set_propagation(&self, propagation: Propagation) -> Result<()> {
        sys::set_attr(self.root.as_fd(), propagation.attr(), propagation.recursive)
            .context(|| "set the propagation of the root")
    }
}

/// pivot_root refuses a new root whose parent mount is shared.
fn make_parent_private(path: &Path) -> Result<()> {
    let parent = mount_points()?
        .into_iter()
        .map(|(point, _)| point)
        .filter(|point| path.starts_with(point));
    let parent = parent
        .max_by_key(|point| point.as_os_str().len())
        .unwrap_or_else(|| "/".into());
    nix::mount::mount(
        None::<&str>,
        &parent,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context(|| format!("make the mount {} private", parent.display()))
}

/// All mounts of this namespace: where, and of what type.
fn mount_points() -> Result<Vec<(PathBuf, String)>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    let parse = |line: &str| {
        let point = line.split(' ').nth(4)?;
        let fs_type = line.split_once(" - ")?.1.split(' ').next()?;
        Some((crate::cgroup::unescape(point).into(), fs_type.to_owned()))
    };
    Ok(text.lines().filter_map(parse).collect())
}
