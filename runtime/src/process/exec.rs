//! A second process in a container that runs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::handshake::{Channel, Message};
use super::init::{Birth, Console, Init};
use super::parent::{connect_console, next, seccomp_agent, unexpected};
use super::stage;
use crate::error::{Context, Error, Result};
use crate::namespace;
use crate::plan::Namespaces;
use crate::plan::process::{ProcessPlan, plan_process};
use crate::rootfs::Host;
use crate::spec::Process;
use crate::state::Container;
use crate::sys::process::{self as sys, Cloned};

/// What the command line says about the process.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// Where the terminal's master goes; without it, to the runtime.
    pub console_socket: Option<PathBuf>,
    /// The runtime ends while the process goes on.
    pub detach: bool,
    /// So many descriptors from 3 on stay open.
    pub preserve_fds: u32,
}

/// A process that runs in the container.
#[derive(Debug)]
pub struct Executed {
    /// Its pid.
    pub pid: Pid,
    /// The master of its terminal, when the runtime serves it.
    pub terminal: Option<OwnedFd>,
}

/// Runs a process in the container.
pub fn exec(container: &Container, process: &Process, options: &ExecOptions) -> Result<Executed> {
    let mut warnings = Vec::new();
    let plan = plan_process(process, &container.state.spec.linux, &mut warnings)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let console = match &options.console_socket {
        Some(_) if !plan.terminal => {
            return Err(Error::invalid("--console-socket is of no use without a terminal"));
        }
        Some(path) => connect_console(path)?,
        None if plan.terminal && options.detach => {
            return Err(Error::invalid(
                "nobody would serve the terminal: give --console-socket",
            ));
        }
        None => Console::Runtime,
    };
    let target = Target::open(container)?;
    let (channel, theirs) = Channel::pair()?;
    let birth = Birth {
        channel: theirs,
        listener: None,
        console,
        preserve_fds: options.preserve_fds,
        hook_state: container.hook_state(),
        cgroup_views: Vec::new(),
        seccomp_agent: seccomp_agent(&plan)?,
    };
    let stage = match sys::clone_process(CloneFlags::empty()).context(|| "fork")? {
        Cloned::Child => {
            drop(channel);
            child(&plan, &container.state.rootfs, target, birth)
        }
        Cloned::Parent(pid) => pid,
    };
    drop(birth);
    let mut born = stage;
    let result = serve(container, &channel, &mut born);
    if result.is_err() {
        let _ = nix::sys::signal::kill(born, nix::sys::signal::Signal::SIGKILL);
        let _ = waitpid(born, None);
    }
    result
}

fn serve(container: &Container, channel: &Channel, born: &mut Pid) -> Result<Executed> {
    container
        .state
        .cgroup
        .add_beside(*born, container.pid())
        .context(|| "put the process into the cgroup")?;
    channel.send(&Message::Go)?;
    match next(channel)?.0 {
        Message::Init(pid) => {
            let _ = waitpid(*born, None);
            *born = Pid::from_raw(pid);
            channel.send(&Message::Go)?;
        }
        other => return Err(unexpected(&other)),
    }
    let terminal = match next(channel)? {
        (Message::Ready, terminal) => terminal,
        (other, _) => return Err(unexpected(&other)),
    };
    channel.send(&Message::Go)?;
    super::parent::wait_for_exec(channel)?;
    Ok(Executed { pid: *born, terminal })
}

/// The container's process and the namespaces in which it differs from the runtime.
struct Target {
    pidfd: OwnedFd,
    namespaces: CloneFlags,
    host: Host,
}

impl Target {
    fn open(container: &Container) -> Result<Self> {
        let gone = || Error::invalid("the container is not running");
        let pidfd = container.pidfd()?.ok_or_else(gone)?;
        const KINDS: [(&str, i32); 8] = [
            ("user", libc::CLONE_NEWUSER),
            ("mnt", libc::CLONE_NEWNS),
            ("pid", libc::CLONE_NEWPID),
            ("net", libc::CLONE_NEWNET),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("cgroup", libc::CLONE_NEWCGROUP),
            ("time", libc::CLONE_NEWTIME),
        ];
        let mut namespaces = CloneFlags::empty();
        for (name, flag) in KINDS {
            let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{name}"));
            match (of(&container.pid().to_string()), of("self")) {
                (Ok(theirs), Ok(ours)) if theirs != ours => namespaces |= CloneFlags::from_bits_retain(flag),
                (Err(error), Ok(_)) => return Err(error).context(|| format!("look at the {name} namespace")),
                _ => {}
            }
        }
        let host = Host::open(Path::new("/"), &Namespaces::none(), Vec::new())?;
        Ok(Self {
            pidfd,
            namespaces,
            host,
        })
    }
}

fn child(plan: &ProcessPlan, rootfs: &Path, target: Target, birth: Birth) -> ! {
    super::parent::forward_warnings(&birth);
    if let Err(error) = enter(plan, &target, &birth.channel) {
        birth.channel.send_failure(&error);
        sys::exit_now(1);
    }
    let mut init = Init::joining(plan, rootfs, birth);
    let result = init
        .adopt_root(target.host)
        .and_then(|()| init.take(&plan.prepare_steps()))
        .and_then(|()| init.wait_for_start())
        .and_then(|()| init.take(&plan.launch_steps()));
    let status = match result {
        Ok(()) => 0,
        Err(error) => {
            init.report(&error);
            error.exit_status()
        }
    };
    sys::exit_now(status)
}

/// Returns in the process that is wholly inside; the one between ends here.
fn enter(plan: &ProcessPlan, target: &Target, channel: &Channel) -> Result<()> {
    sys::reset_signals().context(|| "reset the signals")?;
    for limit in stage::raise_limits(plan) {
        // The user was warned when the container was made.
        tracing::debug!("{limit}");
    }
    if let Some(score) = plan.oom_score_adj {
        stage::set_oom_score(score)?;
    }
    channel.expect_go()?;
    nix::sys::prctl::set_dumpable(false)?;
    if !target.namespaces.is_empty() {
        sys::setns_pidfd(target.pidfd.as_fd(), target.namespaces)
            .context(|| "enter the namespaces of the container")?;
    }
    if target.namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        namespace::become_root()?;
    }
    match sys::clone_process(CloneFlags::CLONE_PARENT).context(|| "fork in the namespaces")? {
        // Both talk to the runtime from here on: this one waits until the other was heard, or Ready might come first.
        Cloned::Child => channel.expect_go(),
        Cloned::Parent(pid) => {
            channel.send(&Message::Init(pid.as_raw()))?;
            sys::exit_now(0)
        }
    }
}
