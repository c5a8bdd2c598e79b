//! The process of the container, from its birth to the exec of the command: an interpreter of the plan's steps.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, faccessat};

use super::handshake::{Channel, Message};
use crate::capability;
use crate::cgroup;
use crate::error::{Context, Error, Result};
use crate::hooks::{self, HookState};
use crate::namespace;
use crate::plan::process::ProcessPlan;
use crate::plan::{Plan, Step};
use crate::rootfs::{Host, Rootfs};
use crate::seccomp;
use crate::sys;

/// Where the terminal's master goes.
#[derive(Debug)]
pub enum Console {
    /// To whoever listens on this socket.
    Socket(OwnedFd),
    /// To the runtime itself, which serves it in the foreground.
    Runtime,
}

/// What the runtime prepared for init.
#[derive(Debug)]
pub struct Birth {
    /// To the runtime.
    pub channel: Channel,
    /// Where `start` knocks; without it the runtime says when to go.
    pub listener: Option<UnixListener>,
    /// Where the terminal's master goes.
    pub console: Console,
    /// So many descriptors from 3 on stay open.
    pub preserve_fds: u32,
    /// What hooks are told.
    pub hook_state: HookState,
    /// What the container may see of the cgroups.
    pub cgroup_views: Vec<(cgroup::Tree, PathBuf)>,
    /// The socket of the seccomp agent.
    pub seccomp_agent: Option<OwnedFd>,
}

/// What changes while the steps are taken.
pub struct Init<'a> {
    process: &'a ProcessPlan,
    birth: Birth,
    rootfs: Option<Rootfs>,
    rootfs_path: &'a Path,
    host: Option<Host>,
    terminal: Option<OwnedFd>,
    command: Option<CString>,
    env: Vec<CString>,
}

impl<'a> Init<'a> {
    /// For a process that gets a root file system of its own.
    pub fn new(plan: &'a Plan, birth: Birth) -> Result<Self> {
        let views = birth.cgroup_views.clone();
        let host = Host::open(Path::new(&birth.hook_state.bundle), &plan.namespaces, views)?;
        Ok(Self {
            host: Some(host),
            ..Self::joining(&plan.process, &plan.rootfs, birth)
        })
    }

    /// For a process that enters a container.
    pub fn joining(process: &'a ProcessPlan, rootfs_path: &'a Path, birth: Birth) -> Self {
        Self {
            process,
            birth,
            rootfs: None,
            rootfs_path,
            host: None,
            terminal: None,
            command: None,
            env: Vec::new(),
        }
    }

    /// The root of the container that was entered is the root already.
    pub fn adopt_root(&mut self, host: Host) -> Result<()> {
        let rootfs = Rootfs::adopt(host)?;
        if self.process.terminal {
            let (master, slave) = rootfs.open_terminal().context(|| "set up the terminal")?;
            self.use_terminal(master, &slave)
                .context(|| "set up the terminal")?;
        } else {
            let _ = nix::unistd::setsid();
        }
        self.rootfs = Some(rootfs);
        Ok(())
    }

    /// Takes the steps; the text of the one that fails is the context of its error.
    pub fn take(&mut self, steps: &[Step]) -> Result<()> {
        steps.iter().try_for_each(|step| match self.step(step) {
            // These two speak for themselves, and engines look at the beginning of their text.
            error @ Err(Error::CommandNotFound { .. } | Error::CommandNotExecutable { .. }) => error,
            result => result.context(|| step.to_string()),
        })
    }

    /// Everything is prepared: says so, and waits to be started.
    pub fn wait_for_start(&mut self) -> Result<()> {
        let terminal = match self.birth.console {
            Console::Runtime => self.terminal.take(),
            Console::Socket(_) => None,
        };
        self.birth
            .channel
            .send_with(&Message::Ready, terminal.as_ref().map(AsRawFd::as_raw_fd))?;
        let Some(listener) = self.birth.listener.take() else {
            return self.birth.channel.expect_go();
        };
        let (stream, _) = listener.accept().context(|| "wait to be started")?;
        // From here on `start` is who hears about failures.
        self.birth.channel = Channel::from(OwnedFd::from(stream));
        Ok(())
    }

