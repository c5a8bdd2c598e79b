//! From the configuration to the ordered list of steps that make a container: pure, no system call.
//!
//! ```text
//!   Spec ──plan()──▶ Plan { namespaces, prepare: [Step…], launch: [Step…], process, warnings }
//!                            │                │                └ after `start`: hooks, seccomp, exec
//!                            │                └ after `create`: root file system, host name, user, …
//!                            └ process::stage enters and makes these first
//! ```
//!
//! The process of the container (`process::init`) walks through the steps; when one fails, its [`Display`] text
//! is the context of the error. What the order guarantees, and the tests check:
//! - the mounts come in the order of the configuration, devices after them, pivot_root after the devices;
//! - paths are masked and made read-only after everything that is mounted, by hooks too, and before pivot_root;
//! - the user changes after everything that needs root, the filter of system calls is the last thing before exec
//!   (or, without no_new_privs, the last thing but giving up the one capability that loading it needs).
//!
//! [`Display`]: std::fmt::Display

pub mod mount;
pub mod process;

use std::fmt;
use std::path::{Component, Path, PathBuf};

use nix::sched::CloneFlags;

use crate::error::{Error, Result};
use crate::spec::{Device, Hook, IdMapping, Spec, TimeOffset};
use mount::{MountKind, MountStep, Propagation};
use process::ProcessPlan;

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The container's name, for its keyring.
    pub id: String,
    /// The bundle, which relative paths start from.
    pub bundle: PathBuf,
    /// Move the root over `/` and chroot, where pivot_root does not work (an initramfs).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
}

/// Everything that has to happen, in order.
#[derive(Debug)]
pub struct Plan {
    /// What the container does not share with the host.
    pub namespaces: Namespaces,
    /// The root file system, as a path on the host.
    pub rootfs: PathBuf,
    /// What the process of the container does before it is ready to start.
    pub prepare: Vec<Step>,
    /// What it does once it is told to start, up to exec.
    pub launch: Vec<Step>,
    /// The command and everything about it.
    pub process: ProcessPlan,
    /// What was asked for and will be left out.
    pub warnings: Vec<String>,
}

/// Namespaces to make and to enter.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// The new ones.
    pub create: CloneFlags,
    /// Those that exist already, in the order in which they must be entered.
    pub join: Vec<(CloneFlags, PathBuf)>,
    /// Users of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// Groups of a new user namespace.
    pub gid_mappings: Vec<IdMapping>,
    /// Clocks of a new time namespace.
    pub time_offsets: Vec<(String, TimeOffset)>,
}

impl Namespaces {
    /// Shares everything with the host.
    pub fn none() -> Self {
        Self {
            create: CloneFlags::empty(),
            join: Vec::new(),
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            time_offsets: Vec::new(),
        }
    }

