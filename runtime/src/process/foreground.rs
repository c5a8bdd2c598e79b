//! The runtime while it waits for a process in the foreground: passes signals on, serves the terminal, collects
//! what has ended, and says how the process ended.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, SetArg, Termios};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::{Context, Result};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::sys::terminal;

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
        if let Some(relay) = relay.as_mut().filter(|_| ready[1..].contains(&true)) {
            relay.move_bytes();
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

/// Between the outer terminal and the container's. Nothing here may block: one direction must not stop the other.
struct Relay {
    master: std::fs::File,
    /// Typed, and not yet taken by the container.
    pending: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self> {
        nix::fcntl::fcntl(
            &master,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .context(|| "prepare the terminal")?;
        let relay = Self {
            master: master.into(),
            pending: Vec::new(),
            input_open: true,
            output_open: true,
        };
        relay.resize();
        Ok(relay)
    }

    fn resize(&self) {
        // Without a terminal outside there is no size to pass on.
        if let Ok(size) = terminal::window_size(std::io::stdin().as_fd()) {
            let _ = terminal::set_window_size(self.master.as_fd(), size);
        }
    }

    fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.output_open);
        events.set(PollFlags::POLLOUT, !self.pending.is_empty());
        if self.output_open {
            fds.push(PollFd::new(self.master.as_fd(), events));
        }
        if self.input_open && self.pending.is_empty() {
            fds.push(PollFd::new(STDIN, PollFlags::POLLIN));
        }
    }

    fn move_bytes(&mut self) {
        self.read_input();
        self.write_pending();
        self.copy_output();
    }

    fn read_input(&mut self) {
        let mut ready = [PollFd::new(STDIN, PollFlags::POLLIN)];
        if !self.input_open || !self.pending.is_empty() || poll(&mut ready, PollTimeout::ZERO) != Ok(1) {
            return;
        }
        let mut buffer = [0; 4096];
        match nix::unistd::read(STDIN, &mut buffer) {
            Ok(0) => {
                self.input_open = false;
                // What ends input on a terminal is a character.
                self.pending.push(4);
            }
            Ok(length) => self.pending.extend(&buffer[..length]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.input_open = false,
        }
    }

    fn write_pending(&mut self) {
        while !self.pending.is_empty() {
            match self.master.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.pending.clear(),
            }
        }
    }

    fn copy_output(&mut self) {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.master.read(&mut buffer) {
                Ok(0) => return self.output_open = false,
                Ok(length) => {
                    let mut output = std::io::stdout();
                    // Nobody reads any more: the container hears of it when it ends, not here.
                    let _ = output.write_all(&buffer[..length]).and_then(|()| output.flush());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // EIO: the other end was closed for the last time.
                Err(_) => return self.output_open = false,
            }
        }
    }

    /// What the container wrote just before it ended.
    fn drain(&mut self) {
        if self.output_open {
            self.copy_output();
        }
    }
}

/// Standard input, not through the standard library's buffer.
const STDIN: BorrowedFd<'static> = crate::sys::STDIN;