    /// Tells the runtime, or `start`, what went wrong.
    pub fn report(&self, error: &Error) {
        self.birth.channel.send_failure(error);
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Keyring(name) => keyring(name),
            Step::Loopback => sys::net::loopback_up().map_err(Error::from),
            Step::Root(propagation) => {
                let host = self
                    .host
                    .take()
                    .ok_or_else(|| Error::invalid("the root is prepared already"))?;
                // The container's files get exactly the modes that are asked for.
                umask(Mode::empty());
                self.rootfs = Some(Rootfs::prepare(self.rootfs_path, *propagation, host)?);
                Ok(())
            }
            Step::Mount(mount) => self.rootfs()?.mount(mount),
            Step::Device(device) => self.rootfs()?.make_device(device),
            Step::Link { path, target } => self.rootfs()?.make_link(path, target),
            Step::WorkDir(path) => self.rootfs()?.make_directory(path),
            Step::Hooks(moment, list) => hooks::call(*moment, list, &self.birth.hook_state),
            Step::Pivot { no_pivot } => self.rootfs()?.pivot(*no_pivot),
            Step::Terminal => self.make_terminal(),
            Step::ReadonlyMount(path) => self.rootfs()?.make_mount_readonly(path),
            Step::Hostname(name) => Ok(nix::unistd::sethostname(name)?),
            Step::Domainname(name) => self.rootfs()?.host().write_proc("sys/kernel/domainname", name),
            Step::Sysctl { key, value } => self.rootfs()?.host().write_proc(&sysctl_path(key), value),
            Step::ReadonlyPath(path) => self.rootfs()?.make_readonly(path),
            Step::MaskPath(path) => self.rootfs()?.mask(path),
            Step::RootPropagation(propagation) => self.rootfs()?.set_propagation(*propagation),
            Step::Attributes => self.set_attributes(),
            Step::User => self.become_user(),
            Step::Cwd => self.enter_cwd(),
            Step::FindCommand => self.find_command(),
            Step::Seccomp => self.load_seccomp(),
            Step::DropSeccompCapability => match &self.process.capabilities {
                Some(sets) => capability::apply(sets, 0),
                None => Ok(()),
            },
            Step::Rlimits => self.set_limits(),
            Step::Exec => self.exec(),
        }
    }

    fn rootfs(&self) -> Result<&Rootfs> {
        self.rootfs
            .as_ref()
            .ok_or_else(|| Error::invalid("the root is not prepared yet"))
    }

    /// Makes a terminal in the container, becomes the leader of its session and hands the master out.
    fn make_terminal(&mut self) -> Result<()> {
        let (master, slave) = self.rootfs()?.open_terminal()?;
        self.rootfs()?.mount_console(slave.as_fd())?;
        self.use_terminal(master, &slave)
    }

    /// The part of it that `exec` shares.
    fn use_terminal(&mut self, master: OwnedFd, slave: &OwnedFd) -> Result<()> {
        let configured = self.process.console_size.map(|size| nix::pty::Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        });
        // The standard streams are still those of the runtime.
        let outer = match self.birth.console {
            Console::Runtime => sys::terminal::outer_size(),
            Console::Socket(_) => None,
        };
        if let Some(size) = outer.or(configured) {
            sys::terminal::set_window_size(slave.as_fd(), size).context(|| "set the size of the terminal")?;
        }
        if let Console::Socket(socket) = &self.birth.console {
            super::handshake::send_packet(socket.as_raw_fd(), b"/dev/ptmx", Some(master.as_raw_fd()))
                .context(|| "send the terminal to the console socket")?;
        }
        nix::unistd::setsid().context(|| "start a session")?;
        sys::terminal::make_controlling(slave.as_fd()).context(|| "take control of the terminal")?;
        let (uid, gid) = (self.process.user.uid, None::<nix::unistd::Gid>);
        // In a user namespace without that user the terminal stays root's.
        let _ = nix::unistd::fchown(slave, Some(nix::unistd::Uid::from_raw(uid)), gid);
        nix::unistd::dup2_stdin(slave)?;
        nix::unistd::dup2_stdout(slave)?;
        nix::unistd::dup2_stderr(slave)?;
        self.terminal = Some(master);
        Ok(())
    }

    fn set_attributes(&self) -> Result<()> {
        let process = self.process;
        if !process.terminal && self.birth.listener.is_some() {
            // Detached from whoever created it.
            let _ = nix::unistd::setsid();
        }
        if let Some(label) = &process.selinux_label {
            self.write_attr("self/attr/exec", label)?;
        }
        if let Some(profile) = &process.apparmor_profile {
            let text = format!("exec {profile}");
            if self.write_attr("self/attr/apparmor/exec", &text).is_err() {
                self.write_attr("self/attr/exec", &text)?;
            }
        }
        if let Some(scheduler) = process.scheduler {
            sys::process::set_scheduler(scheduler).context(|| "set the scheduler")?;
        }
        if let Some(domain) = process.personality {
            sys::process::set_personality(domain).context(|| "set the personality")?;
        }
        if let Some((class, level)) = process.io_priority {
            sys::process::set_io_priority(class, level).context(|| "set the I/O priority")?;
        }
        Ok(())
    }

    fn write_attr(&self, path: &str, text: &str) -> Result<()> {
        self.rootfs()?.host().write_proc(path, text)
    }

    /// From root to the user, with exactly the capabilities asked for.
    fn become_user(&self) -> Result<()> {
        let process = self.process;
        let sets = process.capabilities.as_ref();
        if let Some(sets) = sets {
            match capability::limit_bounding(sets.bounding) {
                Err(error) if error.is_denied() => tracing::warn!("the bounding set stays as it is: {error}"),
                result => result?,
            }
        }
        nix::sys::prctl::set_keepcaps(true).context(|| "keep the capabilities")?;
        let groups = &process.user.additional_gids;
        if namespace::setgroups_allowed() {
            sys::process::set_groups(groups).context(|| "set the additional groups")?;
        } else if !groups.is_empty() {
            tracing::warn!("this user namespace has no additional groups, they are left out");
        }
        let (uid, gid) = (process.user.uid, process.user.gid);
        sys::process::set_user(uid, gid).context(|| {
            format!("become user {uid} and group {gid} (are both mapped in the user namespace?)")
        })?;
        nix::sys::prctl::set_keepcaps(false)?;
        // Changing the user made the process dumpable according to the system's settings: not yet.
        nix::sys::prctl::set_dumpable(false)?;
        umask(Mode::from_bits_truncate(process.user.umask.unwrap_or(0o022)));
        if let Some(sets) = sets {
            let extra = if process.keeps_capability_for_seccomp() {
                capability::SYS_ADMIN
            } else {
                0
            };
            capability::apply(sets, extra)?;
        }
        if process.no_new_privileges {
            nix::sys::prctl::set_no_new_privs().context(|| "set no_new_privs")?;
        }
        Ok(())
    }

    /// As the user. A directory outside of the root, reached through some descriptor, is refused (CVE-2024-21626).
    fn enter_cwd(&self) -> Result<()> {
        let cwd = &self.process.cwd;
        nix::unistd::chdir(cwd).context(|| format!("chdir to {}", cwd.display()))?;
        match nix::unistd::getcwd() {
            Ok(path) if path.is_absolute() => Ok(()),
            _ => Err(Error::invalid(
                "the current directory is outside of the container",
            )),
        }
    }

    /// As the user, so that what it cannot execute is known before anything is started.
    fn find_command(&mut self) -> Result<()> {
        let name = OsStr::from_bytes(self.process.args[0].as_bytes());
        self.env.clone_from(&self.process.env);
        if environment(&self.env, "HOME").is_none() {
            self.env.push(home_of(self.process.user.uid));
        }
        let path = environment(&self.env, "PATH").unwrap_or_default();
        let found = find_command(name, OsStr::from_bytes(path))?;
        self.command =
            Some(CString::new(found.into_os_string().as_bytes()).map_err(|_| Error::invalid("zero byte"))?);
        Ok(())
    }

    fn load_seccomp(&self) -> Result<()> {
        let Some(filter) = &self.process.seccomp else {
            return Ok(());
        };
        let listener = seccomp::load(filter)?;
        if let (Some(listener), Some(agent)) = (listener, &self.birth.seccomp_agent) {
            let state = self.birth.hook_state.seccomp_state(filter);
            super::handshake::send_packet(agent.as_raw_fd(), state.as_bytes(), Some(listener.as_raw_fd()))
                .context(|| "send the filter to its listener")?;
        }
        Ok(())
    }

    /// Lowering is always allowed; what could not be raised before is clamped. Decides about descriptors as well:
    /// after this the filter may forbid everything but exec.
    fn set_limits(&self) -> Result<()> {
        sys::process::cloexec_from(3).context(|| "close the descriptors")?;
        for fd in (3..).take(self.birth.preserve_fds as usize) {
            sys::process::set_cloexec(fd, false).context(|| format!("keep descriptor {fd}"))?;
        }
        for limit in &self.process.rlimits {
            let (_, have) = sys::process::rlimit(limit.resource)?;
            let hard = limit.hard.min(have);
            sys::process::set_rlimit(limit.resource, limit.soft.min(hard), hard)
                .context(|| format!("set {} to {}:{}", limit.name, limit.soft, limit.hard))?;
        }
        Ok(())
    }

    fn exec(&self) -> Result<()> {
        let command = self
            .command
            .as_ref()
            .ok_or_else(|| Error::invalid("the command was not looked for"))?;
        let Err(errno) = nix::unistd::execve(command, &self.process.args, &self.env);
        let name = self.process.args[0].to_string_lossy().into_owned();
        let reason = Error::Sys(errno).to_string();
        Err(match errno {
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => Error::CommandNotFound { name, reason },
            _ => Error::CommandNotExecutable { name, reason },
        })
    }
}