    /// Whether the container has its own namespace of this kind, new or not.
    pub fn has(&self, flag: CloneFlags) -> bool {
        self.create.contains(flag) || self.join.iter().any(|(joined, _)| *joined == flag)
    }
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Get a session keyring of one's own.
    Keyring(String),
    /// Bring up the loopback interface.
    Loopback,
    /// Decide how mounts travel between the host and the container, and make the root a mount.
    Root(Propagation),
    /// Mount something.
    Mount(MountStep),
    /// Make a device node.
    Device(Device),
    /// Make a symbolic link that must be there, unless something is there already.
    Link {
        /// Where.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// Make the working directory.
    WorkDir(PathBuf),
    /// Call programs of the host or of the container.
    Hooks(HookMoment, Vec<Hook>),
    /// Make the root file system the root.
    Pivot {
        /// Without pivot_root.
        no_pivot: bool,
    },
    /// Make the terminal and put it on `/dev/console`.
    Terminal,
    /// Make the mount at this path read-only, now that everything is in it.
    ReadonlyMount(PathBuf),
    /// Set the host name.
    Hostname(String),
    /// Set the NIS domain name.
    Domainname(String),
    /// Set a kernel parameter.
    Sysctl {
        /// Such as `net.ipv4.ip_forward`.
        key: String,
        /// What to write.
        value: String,
    },
    /// Make everything below a path read-only.
    ReadonlyPath(PathBuf),
    /// Hide what is at a path.
    MaskPath(PathBuf),
    /// Set how mounts of the root travel from now on.
    RootPropagation(Propagation),
    /// Set labels, priorities and the like, which stay over exec.
    Attributes,
    /// Become the user.
    User,
    /// Go to the working directory.
    Cwd,
    /// Find the command.
    FindCommand,
    /// Put the filter of system calls in force.
    Seccomp,
    /// Give up the capability that was kept for loading the filter.
    DropSeccompCapability,
    /// Apply the resource limits and decide which descriptors stay.
    Rlimits,
    /// Become the command.
    Exec,
}

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookMoment {
    /// Namespaces are there, called outside (deprecated name).
    Prestart,
    /// Namespaces are there, called outside.
    CreateRuntime,
    /// Namespaces are there, called inside them, with the host's root.
    CreateContainer,
    /// Called inside, just before the command.
    StartContainer,
    /// The command runs, called outside.
    Poststart,
    /// The container is gone, called outside.
    Poststop,
}

impl fmt::Display for HookMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyring(_) => write!(f, "make a session keyring"),
            Self::Loopback => write!(f, "bring up the loopback interface"),
            Self::Root(_) => write!(f, "prepare the root file system"),
            Self::Mount(mount) => write!(f, "{mount}"),
            Self::Device(device) => write!(f, "make the device {}", device.path.display()),
            Self::Link { path, .. } => write!(f, "make the link {}", path.display()),
            Self::WorkDir(path) => write!(f, "make the working directory {}", path.display()),
            Self::Hooks(moment, _) => write!(f, "call the {moment} hooks"),
            Self::Pivot { .. } => write!(f, "change the root directory"),
            Self::Terminal => write!(f, "set up the terminal"),
            Self::ReadonlyMount(path) => write!(f, "make {} read-only", path.display()),
            Self::Hostname(name) => write!(f, "set the host name {name:?}"),
            Self::Domainname(name) => write!(f, "set the domain name {name:?}"),
            Self::Sysctl { key, .. } => write!(f, "set the kernel parameter {key}"),
            Self::ReadonlyPath(path) => write!(f, "make the path {} read-only", path.display()),
            Self::MaskPath(path) => write!(f, "mask the path {}", path.display()),
            Self::RootPropagation(_) => write!(f, "set the propagation of the root"),
            Self::Attributes => write!(f, "set the attributes of the process"),
            Self::User => write!(f, "change the user"),
            Self::Cwd => write!(f, "change the working directory"),
            Self::FindCommand => write!(f, "find the command"),
            Self::Seccomp => write!(f, "load the seccomp filter"),
            Self::DropSeccompCapability => write!(f, "give up the capability to load filters"),
            Self::Rlimits => write!(f, "set the resource limits"),
            Self::Exec => write!(f, "run the command"),
        }
    }
}

/// Turns the configuration into steps.
///
/// # Errors
/// When the configuration contradicts itself or asks for something that this runtime does not have.
pub fn plan(spec: &Spec, options: &Options) -> Result<Plan> {
    let mut warnings = Vec::new();
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| Error::invalid("the configuration has no root"))?;
    let namespaces = namespaces(spec)?;
    check(spec, &namespaces)?;
    let process = process::plan_process(spec.process()?, &spec.linux, &mut warnings)?;

    let mut prepare = Vec::new();
    if !options.no_new_keyring {
        prepare.push(Step::Keyring(format!("_ses.{}", options.id)));
    }
    if namespaces.create.contains(CloneFlags::CLONE_NEWNET) {
        prepare.push(Step::Loopback);
    }
    root_steps(spec, options, &process, &mut prepare)?;
    identity_steps(spec, &mut prepare);
    prepare.extend(process.prepare_steps());

    let mut launch = Vec::new();
    if !spec.hooks.start_container.is_empty() {
        launch.push(Step::Hooks(
            HookMoment::StartContainer,
            spec.hooks.start_container.clone(),
        ));
    }
    launch.extend(process.launch_steps());
    let rootfs = options.bundle.join(&root.path);
    Ok(Plan {
        namespaces,
        rootfs,
        prepare,
        launch,
        process,
        warnings,
    })
}

