//! Control groups: which hierarchies there are, and the container's place in them.
//!
//! ```text
//!   version 2   /sys/fs/cgroup is cgroup2          one directory, files by controller
//!   version 1   /sys/fs/cgroup/<controllers>/…     a directory in each hierarchy
//!   hybrid      version 1 with /sys/fs/cgroup/unified beside it: counts as version 1
//! ```
//!
//! `linux.cgroupsPath` is absolute (from the mount point) or relative (from the runtime's own cgroup); with
//! `--systemd-cgroup` it is `slice:prefix:name`, which becomes the directory that systemd would use.
//!
//! Failure: where the runtime has no rights and nothing was limited, the container goes without a cgroup of its
//! own. Limits that cannot be applied are an error, since they were asked for.

mod devices;
mod resources;
mod tree;

use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::{Linux, Resources};

pub use tree::{Tree, unescape};

const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub enum Hierarchies {
    /// Version 2.
    Unified(Tree),
    /// Version 1, or hybrid: one for each controller or set of them.
    Version1(Vec<Tree>),
}

impl Hierarchies {
    /// Looks at what is mounted.
    pub fn detect() -> Result<Self> {
        let mounted = statfs(MOUNT_POINT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        if mounted {
            return Ok(Self::Unified(Tree::unified(MOUNT_POINT.into())));
        }
        Ok(Self::Version1(tree::version_1()?))
    }

    fn trees(&self) -> &[Tree] {
        match self {
            Self::Unified(tree) => std::slice::from_ref(tree),
            Self::Version1(trees) => trees,
        }
    }
}

/// The container's directories, one in each hierarchy.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Cgroup {
    /// Empty: the container has none of its own.
    places: Vec<Place>,
}

/// A directory in one hierarchy.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Place {
    /// Controllers of version 1; empty for version 2.
    controllers: Vec<String>,
    path: PathBuf,
}

impl Place {
    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

impl Cgroup {
    /// Makes the container's directories, and limits them. `note` hears of them all before the first is made.
    pub fn create(
        linux: &Linux,
        id: &str,
        systemd: bool,
        note: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Self> {
        let resources = linux.resources.clone().unwrap_or_default();
        let path = match linux.cgroups_path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) if systemd => systemd_path(path)?,
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(id),
        };
        let hierarchies = Hierarchies::detect()?;
        let place = |tree: &Tree| {
            Ok(Place {
                controllers: tree.controllers().to_vec(),
                path: tree.directory(&path)?,
            })
        };
        let places: Vec<Place> = hierarchies.trees().iter().map(place).collect::<Result<_>>()?;
        note(&Self {
            places: places.clone(),
        })?;
        let mut cgroup = Self::default();
        for (tree, place) in hierarchies.trees().iter().zip(places) {
            match tree.make(&place.path) {
                Ok(()) => cgroup.places.push(place),
                Err(error) if error.is_denied() && !needed(tree, &resources) => {
                    tracing::debug!("no cgroup in {}: {error}", tree.mount_point().display());
                }
                Err(error) => return Err(error.with_cleanup(cgroup.remove())),
            }
        }
        if let Err(error) = cgroup.limit_first(&resources) {
            return Err(error.with_cleanup(cgroup.remove()));
        }
        Ok(cgroup)
    }

    fn limit_first(&self, resources: &Resources) -> Result<()> {
        if self.places.is_empty() {
            return match resources.limits_anything() {
                true => Err(Error::invalid(
                    "limits were asked for, but no cgroup can be made: run as root, or without them",
                )),
                false => Ok(()),
            };
        }
        self.limit(resources)?;
        // In a user namespace no node can be made, and the host's nodes are guarded by the host.
        if crate::namespace::is_initial_user_namespace() {
            self.limit_devices(resources)
        } else {
            Ok(())
        }
    }

    /// Applies limits: all that are given, leaving the others as they are.
    pub fn limit(&self, resources: &Resources) -> Result<()> {
        for place in &self.places {
            if place.is_unified() {
                resources::write_unified(&place.path, resources)?;
            } else {
                resources::write_version_1(place, resources)?;
            }
        }
        Ok(())
    }

    fn limit_devices(&self, resources: &Resources) -> Result<()> {
        for place in &self.places {
            if place.is_unified() {
                devices::limit_unified(&place.path, &resources.devices)?;
            } else if place.has("devices") {
                devices::limit_version_1(&place.path, &resources.devices)?;
            }
        }
        Ok(())
    }

    /// The directory of version 2, into which a process can be born.
    pub fn birth_place(&self) -> Option<std::fs::File> {
        let [place] = self.places.as_slice() else {
            return None;
        };
        if place.is_unified() {
            std::fs::File::open(&place.path).ok()
        } else {
            None
        }
    }

    /// Moves a process here.
    pub fn add(&self, pid: Pid) -> Result<()> {
        self.places
            .iter()
            .try_for_each(|place| write(&place.path.join("cgroup.procs"), &pid.to_string()))
    }

    /// Moves a process to where `other` is; for `exec`, when the container has moved its processes deeper.
    pub fn add_beside(&self, pid: Pid, other: Pid) -> Result<()> {
        let Err(error) = self.add(pid) else { return Ok(()) };
        let own = std::fs::read_to_string(format!("/proc/{other}/cgroup")).unwrap_or_default();
        let below = own.lines().find_map(|line| line.strip_prefix("0::"));
        match (self.places.as_slice(), below) {
            ([place], Some(path)) if place.is_unified() => write(
                &Path::new(MOUNT_POINT)
                    .join(path.trim_start_matches('/'))
                    .join("cgroup.procs"),
                &pid.to_string(),
            ),
            _ => Err(error),
        }
    }

