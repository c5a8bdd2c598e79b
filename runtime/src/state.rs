//! What is remembered of a container between two commands, and the life cycle.
//!
//! ```text
//!   ROOT/<id>/unfinished.json   who creates it, and its cgroups: written before anything is made
//!   ROOT/<id>/state.json        written once it is created, replaced by rename
//!   ROOT/<id>/start.sock        init waits here for `start`; gone once started
//!
//!   creating ──▶ created ──start──▶ running ◀─pause/resume─▶ paused
//!                   └──────────────────┴──── process gone ──▶ stopped ──delete──▶ (no directory)
//! ```
//!
//! The status is never stored: it follows from the process (its pid *and* start time, since pids are reused), the
//! socket and the freezer. A directory without `state.json` is a container whose creation goes on or was interrupted;
//! `delete --force` ends it and removes what was made.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::hooks::HookState;
use crate::spec::{OCI_VERSION, Spec};

const STATE_FILE: &str = "state.json";
const UNFINISHED_FILE: &str = "unfinished.json";
const START_SOCKET: &str = "start.sock";

/// The name of a container: letters, digits and `_+-.`, not beginning with what would make it another path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ContainerId(String);

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if text.is_empty() || text.len() > 1024 || matches!(text, "." | "..") || !text.chars().all(allowed) {
            return Err(Error::invalid(format!(
                "{text:?} is not a container id: use letters, digits and _+-."
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits for `start`.
    Created,
    /// Runs its command.
    Running,
    /// Runs, but its processes are stopped.
    Paused,
    /// Its process is gone.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What is remembered of a container.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct State {
    /// Its name.
    pub id: ContainerId,
    /// Its bundle: absolute.
    pub bundle: PathBuf,
    /// Its root file system: absolute.
    pub rootfs: PathBuf,
    /// The process of the container.
    pub pid: i32,
    /// When the process was started, in the kernel's ticks since boot.
    pub pid_start_ticks: u64,
    /// When it was created, as RFC 3339.
    pub created: String,
    /// Who created it.
    pub owner_uid: u32,
    /// Its places in the cgroup hierarchies.
    pub cgroup: Cgroup,
    /// The configuration as it was then.
    pub spec: Spec,
}

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    /// What is remembered of it.
    pub state: State,
}

/// The directory in which containers are remembered.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The directory of `--root`, or the usual one.
    pub fn new(root: Option<PathBuf>) -> Self {
        let usual = || {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
            match runtime {
                Some(dir) if !nix::unistd::geteuid().is_root() => PathBuf::from(dir).join("shale-runtime"),
                _ => "/run/shale-runtime".into(),
            }
        };
        Self {
            root: root.unwrap_or_else(usual),
        }
    }

    /// Takes the name for a new container.
    pub fn reserve(&self, id: &ContainerId) -> Result<Reserved> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .context(|| format!("make the directory {}", self.root.display()))?;
        let directory = self.root.join(&id.0);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::invalid(format!(
                "container with given ID already exists: {id}"
            ))),
            result => {
                result.context(|| format!("make the directory {}", directory.display()))?;
                Ok(Reserved { directory })
            }
        }
    }

    /// The container of this name.
    pub fn load(&self, id: &ContainerId) -> Result<Container> {
        let directory = self.root.join(&id.0);
        let path = directory.join(STATE_FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::invalid(format!("container does not exist: {id}")));
            }
            result => result.context(|| format!("read {}", path.display()))?,
        };
        let state = serde_json::from_slice(&text).context(|| format!("read {}", path.display()))?;
        Ok(Container { directory, state })
    }

    /// All containers, by name. What cannot be read is reported and passed over.
    pub fn list(&self) -> Result<Vec<Container>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.context(|| format!("list {}", self.root.display()))?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match self.load(&id) {
                Ok(container) => containers.push(container),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        containers.sort_by(|one, other| one.state.id.0.cmp(&other.state.id.0));
        Ok(containers)
    }

    /// A creation that has not come to its end, if there is one.
    pub fn load_unfinished(&self, id: &ContainerId) -> Result<Option<Unfinished>> {
        let directory = self.root.join(&id.0);
        if !directory.exists() || directory.join(STATE_FILE).exists() {
            return Ok(None);
        }
        let path = directory.join(UNFINISHED_FILE);
        let creation = match std::fs::read(&path) {
            // Nothing but the directory was made.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            result => {
                let text = result.context(|| format!("read {}", path.display()))?;
                Some(serde_json::from_slice(&text).context(|| format!("read {}", path.display()))?)
            }
        };
        Ok(Some(Unfinished {
            reserved: Reserved { directory },
            creation,
        }))
    }
}

