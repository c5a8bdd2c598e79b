//! Watching a running container from the process that started it: signals in, exit status out.
//!
//! ```text
//! SIGINT SIGHUP SIGALRM SIGUSR1 …         handed to the command: all but those of faults and of job control
//! SIGTERM                                 the stop signal to the command, SIGKILL 10 s later
//! SIGCHLD                                 the runtime ended, or the file system's server
//! ```
//!
//! A signal that the kernel sends for a terminal (Ctrl-C) reaches the runtime as well, which is in the same process
//! group and hands it on; it is not handed on twice. Signals are blocked and read from a descriptor: no handler runs.
//!
//! `rm -f` of another user namespace's container cannot signal its processes; it leaves the file `kill` in the
//! container's directory and sends SIGTERM here.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::process::ProcessIdentity;

/// How long a command has between the stop signal and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the file with the command's process id is looked for until it is there.
const PID_POLL_MS: u16 = 2;
/// How often the runtime is looked after although no signal came.
const IDLE_POLL_MS: u16 = 1000;
/// `si_code` of a signal that the kernel itself sent.
const SI_KERNEL: i32 = 0x80;

/// Signals that are delivered as ever: those of a fault, those that stop and continue a job, and one that is of no
/// consequence.
const DELIVERED: [Signal; 11] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
    Signal::SIGURG,
];

/// The signals of the process, read one at a time. Made before any child, so that none is missed.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals for good: the process ends when its container does. Children start with none blocked.
    pub(super) fn block() -> nix::Result<Self> {
        let mut set = SigSet::all();
        DELIVERED.into_iter().for_each(|signal| set.remove(signal));
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        Ok(Self(SignalFd::with_flags(
            &set,
            SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
        )?))
    }

    /// The next signal to act on and whether a process (not the kernel) sent it; `None` after `timeout_ms`.
    fn next(&self, timeout_ms: u16) -> nix::Result<Option<(Signal, bool)>> {
        let mut watched = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::from(timeout_ms)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let Some(info) = self.0.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        Ok(Signal::try_from(number)
            .ok()
            .map(|signal| (signal, info.ssi_code != SI_KERNEL)))
    }

    /// Whether somebody asked the process to end while it prepared.
    pub(super) fn interrupted(&self) -> bool {
        let asks = |signal| matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP);
        matches!(self.next(0), Ok(Some((signal, _))) if asks(signal))
    }
}

/// Waits for the runtime to end. `started` is called once, with the command's process.
pub(super) fn wait(
    signals: &Signals,
    runtime: &mut Child,
    directory: &Path,
    stop_signal: Signal,
    mut started: impl FnMut(&ProcessIdentity),
) -> std::io::Result<ExitStatus> {
    let mut command: Option<ProcessIdentity> = None;
    // Signals from before the command's process was known: runc tells its id only after it has started it.
    let mut early: Vec<Signal> = Vec::new();
    let mut kill_at: Option<Instant> = None;
    loop {
        if command.is_none()
            && let Some(found) = command_process(directory)
        {
            started(&found);
            early.drain(..).for_each(|signal| send(&found, signal));
            command = Some(found);
        }
        if let Some(status) = runtime.try_wait()? {
            return Ok(status);
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) || (kill_at.is_some() && kill_requested(directory))
        {
            match &command {
                Some(command) => send(command, Signal::SIGKILL),
                // It hangs before there is a command: what it has made is deleted after its end.
                None => runtime.kill()?,
            }
            kill_at = Some(Instant::now() + STOP_TIMEOUT);
        }
        let hurry = command.is_none() || kill_at.is_some();
        let signal = match signals.next(if hurry { PID_POLL_MS } else { IDLE_POLL_MS })? {
            None | Some((Signal::SIGCHLD | Signal::SIGPIPE, _)) => continue,
            Some((Signal::SIGTERM, _)) => {
                kill_at.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
                stop_signal
            }
            Some((signal, true)) => signal,
            Some((_, false)) => continue,
        };
        match &command {
            Some(command) => send(command, signal),
            None => early.push(signal),
        }
    }
}

/// Whether `rm -f` wants the container to end now.
fn kill_requested(directory: &Path) -> bool {
    directory.join("kill").exists()
}

fn send(command: &ProcessIdentity, signal: Signal) {
    if let Err(errno) = command.signal(signal)
        && errno != nix::errno::Errno::ESRCH
    {
        tracing::warn!("send {signal} to process {}: {errno}", command.pid);
    }
}

/// The process whose id the runtime wrote, once it did.
pub(super) fn command_process(directory: &Path) -> Option<ProcessIdentity> {
    let text = fs::read_to_string(directory.join("pid")).ok()?;
    ProcessIdentity::of(text.trim().parse().ok()?)
}

/// The status as a shell shows it: 128 and the signal for a runtime that was killed.
pub(super) fn shell_status(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(125);
    u8::try_from(code & 0xff).unwrap_or(125)
}

/// The signal of STOPSIGNAL: a name with or without SIG, or a number.
pub(super) fn parse_signal(text: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_parsed() {
        for text in ["SIGQUIT", "quit", "3"] {
            assert_eq!(parse_signal(text), Some(Signal::SIGQUIT), "{text}");
        }
        for text in ["", "SIG", "0", "99", "NOPE"] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }

    #[test]
    fn statuses_are_a_shells() {
        for (raw, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137)] {
            assert_eq!(shell_status(ExitStatus::from_raw(raw)), expected, "{raw}");
        }
    }
}
