//! System calls of a mount program that fail when a test says so.
//!
//! ```text
//! shale-ufs ──pwrite──► seccomp filter ──asks──► a thread of the test ──► go on | EIO, ENOSPC, …
//! ```
//! So every way in which an upper can fail is tried, at every step of an operation, with no help from the program
//! under test. What the kernel reads and writes by itself (passthrough) is not asked about.

use crate::sys::seccomp::{self, Filter};
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

/// Which calls can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultyCalls {
    /// Those that change a file system.
    Changes,
    /// Those that look into one: opening, reading, attributes.
    Looks,
}

/// A command that will run under a filter.
#[derive(Debug)]
pub struct Prepared(OwnedFd);

impl FaultyCalls {
    fn filter(self) -> Filter {
        match self {
            FaultyCalls::Changes => Filter {
                calls: vec![
                    libc::SYS_mknodat,
                    libc::SYS_mkdirat,
                    libc::SYS_symlinkat,
                    libc::SYS_linkat,
                    libc::SYS_renameat2,
                    libc::SYS_unlinkat,
                    libc::SYS_setxattr,
                    libc::SYS_lsetxattr,
                    libc::SYS_fsetxattr,
                    libc::SYS_removexattr,
                    libc::SYS_lremovexattr,
                    libc::SYS_fremovexattr,
                    libc::SYS_fchmod,
                    libc::SYS_fchmodat,
                    libc::SYS_fchmodat2,
                    libc::SYS_fchown,
                    libc::SYS_fchownat,
                    libc::SYS_utimensat,
                    libc::SYS_ftruncate,
                    libc::SYS_pwrite64,
                    libc::SYS_copy_file_range,
                    libc::SYS_fallocate,
                    libc::SYS_fsync,
                    libc::SYS_fdatasync,
                    libc::SYS_syncfs,
                ],
                openat_flags: libc::O_CREAT.cast_unsigned(),
            },
            FaultyCalls::Looks => Filter {
                calls: vec![
                    libc::SYS_openat2,
                    libc::SYS_statx,
                    libc::SYS_pread64,
                    libc::SYS_getdents64,
                    libc::SYS_readlinkat,
                    libc::SYS_getxattr,
                    libc::SYS_lgetxattr,
                    libc::SYS_listxattr,
                    libc::SYS_llistxattr,
                ],
                // No flag is needed to read, so any that the server always gives stands for all.
                openat_flags: libc::O_CLOEXEC.cast_unsigned(),
            },
        }
    }

    /// Puts `command` under the filter.
    pub fn prepare(self, command: &mut Command) -> io::Result<Prepared> {
        self.filter().apply(command).map(Prepared)
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// The error to give, and the number of calls to let go on before.
    next: Option<(i32, usize)>,
    /// How many more calls fail with the same error after the first.
    lasting: bool,
    /// The first call that failed.
    failed: Option<i64>,
}

/// Decides over the calls of one running server.
#[derive(Debug)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

impl Faults {
    /// Begins to answer for a command that has been started.
    pub fn start(prepared: Prepared) -> io::Result<Faults> {
        let listener = seccomp::listener(&prepared.0)?;
        let plan = Arc::new(Mutex::new(Plan::default()));
        let shared = Arc::clone(&plan);
        std::thread::Builder::new().name("faults".into()).spawn(move || {
            while let Ok(Some(question)) = seccomp::receive(&listener) {
                let errno = shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .judge(question.call);
                if seccomp::answer(&listener, question, errno).is_err() {
                    return;
                }
            }
        })?;
        Ok(Faults { plan })
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, the call after the next `let_through` ones fails with `errno`, once.
    pub fn fail_once(&self, errno: i32, let_through: usize) {
        *self.plan() = Plan {
            next: Some((errno, let_through)),
            ..Plan::default()
        };
    }

    /// From now on, every call after the next `let_through` ones fails with `errno`.
    pub fn fail_from(&self, errno: i32, let_through: usize) {
        *self.plan() = Plan {
            next: Some((errno, let_through)),
            lasting: true,
            failed: None,
        };
    }

    /// Ends it. Answers the first call that failed, by its number in the system's table, if one did.
    pub fn stop(&self) -> Option<i64> {
        std::mem::take(&mut *self.plan()).failed
    }
}

impl Plan {
    fn judge(&mut self, call: i64) -> Option<i32> {
        let (errno, left) = self.next?;
        if left > 0 {
            self.next = Some((errno, left - 1));
            return None;
        }
        self.failed.get_or_insert(call);
        if !self.lasting {
            self.next = None;
        }
        Some(errno)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.stop();
    }
}
