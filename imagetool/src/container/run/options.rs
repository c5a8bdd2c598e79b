//! The options of `shale run` and what follows from them and the image before anything is made. All that can be
//! refused without touching the machine is refused here.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use oci_spec::image::Config;
use oci_spec::runtime::PosixRlimitType;

use crate::bundle::security::{SeccompChoice, SecurityOptions};
use crate::bundle::ulimit::{self, Ulimit};
use crate::bundle::user::Identity;
use crate::bundle::volume::{self, UserMount};
use crate::bundle::{CapabilitySet, Network, Rights, Settings, capabilities, command, environment, security};
use crate::container::{ContainerConfig, ContainerError, supervise};
use crate::{namespace, rootless, seccomp};

/// The network of a container when none is asked for.
const DEFAULT_NETWORK: &str = "host";

/// What the caller asked for, as typed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// IMAGE; empty with `rootfs`.
    pub image: String,
    /// CMD…
    pub command: Vec<String>,
    /// `--rootfs`
    pub rootfs: Option<PathBuf>,
    /// `-i`
    pub interactive: bool,
    /// `-t`
    pub tty: bool,
    /// `--rm`
    pub remove: bool,
    /// `--name`
    pub name: Option<String>,
    /// `-e`
    pub env: Vec<String>,
    /// `--env-file`
    pub env_files: Vec<PathBuf>,
    /// `-w`
    pub working_dir: Option<String>,
    /// `-u`
    pub user: Option<String>,
    /// `-v`
    pub volumes: Vec<String>,
    /// `--tmpfs`
    pub tmpfs: Vec<String>,
    /// `--read-only`
    pub read_only: bool,
    /// `--entrypoint`
    pub entrypoint: Option<String>,
    /// `-h`
    pub hostname: Option<String>,
    /// `--network`
    pub network: String,
    /// `--cap-add`
    pub cap_add: Vec<String>,
    /// `--cap-drop`
    pub cap_drop: Vec<String>,
    /// `--privileged`
    pub privileged: bool,
    /// `--runtime`
    pub runtime: Option<String>,
    /// `--cidfile`
    pub cidfile: Option<PathBuf>,
    /// `-l`
    pub labels: Vec<String>,
    /// `--ulimit`
    pub ulimits: Vec<String>,
    /// `--security-opt`
    pub security_options: Vec<String>,
    /// `--stop-signal`
    pub stop_signal: Option<String>,
}

/// Everything that is known before the root file system is mounted.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(in crate::container) arguments: Vec<String>,
    pub(in crate::container) image_env: Vec<String>,
    pub(in crate::container) caller_env: Vec<String>,
    pub(in crate::container) hostname: Option<String>,
    pub(in crate::container) network: Network,
    pub(in crate::container) mounts: Vec<UserMount>,
    pub(in crate::container) rights: Rights,
    pub(in crate::container) stop_signal: Option<Signal>,
    pub(in crate::container) config: ContainerConfig,
    /// The specification's values, but for those that the mounted root decides.
    pub(in crate::container) settings: Settings,
}

