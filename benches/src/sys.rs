//! The calls that the compiler cannot check: preparing a child between fork and exec, and waiting for its usage.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// The child is killed when the thread that starts it ends, however that ends.
pub(crate) fn dies_with_us(command: &mut Command) {
    // SAFETY: the closure runs in the child after fork and makes one system call, without allocating or locking.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
}

/// What a child used, its own children included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// The most memory in KiB that one of them ever had. The kernel counts what this process had when it started the
    /// child: keep that small.
    pub(crate) peak_kib: u64,
    /// Time on processors, theirs and the kernel's for them.
    pub(crate) cpu_seconds: f64,
}

/// Waits for a child, which is taken and cannot be waited for again.
pub(crate) fn wait_with_usage(child: Child) -> io::Result<(ExitStatus, Usage)> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        let mut status = 0;
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both pointers are valid for writing for the length of the call.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid {
            // SAFETY: zeroed at first, which is a valid rusage, and filled in by the kernel.
            let usage = unsafe { usage.assume_init() };
            let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
            let usage = Usage {
                peak_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
                cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            };
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
