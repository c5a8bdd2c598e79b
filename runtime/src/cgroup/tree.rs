//! One hierarchy: where it is mounted, where this process is in it, and directories in it.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::write;
use crate::error::{Context, Error, Result};

/// How long processes that were killed may take to leave, before their cgroup counts as busy.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One hierarchy.
#[derive(Clone, Debug)]
pub struct Tree {
    mount_point: PathBuf,
    /// What is shown at the mount point: not `/` inside a container.
    mount_root: PathBuf,
    controllers: Vec<String>,
}

impl Tree {
    pub(super) fn unified(mount_point: PathBuf) -> Self {
        Self {
            mount_point,
            mount_root: "/".into(),
            controllers: Vec::new(),
        }
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Whether it is that of version 2.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Its controllers, or its name; empty for version 2.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Names under which programs look for it, beside that of its directory.
    pub fn aliases(&self) -> Vec<&String> {
        let own = self
            .mount_point
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        self.controllers
            .iter()
            .filter(|name| *name != own && !name.starts_with("name="))
            .collect()
    }

    /// The directory of the calling process.
    pub fn own_path(&self) -> Result<PathBuf> {
        let text = std::fs::read_to_string("/proc/self/cgroup").context(|| "read /proc/self/cgroup")?;
        let key = self.controllers.join(",");
        let path = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            (fields.next()? == key).then(|| fields.next())?
        });
        let path = Path::new(path.unwrap_or("/"));
        let below = path
            .strip_prefix(&self.mount_root)
            .or_else(|_| path.strip_prefix("/"))
            .unwrap_or(path);
        Ok(self.mount_point.join(below))
    }

    /// The directory that `path` of the configuration means.
    pub(super) fn directory(&self, path: &Path) -> Result<PathBuf> {
        let base = if path.is_absolute() {
            self.mount_point.clone()
        } else {
            self.own_path()?
        };
        let names = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let directory = names.fold(base.clone(), |directory, name| directory.join(name));
        if path
            .components()
            .any(|component| component == Component::ParentDir)
            || directory == base
        {
            return Err(Error::invalid(format!(
                "linux.cgroupsPath: {} is not a path below a cgroup",
                path.display()
            )));
        }
        Ok(directory)
    }

    /// Makes a directory and those above it, ready for processes.
    pub(super) fn make(&self, directory: &Path) -> Result<()> {
        let below = directory.strip_prefix(&self.mount_point).unwrap_or(directory);
        let mut current = self.mount_point.clone();
        for name in below.components() {
            if self.controllers.is_empty() {
                enable_controllers(&current);
            }
            let parent = current.clone();
            current.push(name);
            match std::fs::create_dir(&current) {
                Ok(()) => self.inherit_cpuset(&parent, &current)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context(|| format!("make the cgroup {}", current.display())),
            }
        }
        Ok(())
    }

    /// A new cpuset of version 1 is empty and takes no process until it has processors and memory.
    fn inherit_cpuset(&self, parent: &Path, child: &Path) -> Result<()> {
        if !self.controllers.iter().any(|name| name == "cpuset") {
            return Ok(());
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = parent.join(file);
            let value = std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
            write(&child.join(file), value.trim())?;
        }
        Ok(())
    }
}

/// Hands all controllers down; where that is not allowed, writing a limit will say so.
fn enable_controllers(directory: &Path) {
    let Ok(available) = std::fs::read_to_string(directory.join("cgroup.controllers")) else {
        return;
    };
    let file = directory.join("cgroup.subtree_control");
    let enabled = std::fs::read_to_string(&file).unwrap_or_default();
    for controller in available.split_whitespace() {
        if enabled.split_whitespace().any(|known| known == controller) {
            continue;
        }
        if let Err(error) = write(&file, &format!("+{controller}")) {
            tracing::debug!("{error}");
        }
    }
}

/// The hierarchies of version 1 that are mounted.
pub(super) fn version_1() -> Result<Vec<Tree>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    let mut trees: Vec<Tree> = Vec::new();
    for tree in text.lines().filter_map(parse_mount) {
        if !trees.iter().any(|known| known.controllers == tree.controllers) {
            trees.push(tree);
        }
    }
    Ok(trees)
}

