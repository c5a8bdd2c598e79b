//! Work that waits for everybody else.
#![allow(unsafe_code)]

use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;

/// From include/uapi/linux/ioprio.h: the class that is served when nobody else asks.
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// The least of the processor's time that is still some: who holds a lock must not wait for ever (`SCHED_IDLE`).
const NICE_MAX: i32 = 19;

/// Lets the calling thread run only where nobody else wants to (SCHED_IDLE of sched(7)). Answers whether that was done.
pub(crate) fn step_back() -> bool {
    set_policy(0, libc::SCHED_IDLE)
}

/// Gives a thread of this process, 0 for the calling one, the usual policy again. That takes CAP_SYS_NICE, or a limit
/// RLIMIT_NICE that lets it be as nice as it is. Answers whether that was done.
pub(crate) fn be_usual(thread: i32) -> bool {
    set_policy(thread, libc::SCHED_OTHER)
}

/// Whether the calling thread has the usual policy.
pub(crate) fn is_usual() -> bool {
    // SAFETY: the call takes a number and touches no memory; 0 is the calling thread.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

fn set_policy(thread: i32, policy: libc::c_int) -> bool {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one structure, which is there.
    unsafe { libc::sched_setscheduler(thread, policy, &raw const param) == 0 }
}

/// Gives the calling thread the lowest priority for disk and processor.
pub(crate) fn be_idle() {
    let tid: Pid = gettid();
    if let Err(error) = setpriority_process(Some(tid), NICE_MAX) {
        tracing::debug!(%error, "background work at usual priority");
    }
    // SAFETY: the call takes three numbers and touches no memory; 0 is the calling thread.
    let set = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
    if set != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "background work at usual disk priority");
    }
}
