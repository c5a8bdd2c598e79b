//! Mounts of the configuration.
//!
//! Each is made detached, given its attributes, and only then attached to a target that was opened inside the
//! root. Where the kernel refuses for want of rights in a user namespace, what the host has already mounted takes
//! its place: `/sys` and `/dev/mqueue` of the host, and `/proc` when the processes are shared as well.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::stat::SFlag;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::resolve::{Missing, file_type};
use super::{Rootfs, copy};
use crate::error::{Context, Error, Result};
use crate::plan::mount::{MountKind, MountStep};
use crate::sys::mount::{self as sys, FsContext, MountAttr};

/// Files of `/proc` that engines are known to replace (lxcfs and the like); nothing else may lie over it.
const PROC_FILES: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
    "uptime",
];

/// The kernel takes option values up to here through fsconfig.
const MAX_VALUE_BYTES: usize = 255;

impl Rootfs {
    /// Mounts one entry.
    pub fn mount(&self, step: &MountStep) -> Result<()> {
        match &step.kind {
            MountKind::Bind { source, recursive } => self.bind(step, source, *recursive),
            MountKind::Filesystem {
                fs_type,
                source,
                options,
                copy_up,
            } => self.mount_filesystem(step, fs_type, source, options, *copy_up),
            MountKind::Cgroup => self.mount_cgroup(step),
            MountKind::Remount => {
                let target = self.open(&step.destination).context(|| "open the mount")?;
                self.finish(step, target.as_fd())
            }
        }
    }

    fn bind(&self, step: &MountStep, source: &Path, recursive: bool) -> Result<()> {
        let source = self.host.bundle.join(source);
        let tree = sys::open_tree(self.host.root.as_fd(), &source, recursive)
            .context(|| format!("open the source {}", source.display()))?;
        let idmap = step.idmap.as_ref();
        if let Some(idmap) = idmap {
            crate::namespace::idmap_mount(tree.as_fd(), idmap, &self.host.namespaces)
                .context(|| "map the owners (idmap)")?;
        }
        let missing = match file_type(&tree)? {
            SFlag::S_IFDIR => Missing::Directory,
            _ => Missing::File,
        };
        let target = self.target(&step.destination, missing)?;
        if (file_type(&target)? == SFlag::S_IFDIR) != (missing == Missing::Directory) {
            return Err(Error::invalid(
                "not a directory: are you trying to mount a directory onto a file (or the other way round)?",
            ));
        }
        self.check_proc(step, &target, Some(tree.as_fd()))?;
        set_bind_attr(tree.as_fd(), step.attr)?;
        sys::attach(tree.as_fd(), target.as_fd()).context(|| "attach the mount")?;
        self.finish(
            &MountStep {
                attr: MountAttr::default(),
                ..step.clone()
            },
            tree.as_fd(),
        )
    }

    fn mount_filesystem(
        &self,
        step: &MountStep,
        fs_type: &str,
        source: &str,
        options: &[String],
        copy_up: bool,
    ) -> Result<()> {
        let target = self.filesystem_target(step, fs_type)?;
        self.check_proc(step, &target, None)?;
        let options = usable_options(fs_type, options);
        if options.iter().any(|option| option.len() > MAX_VALUE_BYTES) {
            return self.mount_by_name(step, fs_type, source, &options, &target);
        }
        let readonly_super = step.attr.set & libc::MOUNT_ATTR_RDONLY != 0 && !copy_up;
        let mounted = match create_filesystem(fs_type, source, &options, readonly_super) {
            Err(error) if error.is_denied() => match self.stand_in(fs_type) {
                Some(path) => {
                    tracing::debug!("{step}: {error}; showing {path} of the host instead");
                    return self.bind_stand_in(step, path, &target);
                }
                None => return Err(error),
            },
            result => result?,
        };
        if copy_up {
            copy::tree(target.as_fd(), mounted.as_fd()).context(|| "copy what lies below")?;
        }
        sys::set_attr(mounted.as_fd(), step.attr, false).context(|| "set the mount's attributes")?;
        sys::attach(mounted.as_fd(), target.as_fd()).context(|| "attach the mount")?;
        self.finish(
            &MountStep {
                attr: MountAttr::default(),
                ..step.clone()
            },
            mounted.as_fd(),
        )
    }

    /// `/proc` and `/sys` are what everything else relies on: they must be where they seem to be.
    fn filesystem_target(&self, step: &MountStep, fs_type: &str) -> Result<OwnedFd> {
        if !matches!(fs_type, "proc" | "sysfs") {
            return self.target(&step.destination, Missing::Directory);
        }
        match self.open_no_links(&step.destination) {
            Err(Errno::ENOENT) => {
                self.target(&step.destination, Missing::Directory)?;
                self.open_no_links(&step.destination)
            }
            result => result,
        }
        .context(|| format!("{fs_type} must be mounted on an ordinary directory, not through a link"))
    }

