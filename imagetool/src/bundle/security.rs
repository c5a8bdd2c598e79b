//! `--security-opt`, and the paths of /proc and /sys that a container may not read or write (pure).

use super::error::BundleError;

/// Hidden from a container.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable, not writable.
pub const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where the seccomp filter comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SeccompChoice {
    /// Docker's default.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON form.
    File(String),
}

/// All `--security-opt` together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityOptions {
    /// `seccomp=…`
    pub seccomp: SeccompChoice,
    /// `no-new-privileges`
    pub no_new_privileges: bool,
    /// `systempaths=unconfined`: nothing masked or read-only.
    pub open_system_paths: bool,
}

/// Parses the options, `NAME=VALUE` or, as Docker once wrote them, `NAME:VALUE`.
pub fn parse(given: &[String]) -> Result<SecurityOptions, BundleError> {
    let mut options = SecurityOptions::default();
    for text in given {
        let wrong = || BundleError::SecurityOption(text.clone());
        let (name, value) = match text.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        match (name, value) {
            ("no-new-privileges", None | Some("true")) => options.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => options.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => options.seccomp = SeccompChoice::Unconfined,
            ("seccomp", Some("builtin")) => options.seccomp = SeccompChoice::Builtin,
            ("seccomp", Some(file)) if !file.is_empty() => {
                options.seccomp = SeccompChoice::File(file.to_owned());
            }
            ("systempaths", Some("unconfined")) => options.open_system_paths = true,
            // No profile of these modules is applied, so that turning them off changes nothing.
            ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed() {
        let parse_one = |text: &str| parse(&[text.to_owned()]);
        assert_eq!(parse(&[]).unwrap(), SecurityOptions::default());
        for text in [
            "no-new-privileges",
            "no-new-privileges=true",
            "no-new-privileges:true",
        ] {
            assert!(parse_one(text).unwrap().no_new_privileges, "{text}");
        }
        assert!(!parse_one("no-new-privileges=false").unwrap().no_new_privileges);
        assert_eq!(
            parse_one("seccomp=unconfined").unwrap().seccomp,
            SeccompChoice::Unconfined
        );
        assert_eq!(
            parse_one("seccomp=/a=b.json").unwrap().seccomp,
            SeccompChoice::File("/a=b.json".to_owned())
        );
        assert!(parse_one("systempaths=unconfined").unwrap().open_system_paths);
        assert!(parse_one("label=disable").is_ok());
        for text in [
            "",
            "seccomp",
            "seccomp=",
            "no-new-privileges=maybe",
            "apparmor=strict",
            "magic=1",
        ] {
            assert!(parse_one(text).is_err(), "{text}");
        }
    }
}
