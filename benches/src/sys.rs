//! The one call that the compiler cannot check: preparing a child between fork and exec.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// The child is killed when the thread that starts it ends, however that ends.
pub(crate) fn dies_with_us(command: &mut Command) {
    // SAFETY: the closure runs in the child after fork and makes one system call, without allocating or locking.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
}
