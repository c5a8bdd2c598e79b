//! SIGINT, SIGTERM and SIGHUP end a run between two measurements, so that every mount is taken down.
//!
//! ```text
//! first signal  ─► flag, seen by check() before the next measurement
//! second signal ─► the servers and programs in use are killed as well: the workload fails and everything unwinds
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::error::{BenchError, Result};

static ASKED: AtomicBool = AtomicBool::new(false);
/// Children that a second signal kills. Each is taken out right after it was waited for.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

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
    for pid in running().iter() {
        let _ = kill(*pid, Signal::SIGKILL);
    }
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A child that a second signal should kill, as long as this lives.
#[derive(Debug)]
pub(crate) struct Running(Option<Pid>);

impl Running {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().map(Pid::from_raw);
        running().extend(pid);
        Self(pid)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running().retain(|pid| Some(*pid) != self.0);
    }
}