fn keyring(name: &str) -> Result<()> {
    use nix::errno::Errno;
    match sys::process::join_session_keyring(name) {
        // The kernel, or a filter around us, has no keyrings.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => Ok(()),
        Err(Errno::EDQUOT) => {
            tracing::warn!("no session keyring: too many keys (see /proc/sys/kernel/keys/maxkeys)");
            Ok(())
        }
        result => Ok(result?),
    }
}

/// `net.ipv4.ip_forward` or `net/ipv4/ip_forward`; with slashes, dots belong to the names (interfaces have some).
fn sysctl_path(key: &str) -> String {
    let path = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    format!("sys/{path}")
}

/// The value of a variable.
pub(super) fn environment<'e>(env: &'e [CString], name: &str) -> Option<&'e [u8]> {
    env.iter()
        .find_map(|entry| entry.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// `HOME=` of the user, from the container's own passwd.
fn home_of(uid: u32) -> CString {
    let home = passwd_home(uid).unwrap_or_else(|| "/".to_owned());
    CString::new(format!("HOME={home}")).unwrap_or_else(|_| c"HOME=/".to_owned())
}

/// The file is the container's: not followed out of it, not waited for, and not read without end.
fn passwd_home(uid: u32) -> Option<String> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    use std::io::{BufRead, BufReader, Read};
    const MAX_PASSWD_BYTES: u64 = 1 << 20;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = std::fs::File::from(openat2(nix::fcntl::AT_FDCWD, "/etc/passwd", how).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let reader = BufReader::new(file.take(MAX_PASSWD_BYTES));
    let home = |line: String| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
    };
    reader
        .lines()
        .map_while(std::result::Result::ok)
        .find_map(home)
        .filter(|home| !home.is_empty())
}

