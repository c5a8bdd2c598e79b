//! Between the outer terminal (or whatever the standard streams are) and the container's.
//!
//! ```text
//!   standard input ──▶ typed ──▶ master      ┐ each with a buffer that is filled
//!   standard output ◀── shown ◀── master     ┘ again only when it is empty
//! ```
//!
//! Nothing here may block: one direction must not stop the other, nor signals. So every call moves one buffer at
//! most, standard output is written to only when it has room, and a slow reader there makes the container wait. When
//! nobody reads it any more, the caller hears of it.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat, makedev};

use crate::error::{Context, Result};
use crate::sys::terminal;
use crate::sys::{STDIN, STDOUT};

/// A pipe that has room takes this much without blocking (`PIPE_BUF`).
const CHUNK_BYTES: usize = 4096;
/// More than any terminal holds back: what comes after it is written by somebody who outlived the command.
const DRAIN_BYTES_MAX: usize = 1 << 20;
/// The character that ends input on a terminal.
const END_OF_INPUT: u8 = 4;

/// Whether anybody still takes what the container writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    Listens,
    Gone,
}

/// The two directions.
pub(super) struct Relay {
    master: std::fs::File,
    /// Typed, and not yet taken by the container.
    typed: Vec<u8>,
    /// Written by the container, and not yet taken outside.
    shown: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Relay {
    pub(super) fn new(master: OwnedFd) -> Result<Self> {
        nix::fcntl::fcntl(
            &master,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .context(|| "prepare the terminal")?;
        let relay = Self {
            master: master.into(),
            typed: Vec::new(),
            shown: Vec::new(),
            // Nobody types at the null device, and so nobody ends the input either.
            input_open: !is_null(STDIN),
            output_open: true,
        };
        relay.resize();
        Ok(relay)
    }

    /// Passes the size of the outer terminal on, whichever stream it is; without one there is no size.
    pub(super) fn resize(&self) {
        if let Some(size) = terminal::outer_size() {
            let _ = terminal::set_window_size(self.master.as_fd(), size);
        }
    }

    /// What is worth waking up for.
    pub(super) fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.shown.is_empty());
        events.set(PollFlags::POLLOUT, !self.typed.is_empty());
        // Without events a terminal that was hung up would still wake us, again and again.
        if self.output_open && !events.is_empty() {
            fds.push(PollFd::new(self.master.as_fd(), events));
        }
        if self.input_open && self.typed.is_empty() {
            fds.push(PollFd::new(STDIN, PollFlags::POLLIN));
        }
        if !self.shown.is_empty() {
            fds.push(PollFd::new(STDOUT, PollFlags::POLLOUT));
        }
    }

    /// Moves a little, in both directions.
    pub(super) fn move_bytes(&mut self) -> Outside {
        self.read_input();
        self.write_typed();
        if self.shown.is_empty() {
            self.read_output();
        }
        self.write_shown(PollTimeout::ZERO)
    }

    /// Shows what the container wrote just before it ended.
    pub(super) fn drain(&mut self) {
        let mut left = DRAIN_BYTES_MAX;
        loop {
            while !self.shown.is_empty() {
                if self.write_shown(PollTimeout::NONE) == Outside::Gone {
                    return;
                }
            }
            if left == 0 || !self.output_open {
                return;
            }
            self.read_output();
            if self.shown.is_empty() {
                return;
            }
            left = left.saturating_sub(self.shown.len());
        }
    }

    fn read_input(&mut self) {
        let mut ready = [PollFd::new(STDIN, PollFlags::POLLIN)];
        if !self.input_open || !self.typed.is_empty() || poll(&mut ready, PollTimeout::ZERO) != Ok(1) {
            return;
        }
        let mut buffer = [0; CHUNK_BYTES];
        match nix::unistd::read(STDIN, &mut buffer) {
            Ok(0) => {
                self.input_open = false;
                self.typed.push(END_OF_INPUT);
            }
            Ok(length) => self.typed.extend(&buffer[..length]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.input_open = false,
        }
    }

    fn write_typed(&mut self) {
        while !self.typed.is_empty() {
            match self.master.write(&self.typed) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.typed.clear(),
            }
        }
    }

    fn read_output(&mut self) {
        let mut buffer = [0; CHUNK_BYTES];
        match self.master.read(&mut buffer) {
            Ok(0) => self.output_open = false,
            Ok(length) => self.shown.extend(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // EIO: the other end was closed for the last time.
            Err(_) => self.output_open = false,
        }
    }

    fn write_shown(&mut self, patience: PollTimeout) -> Outside {
        let mut ready = [PollFd::new(STDOUT, PollFlags::POLLOUT)];
        if self.shown.is_empty() || poll(&mut ready, patience) != Ok(1) {
            return Outside::Listens;
        }
        match nix::unistd::write(STDOUT, &self.shown) {
            Ok(length) => drop(self.shown.drain(..length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                tracing::debug!("standard output: {errno}; hanging up");
                return Outside::Gone;
            }
        }
        Outside::Listens
    }
}

fn is_null(stream: BorrowedFd<'_>) -> bool {
    fstat(stream).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
            && stat.st_rdev == makedev(1, 3)
    })
}
