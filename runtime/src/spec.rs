//! The container's configuration (`config.json` of a bundle) as this runtime reads it.
//!
//! These types follow the OCI runtime specification 1.2, config.md and config-linux.md. They are our own, rather
//! than those of a library, for one reason: a runtime must accept what it does not know. A capability, a system
//! call or an architecture that a newer engine names is a string here, and becomes a warning in the plan, never a
//! refusal to read the file; `null` stands for an empty list, as Go programs write it.
//!
//! Failure: a file that is not JSON or has a value of the wrong type is an error that names line and column.

mod linux;
mod resources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

pub use linux::{
    Device, IdMapping, Linux, MemoryPolicy, Namespace, Personality, Seccomp, SyscallArg, SyscallRule,
    TimeOffset,
};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma, Resources,
    ThrottleDevice, WeightDevice,
};

use crate::error::{Context, Error, Result};

/// The version of the specification that this runtime implements.
pub const OCI_VERSION: &str = "1.2.0";

/// The file of a bundle that holds the configuration.
pub const CONFIG_FILE: &str = "config.json";

/// The whole of `config.json`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The version of the specification the bundle follows.
    #[serde(default)]
    pub oci_version: String,
    /// The command and everything about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The host name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The NIS domain name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// What is mounted, in this order.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub mounts: Vec<Mount>,
    /// Programs to call on the way.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub hooks: Hooks,
    /// Free text for others.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Everything that is particular to Linux.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub linux: Linux,
}

impl Spec {
    /// Reads the configuration of the bundle at `bundle`.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(CONFIG_FILE);
        let text = std::fs::read(&path)
            .context(|| format!("read the configuration {} (is it a bundle?)", path.display()))?;
        serde_json::from_slice(&text).context(|| format!("read the configuration {}", path.display()))
    }

    /// The process, which every command but `create` of an empty container needs.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .ok_or_else(|| Error::invalid("the configuration has no process"))
    }
}

/// `root`: where the file system of the container lies.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: PathBuf,
    /// Whether the container may not write to it.
    #[serde(default)]
    pub readonly: bool,
}

/// `mounts[]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where, inside the container.
    pub destination: PathBuf,
    /// The type of file system; "bind" by convention for a bind mount.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// What: a path on the host for a bind mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Options as for mount(8), and the runtime's own.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub options: Vec<String>,
    /// Mapping of owners, for `idmap`.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub uid_mappings: Vec<IdMapping>,
    /// Mapping of groups, for `idmap`.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub gid_mappings: Vec<IdMapping>,
}

/// `process`: also the content of the file given to `exec --process`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Whether standard input, output and error are a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// The first size of the terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Who runs it.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub user: User,
    /// The command.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub args: Vec<String>,
    /// The environment, as NAME=value.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The working directory.
    #[serde(default)]
    pub cwd: PathBuf,
    /// The five sets of capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub rlimits: Vec<Rlimit>,
    /// Whether exec may not give new rights.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// The AppArmor profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// The SELinux label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
    /// How willingly the kernel ends it when memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Scheduling policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// I/O priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
}

/// `process.consoleSize`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// `process.user`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user, as seen inside.
    #[serde(default)]
    pub uid: u32,
    /// The group, as seen inside.
    #[serde(default)]
    pub gid: u32,
    /// The mode bits that new files lack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`: names such as `CAP_CHOWN`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Capabilities {
    /// The most that exec can give.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub bounding: Vec<String>,
    /// What counts.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub effective: Vec<String>,
    /// What files may pass on.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub inheritable: Vec<String>,
    /// What may be made effective.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub permitted: Vec<String>,
    /// What stays over exec without root.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub ambient: Vec<String>,
}

/// `process.rlimits[]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// What may not be exceeded.
    pub hard: u64,
    /// What counts.
    pub soft: u64,
}

/// `process.scheduler`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Scheduler {
    /// `SCHED_OTHER` and so on.
    pub policy: String,
    /// For the normal policies.
    #[serde(default)]
    pub nice: i32,
    /// For the real-time policies.
    #[serde(default)]
    pub priority: i32,
    /// `SCHED_FLAG_*`.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub flags: Vec<String>,
    /// In nanoseconds, for `SCHED_DEADLINE`.
    #[serde(default)]
    pub runtime: u64,
    /// In nanoseconds, for `SCHED_DEADLINE`.
    #[serde(default)]
    pub deadline: u64,
    /// In nanoseconds, for `SCHED_DEADLINE`.
    #[serde(default)]
    pub period: u64,
}

/// `process.ioPriority`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    pub class: String,
    /// 0 (first) to 7.
    #[serde(default)]
    pub priority: i32,
}

/// `hooks`: programs outside of the container, called at six moments of its life.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Deprecated name of `create_runtime`, called before it.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, before pivot_root.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before pivot_root.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub create_container: Vec<Hook>,
    /// In the container, before the command.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the command was started.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub poststop: Vec<Hook>,
}

/// One program of `hooks`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Hook {
    /// The program: an absolute path.
    pub path: PathBuf,
    /// All arguments, the name of the program first.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub args: Vec<String>,
    /// The environment, as NAME=value.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// After so many seconds it is ended.
    #[serde(default, rename = "timeout", skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

/// Reads `null` as the empty value.
fn null_as_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_null_lists_are_accepted() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.9.9","future":{"x":1},"mounts":null,"hooks":null,
                "process":{"args":["sh"],"cwd":"/","env":null,"capabilities":{"bounding":["CAP_TOMORROW"]}},
                "linux":{"namespaces":[{"type":"pid"}],"seccomp":{"defaultAction":"SCMP_ACT_ALLOW",
                "architectures":["SCMP_ARCH_NEW"],"syscalls":[{"names":["newcall"],"action":"SCMP_ACT_LOG"}]}}}"#,
        )
        .unwrap();
        let process = spec.process().unwrap();
        assert_eq!(process.args, ["sh"]);
        assert_eq!(process.capabilities.as_ref().unwrap().bounding, ["CAP_TOMORROW"]);
        assert_eq!(spec.linux.namespaces[0].kind, "pid");
    }

    #[test]
    fn reads_what_the_reference_types_write() {
        let reference = oci_spec::runtime::Spec::default();
        let text = serde_json::to_string(&reference).unwrap();
        let spec: Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(spec.mounts.len(), reference.mounts().as_ref().unwrap().len());
        assert_eq!(
            spec.linux.masked_paths,
            *reference
                .linux()
                .as_ref()
                .unwrap()
                .masked_paths()
                .as_ref()
                .unwrap()
        );
        // And what we write is read back as the same by the reference types.
        let ours = serde_json::to_string(&spec).unwrap();
        let again: oci_spec::runtime::Spec = serde_json::from_str(&ours).unwrap();
        assert_eq!(
            again.process().as_ref().unwrap().args(),
            reference.process().as_ref().unwrap().args()
        );
    }

    #[test]
    fn wrong_type_names_the_place() {
        let error = serde_json::from_str::<Spec>("{\"process\":\n{\"args\":7}}").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