/// As a shell finds it: a name without a slash along PATH, anything else as it is.
fn find_command(name: &OsStr, path: &OsStr) -> Result<PathBuf> {
    let not_found = |reason: &str| Error::CommandNotFound {
        name: name.to_string_lossy().into(),
        reason: reason.into(),
    };
    let denied = |reason: &str| Error::CommandNotExecutable {
        name: name.to_string_lossy().into(),
        reason: reason.into(),
    };
    let check = |candidate: &Path| -> std::result::Result<(), nix::errno::Errno> {
        let stat = nix::sys::stat::stat(candidate)?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(nix::errno::Errno::EISDIR);
        }
        faccessat(
            nix::fcntl::AT_FDCWD,
            candidate,
            AccessFlags::X_OK,
            nix::fcntl::AtFlags::AT_EACCESS,
        )
    };
    if name.as_bytes().contains(&b'/') {
        let candidate = Path::new(name);
        return match check(candidate) {
            Ok(()) => Ok(candidate.to_owned()),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Err(not_found(&format!(
                "stat {}: no such file or directory",
                candidate.display()
            ))),
            Err(nix::errno::Errno::EISDIR) => Err(denied("is a directory: permission denied")),
            Err(errno) => Err(denied(&Error::Sys(errno).to_string())),
        };
    }
    let mut seen_denied = false;
    for directory in path
        .as_bytes()
        .split(|byte| *byte == b':')
        .filter(|directory| !directory.is_empty())
    {
        let candidate = Path::new(OsStr::from_bytes(directory)).join(name);
        match check(&candidate) {
            Ok(()) if !name.is_empty() => return Ok(candidate),
            Err(nix::errno::Errno::EACCES) => seen_denied = true,
            _ => {}
        }
    }
    if seen_denied {
        return Err(denied("permission denied"));
    }
    Err(not_found("executable file not found in $PATH"))
}
