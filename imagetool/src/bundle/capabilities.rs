//! Which capabilities a container keeps: Docker's default set, `--cap-add`, `--cap-drop`, `--privileged` (pure).

use std::collections::BTreeSet;

use super::error::BundleError;

/// Every capability, at the place of its number in the kernel.
const ALL: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker leaves a container.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Names without the `CAP_` prefix.
pub type CapabilitySet = BTreeSet<&'static str>;

/// The capabilities of a container. `last` is the number of the last capability that the running kernel knows.
pub fn effective(
    add: &[String],
    drop: &[String],
    privileged: bool,
    last: usize,
) -> Result<CapabilitySet, BundleError> {
    let known: CapabilitySet = ALL.iter().take(last.saturating_add(1)).copied().collect();
    let (add, add_all) = parse(add, "CapAdd")?;
    let (drop, drop_all) = parse(drop, "CapDrop")?;
    if privileged {
        return Ok(known);
    }
    let mut set: CapabilitySet = match (add_all, drop_all) {
        (true, _) => known.clone(),
        (false, true) => CapabilitySet::new(),
        (false, false) => DEFAULT.iter().copied().collect(),
    };
    set.retain(|name| !drop.contains(name));
    // A capability that is dropped and added by name is there: as in Docker, additions come last.
    set.extend(add);
    set.retain(|name| known.contains(name));
    Ok(set)
}

/// Names and whether `ALL` was among them.
fn parse(given: &[String], option: &'static str) -> Result<(CapabilitySet, bool), BundleError> {
    let mut set = CapabilitySet::new();
    let mut all = false;
    for text in given {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if upper == "ALL" {
            all = true;
            continue;
        }
        let Some(known) = ALL.iter().find(|known| **known == name) else {
            return Err(BundleError::Capability {
                option,
                name: text.clone(),
            });
        };
        set.insert(known);
    }
    Ok((set, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_default_is_dockers() {
        let set = effective(&[], &[], false, 40).unwrap();
        assert_eq!(set.len(), 14);
        assert!(set.contains("AUDIT_WRITE") && !set.contains("SYS_ADMIN"));
    }

    #[test]
    fn additions_and_drops_combine() {
        // add, drop, size, one that is in, one that is not
        let table = [
            ("net_admin", "", 15, "NET_ADMIN", "SYS_ADMIN"),
            ("CAP_SYS_ADMIN", "cap_chown", 14, "SYS_ADMIN", "CHOWN"),
            ("", "mknod", 13, "CHOWN", "MKNOD"),
            ("KILL", "ALL", 1, "KILL", "CHOWN"),
            ("all", "SYS_ADMIN", 40, "BPF", "SYS_ADMIN"),
            ("ALL", "ALL", 41, "SYS_ADMIN", "NONE"),
        ];
        for (add, drop, size, held, missing) in table {
            let set = effective(&words(add), &words(drop), false, 40).unwrap();
            assert_eq!(set.len(), size, "{add} {drop}");
            assert!(
                set.contains(held) && !set.contains(missing),
                "{add} {drop}: {set:?}"
            );
        }
    }

    #[test]
    fn an_older_kernel_is_not_asked_for_what_it_does_not_know() {
        assert!(!effective(&words("ALL"), &[], false, 37).unwrap().contains("BPF"));
        assert_eq!(effective(&[], &[], true, 37).unwrap().len(), 38);
    }

    #[test]
    fn unknown_names_are_refused() {
        for (add, drop, option) in [
            ("NOPE", "", "CapAdd"),
            ("", "CAP_", "CapDrop"),
            ("", "CAP_ALL", "CapDrop"),
        ] {
            let error = effective(&words(add), &words(drop), false, 40)
                .unwrap_err()
                .to_string();
            assert!(error.contains(option), "{error}");
        }
    }

    #[test]
    fn every_name_is_one_of_the_specification() {
        for name in ALL {
            assert!(name.parse::<oci_spec::runtime::Capability>().is_ok(), "{name}");
        }
    }
}