/// `31 23 0:28 /root /mount/point rw shared:1 - cgroup cgroup rw,cpu,cpuacct`
fn parse_mount(line: &str) -> Option<Tree> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    if right.next()? != "cgroup" {
        return None;
    }
    let fields: Vec<&str> = left.split(' ').collect();
    let ignored = ["rw", "ro", "xattr", "clone_children", "noprefix", "release_agent"];
    let options = right
        .nth(1)?
        .split(',')
        .filter(|option| !ignored.contains(option));
    let controllers = options
        .filter(|option| !option.starts_with("release_agent="))
        .map(str::to_owned)
        .collect();
    Some(Tree {
        mount_root: unescape(fields.get(3)?).into(),
        mount_point: unescape(fields.get(4)?).into(),
        controllers,
    })
}

/// Spaces and the like are written as octal numbers in mountinfo.
pub fn unescape(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        result.push_str(before);
        match after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                result.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                result.push('\\');
                rest = after;
            }
        }
    }
    result + rest
}

/// All processes at and below a directory.
pub(super) fn processes(directory: &Path) -> Result<Vec<Pid>> {
    let path = directory.join("cgroup.procs");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // A process left between the listing and the reading.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Vec::new()),
        result => result.context(|| format!("read {}", path.display()))?,
    };
    let mut pids: Vec<Pid> = text
        .lines()
        .filter_map(|line| line.parse().ok())
        .map(Pid::from_raw)
        .collect();
    for child in subdirectories(directory)? {
        pids.extend(processes(&child)?);
    }
    Ok(pids)
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.context(|| format!("list {}", directory.display()))?,
    };
    let directories = entries.filter_map(std::result::Result::ok);
    Ok(directories
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// Removes a directory and those below.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let end = Instant::now() + LEAVE_TIMEOUT;
    loop {
        // In the usual case this is all: nothing is inside any more.
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= end => {
                return Err(error).context(|| format!("remove the cgroup {}", directory.display()));
            }
            Err(_) => {}
        }
        let below = subdirectories(directory)?;
        if below.is_empty() {
            // Killed processes leave when they are scheduled; no event tells when in version 1.
            std::thread::sleep(Duration::from_millis(1));
        }
        below.iter().try_for_each(|child| remove(child))?;
    }
}

/// Stops or continues everything in a cgroup of version 2, and waits until it is so.
pub(super) fn freeze_unified(directory: &Path, frozen: bool) -> Result<()> {
    let value = if frozen { "1" } else { "0" };
    write(&directory.join("cgroup.freeze"), value)?;
    let wanted = format!("frozen {value}");
    wait_until(|| {
        std::fs::read_to_string(directory.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|line| line == wanted))
    })
}

/// The same for version 1, where a process that forks meanwhile can make it necessary to ask again.
pub(super) fn freeze_version_1(directory: &Path, frozen: bool) -> Result<()> {
    let value = if frozen { "FROZEN" } else { "THAWED" };
    let file = directory.join("freezer.state");
    wait_until(|| {
        write(&file, value).is_ok() && std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == value)
    })
}

fn wait_until(done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + LEAVE_TIMEOUT;
    while !done() {
        if Instant::now() >= end {
            return Err(Error::invalid(
                "the processes of the cgroup do not change their state",
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_version_1_are_recognised() {
        let line = "34 31 0:31 /docker/x /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let tree = parse_mount(line).unwrap();
        assert_eq!(tree.controllers, ["cpu", "cpuacct"]);
        assert_eq!(tree.mount_root, Path::new("/docker/x"));
        assert_eq!(tree.aliases(), ["cpu", "cpuacct"]);
        assert!(parse_mount("41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw").is_none());
        assert!(parse_mount("garbage").is_none());
    }

    #[test]
    fn paths_stay_below_the_mount_point() {
        let tree = Tree::unified("/sys/fs/cgroup".into());
        assert_eq!(
            tree.directory(Path::new("/a/b")).unwrap(),
            Path::new("/sys/fs/cgroup/a/b")
        );
        assert!(tree.directory(Path::new("/a/../../x")).is_err());
        assert!(tree.directory(Path::new("/")).is_err());
    }

    #[test]
    fn octal_escapes() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\9\"), r"/a\9\");
    }
}
