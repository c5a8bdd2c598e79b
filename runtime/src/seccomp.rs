//! The filter of system calls: the OCI profile compiled to classic BPF, without a C library.
//!
//! ```text
//!   linux.seccomp ──profile──▶ Policy (numbers, per instruction set) ──bpf──▶ instructions ──sys──▶ kernel
//! ```
//!
//! Everything but loading is pure, and the tests run the compiled program in an interpreter.
//! The meaning is that of runc with libseccomp (config-linux.md, "Seccomp"):
//! - a rule without conditions beats rules with conditions for the same call;
//! - conditions of one rule must all hold, unless two are about the same argument: then any one suffices;
//! - a call that is newer than any that the profile names answers ENOSYS instead of a default of EPERM or death,
//!   so that programs fall back to the older call;
//! - an instruction set that the profile does not name kills the process.

pub mod bpf;
pub mod profile;
mod table;

use std::path::PathBuf;

use crate::error::{Context, Error, Result};
use crate::spec::Seccomp;
use crate::sys::seccomp::{self as sys, Instruction};

/// A filter that is ready to be loaded.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The compiled program.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
    /// Who decides about `SCMP_ACT_NOTIFY`.
    pub listener: Option<Listener>,
}

/// The program that decides about `SCMP_ACT_NOTIFY`.
///
/// It gets the descriptor of the filter once the filter is in force, and so cannot be asked about `sendmsg` and what
/// else lies between that and the exec of the command: such a profile makes the start wait for ever.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its socket, on the host.
    pub path: PathBuf,
    /// Passed on to it.
    pub metadata: String,
}

/// The kernel's limit (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Compiles a profile; `None` when it would allow everything anyway.
pub fn compile(seccomp: &Seccomp, warnings: &mut Vec<String>) -> Result<Option<Filter>> {
    let policy = profile::lower(seccomp, warnings)?;
    if policy.allows_everything() {
        return Ok(None);
    }
    let program = bpf::assemble(&policy);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid(format!(
            "linux.seccomp: the filter has {} instructions, the kernel takes {MAX_INSTRUCTIONS}: use fewer rules with conditions",
            program.len()
        )));
    }
    Ok(Some(Filter {
        program,
        flags: flags(seccomp)?,
        listener: listener(seccomp, &policy)?,
    }))
}

/// Puts the filter in force for this process and what it becomes. Returns the descriptor for the listener.
pub fn load(filter: &Filter) -> Result<Option<std::os::fd::OwnedFd>> {
    let mut flags = filter.flags;
    if filter.listener.is_some() {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    }
    sys::load(&filter.program, flags).context(|| "load the filter")
}

/// Names of all instruction sets that a profile may name.
pub fn architectures() -> [&'static str; 14] {
    table::Arch::NAMES
}

fn listener(seccomp: &Seccomp, policy: &profile::Policy) -> Result<Option<Listener>> {
    if !policy.notifies() {
        return Ok(None);
    }
    let Some(path) = seccomp.listener_path.clone() else {
        return Err(Error::invalid(
            "linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath",
        ));
    };
    Ok(Some(Listener {
        path,
        metadata: seccomp.listener_metadata.clone().unwrap_or_default(),
    }))
}

fn flags(seccomp: &Seccomp) -> Result<u64> {
    let mut flags = 0;
    for flag in &seccomp.flags {
        flags |= match flag.as_str() {
            // The process has one thread, so that there is nothing to synchronise.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
            other => {
                return Err(Error::invalid(format!(
                    "linux.seccomp.flags: {other:?} is not a flag"
                )));
            }
        };
    }
    // The kernel refuses this one without a listener.
    if seccomp.listener_path.is_none() {
        flags &= !libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    }
    Ok(flags)
}

#[cfg(test)]
mod tests;
