//! Options of a mount, as mount(8) and runc spell them, to what the kernel is asked for: pure.

use std::fmt;
use std::path::{Path, PathBuf};

use super::clean;
use crate::error::{Error, Result};
use crate::spec::{IdMapping, Mount};
use crate::sys::mount::MountAttr;

/// One entry of `mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountStep {
    /// Where, inside the container: absolute, without `..`.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Attributes of this mount.
    pub attr: MountAttr,
    /// Attributes of this mount and everything below it (`rro` and the like).
    pub recursive_attr: MountAttr,
    /// How mounts travel in and out of it.
    pub propagation: Vec<Propagation>,
    /// Mapping of owners.
    pub idmap: Option<Idmap>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// The path on the host: absolute, or relative to the bundle.
        source: PathBuf,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// A new instance of a file system.
    Filesystem {
        /// Its type.
        fs_type: String,
        /// What is on it, or any word.
        source: String,
        /// Flags and `key=value` options for the file system itself.
        options: Vec<String>,
        /// Fill it with what lies below (`tmpcopyup`).
        copy_up: bool,
    },
    /// The container's view of its cgroups.
    Cgroup,
    /// Nothing new: change what is mounted there.
    Remount,
}

/// `idmap` and `ridmap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idmap {
    /// With everything mounted below it.
    pub recursive: bool,
    /// Users; empty: the mapping of the container.
    pub uid_mappings: Vec<IdMapping>,
    /// Groups; empty: the mapping of the container.
    pub gid_mappings: Vec<IdMapping>,
}

/// How mounts travel between a mount and its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub mode: u64,
    /// For everything below as well.
    pub recursive: bool,
}

impl Propagation {
    /// What the specification leaves open: mounts of the host come in, none go out.
    pub const SLAVE: Self = Self {
        mode: libc::MS_SLAVE,
        recursive: true,
    };

    /// Reads `private`, `rslave` and so on.
    pub fn parse(name: &str) -> Result<Self> {
        Self::from_option(name).ok_or_else(|| {
            Error::invalid(format!(
                "linux.rootfsPropagation: {name:?} is not a mode of propagation"
            ))
        })
    }

    fn from_option(name: &str) -> Option<Self> {
        let mode = match name.strip_prefix('r').unwrap_or(name) {
            "shared" => libc::MS_SHARED,
            "slave" => libc::MS_SLAVE,
            "private" => libc::MS_PRIVATE,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        };
        Some(Self {
            mode,
            recursive: name.starts_with('r'),
        })
    }

    /// As the kernel's structure wants it.
    pub fn attr(self) -> MountAttr {
        MountAttr {
            propagation: self.mode,
            ..MountAttr::default()
        }
    }
}

/// What an option does to the attributes of a mount: set, clear.
fn attribute(option: &str) -> Option<(u64, u64)> {
    const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
    Some(match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, ATIME),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (libc::MOUNT_ATTR_RELATIME, ATIME),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        _ => return None,
    })
}

/// The later option wins, as with mount(8).
fn apply(attr: &mut MountAttr, (set, clear): (u64, u64)) {
    attr.set = (attr.set & !clear) | set;
    attr.clear = (attr.clear & !set) | clear;
}

/// What the options of one mount add up to.
#[derive(Default)]
struct Parsed {
    attr: MountAttr,
    recursive_attr: MountAttr,
    propagation: Vec<Propagation>,
    bind: Option<bool>,
    remount: bool,
    copy_up: bool,
    idmap: Option<bool>,
    data: Vec<String>,
}

