//! Leaving the foreground, and what can only be done while there is one thread.
#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2, setsid};

/// The end of the start-up pipe that a background server holds until its mount answers.
#[derive(Debug)]
pub struct Ready(Option<std::fs::File>);

/// What became of the process that called [`into_background`].
#[derive(Debug)]
pub enum Side {
    /// The new background process: serve, and say so through [`Ready`].
    Server(Ready),
    /// The caller's process: the server said that it is ready, or why it is not.
    Caller(Result<(), String>),
}

/// Splits the process into one that goes on in the background and one that waits until it is ready.
///
/// # Errors
/// When the pipe or the process cannot be made.
///
/// # Panics
/// In debug builds, when the process has more than one thread: only the calling one would live on in the server.
pub fn into_background() -> io::Result<Side> {
    debug_assert_eq!(thread_count(), 1, "fork of a threaded process");
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the process has one thread, so no lock can be held by another one in the child.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(write);
            Ok(Side::Caller(wait_until_ready(read)))
        }
        ForkResult::Child => {
            drop(read);
            setsid()?;
            Ok(Side::Server(Ready(Some(write.into()))))
        }
    }
}

/// Makes a child that is killed when this process ends. `None` in the child.
///
/// # Errors
/// When the process cannot be made.
///
/// # Panics
/// In debug builds, when the process has more than one thread.
pub(crate) fn fork_bound() -> io::Result<Option<Pid>> {
    debug_assert_eq!(thread_count(), 1, "fork of a threaded process");
    let parent = nix::unistd::getpid();
    // SAFETY: the process has one thread, so no lock can be held by another one in the child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(io::Error::other("the supervisor has ended"));
            }
            Ok(None)
        }
    }
}

/// Reads the verdict: `+` for ready, any other text for the reason why not, nothing for a server that died.
fn wait_until_ready(read: OwnedFd) -> Result<(), String> {
    let mut verdict = String::new();
    let read = std::fs::File::from(read).read_to_string(&mut verdict);
    match (read, verdict.as_str()) {
        (Ok(_), "+") => Ok(()),
        (Ok(_), "") => Err("the server ended before the mount was ready".to_owned()),
        (Ok(_), reason) => Err(reason.to_owned()),
        (Err(error), _) => Err(format!("reading the server's answer: {error}")),
    }
}

impl Ready {
    /// For a server in the foreground: nobody waits.
    #[must_use]
    pub fn nobody_waits() -> Self {
        Self(None)
    }

    /// Lets the caller go, and the terminal with it: standard streams lead to /dev/null from here on.
    ///
    /// # Errors
    /// When /dev/null cannot take the streams' place.
    pub fn succeed(mut self) -> io::Result<()> {
        let Some(mut pipe) = self.0.take() else {
            return Ok(());
        };
        leave_terminal()?;
        pipe.write_all(b"+")
    }

    /// For a supervisor, whose server answers the caller: lets go of the caller and of the terminal.
    ///
    /// # Errors
    /// When /dev/null cannot take the streams' place.
    pub(crate) fn leave_to_server(self) -> io::Result<()> {
        self.0.map_or(Ok(()), |_| leave_terminal())
    }

    /// Tells the caller why there will be no mount. `false`: nobody waits, so the reason is still to be shown.
    pub fn fail(mut self, reason: &str) -> bool {
        self.0
            .take()
            .is_some_and(|mut pipe| pipe.write_all(reason.as_bytes()).is_ok())
    }
}

fn leave_terminal() -> io::Result<()> {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    std::env::set_current_dir("/")
}

fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}