    fn target(&self, path: &Path, missing: Missing) -> Result<OwnedFd> {
        self.open_or_make(path, missing)
            .context(|| "open the mount target")
    }

    /// Nothing may hide `/proc` or parts of it, since labels and limits are read and written there.
    fn check_proc(&self, step: &MountStep, target: &OwnedFd, source: Option<BorrowedFd<'_>>) -> Result<()> {
        let is_proc = |fd: BorrowedFd<'_>| Ok::<_, Error>(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC);
        if step.destination == Path::new("/proc") {
            let proc = match (&step.kind, source) {
                (MountKind::Filesystem { fs_type, .. }, _) => fs_type == "proc",
                (_, Some(source)) => is_proc(source)?,
                _ => true,
            };
            return if proc {
                Ok(())
            } else {
                Err(Error::invalid("only a proc file system can be mounted at /proc"))
            };
        }
        if !is_proc(target.as_fd())? {
            return Ok(());
        }
        let root = self.host.fd_path(self.root.as_fd())?;
        let path = self.host.fd_path(target.as_fd())?;
        let inside = path.strip_prefix(&root).unwrap_or(&path);
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        let known = inside.strip_prefix("proc").ok().and_then(Path::to_str);
        if known.is_some_and(|name| PROC_FILES.contains(&name)) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} lies inside /proc, where nothing may be mounted",
            step.destination.display()
        )))
    }

    fn stand_in(&self, fs_type: &str) -> Option<&'static str> {
        match fs_type {
            "sysfs" => Some("/sys"),
            "mqueue" if Path::new("/dev/mqueue").exists() => Some("/dev/mqueue"),
            "proc" if !self.host.namespaces.has(CloneFlags::CLONE_NEWPID) => Some("/proc"),
            _ => None,
        }
    }

    fn bind_stand_in(&self, step: &MountStep, path: &str, target: &OwnedFd) -> Result<()> {
        let tree = sys::open_tree(self.host.root.as_fd(), Path::new(path), true)
            .context(|| format!("open {path} of the host"))?;
        sys::set_attr(tree.as_fd(), step.attr, true).context(|| "set the mount's attributes")?;
        sys::attach(tree.as_fd(), target.as_fd()).context(|| "attach the mount")
    }

    /// For options too long for fsconfig (overlay's layers): mount(2), on a name that only stands for the target.
    fn mount_by_name(
        &self,
        step: &MountStep,
        fs_type: &str,
        source: &str,
        options: &[String],
        target: &OwnedFd,
    ) -> Result<()> {
        let name = format!("/proc/self/fd/{}", target.as_raw_fd());
        let data = options.join(",");
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_RDONLY, step.attr.set & libc::MOUNT_ATTR_RDONLY != 0);
        nix::mount::mount(
            Some(source),
            name.as_str(),
            Some(fs_type),
            flags,
            Some(data.as_str()),
        )?;
        let mounted = self.open(&step.destination).context(|| "open what was mounted")?;
        self.finish(step, mounted.as_fd())
    }

    fn mount_cgroup(&self, step: &MountStep) -> Result<()> {
        let target = self.target(&step.destination, Missing::Directory)?;
        let own_namespace = self.host.namespaces.has(CloneFlags::CLONE_NEWCGROUP);
        if let [(tree, own)] = self.host.cgroup_views.as_slice()
            && tree.is_unified()
        {
            let mounted = match create_filesystem("cgroup2", "cgroup", &[], false) {
                Ok(mounted) => mounted,
                Err(error) if error.is_denied() || error.errno() == Some(Errno::EBUSY) => {
                    let path = if own_namespace { own } else { tree.mount_point() };
                    sys::open_tree(self.host.root.as_fd(), path, true)
                        .context(|| format!("open {}", path.display()))?
                }
                Err(error) => return Err(error),
            };
            sys::set_attr(mounted.as_fd(), step.attr, false).context(|| "set the mount's attributes")?;
            return sys::attach(mounted.as_fd(), target.as_fd()).context(|| "attach the mount");
        }
        self.mount_cgroup_v1(step, &target)
    }

    /// Version 1: a tmpfs with a directory for each hierarchy, in which the container sees its own cgroup.
    fn mount_cgroup_v1(&self, step: &MountStep, target: &OwnedFd) -> Result<()> {
        let base = create_filesystem("tmpfs", "tmpfs", &["mode=755".to_owned()], false)?;
        let flags = MountAttr {
            set: step.attr.set & !libc::MOUNT_ATTR_RDONLY,
            ..step.attr
        };
        sys::set_attr(base.as_fd(), flags, false).context(|| "set the mount's attributes")?;
        sys::attach(base.as_fd(), target.as_fd()).context(|| "attach the mount")?;
        for (hierarchy, source) in &self.host.cgroup_views {
            let Some(name) = hierarchy.mount_point().file_name().map(PathBuf::from) else {
                continue;
            };
            let tree = sys::open_tree(self.host.root.as_fd(), source, true)
                .context(|| format!("open {}", source.display()))?;
            set_bind_attr(tree.as_fd(), step.attr)?;
            let directory = self.target(&step.destination.join(&name), Missing::Directory)?;
            sys::attach(tree.as_fd(), directory.as_fd()).context(|| format!("attach {}", name.display()))?;
            for alias in hierarchy.aliases() {
                // A link that is there already leads to the same place.
                let _ = nix::unistd::symlinkat(&name, &base, alias.as_str());
            }
        }
        let readonly = MountAttr {
            set: step.attr.set & libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::set_attr(base.as_fd(), readonly, false).context(|| "make the mount read-only")
    }

    /// What is left once the mount is in its place.
    fn finish(&self, step: &MountStep, mounted: BorrowedFd<'_>) -> Result<()> {
        sys::set_attr(mounted, step.attr, false).context(|| "set the mount's attributes")?;
        sys::set_attr(mounted, step.recursive_attr, true)
            .context(|| "set the attributes of the mounts below")?;
        for propagation in &step.propagation {
            sys::set_attr(mounted, propagation.attr(), propagation.recursive)
                .context(|| "set the propagation")?;
        }
        Ok(())
    }
}