/// A container whose creation goes on, or was interrupted.
#[derive(Debug)]
pub struct Unfinished {
    /// Its directory.
    pub reserved: Reserved,
    creation: Option<Creation>,
}

/// What must be known to undo a creation.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Creation {
    pid: i32,
    pid_start_ticks: u64,
    cgroup: Cgroup,
}

impl Unfinished {
    /// The runtime that works on it, if it still does.
    pub fn creator(&self) -> Result<Option<std::os::fd::OwnedFd>> {
        match &self.creation {
            Some(creation) => open_process(creation.pid, creation.pid_start_ticks),
            None => Ok(None),
        }
    }

    /// Its cgroups, made or not.
    pub fn cgroup(&self) -> Cgroup {
        let creation = self.creation.as_ref();
        creation.map_or_else(Cgroup::default, |creation| creation.cgroup.clone())
    }
}

/// The directory of a container that is being created.
#[derive(Debug)]
pub struct Reserved {
    directory: PathBuf,
}

impl Reserved {
    /// Where init will wait to be started.
    pub fn listen(&self) -> Result<std::os::unix::net::UnixListener> {
        let (_directory, path) = short_path(&self.directory, START_SOCKET)?;
        std::os::unix::net::UnixListener::bind(path).context(|| "make the socket for start")
    }

    /// Remembers what is about to be made, and by whom.
    pub fn note_unfinished(&self, cgroup: &Cgroup) -> Result<()> {
        let own = nix::unistd::getpid();
        let creation = Creation {
            pid: own.as_raw(),
            pid_start_ticks: process_start_ticks(own).unwrap_or(0),
            cgroup: cgroup.clone(),
        };
        write_whole(
            &self.directory.join(UNFINISHED_FILE),
            &serde_json::to_vec(&creation)?,
        )
    }

    /// Remembers the container.
    pub fn save(&self, state: &State) -> Result<Container> {
        let path = self.directory.join(STATE_FILE);
        write_whole(&path, &serde_json::to_vec(state)?)?;
        Ok(Container {
            directory: self.directory.clone(),
            state: state.clone(),
        })
    }

    /// Gives the name back.
    pub fn remove(&self) -> Result<()> {
        remove_directory(&self.directory)
    }
}

impl Container {
    /// Where it is in its life.
    pub fn status(&self) -> Status {
        if process_start_ticks(self.pid()) != Some(self.state.pid_start_ticks) {
            Status::Stopped
        } else if self.directory.join(START_SOCKET).exists() {
            Status::Created
        } else if self.state.cgroup.is_frozen() {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// The process of the container.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.state.pid)
    }

    /// A descriptor for the process of the container, sure to be that and no later one; `None` when it is gone.
    pub fn pidfd(&self) -> Result<Option<std::os::fd::OwnedFd>> {
        open_process(self.state.pid, self.state.pid_start_ticks)
    }

    /// Knocks at init; the stream tells how it went.
    pub fn connect(&self) -> Result<std::os::unix::net::UnixStream> {
        let (_directory, path) = short_path(&self.directory, START_SOCKET)?;
        std::os::unix::net::UnixStream::connect(path).context(|| "reach the process that waits to be started")
    }

    /// Remembers that it was started.
    pub fn mark_started(&self) -> Result<()> {
        let path = self.directory.join(START_SOCKET);
        std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))
    }

    /// Remembers changed limits.
    pub fn save(&self) -> Result<()> {
        write_whole(
            &self.directory.join(STATE_FILE),
            &serde_json::to_vec(&self.state)?,
        )
    }

    /// Forgets the container.
    pub fn remove(&self) -> Result<()> {
        remove_directory(&self.directory)
    }

    /// What hooks are told.
    pub fn hook_state(&self) -> HookState {
        self.state.hook_state()
    }
}