/// Everything up to the point where the container sees its own root.
fn root_steps(spec: &Spec, options: &Options, process: &ProcessPlan, steps: &mut Vec<Step>) -> Result<()> {
    let propagation = spec
        .linux
        .rootfs_propagation
        .as_deref()
        .filter(|name| !name.is_empty());
    let propagation = propagation.map(Propagation::parse).transpose()?;
    steps.push(Step::Root(propagation.unwrap_or(Propagation::SLAVE)));

    let mut late_readonly = Vec::new();
    let mut dev_is_ours = true;
    for entry in &spec.mounts {
        let mut step = MountStep::parse(entry, spec.linux.mount_label.as_deref())?;
        let is_dev = step.destination == Path::new("/dev");
        if is_dev && matches!(step.kind, MountKind::Bind { .. }) {
            dev_is_ours = false;
        } else if is_dev && step.take_readonly() {
            // The device nodes have to be made first.
            late_readonly.push(step.destination.clone());
        }
        steps.push(Step::Mount(step));
    }
    if dev_is_ours {
        device_steps(spec, steps)?;
    }
    if process.cwd != Path::new("/") {
        steps.push(Step::WorkDir(process.cwd.clone()));
    }
    if !spec.hooks.create_container.is_empty() {
        steps.push(Step::Hooks(
            HookMoment::CreateContainer,
            spec.hooks.create_container.clone(),
        ));
    }
    // The host's /dev/null, which masks files where no node can be made, is within reach only before the root changes.
    path_steps(spec, steps)?;
    steps.push(Step::Pivot {
        no_pivot: options.no_pivot,
    });
    if process.terminal {
        steps.push(Step::Terminal);
    }
    if let Some(propagation) = propagation {
        steps.push(Step::RootPropagation(propagation));
    }
    steps.extend(late_readonly.into_iter().map(Step::ReadonlyMount));
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        steps.push(Step::ReadonlyMount("/".into()));
    }
    Ok(())
}

/// Names and kernel parameters.
fn identity_steps(spec: &Spec, steps: &mut Vec<Step>) {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    steps.extend(given(&spec.hostname).map(Step::Hostname));
    steps.extend(given(&spec.domainname).map(Step::Domainname));
    for (key, value) in &spec.linux.sysctl {
        steps.push(Step::Sysctl {
            key: key.clone(),
            value: value.clone(),
        });
    }
}

/// Read-only and masked paths.
fn path_steps(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    for path in &spec.linux.readonly_paths {
        steps.push(Step::ReadonlyPath(absolute(path, "linux.readonlyPaths")?));
    }
    for path in &spec.linux.masked_paths {
        steps.push(Step::MaskPath(absolute(path, "linux.maskedPaths")?));
    }
    Ok(())
}

/// The device nodes and links that every container has (config-linux.md, "Default Devices"), and its own.
fn device_steps(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    const DEFAULT: [(&str, i64, i64); 6] = [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ];
    const LINKS: [(&str, &str); 5] = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    for device in &spec.linux.devices {
        let path = clean(&device.path);
        if !path.is_absolute() || path == Path::new("/") {
            return Err(Error::invalid(format!(
                "linux.devices: {path:?} is not an absolute path to a file"
            )));
        }
        if !matches!(device.kind.as_str(), "c" | "u" | "b" | "p") {
            return Err(Error::invalid(format!(
                "linux.devices: {path:?} has the unknown type {:?}",
                device.kind
            )));
        }
        // The kernel makes /dev/ptmx ours; a node for it would lead to the host's terminals.
        if path != Path::new("/dev/ptmx") {
            steps.push(Step::Device(Device {
                path,
                ..device.clone()
            }));
        }
    }
    for (path, major, minor) in DEFAULT {
        if !spec
            .linux
            .devices
            .iter()
            .any(|device| clean(&device.path) == Path::new(path))
        {
            let device = Device {
                kind: "c".into(),
                path: path.into(),
                major,
                minor,
                ..Device::default()
            };
            steps.push(Step::Device(Device {
                file_mode: Some(0o666),
                uid: Some(0),
                gid: Some(0),
                ..device
            }));
        }
    }
    for (path, target) in LINKS {
        steps.push(Step::Link {
            path: path.into(),
            target: target.into(),
        });
    }
    Ok(())
}

