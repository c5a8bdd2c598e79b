//! System calls that neither `std` nor `nix` offer as safe functions: the only place with `unsafe`.
//!
//! Each function here is a thin, safe-to-call wrapper: it owns what it returns and turns -1 into an `Errno`.
#![allow(unsafe_code)]

pub mod bpf;
pub mod capability;
pub mod mount;
pub mod net;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod terminal;

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Standard input: the standard library opens the first three descriptors at the start, and nothing closes them.
// SAFETY: see above.
pub const STDIN: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(0) };
/// Standard output.
// SAFETY: as for standard input.
pub const STDOUT: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(1) };
/// Standard error.
// SAFETY: as for standard input.
pub const STDERR: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(2) };

/// Turns the return value of `syscall(2)` into a descriptor.
fn owned_fd(value: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(value)?;
    // SAFETY: the callers pass the result of a system call that returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
