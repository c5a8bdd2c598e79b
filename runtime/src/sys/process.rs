//! Making, naming and ending processes.
//!
//! The runtime has one thread, so the child of a fork may do whatever its parent could.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::owned_fd;

/// Where a process finds itself after [`clone_process`].
#[derive(Debug)]
pub enum Cloned {
    /// In the process that asked; the child has this pid.
    Parent(Pid),
    /// In the new process.
    Child,
}

/// Forks, with namespaces and `CLONE_PARENT` from `flags`.
pub fn clone_process(flags: CloneFlags) -> nix::Result<Cloned> {
    clone_with(flags, None)
}

/// Forks into a cgroup of version 2, which spares the child the way there: moving a process makes the kernel wait
/// for milliseconds.
pub fn clone_into_cgroup(cgroup: BorrowedFd<'_>) -> nix::Result<Cloned> {
    clone_with(CloneFlags::empty(), Some(cgroup))
}

fn clone_with(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    // With CLONE_PARENT the exit signal is the caller's own and must not be given.
    let exit_signal = if flags.contains(CloneFlags::CLONE_PARENT) {
        0
    } else {
        libc::SIGCHLD as u64
    };
    let (into_cgroup, cgroup) = cgroup.map_or((0, 0), |fd| (CLONE_INTO_CGROUP, fd.as_raw_fd() as u64));
    let flags = u64::from(flags.bits() as u32) | into_cgroup;
    let args = CloneArgs {
        flags,
        exit_signal,
        cgroup,
        ..Default::default()
    };
    // SAFETY: without CLONE_VM and without a stack this is fork(2) with other flags, and the process has one
    // thread, so that no lock can be held by a thread that the child lacks.
    let value = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match Errno::result(value)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent(Pid::from_raw(pid as libc::pid_t))),
    }
}

/// A descriptor for the process `pid`.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: a plain call with integers.
    owned_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// Sends the signal with this number to the process.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    // SAFETY: no siginfo is passed.
    let value = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(value).map(drop)
}

/// Enters all the namespaces named in `flags` of the process behind `pidfd` at once.
pub fn setns_pidfd(pidfd: BorrowedFd<'_>, flags: CloneFlags) -> nix::Result<()> {
    // SAFETY: a plain call with integers.
    Errno::result(unsafe { libc::setns(pidfd.as_raw_fd(), flags.bits()) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed by the next exec.
pub fn cloexec_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: the flag only changes what exec does; no descriptor is closed under its owner.
    let value = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(value).map(drop)
}

/// Whether `fd` is open, and if so sets or clears its close-on-exec flag.
pub fn set_cloexec(fd: RawFd, cloexec: bool) -> nix::Result<()> {
    // SAFETY: changes a flag of a descriptor, or fails with EBADF.
    let value = unsafe { libc::fcntl(fd, libc::F_SETFD, if cloexec { libc::FD_CLOEXEC } else { 0 }) };
    Errno::result(value).map(drop)
}

/// Gives the calling process a fresh session keyring.
pub fn join_session_keyring(name: &str) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the name is a valid C string for the time of the call.
    let value = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    Errno::result(value).map(drop)
}

/// Sets the execution domain and flags of the process.
pub fn set_personality(persona: u64) -> nix::Result<()> {
    // SAFETY: a plain call with an integer.
    Errno::result(unsafe { libc::personality(persona as libc::c_ulong) }).map(drop)
}

/// Sets the I/O priority of the calling process.
pub fn set_io_priority(class: i32, level: i32) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: i32 = 13;
    let priority = (class << IOPRIO_CLASS_SHIFT) | level;
    // SAFETY: a plain call with integers.
    let value = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
    Errno::result(value).map(drop)
}

/// `struct sched_attr` as `sched_setattr(2)` takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedAttr {
    /// The size of this structure: set by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the normal policies.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime_ns: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub deadline_ns: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub period_ns: u64,
}

/// Sets the scheduling policy of the calling process.
pub fn set_scheduler(mut attr: SchedAttr) -> nix::Result<()> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: the structure has the layout of version 0 of `struct sched_attr` and says its size.
    let value = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    Errno::result(value).map(drop)
}

/// Sets a resource limit of the calling process by the number of the resource.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` lives for the time of the call.
    let value = unsafe { libc::prlimit64(0, resource as _, &raw const limit, std::ptr::null_mut()) };
    Errno::result(value).map(drop)
}

/// The soft and hard limit of the calling process.
pub fn rlimit(resource: u32) -> nix::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives for the time of the call and is what the kernel writes.
    let value = unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut limit) };
    Errno::result(value)?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Gives back to the default every signal that the Rust runtime or a parent set to be ignored or blocked (a shell does so
/// for what it starts in the background, `nohup` for SIGHUP): the command begins as one that nobody has told anything.
pub fn reset_signals() -> nix::Result<()> {
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    // SAFETY: all zeros is a valid action: the default one, with no flags and nothing blocked.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of this program.
        match Errno::result(unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) }) {
            // Those that nobody can change, and the two that the C library keeps for itself.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Leaves the process at once, without running anything registered for the end of the parent's program.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` is always allowed.
    unsafe { libc::_exit(status) }
}

/// Sets the supplementary groups, the group and the user of the process: real, effective and saved.
pub fn set_user(uid: u32, gid: u32) -> nix::Result<()> {
    // SAFETY: plain calls with integers; the raw calls change the one thread there is.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Sets the supplementary groups of the process.
pub fn set_groups(groups: &[u32]) -> nix::Result<()> {
    // SAFETY: the pointer and the length describe one slice; gid_t is u32.
    let value = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(value).map(drop)
}