impl State {
    /// What hooks are told.
    pub fn hook_state(&self) -> HookState {
        HookState {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.to_string(),
            status: "creating".to_owned(),
            pid: self.pid,
            bundle: self.bundle.display().to_string(),
            annotations: self.spec.annotations.clone(),
        }
    }
}

/// Addresses of sockets are short: reach the directory through a descriptor.
fn short_path(directory: &Path, name: &str) -> Result<(File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(directory)
        .context(|| format!("open {}", directory.display()))?;
    let path = format!("/proc/self/fd/{}/{name}", file.as_raw_fd());
    Ok((file, path.into()))
}

/// Replaces a file so that a reader sees the old or the new content, whole.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let describe = || format!("write {}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&temporary)
        .context(describe)?;
    file.write_all(content).context(describe)?;
    std::fs::rename(&temporary, path).context(describe)
}

fn remove_directory(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.context(|| format!("remove {}", directory.display())),
    }
}

/// Opens exactly the process that started then; `None` when it is gone.
fn open_process(pid: i32, start_ticks: u64) -> Result<Option<std::os::fd::OwnedFd>> {
    let pid = Pid::from_raw(pid);
    let pidfd = match crate::sys::process::pidfd_open(pid) {
        Err(nix::errno::Errno::ESRCH) => return Ok(None),
        result => result.context(|| format!("open the process {pid}"))?,
    };
    // Asked once it is open: the number cannot go to another one any more.
    let same = process_start_ticks(pid) == Some(start_ticks);
    Ok(same.then_some(pidfd))
}

/// Field 22 of `/proc/<pid>/stat`; `None` when there is no such process, or only its remains.
pub fn process_start_ticks(pid: Pid) -> Option<u64> {
    if pid.as_raw() <= 0 {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text)
}

/// The name of the program is in parentheses, and may itself contain some.
fn parse_stat(text: &str) -> Option<u64> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_be_paths() {
        for good in ["a", "web-1", "x.y_z+2", "..a"] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\0"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn stat_is_read_behind_the_name() {
        let fields = |state: &str| format!("7 (a) b) {state} {} 4242 1 2", ["1"; 18].join(" "));
        assert_eq!(parse_stat(&fields("S")), Some(4242));
        assert_eq!(parse_stat(&fields("Z")), None);
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn this_process_has_a_start_time() {
        assert!(process_start_ticks(nix::unistd::getpid()).is_some());
        assert!(process_start_ticks(Pid::from_raw(0)).is_none());
    }

    #[test]
    fn a_name_is_taken_once_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(Some(directory.path().join("root")));
        let id: ContainerId = "c".parse().unwrap();
        let reserved = store.reserve(&id).unwrap();
        assert!(
            store
                .reserve(&id)
                .unwrap_err()
                .to_string()
                .contains("already exists")
        );
        assert!(
            store
                .load(&id)
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
        assert!(
            store
                .load_unfinished(&id)
                .unwrap()
                .is_some_and(|unfinished| unfinished.creator().unwrap().is_none())
        );
        reserved.note_unfinished(&Cgroup::default()).unwrap();
        assert!(
            store
                .load_unfinished(&id)
                .unwrap()
                .is_some_and(|unfinished| unfinished.creator().unwrap().is_some())
        );
        reserved.remove().unwrap();
        assert!(store.load_unfinished(&id).unwrap().is_none());
        assert!(store.list().unwrap().is_empty());
    }
}
