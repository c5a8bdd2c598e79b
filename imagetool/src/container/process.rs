//! Who a process is, across the reuse of process ids and reboots.
//!
//! `processes.json` in a container's directory names the server and the command. It is not synced: it describes this
//! boot only, and the boot's id is in it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

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

fn start_ticks(pid: i32) -> Option<u64> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of a stat line, `None` for a zombie. The name in the second field may hold anything, so that the fields
/// are counted from its last closing parenthesis.
fn parse_stat(line: &[u8]) -> Option<u64> {
    let end = line.iter().rposition(|&byte| byte == b')')?;
    let rest = str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
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
        assert_eq!(parse_stat(format!("7 (sh) S {numbers}").as_bytes()), Some(22));
        assert_eq!(
            parse_stat(format!("7 (a) Z 1 (b) R {numbers}").as_bytes()),
            Some(22)
        );
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
