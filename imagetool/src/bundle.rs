//! Image configuration and options to an OCI runtime specification (pure: nothing here touches a file).
//!
//! ```text
//! image config ─┐
//! options ──────┼─► Settings (who, what, where, with which rights) ─► specification ─► bundle/config.json
//! the machine ──┘
//! ```
//!
//! Each part is a function over values with a table of tests beside it: [`environment`], [`command`], [`user`],
//! [`volume`], [`capabilities`], [`ulimit`], [`security`]; `mounts` and this file put the document together.
//! Implements config.md and config-linux.md of the runtime specification 1.0.2.

pub mod capabilities;
pub mod command;
pub mod environment;
mod error;
mod mounts;
pub mod security;
pub mod ulimit;
pub mod user;
pub mod volume;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxResourcesBuilder, LinuxSeccomp, PosixRlimit, PosixRlimitBuilder, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

pub use self::capabilities::CapabilitySet;
pub use self::error::BundleError;
use self::ulimit::Ulimit;
use self::user::Identity;
use self::volume::UserMount;

/// Version of the runtime specification that the document follows.
const OCI_VERSION: &str = "1.0.2";

/// The container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The machine's own.
    #[default]
    Host,
    /// A network of its own with nothing but the loopback.
    None,
}

impl std::str::FromStr for Network {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        match text {
            "host" => Ok(Network::Host),
            "none" => Ok(Network::None),
            other => Err(BundleError::Network(other.to_owned())),
        }
    }
}

/// What the machine lets the caller do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Inside the user namespace of a plain user: no cgroups of one's own, no fresh sysfs for the host's network.
    pub in_user_namespace: bool,
    /// Whether the group `tty` (5) exists in the user namespace.
    pub has_tty_group: bool,
}

/// Everything that decides the specification.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The container's id: names its cgroup.
    pub id: String,
    /// The mounted root file system.
    pub root: PathBuf,
    /// `--read-only`
    pub read_only: bool,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// The environment, whole.
    pub environment: Vec<String>,
    /// The working directory, absolute.
    pub working_directory: String,
    /// Who runs it.
    pub identity: Identity,
    /// `-t`
    pub terminal: bool,
    /// The hostname.
    pub hostname: String,
    /// The network.
    pub network: Network,
    /// What it may do.
    pub capabilities: CapabilitySet,
    /// The system call filter, none when unconfined.
    pub seccomp: Option<LinuxSeccomp>,
    /// `--privileged`
    pub privileged: bool,
    /// `--security-opt systempaths=unconfined`
    pub open_system_paths: bool,
    /// `--security-opt no-new-privileges`
    pub no_new_privileges: bool,
    /// `--ulimit`
    pub ulimits: Vec<Ulimit>,
    /// The engine's own files: (host path, destination), such as /etc/hosts.
    pub files: Vec<(PathBuf, &'static str)>,
    /// `-v`, `--tmpfs`, arranged.
    pub mounts: Vec<UserMount>,
    /// Labels and the like.
    pub annotations: HashMap<String, String>,
    /// What the machine allows.
    pub rights: Rights,
}

/// The document for the runtime.
pub fn specification(settings: &Settings) -> Result<Spec, BundleError> {
    let open = settings.privileged || settings.open_system_paths;
    let paths = |list: &[&str]| {
        if open {
            Vec::new()
        } else {
            list.iter().map(|path| (*path).to_owned()).collect()
        }
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(settings.network)?)
        .masked_paths(paths(security::MASKED_PATHS))
        .readonly_paths(paths(security::READONLY_PATHS));
    if !settings.rights.in_user_namespace {
        let resources = LinuxResourcesBuilder::default()
            .devices(devices(settings.privileged)?)
            .build()?;
        linux = linux
            .cgroups_path(PathBuf::from("/shale").join(&settings.id))
            .resources(resources);
    }
    if let Some(seccomp) = settings.seccomp.clone().filter(|_| !settings.privileged) {
        linux = linux.seccomp(seccomp);
    }
    let mut linux = linux.build()?;
    if settings.rights.in_user_namespace {
        linux.set_resources(None);
    }
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(
            RootBuilder::default()
                .path(&settings.root)
                .readonly(settings.read_only)
                .build()?,
        )
        .hostname(settings.hostname.as_str())
        .mounts(mounts::all(settings)?)
        .process(process(settings)?)
        .linux(linux)
        .build()?;
    spec.set_annotations(Some(settings.annotations.clone()));
    Ok(spec)
}

fn process(settings: &Settings) -> Result<Process, BundleError> {
    let identity = &settings.identity;
    let user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .additional_gids(identity.additional_gids.clone())
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(settings.terminal)
        .user(user)
        .args(settings.arguments.clone())
        .env(settings.environment.clone())
        .cwd(&settings.working_directory)
        .capabilities(capability_sets(&settings.capabilities, identity.uid == 0)?)
        .no_new_privileges(settings.no_new_privileges)
        .build()?;
    let limits = settings
        .ulimits
        .iter()
        .map(limit)
        .collect::<Result<Vec<_>, _>>()?;
    process.set_rlimits(Some(limits));
    Ok(process)
}

/// Root holds the capabilities; anybody else may gain them by programs that carry them, within the bounding set.
fn capability_sets(set: &CapabilitySet, root: bool) -> Result<LinuxCapabilities, BundleError> {
    let parse = |name: &&str| {
        name.parse()
            .map_err(|_| BundleError::Specification(format!("capability {name} is not in the specification")))
    };
    let all: Capabilities = set.iter().map(parse).collect::<Result<_, _>>()?;
    let held = if root { all.clone() } else { Capabilities::new() };
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(all)
        .effective(held.clone())
        .permitted(held)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?)
}

fn limit(wanted: &Ulimit) -> Result<PosixRlimit, BundleError> {
    Ok(PosixRlimitBuilder::default()
        .typ(wanted.resource)
        .soft(wanted.soft)
        .hard(wanted.hard)
        .build()?)
}

fn namespaces(network: Network) -> Result<Vec<LinuxNamespace>, BundleError> {
    let mut kinds = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    if network == Network::None {
        kinds.push(LinuxNamespaceType::Network);
    }
    kinds
        .into_iter()
        .map(|kind| Ok(LinuxNamespaceBuilder::default().typ(kind).build()?))
        .collect()
}

/// The device rules: making any node is allowed, opening only the harmless ones.
fn devices(privileged: bool) -> Result<Vec<LinuxDeviceCgroup>, BundleError> {
    let rule = |allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut builder = LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(kind)
            .access(access);
        if let Some(major) = major {
            builder = builder.major(major);
        }
        if let Some(minor) = minor {
            builder = builder.minor(minor);
        }
        builder.build()
    };
    if privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?]);
    }
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm")?,
        rule(true, LinuxDeviceType::C, None, None, "m")?,
        rule(true, LinuxDeviceType::B, None, None, "m")?,
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, and every terminal of the container.
    let nodes = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
    ];
    for (major, minor) in nodes.into_iter().chain([(5, Some(2)), (136, None)]) {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), minor, "rwm")?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests;
