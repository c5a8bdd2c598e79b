//! Starts the members, sees that they move, and names what hangs.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{INDEX_VARIABLE, MOUNT_VARIABLE, Plan, REPORTS_VARIABLE, status};
use crate::mount::wait_for_exit;

/// A member whose operation takes longer hangs.
const OPERATION_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// The processes.
pub(super) struct Crowd {
    members: Vec<Watched>,
    reports: PathBuf,
}

struct Watched {
    child: Child,
    operations: u64,
    since: Instant,
    has_ended: bool,
}

impl Crowd {
    /// Starts one process per member: this very program, with the test `worker` alone.
    pub(super) fn start(plan: &Plan, worker: &str, mount: &Path, reports: &Path) -> Crowd {
        let program = std::env::current_exe().expect("this program");
        let members = (0..plan.processes).map(|index| {
            let log = File::create(log_path(reports, index)).expect("create a log");
            let child = Command::new(&program)
                .args(["--ignored", "--exact", worker, "--nocapture"])
                .env(INDEX_VARIABLE, index.to_string())
                .env(MOUNT_VARIABLE, mount)
                .env(REPORTS_VARIABLE, reports)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("duplicate a descriptor"))
                .stderr(log)
                .spawn()
                .expect("start a member");
            Watched {
                child,
                operations: 0,
                since: Instant::now(),
                has_ended: false,
            }
        });
        Crowd {
            members: members.collect(),
            reports: reports.to_owned(),
        }
    }

    /// Waits until all have ended well; the error tells what one of them saw, or where it hangs.
    pub(super) fn wait(&mut self, time: Duration, server: Option<i32>) -> Result<(), String> {
        let end = Instant::now() + time + 4 * OPERATION_MAX;
        loop {
            let mut running = 0;
            for index in 0..self.members.len() {
                running += usize::from(self.still_moves(index, server)?);
            }
            if running == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{running} members do not end"));
            }
            std::thread::sleep(POLL);
        }
    }

    fn still_moves(&mut self, index: usize, server: Option<i32>) -> Result<bool, String> {
        let member = &mut self.members[index];
        if member.has_ended {
            return Ok(false);
        }
        if let Some(ended) = member.child.try_wait().map_err(|error| error.to_string())? {
            member.has_ended = true;
            let said = std::fs::read(log_path(&self.reports, index)).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            return if ended.success() && said.contains("1 passed") {
                Ok(false)
            } else {
                Err(format!("member {index} ended with {ended}: {said}"))
            };
        }
        let (operations, what) = status::read(&status::path(&self.reports, index));
        if operations != member.operations {
            (member.operations, member.since) = (operations, Instant::now());
        } else if member.since.elapsed() > OPERATION_MAX {
            let pid = member.child.id();
            let mut text =
                format!("member {index} (process {pid}) hangs in operation {operations}: {what}\n");
            describe(&mut text, "member", i64::from(pid));
            if let Some(server) = server {
                describe(&mut text, "server", i64::from(server));
            }
            return Err(text);
        }
        Ok(true)
    }

    /// How many operations all have begun.
    pub(super) fn operations(&self) -> u64 {
        let all = 0..self.members.len();
        all.map(|index| status::read(&status::path(&self.reports, index)).0)
            .sum()
    }

    /// Ends all that still run.
    pub(super) fn kill(&mut self) {
        for member in &mut self.members {
            let _ = member.child.kill();
        }
        for member in &mut self.members {
            if wait_for_exit(&mut member.child, Duration::from_secs(5)).is_none() {
                eprintln!("process {} cannot be killed", member.child.id());
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log_path(reports: &Path, index: usize) -> PathBuf {
    reports.join(format!("{index}.log"))
}

/// Where each thread of a process is in the kernel.
fn describe(text: &mut String, who: &str, pid: i64) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let _ = writeln!(
            text,
            "{who} {pid}, thread {} ({}): waits in {}, system call {}\n{}",
            task.file_name().display(),
            read("comm").trim(),
            read("wchan"),
            read("syscall").trim(),
            read("stack"),
        );
    }
}
