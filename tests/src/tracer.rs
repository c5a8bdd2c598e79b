//! Watches the system calls of a mount program by ptrace(2), and ends it with SIGKILL when it is about to make its
//! n-th change. The call at whose entry it is killed is not made: the kernel looks for a fatal signal before it runs
//! the call (`ptrace_report_syscall_entry`, include/linux/ptrace.h).
//!
//! All is done by the thread that made the tracer: the kernel takes orders from no other, and with `__WNOTHREAD` the
//! children of other tests are not waited for. That thread must not touch the mount while it traces.

use crate::sys::{SyscallStop, syscall_stop};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Calls that change names, attributes or contents whatever their arguments, and those that bring changes to the disk.
/// Those that take a path without a directory are missing: the programs under test do not use them, but for the
/// extended attributes, which have no other form.
const CHANGES: &[(i64, &str)] = &[
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_setxattr, "setxattr"),
    (libc::SYS_lsetxattr, "lsetxattr"),
    (libc::SYS_fsetxattr, "fsetxattr"),
    (libc::SYS_removexattr, "removexattr"),
    (libc::SYS_lremovexattr, "lremovexattr"),
    (libc::SYS_fremovexattr, "fremovexattr"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_utimensat, "utimensat"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_syncfs, "syncfs"),
];

/// Calls that change a file when their first argument is one; answers to the kernel and log lines are written with
/// the same calls.
const WRITES: &[(i64, &str)] = &[
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_pwritev, "pwritev"),
];

/// `FICLONE` of linux/fs.h.
const FICLONE: u64 = 0x4004_9409;

/// How a watched program came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It was killed when it was about to make this call.
    Killed(&'static str),
    /// What was watched was over before; it has been killed afterwards.
    Finished {
        /// How many changes it made.
        changes: usize,
    },
}

/// A program whose system calls are watched.
#[derive(Debug)]
pub struct Tracer {
    leader: Pid,
    changes: usize,
}

impl Tracer {
    /// Starts to watch a running process with all its threads.
    pub fn seize(pid: i32) -> io::Result<Tracer> {
        let leader = Pid::from_raw(pid);
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        let mut seized = BTreeSet::new();
        // A thread that is made meanwhile comes by its maker or by the next look.
        loop {
            let mut is_complete = true;
            for thread in threads(leader)? {
                if !seized.insert(thread) {
                    continue;
                }
                is_complete = false;
                match ptrace::seize(thread, options) {
                    // Made by a thread that was traced already: traced as well. Or gone.
                    Ok(()) | Err(Errno::EPERM | Errno::ESRCH) => {}
                    Err(error) => return Err(error.into()),
                }
                let _ = ptrace::interrupt(thread);
            }
            if is_complete {
                break;
            }
        }
        Ok(Tracer { leader, changes: 0 })
    }

    /// Lets the program run until it is about to make its `kill_at`-th change (the first is 1), or until it makes any
    /// call after `is_over` was set; then kills it. Who sets it must make the program do something.
    pub fn watch(mut self, kill_at: usize, is_over: &AtomicBool) -> io::Result<Watched> {
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let status = waitpid(None, Some(flags))?;
            let (thread, signal) = match status {
                WaitStatus::PtraceSyscall(thread) => {
                    if let Some(name) = self.change_at_stop(thread)? {
                        self.changes += 1;
                        if self.changes == kill_at {
                            self.kill()?;
                            return Ok(Watched::Killed(name));
                        }
                    }
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, _, _) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                WaitStatus::Exited(pid, code) if pid == self.leader => {
                    return Err(io::Error::other(format!(
                        "the program ended with {code} while it was watched"
                    )));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => {
                    return Err(io::Error::other(format!(
                        "the program died of {signal} while it was watched"
                    )));
                }
                _ => continue,
            };
            if is_over.load(Ordering::Acquire) {
                self.kill()?;
                return Ok(Watched::Finished {
                    changes: self.changes,
                });
            }
            match ptrace::syscall(thread, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The name of the call that a thread is about to make, if it changes something.
    fn change_at_stop(&self, thread: Pid) -> io::Result<Option<&'static str>> {
        Ok(match syscall_stop(thread)? {
            SyscallStop::Entry { number, arguments } => self.change(thread, number, &arguments),
            SyscallStop::Other => None,
        })
    }

    fn change(&self, thread: Pid, number: i64, arguments: &[u64; 6]) -> Option<&'static str> {
        let named = |list: &[(i64, &'static str)]| {
            let found = list.iter().find(|(known, _)| *known == number);
            found.map(|(_, name)| *name)
        };
        let creating = |flags: u64| {
            let making = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
            flags & u64::from(making.cast_unsigned()) != 0
        };
        match number {
            libc::SYS_openat if creating(arguments[2]) => Some("openat"),
            libc::SYS_openat2 => {
                let how = ptrace::read(thread, arguments[2] as ptrace::AddressType).ok()?;
                creating(how.cast_unsigned()).then_some("openat2")
            }
            libc::SYS_ioctl if arguments[1] == FICLONE => Some("ioctl(FICLONE)"),
            libc::SYS_copy_file_range => Some("copy_file_range"),
            _ => named(CHANGES).or_else(|| named(WRITES).filter(|_| self.is_file(arguments[0]))),
        }
    }

    fn is_file(&self, descriptor: u64) -> bool {
        // Standard error goes to a log file.
        if descriptor <= 2 {
            return false;
        }
        let link = PathBuf::from(format!("/proc/{}/fd/{descriptor}", self.leader));
        std::fs::read_link(link).is_ok_and(|target| target.is_absolute() && !target.starts_with("/dev"))
    }

    /// Kills the program and takes in its threads, but for the first, which its parent waits for.
    fn kill(&self) -> io::Result<()> {
        kill(self.leader, Signal::SIGKILL)?;
        loop {
            let mut others = threads(self.leader)?;
            others.retain(|thread| *thread != self.leader);
            if others.is_empty() {
                return Ok(());
            }
            for thread in others {
                match waitpid(thread, Some(WaitPidFlag::__WALL)) {
                    Ok(_) | Err(Errno::ECHILD | Errno::ESRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

fn threads(process: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        found.extend(number.map(Pid::from_raw));
    }
    Ok(found)
}
