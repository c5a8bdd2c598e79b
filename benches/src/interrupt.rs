//! SIGINT, SIGTERM and SIGHUP end a comparison between two measurements, so that every mount is taken down.
//!
//! ```text
//! first signal  ─► flag, seen by check() before the next measurement
//! second signal ─► the server that is being measured is killed as well: the workload fails and everything unwinds
//! ```

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::error::{BenchError, Result};

static ASKED: AtomicBool = AtomicBool::new(false);
/// Process number of the server in use; 0: none.
static SERVER: AtomicI32 = AtomicI32::new(0);

/// Starts to watch. Call it before any other thread exists: the signals are blocked in this thread and all that it
/// starts, processes included, so that Ctrl-C in a terminal takes no server away from under a workload.
///
/// # Errors
/// When the signals cannot be blocked or the thread cannot be started.
pub fn watch() -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while signals.wait().is_ok() {
                on_signal();
            }
        })?;
    Ok(())
}

fn on_signal() {
    if !ASKED.swap(true, Ordering::SeqCst) {
        eprintln!("\nstopping after this measurement (again: at once)");
        return;
    }
    let server = SERVER.load(Ordering::SeqCst);
    if server > 0 {
        let _ = kill(Pid::from_raw(server), Signal::SIGKILL);
    }
}

/// Whether to go on.
///
/// # Errors
/// [`BenchError::Interrupted`] once a signal came.
pub fn check() -> Result<()> {
    if ASKED.load(Ordering::SeqCst) {
        return Err(BenchError::Interrupted);
    }
    Ok(())
}

/// Tells which server a second signal should kill.
pub(crate) fn set_server(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
    SERVER.store(pid, Ordering::SeqCst);
}
