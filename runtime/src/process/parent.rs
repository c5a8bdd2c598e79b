//! The runtime's side of making a container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::handshake::{Channel, Message};
use super::init::{Birth, Console, Init};
use super::stage;
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::hooks;
use crate::namespace;
use crate::plan::process::ProcessPlan;
use crate::plan::{self, HookMoment, Options, Plan};
use crate::spec::Spec;
use crate::state::{Container, ContainerId, Reserved, State, Store, process_start_ticks, write_whole};
use crate::sys::process::{self as sys, Cloned};

/// What the command line says about a new container.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its name.
    pub id: ContainerId,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Where the terminal's master goes; without it, to the runtime.
    pub console_socket: Option<PathBuf>,
    /// Where the pid is written.
    pub pid_file: Option<PathBuf>,
    /// Chroot instead of pivot_root.
    pub no_pivot: bool,
    /// Keep the session keyring.
    pub no_new_keyring: bool,
    /// So many descriptors from 3 on stay open.
    pub preserve_fds: u32,
    /// So many of them are sockets that the command is told of.
    pub listen_fds: u32,
    /// `linux.cgroupsPath` is written as for systemd.
    pub systemd_cgroup: bool,
    /// Wait for `start`, in a process that outlives this one.
    pub wait_for_start: bool,
    /// The runtime ends while the container goes on.
    pub detach: bool,
}

/// A container whose process is ready.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// To its process.
    pub channel: Channel,
    /// The master of its terminal, when the runtime serves it.
    pub terminal: Option<OwnedFd>,
}

/// Makes a container up to the point where it can be started. After a failure nothing is left of it.
pub fn create(store: &Store, options: &CreateOptions) -> Result<Created> {
    let bundle = std::fs::canonicalize(&options.bundle)
        .context(|| format!("find the bundle {}", options.bundle.display()))?;
    let spec = Spec::load(&bundle)?;
    let plan_options = Options {
        id: options.id.to_string(),
        bundle: bundle.clone(),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
    };
    let mut plan = plan::plan(&spec, &plan_options)?;
    plan.process.announce_sockets(options.listen_fds);
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    let console = console(&plan, options)?;
    let seccomp_agent = seccomp_agent(&plan.process)?;
    let reserved = store.reserve(&options.id)?;
    let mut making = Making {
        reserved,
        cgroup: Cgroup::default(),
        child: None,
        born_in_cgroup: false,
    };
    let state = State {
        id: options.id.clone(),
        rootfs: plan.rootfs.clone(),
        bundle,
        pid: 0,
        pid_start_ticks: 0,
        created: crate::log::now(),
        owner_uid: nix::unistd::getuid().as_raw(),
        cgroup: Cgroup::default(),
        spec,
    };
    making
        .run(&plan, options, state, console, seccomp_agent)
        .map_err(|error| error.with_cleanup(making.undo()))
}

/// What has been made so far.
struct Making {
    reserved: Reserved,
    cgroup: Cgroup,
    child: Option<Pid>,
    born_in_cgroup: bool,
}

impl Making {
    fn run(
        &mut self,
        plan: &Plan,
        options: &CreateOptions,
        mut state: State,
        console: Console,
        seccomp_agent: Option<OwnedFd>,
    ) -> Result<Created> {
        let linux = &state.spec.linux;
        self.cgroup = Cgroup::create(linux, &options.id.to_string(), options.systemd_cgroup, |cgroup| {
            self.reserved.note_unfinished(cgroup)
        })
        .context(|| "make the cgroup")?;
        state.cgroup = self.cgroup.clone();
        let (channel, theirs) = Channel::pair()?;
        let birth = Birth {
            channel: theirs,
            listener: options
                .wait_for_start
                .then(|| self.reserved.listen())
                .transpose()?,
            console,
            preserve_fds: options.preserve_fds,
            hook_state: state.hook_state(),
            cgroup_views: self.cgroup.views()?,
            seccomp_agent,
        };
        let stage = match self.clone_stage()? {
            Cloned::Child => {
                drop(channel);
                child(plan, birth)
            }
            Cloned::Parent(pid) => pid,
        };
        drop(birth);
        let pid = self.raise(plan, &channel, stage)?;
        state.pid = pid.as_raw();
        state.pid_start_ticks = process_start_ticks(pid)
            .ok_or_else(|| Error::invalid("the process of the container died as soon as it was born"))?;
        let told = state.hook_state();
        hooks::call(HookMoment::Prestart, &state.spec.hooks.prestart, &told)?;
        hooks::call(HookMoment::CreateRuntime, &state.spec.hooks.create_runtime, &told)?;
        channel.send(&Message::Go)?;
        let terminal = match next(&channel)? {
            (Message::Ready, terminal) => terminal,
            (other, _) => return Err(unexpected(&other)),
        };
        let container = self.reserved.save(&state)?;
        if let Some(path) = &options.pid_file {
            write_whole(path, pid.to_string().as_bytes())?;
        }
        Ok(Created {
            container,
            channel,
            terminal,
        })
    }

