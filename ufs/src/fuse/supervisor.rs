//! Keeps a mount alive when its server dies: a small process of one thread that starts it again.
//!
//! ```text
//! supervisor: device, journal ──fork──► server ──killed──► fork ─► server …
//!      │                                   └── ended well: the mount is gone ──► ends
//!      └── a signal is handed on; what cannot be served is given up: the last descriptor goes, and with it the mount
//! ```
//!
//! A server is bound to its supervisor: who kills the supervisor ends both.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::handover::Kept;
use super::options::MountOptions;
use crate::error::SetupError;
use crate::sys::process::{self, Ready};
use crate::union::Lower;

/// A server that dies before this had no time to do anything but die.
const SHORT_LIFE: Duration = Duration::from_millis(100);

/// So many short lives in a row, and the mount is given up: some request kills every server.
const SHORT_LIVES_MAX: u32 = 10;

/// The pause after the second short life, doubled with each one more.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// Makes what the options name independent of the working directory and of the mount to come. `None`: a layer lies
/// behind the mount point, where only the first server can reach it, so that the mount cannot be supervised.
///
/// # Errors
/// When the mount point is none.
pub fn prepare(options: &mut MountOptions, mountpoint: &Path) -> Result<Option<PathBuf>, SetupError> {
    super::session::check_mountpoint(mountpoint)?;
    let mountpoint = mountpoint.canonicalize().map_err(|source| SetupError::Io {
        doing: "resolve the mount point",
        source,
    })?;
    let layout = &mut options.layout;
    let lowers = layout.lowers.iter_mut().flat_map(|lower| match lower {
        Lower::Directory(path) => vec![path],
        Lower::Index { path, repository } => vec![path, repository],
    });
    let upper = layout.upper.iter_mut().flat_map(|(upper, work)| [upper, work]);
    let mut is_behind = false;
    for path in lowers.chain(upper) {
        // What is missing is reported by whoever opens it.
        if let Ok(resolved) = path.canonicalize() {
            is_behind |= resolved.starts_with(&mountpoint);
            *path = resolved;
        }
    }
    Ok((!is_behind).then_some(mountpoint))
}

/// Whether this process may mount by itself: only then does the device come to it before the mount.
#[must_use]
pub fn mount_is_ours() -> bool {
    /// CAP_SYS_ADMIN of capabilities(7).
    const SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set >> SYS_ADMIN & 1 == 1)
}

/// Runs `serve` in a child, and again whenever it dies, until it ends by itself. Answers the status to exit with.
///
/// # Errors
/// When a process cannot be made or waited for.
pub fn supervise(ready: Ready, mut serve: impl FnMut(&Kept, Ready) -> i32) -> Result<i32, SetupError> {
    let failed = |doing| move |source: io::Error| SetupError::Io { doing, source };
    let mut kept = match Kept::new() {
        Ok(kept) => kept,
        Err(error) if ready.fail(&error.to_string()) => return Ok(1),
        Err(error) => return Err(error),
    };
    // It holds the deleted files that are open.
    super::session::allow_many_descriptors();
    let signals = block_signals().map_err(failed("block signals"))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals =
        SignalFd::with_flags(&signals, flags).map_err(|errno| failed("watch signals")(errno.into()))?;
    let mut waiting = Some(ready);
    let mut short_lives = 0;
    let mut can_resume = false;
    loop {
        let born = Instant::now();
        let Some(server) = process::fork_bound().map_err(failed("start the server"))? else {
            let ready = waiting.take().unwrap_or_else(Ready::nobody_waits);
            std::process::exit(serve(&kept, ready));
        };
        if let Some(ready) = waiting.take() {
            ready
                .leave_to_server()
                .map_err(failed("leave the terminal to the server"))?;
        }
        let end = wait_for_end(server, &signals, &mut kept).map_err(failed("wait for the server"))?;
        let code = match end {
            WaitStatus::Exited(_, code) => code,
            _ => 1,
        };
        can_resume = can_resume || kept.can_resume();
        if code == 0 || !can_resume {
            return Ok(code);
        }
        // Who ends with an error could not begin, or would do the same again.
        let was_short = born.elapsed() < SHORT_LIFE || matches!(end, WaitStatus::Exited(..));
        short_lives = if was_short { short_lives + 1 } else { 0 };
        if short_lives > SHORT_LIVES_MAX {
            tracing::error!("the server dies again and again: the mount is given up");
            return Ok(code);
        }
        tracing::warn!(?end, "the server is started again");
        if short_lives > 1 {
            std::thread::sleep(PAUSE_MIN * 2_u32.pow(short_lives - 2));
        }
    }
}

/// Waits until the server has ended, hands signals on to it, and takes in the files that it wants to be held.
fn wait_for_end(server: Pid, signals: &SignalFd, kept: &mut Kept) -> io::Result<WaitStatus> {
    loop {
        let status = waitpid(server, Some(WaitPidFlag::WNOHANG))?;
        // Also what it said at last.
        kept.files.take_in()?;
        if status != WaitStatus::StillAlive {
            return Ok(status);
        }
        // Blocked signals wait: an end before this is not missed.
        let mut both = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(kept.files.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut both, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(signal) = signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).map_err(io::Error::other)?;
            match Signal::try_from(number)? {
                Signal::SIGCHLD => {}
                signal => kill(server, signal)?,
            }
        }
    }
}

fn block_signals() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn a_layer_behind_the_mount_point_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("merged/below")).unwrap();
        std::fs::create_dir_all(at("lower")).unwrap();
        std::os::unix::fs::symlink(at("merged/below"), at("link")).unwrap();
        let mut text = OsString::from("lowerdir=");
        text.push(at("lower"));
        let mut beside = MountOptions::parse(&[text.clone()]).unwrap();
        let found = prepare(&mut beside, &at("merged")).unwrap();
        assert_eq!(found, Some(at("merged").canonicalize().unwrap()));
        text.push(":");
        text.push(at("link"));
        let mut behind = MountOptions::parse(&[text]).unwrap();
        assert_eq!(prepare(&mut behind, &at("merged")).unwrap(), None);
    }
}
