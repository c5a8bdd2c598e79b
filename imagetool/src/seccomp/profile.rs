//! Profiles in Docker's JSON form: the runtime specification's, with conditions on capabilities, architecture and
//! kernel that are decided here (pure).

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSyscall,
};
use serde::Deserialize;

use crate::bundle::{BundleError, CapabilitySet};

/// What the conditions of a profile ask about.
#[derive(Debug, Clone)]
pub struct Host<'a> {
    /// As `std::env::consts::ARCH` names it.
    pub architecture: &'a str,
    /// What the container holds.
    pub capabilities: &'a CapabilitySet,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Reads a profile and decides its conditions. `name` is for error texts.
pub fn parse_profile(name: &str, text: &[u8], host: &Host<'_>) -> Result<LinuxSeccomp, BundleError> {
    let wrong = |reason: String| BundleError::Seccomp {
        name: name.to_owned(),
        reason,
    };
    let profile: Profile = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    let mut rules = Vec::new();
    for given in profile.syscalls {
        if !included(&given.includes, host).map_err(wrong)?
            || excluded(&given.excludes, host).map_err(wrong)?
        {
            continue;
        }
        let names = match (given.name, given.names) {
            (Some(_), Some(names)) if !names.is_empty() => {
                return Err(wrong("a rule has both name and names".to_owned()));
            }
            (Some(name), _) => vec![name],
            (None, Some(names)) if !names.is_empty() => names,
            (None, _) => return Err(wrong("a rule names no system call".to_owned())),
        };
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(given.action);
        rule.set_errno_ret(given.errno_ret);
        rule.set_args(given.args.filter(|args| !args.is_empty()));
        rules.push(rule);
    }
    let mut builder = LinuxSeccompBuilder::default()
        .default_action(profile.default_action)
        .syscalls(rules);
    if let Some(errno) = profile.default_errno_ret {
        builder = builder.default_errno_ret(errno);
    }
    let architectures = if profile.architectures.is_empty() {
        mapped(profile.arch_map, host.architecture)
    } else {
        profile.architectures
    };
    Ok(builder.architectures(architectures).build()?)
}

/// The entry of `archMap` for this machine.
fn mapped(map: Vec<ArchMap>, architecture: &str) -> Vec<Arch> {
    let own = match architecture {
        "x86_64" => Arch::ScmpArchX86_64,
        "aarch64" => Arch::ScmpArchAarch64,
        "s390x" => Arch::ScmpArchS390x,
        _ => return Vec::new(),
    };
    let entry = map.into_iter().find(|entry| entry.architecture == own);
    entry.map_or_else(Vec::new, |entry| {
        std::iter::once(entry.architecture)
            .chain(entry.sub_architectures.into_iter().flatten())
            .collect()
    })
}

/// Every condition that is given holds.
fn included(condition: &Condition, host: &Host<'_>) -> Result<bool, String> {
    let capabilities = condition.caps.iter().all(|name| holds_capability(name, host));
    let architecture =
        condition.arches.is_empty() || condition.arches.iter().any(|name| is_architecture(name, host));
    Ok(capabilities && architecture && kernel_at_least(condition, host)?.unwrap_or(true))
}

/// Any condition that is given holds.
fn excluded(condition: &Condition, host: &Host<'_>) -> Result<bool, String> {
    Ok(condition.caps.iter().any(|name| holds_capability(name, host))
        || condition.arches.iter().any(|name| is_architecture(name, host))
        || kernel_at_least(condition, host)?.unwrap_or(false))
}

fn holds_capability(name: &str, host: &Host<'_>) -> bool {
    host.capabilities
        .contains(name.strip_prefix("CAP_").unwrap_or(name))
}

/// Whether Docker's name of an architecture is this machine's.
fn is_architecture(name: &str, host: &Host<'_>) -> bool {
    let own = match host.architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    name == own
}

fn kernel_at_least(condition: &Condition, host: &Host<'_>) -> Result<Option<bool>, String> {
    let Some(text) = &condition.min_kernel else {
        return Ok(None);
    };
    let mut numbers = text.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok(Some(host.kernel >= (major, minor))),
        _ => Err(format!("minKernel {text:?} is no version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"name": "old", "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
             "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["amd"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}}
        ]}"#;

    fn names(
        text: &str,
        capabilities: &[&'static str],
        architecture: &str,
        kernel: (u32, u32),
    ) -> Vec<String> {
        let capabilities = capabilities.iter().copied().collect();
        let host = Host {
            architecture,
            capabilities: &capabilities,
            kernel,
        };
        let profile = parse_profile("test", text.as_bytes(), &host).unwrap();
        profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn conditions_are_decided() {
        assert_eq!(
            names(SAMPLE, &[], "x86_64", (6, 1)),
            ["read", "write", "old", "clone", "new", "amd"]
        );
        assert_eq!(
            names(SAMPLE, &["SYS_ADMIN"], "aarch64", (4, 7)),
            ["read", "write", "old", "mount"]
        );
    }

    #[test]
    fn broken_profiles_say_which_file_and_what() {
        let capabilities = CapabilitySet::new();
        let host = Host {
            architecture: "x86_64",
            capabilities: &capabilities,
            kernel: (6, 1),
        };
        let bad = [
            "",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "x"}}]}"#,
        ];
        for text in bad {
            let error = parse_profile("my.json", text.as_bytes(), &host)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("seccomp profile my.json: "), "{error}");
        }
    }

    #[test]
    fn the_machines_architectures_are_chosen() {
        let capabilities = CapabilitySet::new();
        let host = Host {
            architecture: "x86_64",
            capabilities: &capabilities,
            kernel: (6, 1),
        };
        let profile = parse_profile("test", SAMPLE.as_bytes(), &host).unwrap();
        assert_eq!(
            profile.architectures().as_deref(),
            Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
        );
    }
}