    /// In its cgroup from birth where the kernel can do that.
    fn clone_stage(&mut self) -> Result<Cloned> {
        if let Some(place) = self.cgroup.birth_place()
            && let Ok(cloned) = sys::clone_into_cgroup(place.as_fd())
        {
            self.born_in_cgroup = true;
            return Ok(cloned);
        }
        sys::clone_process(CloneFlags::empty()).context(|| "fork")
    }

    /// Serves stage until init is born.
    fn raise(&mut self, plan: &Plan, channel: &Channel, stage: Pid) -> Result<Pid> {
        self.child = Some(stage);
        self.cgroup
            .add(stage)
            .context(|| "put the process into the cgroup")?;
        channel.send(&Message::Go)?;
        loop {
            match next(channel)?.0 {
                Message::MapIds => {
                    let namespaces = &plan.namespaces;
                    namespace::write_id_maps(stage, &namespaces.uid_mappings, &namespaces.gid_mappings)
                        .context(|| "map the users of the namespace")?;
                    channel.send(&Message::Go)?;
                }
                Message::Init(pid) => {
                    let pid = Pid::from_raw(pid);
                    let _ = waitpid(stage, None);
                    self.child = Some(pid);
                    return Ok(pid);
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn undo(&mut self) -> Result<()> {
        if let Some(pid) = self.child.take() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        let cgroup = self.cgroup.remove();
        self.reserved.remove()?;
        cgroup
    }
}

/// In the new process: stage, then init, then the command. Never returns.
fn child(plan: &Plan, birth: Birth) -> ! {
    forward_warnings(&birth);
    if let Err(error) = stage::run(plan, &birth.channel) {
        birth.channel.send_failure(&error);
        sys::exit_now(1);
    }
    let preserve = birth.channel.expect_go();
    let listener_fd = birth.channel.try_clone();
    let mut init = match preserve.and_then(|()| Init::new(plan, birth)) {
        Ok(init) => init,
        Err(error) => {
            if let Ok(channel) = listener_fd {
                channel.send_failure(&error);
            }
            sys::exit_now(1)
        }
    };
    drop(listener_fd);
    let result = init
        .take(&plan.prepare)
        .and_then(|()| init.wait_for_start())
        .and_then(|()| init.take(&plan.launch));
    let status = match result {
        Ok(()) => 0,
        Err(error) => {
            init.report(&error);
            error.exit_status()
        }
    };
    sys::exit_now(status)
}

/// Warnings go to the runtime, which alone knows when to show them.
pub(super) fn forward_warnings(birth: &Birth) {
    if let Ok(channel) = birth.channel.try_clone() {
        crate::log::forward_to(channel);
    }
}

/// The next message; a failure of the other side becomes an error here.
pub(super) fn next(channel: &Channel) -> Result<(Message, Option<OwnedFd>)> {
    match channel.receive()? {
        Some((Message::Failed { message, status }, _)) => Err(Error::Child { message, status }),
        Some(message) => Ok(message),
        None => Err(Error::invalid(
            "the process of the container died before it was ready (was it out of memory?)",
        )),
    }
}

pub(super) fn unexpected(message: &Message) -> Error {
    Error::invalid(format!(
        "the process of the container said {message:?} out of turn"
    ))
}

/// Tells a container to go, and waits until its command runs.
pub fn launch(channel: Channel) -> Result<()> {
    channel.send(&Message::Go)?;
    wait_for_exec(&channel)
}

/// Waits until the other side became the command.
pub fn wait_for_exec(channel: &Channel) -> Result<()> {
    match channel.receive()? {
        None => Ok(()),
        Some((Message::Failed { message, status }, _)) => Err(Error::Child { message, status }),
        Some((other, _)) => Err(unexpected(&other)),
    }
}

fn console(plan: &Plan, options: &CreateOptions) -> Result<Console> {
    let terminal = plan.process.terminal;
    match &options.console_socket {
        Some(_) if !terminal => Err(Error::invalid(
            "--console-socket is of no use: process.terminal is false in the configuration",
        )),
        Some(path) => connect_console(path),
        None if terminal && options.detach => Err(Error::invalid(
            "process.terminal is true and nobody would serve the terminal: give --console-socket",
        )),
        None => Ok(Console::Runtime),
    }
}

/// Connects to the socket that wants the terminal's master.
pub(super) fn connect_console(path: &Path) -> Result<Console> {
    let stream = std::os::unix::net::UnixStream::connect(path)
        .context(|| format!("connect to the console socket {}", path.display()))?;
    Ok(Console::Socket(stream.into()))
}

/// Connects to the program that decides about `SCMP_ACT_NOTIFY`, if the filter has such.
pub(super) fn seccomp_agent(process: &ProcessPlan) -> Result<Option<OwnedFd>> {
    let listener = process
        .seccomp
        .as_ref()
        .and_then(|filter| filter.listener.as_ref());
    let connect = |listener: &crate::seccomp::Listener| {
        let stream = std::os::unix::net::UnixStream::connect(&listener.path)
            .context(|| format!("connect to the seccomp agent at {}", listener.path.display()))?;
        tracing::debug!("seccomp agent on descriptor {}", stream.as_raw_fd());
        Ok(stream.into())
    };
    listener.map(connect).transpose()
}