impl Options {
    /// Without what was given as an empty text, which is as good as not given: scripts pass `"$VALUE"`.
    pub(in crate::container) fn without_empty(&self) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            name: given(&self.name),
            working_dir: given(&self.working_dir),
            user: given(&self.user),
            hostname: given(&self.hostname),
            runtime: given(&self.runtime),
            stop_signal: given(&self.stop_signal),
            network: given(&Some(self.network.clone())).unwrap_or_else(|| DEFAULT_NETWORK.to_owned()),
            ..self.clone()
        }
    }

    /// Checks everything and merges it with the image's configuration.
    pub(in crate::container) fn plan(&self, image: Config) -> Result<Plan, ContainerError> {
        let image_entrypoint = image.entrypoint().clone().unwrap_or_default();
        let image_command = image.cmd().clone().unwrap_or_default();
        let arguments = command::arguments(
            &image_entrypoint,
            &image_command,
            self.entrypoint.as_deref(),
            &self.command,
        )?;
        let network: Network = self.network.parse()?;
        let rights = rights();
        let mounts = self.mounts()?;
        let caller_env = self.environment()?;
        let image_env = image.env().clone().unwrap_or_default();
        let labels = image.labels().clone().unwrap_or_default().into_iter().collect();
        let stop_signal = self.stop_signal.clone().or_else(|| image.stop_signal().clone());
        let capabilities =
            capabilities::effective(&self.cap_add, &self.cap_drop, self.privileged, last_capability())?;
        let security = security::parse(&self.security_options)?;
        let hostname = self.hostname(network)?;
        let config = ContainerConfig {
            user: self
                .user
                .clone()
                .or_else(|| image.user().clone())
                .unwrap_or_default(),
            env: environment::own(&image_env, &caller_env),
            entrypoint: self
                .entrypoint
                .as_ref()
                .map_or(image_entrypoint, |entry| vec![entry.clone()]),
            cmd: if self.command.is_empty() {
                image_command
            } else {
                self.command.clone()
            },
            working_dir: command::working_directory(
                image.working_dir().as_deref(),
                self.working_dir.as_deref(),
            )?,
            labels: command::labels(labels, &self.labels)?,
            tty: self.tty,
            open_stdin: self.interactive,
            network: self.network.clone(),
            read_only: self.read_only,
            auto_remove: self.remove,
            binds: self.volumes.iter().chain(&self.tmpfs).cloned().collect(),
            ..ContainerConfig::default()
        };
        let settings = self.settings(&arguments, &config, capabilities, &security, network, rights)?;
        let stop_signal = stop_signal.map(|text| parse_stop_signal(&text)).transpose()?;
        Ok(Plan {
            arguments,
            image_env,
            caller_env,
            hostname,
            network,
            mounts,
            rights,
            stop_signal,
            config,
            settings,
        })
    }

    fn settings(
        &self,
        arguments: &[String],
        config: &ContainerConfig,
        capabilities: CapabilitySet,
        security: &SecurityOptions,
        network: Network,
        rights: Rights,
    ) -> Result<Settings, ContainerError> {
        Ok(Settings {
            id: String::new(),
            root: PathBuf::new(),
            read_only: self.read_only,
            arguments: arguments.to_vec(),
            environment: Vec::new(),
            working_directory: config.working_dir.clone(),
            identity: Identity {
                uid: 0,
                gid: 0,
                additional_gids: Vec::new(),
                home: String::new(),
            },
            terminal: self.tty,
            hostname: String::new(),
            network,
            seccomp: self.seccomp(&security.seccomp, &capabilities)?,
            capabilities,
            privileged: self.privileged,
            open_system_paths: security.open_system_paths,
            no_new_privileges: security.no_new_privileges,
            ulimits: self.limits(rights)?,
            files: Vec::new(),
            mounts: Vec::new(),
            annotations: HashMap::new(),
            rights,
        })
    }

    fn seccomp(
        &self,
        choice: &SeccompChoice,
        capabilities: &CapabilitySet,
    ) -> Result<Option<oci_spec::runtime::LinuxSeccomp>, ContainerError> {
        let architecture = std::env::consts::ARCH;
        match choice {
            SeccompChoice::Unconfined => Ok(None),
            SeccompChoice::Builtin => Ok(Some(seccomp::default_profile(architecture, capabilities)?)),
            SeccompChoice::File(name) => {
                let text = fs::read(name)
                    .map_err(ContainerError::io("read the seccomp profile", Path::new(name)))?;
                let host = seccomp::Host {
                    architecture,
                    capabilities,
                    kernel: kernel_version(),
                };
                Ok(Some(seccomp::parse_profile(name, &text, &host)?))
            }
        }
    }

    fn mounts(&self) -> Result<Vec<UserMount>, ContainerError> {
        let directory = std::env::current_dir()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let volumes = self
            .volumes
            .iter()
            .map(|spec| volume::parse_volume(spec, &directory));
        let tmpfs = self.tmpfs.iter().map(|spec| volume::parse_tmpfs(spec));
        Ok(volume::arrange(volumes.chain(tmpfs).collect::<Result<_, _>>()?)?)
    }

    fn environment(&self) -> Result<Vec<String>, ContainerError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let mut variables = Vec::new();
        for path in &self.env_files {
            let content = fs::read(path).map_err(ContainerError::io("read the environment file", path))?;
            variables.extend(environment::parse_file(
                &path.display().to_string(),
                &content,
                &lookup,
            )?);
        }
        for text in &self.env {
            variables.push(environment::parse_variable(text, &lookup)?);
        }
        Ok(variables)
    }

    /// The caller's hostname; on the machine's network, the machine's; else none: the container's id is taken.
    fn hostname(&self, network: Network) -> Result<Option<String>, ContainerError> {
        if let Some(given) = &self.hostname {
            return Ok(Some(command::hostname(given)?));
        }
        let own = || nix::unistd::gethostname().ok()?.into_string().ok();
        // A machine's name that Docker would refuse is no reason to refuse the container.
        Ok((network == Network::Host)
            .then(own)
            .flatten()
            .filter(|name| command::hostname(name).is_ok()))
    }

    /// The limits, lowered with a warning to what we may set.
    fn limits(&self, rights: Rights) -> Result<Vec<Ulimit>, ContainerError> {
        let mut limits = Vec::new();
        for spec in &self.ulimits {
            let wanted = ulimit::parse(spec)?;
            let own_hard = kernel_resource(wanted.resource).and_then(|resource| getrlimit(resource).ok());
            let own_hard = own_hard.map_or(u64::MAX, |(_, hard)| hard);
            let lowered = ulimit::clamp(wanted, own_hard, !rights.in_user_namespace);
            if let Some(limit) = lowered {
                tracing::warn!(
                    "--ulimit {spec}: may not be raised above {own_hard} here, {} is used",
                    limit.hard
                );
            }
            limits.push(lowered.unwrap_or(wanted));
        }
        Ok(limits)
    }
}

fn parse_stop_signal(text: &str) -> Result<Signal, ContainerError> {
    supervise::parse_signal(text).ok_or_else(|| ContainerError::Usage(format!("invalid signal: {text}")))
}

/// What the machine lets us do.
fn rights() -> Rights {
    let in_user_namespace = !namespace::is_initial_user_namespace();
    Rights {
        in_user_namespace,
        has_tty_group: rootless::is_mapped("gid_map", 5),
    }
}

/// The number of the last capability of this kernel.
fn last_capability() -> usize {
    let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(40)
}

/// Major and minor version of this kernel.
fn kernel_version() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text
        .split(|sign: char| !sign.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel_resource(limit: PosixRlimitType) -> Option<Resource> {
    Some(match limit {
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
    })
}
