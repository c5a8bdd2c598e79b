//! Loading a compiled seccomp filter.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// One BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How far to jump when the comparison holds.
    pub jump_true: u8,
    /// How far to jump when it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// Puts the filter on the calling process. With the flag for a listener, returns its descriptor.
pub fn load(program: &[Instruction], flags: u64) -> nix::Result<Option<OwnedFd>> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `Instruction` has the layout of `sock_filter`; pointer and length describe one slice that the
    // kernel only reads.
    let value = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with this flag the call returns a new descriptor.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(value as RawFd) }))
}