impl Parsed {
    fn read(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.read_one(option);
        }
        parsed
    }

    /// What is to be mounted.
    fn kind(&mut self, entry: &Mount, label: Option<&str>, destination: &Path) -> Result<MountKind> {
        let fs_type = entry.fs_type.as_deref().unwrap_or_default();
        let name = destination.display();
        Ok(if self.remount && self.bind.is_none() {
            MountKind::Remount
        } else if self.bind.is_some() || matches!(fs_type, "bind" | "none") {
            let source = entry
                .source
                .clone()
                .filter(|source| !source.as_os_str().is_empty());
            let source =
                source.ok_or_else(|| Error::invalid(format!("mounts: {name} has no source to bind")))?;
            // A read-only mount of the host stays so: `rw` is what an engine writes when nothing was asked.
            self.attr.clear &= !libc::MOUNT_ATTR_RDONLY;
            // Data means nothing to a bind mount, and runc passes over it too.
            MountKind::Bind {
                source,
                recursive: self.bind.unwrap_or(false),
            }
        } else if fs_type == "cgroup" || fs_type == "cgroup2" {
            MountKind::Cgroup
        } else if fs_type.is_empty() {
            return Err(Error::invalid(format!(
                "mounts: {name} has neither a type nor bind among its options"
            )));
        } else {
            let mut options = std::mem::take(&mut self.data);
            if let Some(label) =
                label.filter(|label| !label.is_empty() && !matches!(fs_type, "proc" | "sysfs"))
            {
                options.push(format!("context={label}"));
            }
            let source = entry
                .source
                .as_ref()
                .map_or(fs_type.into(), |source| source.to_string_lossy());
            if self.copy_up && fs_type != "tmpfs" {
                return Err(Error::invalid(format!(
                    "mounts: {name}: tmpcopyup is for tmpfs only"
                )));
            }
            MountKind::Filesystem {
                fs_type: fs_type.to_owned(),
                source: source.into_owned(),
                options,
                copy_up: self.copy_up,
            }
        })
    }

    fn read_one(&mut self, option: &str) {
        if let Some(propagation) = Propagation::from_option(option) {
            return self.propagation.push(propagation);
        }
        if let Some(change) = attribute(option) {
            return apply(&mut self.attr, change);
        }
        // `rro` and so on; `rw` and `relatime` were options of their own above.
        if let Some(change) = option.strip_prefix('r').and_then(attribute) {
            return apply(&mut self.recursive_attr, change);
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "sync" | "dirsync" | "lazytime" => self.data.push(option.to_owned()),
            "async" | "nolazytime" => self
                .data
                .retain(|known| !matches!(known.as_str(), "sync" | "lazytime")),
            // Without an effect in any kernel that this runtime supports, or only about messages.
            "" | "defaults" | "mand" | "nomand" | "iversion" | "noiversion" | "silent" | "loud" | "acl"
            | "noacl" => {}
            other => self.data.push(other.to_owned()),
        }
    }
}

impl MountStep {
    /// Reads an entry of the configuration.
    pub fn parse(entry: &Mount, label: Option<&str>) -> Result<Self> {
        let destination = clean(&Path::new("/").join(&entry.destination));
        let mut parsed = Parsed::read(&entry.options);
        let kind = parsed.kind(entry, label, &destination)?;
        if destination == Path::new("/") && !matches!(kind, MountKind::Remount) {
            return Err(Error::invalid(
                "mounts: nothing can be mounted over the root of the container",
            ));
        }
        let idmap = parsed
            .idmap
            .or((!entry.uid_mappings.is_empty()).then_some(false))
            .map(|recursive| Idmap {
                recursive,
                uid_mappings: entry.uid_mappings.clone(),
                gid_mappings: entry.gid_mappings.clone(),
            });
        Ok(Self {
            destination,
            kind,
            attr: parsed.attr,
            recursive_attr: parsed.recursive_attr,
            propagation: parsed.propagation,
            idmap,
        })
    }

    /// Takes away the wish to be read-only and says whether there was one.
    pub fn take_readonly(&mut self) -> bool {
        let readonly = self.attr.set & libc::MOUNT_ATTR_RDONLY != 0;
        self.attr.set &= !libc::MOUNT_ATTR_RDONLY;
        readonly
    }
}

impl fmt::Display for MountStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.destination.display();
        match &self.kind {
            MountKind::Bind { source, .. } => write!(f, "mount {} at {at}", source.display()),
            MountKind::Filesystem { fs_type, .. } => write!(f, "mount {fs_type} at {at}"),
            MountKind::Cgroup => write!(f, "mount the cgroups at {at}"),
            MountKind::Remount => write!(f, "change the mount at {at}"),
        }
    }
}
