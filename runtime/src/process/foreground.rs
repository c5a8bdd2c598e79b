//! The runtime while it waits for a process in the foreground: passes signals on, serves the terminal, collects
//! what has ended, and says how the process ended.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, SetArg, Termios};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::relay::{Outside, Relay};
use crate::error::{Context, Result};
use crate::sys::process::{pidfd_open, pidfd_send_signal};

/// Signals that come as readable events. Must exist before the process does, so that none is lost.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Takes all signals that can be taken.
    pub fn take() -> Result<Self> {
        let mut all = SigSet::all();
        for own in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
            Signal::SIGTRAP,
        ] {
            all.remove(own);
        }
        all.thread_block().context(|| "block the signals")?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "wait for signals")?;
        Ok(Self(fd))
    }
}

/// The outer terminal in raw mode, until this is dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> Option<Self> {
        let input = std::io::stdin();
        let before = termios::tcgetattr(&input).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&input, SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Waits for the process. Returns its exit status, or 128 and the number of the signal that ended it.
pub fn wait(pid: Pid, signals: &Signals, master: Option<OwnedFd>) -> Result<i32> {
    let pidfd = pidfd_open(pid).context(|| "open the process of the container")?;
    let _raw = master.as_ref().and_then(|_| RawMode::enter());
    let mut relay = master.map(Relay::new).transpose()?;
    loop {
        let mut fds = vec![PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
        if let Some(relay) = &relay {
            relay.interests(&mut fds);
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.context(|| "wait for events")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if let Some(busy) = relay.as_mut().filter(|_| ready[1..].contains(&true))
            && busy.move_bytes() == Outside::Gone
        {
            // Closing the master hangs the terminal up, as when a terminal's window is closed.
            relay = None;
        }
        while let Some(info) = signals.0.read_signal().context(|| "read a signal")? {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGWINCH) if relay.is_some() => relay.iter().for_each(Relay::resize),
                // Those that this process gets for its own doings.
                Ok(Signal::SIGPIPE | Signal::SIGURG | Signal::SIGTTIN | Signal::SIGTTOU) => {}
                _ => {
                    let _ = pidfd_send_signal(pidfd.as_fd(), info.ssi_signo as i32);
                }
            }
        }
        if let Some(status) = collect(pid)? {
            if let Some(relay) = &mut relay {
                relay.drain();
            }
            return Ok(status);
        }
    }
}

/// Collects every process that ended; says how the one that matters did.
fn collect(pid: Pid) -> Result<Option<i32>> {
    let mut found = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(ended, status)) if ended == pid => found = Some(status),
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => found = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(found),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| "wait for the container"),
        }
    }
}
