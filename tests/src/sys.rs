//! The only unsafe code of the tests: shared file mappings, system calls that are made to fail, and what a traced program
//! is about to ask of the kernel.
#![allow(unsafe_code)]

pub mod seccomp;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;

/// A mapping of the start of a file.
#[derive(Debug)]
pub struct Mapping {
    start: *mut c_void,
    len: usize,
    writable: bool,
}

impl Mapping {
    /// Maps `len` bytes of `file` shared and readable, and writable when asked.
    pub fn shared(file: impl AsFd, len: usize, writable: bool) -> io::Result<Mapping> {
        let mut protection = ProtFlags::READ;
        if writable {
            protection |= ProtFlags::WRITE;
        }
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no Rust object.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)? };
        Ok(Mapping { start, len, writable })
    }

    /// A copy of the mapped bytes, read one by one as another process may change them.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        let start = self.start.cast::<u8>();
        // SAFETY: the mapping is `len` bytes long and readable; the files of the tests are never shortened
        // below their mapping.
        (0..self.len)
            .map(|i| unsafe { start.add(i).read_volatile() })
            .collect()
    }

    /// Stores `bytes` at `offset`.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(
            self.writable && offset + bytes.len() <= self.len,
            "write outside a writable mapping"
        );
        let start = self.start.cast::<u8>();
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: checked above to lie inside a writable mapping.
            unsafe { start.add(offset + i).write_volatile(*byte) };
        }
    }

    /// Waits until what was stored has reached the file.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is exactly the mapping.
        unsafe { rustix::mm::msync(self.start, self.len, MsyncFlags::SYNC)? };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping, and no reference into it is ever handed out.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// Where a traced thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallStop {
    /// Before a system call.
    Entry {
        /// Its number.
        number: i64,
        /// Its arguments.
        arguments: [u64; 6],
    },
    /// Behind one, or elsewhere.
    Other,
}

/// What the stopped thread is about to do (`PTRACE_GET_SYSCALL_INFO` of ptrace(2)).
pub fn syscall_stop(thread: nix::unistd::Pid) -> io::Result<SyscallStop> {
    let info = nix::sys::ptrace::syscall_info(thread)?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(SyscallStop::Other);
    }
    // SAFETY: for this value of `op` the kernel has filled in `entry`.
    let entry = unsafe { info.u.entry };
    Ok(SyscallStop::Entry {
        number: entry.nr.cast_signed(),
        arguments: entry.args,
    })
}
