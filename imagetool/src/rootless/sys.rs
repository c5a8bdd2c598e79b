//! The one call of this module tree that the type system cannot vouch for.
#![allow(unsafe_code)]

use nix::unistd::{ForkResult, fork};

/// Forks a process that has a single thread. Refuses otherwise: the child of a threaded process may use almost
/// nothing of libc.
pub(super) fn fork_single_threaded() -> std::io::Result<ForkResult> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(std::io::Error::other(format!(
            "{threads} threads run, one was expected"
        )));
    }
    // SAFETY: the process has one thread (checked above), so that the child owns every lock it may need.
    Ok(unsafe { fork() }?)
}
