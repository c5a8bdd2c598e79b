//! Who a process is, across the reuse of process ids and reboots.
//!
//! `processes.json` in a container's directory names the server and the command. It is not synced: it describes this
//! boot only, and the boot's id is in it.
//!
//! `in-use` is locked by the supervisor, and by the runtime that inherits it, from before the runtime is started until
//! both have ended. So a supervisor that is killed at any moment leaves no command that nobody knows of: while the
//! lock is held, a command runs or is about to.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Locked while a command runs in the container, or is about to.
const IN_USE_FILE: &str = "in-use";

/// A process: its id alone may belong to another one tomorrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since the boot (field 22 of /proc/PID/stat).
    pub start_ticks: u64,
    /// Which boot.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The living process of this id.
    pub fn of(pid: i32) -> Option<Self> {
        let start_ticks = start_ticks(pid)?;
        Some(Self {
            pid,
            start_ticks,
            boot_id: boot_id(),
        })
    }

    /// The process that asks.
    pub fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether exactly this process still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks) && boot_id() == self.boot_id
    }

    /// Whether the process has begun to end or has ended: it answers nobody any more. What it holds (files, mounts,
    /// locks) may be given back a moment later, while [`is_alive`](Self::is_alive) still says yes.
    pub fn is_ending(&self) -> bool {
        !self.is_alive() || stat(self.pid).is_none_or(|stat| stat.is_ending)
    }

    /// Sends a signal if the process still runs.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<(), nix::errno::Errno> {
        if !self.is_alive() {
            return Err(nix::errno::Errno::ESRCH);
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal)
    }
}

/// The processes of a container beside its supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Processes {
    /// The server of the root file system.
    pub(super) server: Option<ProcessIdentity>,
    /// The command.
    pub(super) command: Option<ProcessIdentity>,
}

impl Processes {
    /// Reads the file of a container's directory; nothing where there is none, or a torn one.
    pub(super) fn load(directory: &Path) -> Self {
        let text = fs::read(directory.join("processes.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces the file.
    pub(super) fn save(&self, directory: &Path) -> io::Result<()> {
        let unfinished = directory.join("processes.json.new");
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(unfinished, directory.join("processes.json"))
    }
}

/// The lock on a container that a command runs in. Given back when every process that has it open has ended.
#[derive(Debug)]
pub(super) struct InUse(File);

impl InUse {
    /// Locks the container of this directory.
    pub(super) fn lock(directory: &Path) -> io::Result<Self> {
        let file = File::create(directory.join(IN_USE_FILE))?;
        file.lock()?;
        Ok(Self(file))
    }

    /// Whether somebody has it locked.
    pub(super) fn is_held(directory: &Path) -> bool {
        // Shared, so that two who ask at once do not take each other for the container's.
        File::open(directory.join(IN_USE_FILE))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Whether programs that are started from now on inherit it.
    pub(super) fn inherit(&self, inherit: bool) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, FdFlag, fcntl};
        let flags = match inherit {
            true => FdFlag::empty(),
            false => FdFlag::FD_CLOEXEC,
        };
        fcntl(&self.0, FcntlArg::F_SETFD(flags))?;
        Ok(())
    }
}

/// The command of a container, also when its supervisor was killed before it could note it. `Err` while a runtime is
/// about to start one.
pub(super) fn living_command(directory: &Path) -> Result<Option<ProcessIdentity>, Starting> {
    let noted = Processes::load(directory).command;
    if let Some(command) = noted.filter(ProcessIdentity::is_alive) {
        return Ok(Some(command));
    }
    if !InUse::is_held(directory) {
        return Ok(None);
    }
    // The runtime lives, so that the number it wrote is its child's still.
    super::supervise::command_process(directory)
        .map(Some)
        .ok_or(Starting)
}

/// A runtime works on a container whose command is not there yet, or not any more.
#[derive(Debug)]
pub(super) struct Starting;

/// Set in the flags of a process when it begins to end (`PF_EXITING` of the kernel, shown since Linux 2.6).
const ENDING_FLAG: u32 = 0x4;

/// What we read of a line of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    is_ending: bool,
    start_ticks: u64,
}

fn start_ticks(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_ticks)
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 9 and 22 of a stat line, `None` for a zombie. The name in the second field may hold anything, so that the
/// fields are counted from its last closing parenthesis.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|&byte| byte == b')')?;
    let rest = str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    Some(Stat {
        is_ending: flags & ENDING_FLAG != 0,
        start_ticks: fields.nth(12)?.parse().ok()?,
    })
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_from_the_name_on() {
        let numbers = (4..=52)
            .map(|field| field.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let living = Some(Stat {
            is_ending: false,
            start_ticks: 22,
        });
        assert_eq!(parse_stat(format!("7 (sh) S {numbers}").as_bytes()), living);
        assert_eq!(
            parse_stat(format!("7 (a) Z 1 (b) R {numbers}").as_bytes()),
            living
        );
        let ending = parse_stat(format!("7 (sh) R {}", numbers.replace(" 9 ", " 12 ")).as_bytes());
        assert!(ending.is_some_and(|stat| stat.is_ending && stat.start_ticks == 22));
        assert_eq!(parse_stat(format!("7 (sh) Z {numbers}").as_bytes()), None);
        assert_eq!(parse_stat(b"7 (sh) S 1 2"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_process_is_more_than_its_number() {
        let own = ProcessIdentity::own().unwrap();
        assert!(own.is_alive());
        assert!(
            !ProcessIdentity {
                start_ticks: own.start_ticks + 1,
                ..own.clone()
            }
            .is_alive()
        );
        assert!(
            !ProcessIdentity {
                boot_id: "before".to_owned(),
                ..own
            }
            .is_alive()
        );
    }

    #[test]
    fn a_started_program_keeps_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!InUse::is_held(folder.path()));
        let lock = InUse::lock(folder.path()).unwrap();
        lock.inherit(true).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        drop(lock);
        assert!(InUse::is_held(folder.path()));
        assert!(living_command(folder.path()).is_err(), "it is about to start");
        fs::write(folder.path().join("pid"), child.id().to_string()).unwrap();
        let command = living_command(folder.path()).unwrap().unwrap();
        assert_eq!(u32::try_from(command.pid), Ok(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        // Another test that forks at the wrong moment has it for an instant.
        while InUse::is_held(folder.path()) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(living_command(folder.path()).unwrap().is_none());
    }

    #[test]
    fn the_file_survives_and_a_torn_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Processes::load(folder.path()), Processes::default());
        let processes = Processes {
            server: ProcessIdentity::own(),
            command: None,
        };
        processes.save(folder.path()).unwrap();
        assert_eq!(Processes::load(folder.path()), processes);
        fs::write(folder.path().join("processes.json"), "{\"server\"").unwrap();
        assert_eq!(Processes::load(folder.path()), Processes::default());
    }
}