    /// All processes here and below.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        match self.counting_place() {
            Some(place) => tree::processes(&place.path),
            None => Ok(Vec::new()),
        }
    }

    /// Whether there is a cgroup to ask about processes.
    pub fn exists(&self) -> bool {
        self.counting_place().is_some_and(|place| place.path.exists())
    }

    /// The directories by controller, as engines like to see them.
    pub fn paths(&self) -> std::collections::BTreeMap<String, PathBuf> {
        let key = |place: &Place| {
            if place.is_unified() {
                String::new()
            } else {
                place.controllers.join(",")
            }
        };
        self.places
            .iter()
            .map(|place| (key(place), place.path.clone()))
            .collect()
    }

    /// The hierarchy in which the container's processes are surely all of those there.
    fn counting_place(&self) -> Option<&Place> {
        let prefer = |name| self.places.iter().find(move |place| place.has(name));
        prefer("pids")
            .or_else(|| prefer("devices"))
            .or_else(|| prefer("freezer"))
            .or(self.places.first())
    }

    /// Stops all processes, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        for place in &self.places {
            if place.is_unified() {
                return tree::freeze_unified(&place.path, frozen);
            }
            if place.has("freezer") {
                return tree::freeze_version_1(&place.path, frozen);
            }
        }
        Err(Error::invalid(
            "the container has no cgroup, and so cannot be paused",
        ))
    }

    /// Whether the processes are stopped.
    pub fn is_frozen(&self) -> bool {
        self.places.iter().any(|place| {
            let is = |file: &str, value: &str| {
                std::fs::read_to_string(place.path.join(file))
                    .is_ok_and(|text| text.trim().starts_with(value))
            };
            if place.is_unified() {
                is("cgroup.freeze", "1")
            } else {
                place.has("freezer") && (is("freezer.state", "FROZEN") || is("freezer.state", "FREEZING"))
            }
        })
    }

    /// Ends every process here and below at once, where the kernel can. Says whether it could.
    pub fn kill(&self) -> bool {
        self.places
            .iter()
            .any(|place| place.is_unified() && write(&place.path.join("cgroup.kill"), "1").is_ok())
    }

    /// What the container may see of each hierarchy: its own directory, or that of the runtime where it has none.
    /// Must be asked outside of the container's cgroup namespace, in which every path looks like the root.
    pub fn views(&self) -> Result<Vec<(Tree, PathBuf)>> {
        let view = |tree: &Tree| {
            let own = self
                .places
                .iter()
                .find(|place| place.controllers == tree.controllers());
            Ok((
                tree.clone(),
                own.map_or_else(|| tree.own_path(), |place| Ok(place.path.clone()))?,
            ))
        };
        Hierarchies::detect()?.trees().iter().map(view).collect()
    }

    /// Statistics: the content of each controller's files.
    pub fn statistics(&self) -> serde_json::Value {
        resources::statistics(&self.places)
    }

    /// Removes the directories, deepest first. All are tried; the first failure is returned.
    pub fn remove(&self) -> Result<()> {
        let mut result = Ok(());
        for place in &self.places {
            let removed = tree::remove(&place.path);
            if result.is_ok() {
                result = removed;
            }
        }
        result
    }
}

/// Whether the limits cannot be kept without this hierarchy.
fn needed(tree: &Tree, resources: &Resources) -> bool {
    let has = |name: &str| tree.controllers().iter().any(|own| own == name);
    if tree.controllers().is_empty() {
        return resources.limits_anything();
    }
    (has("memory") && resources.memory != crate::spec::Memory::default())
        || ((has("cpu") || has("cpuset")) && resources.cpu != crate::spec::Cpu::default())
        || (has("pids") && resources.pids != crate::spec::Pids::default())
        || (has("blkio") && resources.block_io != crate::spec::BlockIo::default())
}

/// `slice:prefix:name` to the directory that systemd would use: `a-b.slice` lies in `a.slice`.
fn systemd_path(text: &str) -> Result<PathBuf> {
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(Error::invalid(format!(
            "linux.cgroupsPath: {text:?} is not slice:prefix:name, as --systemd-cgroup wants it"
        )));
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let Some(stem) = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/')) else {
        return Err(Error::invalid(format!(
            "linux.cgroupsPath: {slice:?} is not the name of a slice"
        )));
    };
    let mut path = PathBuf::from("/");
    if stem != "-" {
        let mut so_far = String::new();
        for part in stem.split('-') {
            if part.is_empty() {
                return Err(Error::invalid(format!(
                    "linux.cgroupsPath: {slice:?} is not the name of a slice"
                )));
            }
            so_far.push_str(part);
            path.push(format!("{so_far}.slice"));
            so_far.push('-');
        }
    }
    let unit = if name.ends_with(".slice") || prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}-{name}")
    };
    path.push(if unit.ends_with(".slice") {
        unit
    } else {
        format!("{unit}.scope")
    });
    Ok(path)
}

/// Writes to a file of a cgroup.
fn write(path: &Path, text: &str) -> Result<()> {
    // Without O_CREAT and O_TRUNC: the files are the kernel's.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .context(|| format!("open {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .context(|| format!("write {text:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_names_become_nested_slices() {
        assert_eq!(
            systemd_path("a-b.slice:pre:1").unwrap(),
            Path::new("/a.slice/a-b.slice/pre-1.scope")
        );
        assert_eq!(systemd_path("::1").unwrap(), Path::new("/system.slice/1.scope"));
        assert_eq!(systemd_path("-.slice:p:n").unwrap(), Path::new("/p-n.scope"));
        assert!(systemd_path("a--b.slice:p:n").is_err());
        assert!(systemd_path("/plain/path").is_err());
        assert!(systemd_path("../x.slice:p:n").is_err());
    }
}
