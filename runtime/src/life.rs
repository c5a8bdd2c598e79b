//! What happens to a container that exists: start, signals, delete.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Context, Error, Result};
use crate::hooks;
use crate::plan::HookMoment;
use crate::process::handshake::Channel;
use crate::process::parent::wait_for_exec;
use crate::state::{Container, Status, Unfinished};
use crate::sys::process::pidfd_send_signal;

/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT_MS: u16 = 10_000;

/// Runs the command of a created container. Returns once it runs, or with the reason why it does not.
pub fn start(container: &Container) -> Result<()> {
    match container.status() {
        Status::Created => {}
        Status::Stopped => return Err(Error::invalid("cannot start a container that has stopped")),
        Status::Running | Status::Paused => {
            return Err(Error::invalid("cannot start an already running container"));
        }
    }
    let stream = container.connect()?;
    container.mark_started()?;
    wait_for_exec(&Channel::from(OwnedFd::from(stream)))?;
    call_poststart(container);
    Ok(())
}

/// Calls the poststart hooks: the command runs already, so that a failure is only reported.
pub fn call_poststart(container: &Container) {
    let hooks = &container.state.spec.hooks.poststart;
    if let Err(error) = hooks::call(HookMoment::Poststart, hooks, &container.hook_state()) {
        tracing::warn!("{error}");
    }
}

/// Sends a signal to the container's process, or to all its processes.
pub fn signal(container: &Container, signal: i32, all: bool) -> Result<()> {
    let Some(pidfd) = container.pidfd()? else {
        if all && signal == libc::SIGKILL {
            return signal_all(container, signal);
        }
        return Err(Error::invalid("container not running"));
    };
    // Without a pid namespace, the end of the first process is not that of the others.
    let shares_pids = !container
        .state
        .spec
        .linux
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == "pid");
    if all || (shares_pids && signal == libc::SIGKILL) {
        signal_all(container, signal)?;
    } else {
        match pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(Errno::ESRCH) => return Err(Error::invalid("container not running")),
            result => result.context(|| format!("send signal {signal}"))?,
        }
    }
    if signal == libc::SIGKILL && container.state.cgroup.is_frozen() {
        // A frozen process of cgroup v1 does not even die.
        container.state.cgroup.freeze(false)?;
    }
    Ok(())
}

/// To every process of the cgroup. Frozen meanwhile where possible, so that none escapes by forking.
fn signal_all(container: &Container, signal: i32) -> Result<()> {
    let cgroup = &container.state.cgroup;
    if signal == libc::SIGKILL && cgroup.kill() {
        return Ok(());
    }
    if !cgroup.exists() {
        return match container.pidfd()? {
            Some(pidfd) => Ok(pidfd_send_signal(pidfd.as_fd(), signal)?),
            None => Ok(()),
        };
    }
    let was_frozen = cgroup.is_frozen();
    let frozen = !was_frozen && cgroup.freeze(true).is_ok();
    let sent = cgroup.processes().map(|pids| {
        for pid in pids {
            // One that has ended meanwhile needs no signal.
            let _ = crate::sys::process::pidfd_open(pid)
                .and_then(|pidfd| pidfd_send_signal(pidfd.as_fd(), signal));
        }
    });
    if frozen {
        cgroup.freeze(false)?;
    }
    sent
}

/// Deletes a container whose process has ended, or was never started.
pub fn delete(container: &Container) -> Result<()> {
    match container.status() {
        Status::Stopped => remove(container),
        Status::Created => delete_forced(container),
        status => Err(Error::invalid(format!(
            "cannot delete container {} that is not stopped: {status}; stop it first, or use --force",
            container.state.id
        ))),
    }
}

/// Ends whatever is left of a container, and deletes it.
pub fn delete_forced(container: &Container) -> Result<()> {
    if let Some(pidfd) = container.pidfd()? {
        signal(container, libc::SIGKILL, false)?;
        wait_for_end(&pidfd)?;
    }
    remove(container)
}

/// Ends a creation that goes on, and removes what it or an interrupted one has made.
pub fn delete_unfinished(unfinished: &Unfinished) -> Result<()> {
    if let Some(creator) = unfinished.creator()? {
        match pidfd_send_signal(creator.as_fd(), libc::SIGKILL) {
            Ok(()) => wait_for_end(&creator)?,
            Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).context(|| "end the runtime that creates the container"),
        }
    }
    let cgroup = unfinished.cgroup();
    if cgroup.exists() && !cgroup.kill() {
        for pid in cgroup.processes()? {
            // One that has ended meanwhile needs no signal.
            let _ = crate::sys::process::pidfd_open(pid)
                .and_then(|pidfd| pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
        }
    }
    cgroup.remove().and(unfinished.reserved.remove())
}

fn wait_for_end(pidfd: &OwnedFd) -> Result<()> {
    loop {
        match poll(
            &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(KILL_TIMEOUT_MS),
        ) {
            Ok(0) => {
                return Err(Error::invalid(
                    "the process was killed and does not end: it waits for a device",
                ));
            }
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Every part is tried; the first failure is returned.
fn remove(container: &Container) -> Result<()> {
    let killed = match container.state.cgroup.processes() {
        // Without a pid namespace of its own, its processes outlive its first one.
        Ok(pids) if !pids.is_empty() => signal_all(container, libc::SIGKILL),
        other => other.map(drop),
    };
    let cgroup = container.state.cgroup.remove();
    let forgotten = container.remove();
    let hooks = &container.state.spec.hooks.poststop;
    if let Err(error) = hooks::call(HookMoment::Poststop, hooks, &container.hook_state()) {
        tracing::warn!("{error}");
    }
    killed.and(cgroup).and(forgotten)
}