/// Namespaces to make and to enter. Entering goes: user first, since it gives the rights over the others.
fn namespaces(spec: &Spec) -> Result<Namespaces> {
    let mut create = CloneFlags::empty();
    let mut join: Vec<(CloneFlags, PathBuf)> = Vec::new();
    for namespace in &spec.linux.namespaces {
        let flag = namespace_flag(&namespace.kind)?;
        if create.contains(flag) || join.iter().any(|(joined, _)| *joined == flag) {
            return Err(Error::invalid(format!(
                "linux.namespaces names {} twice",
                namespace.kind
            )));
        }
        match namespace
            .path
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            None => create |= flag,
            Some(path) if path.is_absolute() => join.push((flag, path.clone())),
            Some(path) => {
                return Err(Error::invalid(format!(
                    "linux.namespaces: {} is not an absolute path",
                    path.display()
                )));
            }
        }
    }
    join.sort_by_key(|(flag, _)| *flag != CloneFlags::CLONE_NEWUSER);
    Ok(Namespaces {
        create,
        join,
        uid_mappings: spec.linux.uid_mappings.clone(),
        gid_mappings: spec.linux.gid_mappings.clone(),
        time_offsets: spec
            .linux
            .time_offsets
            .iter()
            .map(|(clock, offset)| (clock.clone(), *offset))
            .collect(),
    })
}

/// `CLONE_NEW*` of a namespace as the specification names it.
pub fn namespace_flag(kind: &str) -> Result<CloneFlags> {
    Ok(match kind {
        "pid" => CloneFlags::CLONE_NEWPID,
        "network" => CloneFlags::CLONE_NEWNET,
        "mount" => CloneFlags::CLONE_NEWNS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "user" => CloneFlags::CLONE_NEWUSER,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        "time" => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
        other => {
            return Err(Error::invalid(format!(
                "linux.namespaces: {other:?} is not a kind of namespace"
            )));
        }
    })
}

/// What must hold between the parts of the configuration.
fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let linux = &spec.linux;
    let has = |flag| namespaces.has(flag);
    let complain = |text: &str| Err(Error::invalid(text));
    if !namespaces.create.contains(CloneFlags::CLONE_NEWNS) {
        return complain(
            "linux.namespaces: a container needs a new mount namespace, add {\"type\": \"mount\"}",
        );
    }
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if (named(&spec.hostname) || named(&spec.domainname)) && !has(CloneFlags::CLONE_NEWUTS) {
        return complain("a host or domain name needs a uts namespace in linux.namespaces");
    }
    if namespaces.create.contains(CloneFlags::CLONE_NEWUSER) {
        if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
            return complain("a new user namespace needs linux.uidMappings and linux.gidMappings");
        }
    } else if !has(CloneFlags::CLONE_NEWUSER) && linux.uid_mappings.len() + linux.gid_mappings.len() > 0 {
        return complain("linux.uidMappings and linux.gidMappings need a user namespace in linux.namespaces");
    }
    let time = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    if !linux.time_offsets.is_empty() && !namespaces.create.contains(time) {
        return complain("linux.timeOffsets needs a new time namespace in linux.namespaces");
    }
    if linux.intel_rdt.is_some() {
        return complain("linux.intelRdt is not supported");
    }
    if linux.memory_policy.is_some() {
        return complain("linux.memoryPolicy is not supported");
    }
    for key in linux.sysctl.keys() {
        check_sysctl(key, spec, namespaces)?;
    }
    Ok(())
}

/// A kernel parameter may be set only where it belongs to a namespace that the container does not share.
fn check_sysctl(key: &str, spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = key.replace('/', ".");
    let needed = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        CloneFlags::CLONE_NEWIPC
    } else if dotted.starts_with("net.") {
        CloneFlags::CLONE_NEWNET
    } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
        if dotted == "kernel.hostname" && spec.hostname.is_some() {
            return Err(Error::invalid(format!(
                "linux.sysctl: {key} contradicts hostname"
            )));
        }
        CloneFlags::CLONE_NEWUTS
    } else if dotted.starts_with("user.") {
        CloneFlags::CLONE_NEWUSER
    } else {
        return Err(Error::invalid(format!(
            "linux.sysctl: {key} belongs to the host, not to a namespace"
        )));
    };
    if key.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
        return Err(Error::invalid(format!(
            "linux.sysctl: {key:?} is not the name of a kernel parameter"
        )));
    }
    if !namespaces.has(needed) {
        return Err(Error::invalid(format!(
            "linux.sysctl: {key} needs a namespace of its own in linux.namespaces"
        )));
    }
    Ok(())
}

fn absolute(path: &str, field: &str) -> Result<PathBuf> {
    let path = clean(Path::new(path));
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Error::invalid(format!(
        "{field}: {} is not an absolute path",
        path.display()
    )))
}

/// The path without `.`, `..` and repeated slashes, by its text alone; `..` at the root stays at the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir => cleaned.push("/"),
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests;