/// Flags that the owner of the mount has locked cannot be taken away, and then they simply stay.
fn set_bind_attr(tree: BorrowedFd<'_>, attr: MountAttr) -> Result<()> {
    match sys::set_attr(tree, attr, false) {
        Err(Errno::EPERM) if attr.clear != 0 => {
            // A mode of access times can only be set by clearing the others.
            let sets_atime = attr.set & libc::MOUNT_ATTR__ATIME != 0;
            let clear = if sets_atime {
                attr.clear & libc::MOUNT_ATTR__ATIME
            } else {
                0
            };
            sys::set_attr(tree, MountAttr { clear, ..attr }, false)
        }
        result => result,
    }
    .context(|| "set the mount's attributes")
}

/// Makes a file system, detached, and says in its own words why it cannot.
pub(super) fn create_filesystem(
    fs_type: &str,
    source: &str,
    options: &[String],
    readonly: bool,
) -> Result<OwnedFd> {
    let context = match FsContext::open(fs_type) {
        Err(Errno::ENODEV) => {
            return Err(Error::invalid(format!(
                "the kernel has no file system {fs_type:?}"
            )));
        }
        result => result.context(|| "open the file system")?,
    };
    let explain = |errno: Errno, what: &str| {
        let step = match context.message() {
            Some(message) => format!("{what} ({message})"),
            None => what.to_owned(),
        };
        Err::<(), _>(errno).context(|| step).unwrap_err()
    };
    context
        .set_string("source", source)
        .map_err(|errno| explain(errno, "set the source"))?;
    for option in options {
        let set = match option.split_once('=') {
            Some((key, value)) => context.set_string(key, value),
            None => context.set_flag(option),
        };
        set.map_err(|errno| explain(errno, &format!("set the option {option:?}")))?;
    }
    // Of file systems without a device, the mount alone is read-only: their instance is shared with others.
    if readonly
        && !matches!(
            fs_type,
            "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2"
        )
    {
        context
            .set_flag("ro")
            .map_err(|errno| explain(errno, "set the option \"ro\""))?;
    }
    context
        .mount(0)
        .map_err(|errno| explain(errno, "create the file system"))
}

/// Without the options that name a group which the user namespace does not have.
fn usable_options(fs_type: &str, options: &[String]) -> Vec<String> {
    let usable = |option: &&String| {
        let Some(gid) = option.strip_prefix("gid=").and_then(|gid| gid.parse().ok()) else {
            return true;
        };
        let mapped = fs_type != "devpts" || crate::namespace::gid_is_mapped(gid);
        if !mapped {
            tracing::debug!("{fs_type}: group {gid} is not mapped, leaving it out");
        }
        mapped
    };
    options.iter().filter(usable).cloned().collect()
}
