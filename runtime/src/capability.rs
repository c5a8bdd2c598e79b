//! Capabilities of the command: names to bit masks (pure), and putting them in force.
//!
//! What the kernel does not know, or what the runtime itself does not have, is left out with a warning: a
//! container gets less than it asked for, never more. capabilities(7) gives the rules; the order is
//! bounding set (needs CAP_SETPCAP), change of user (with the permitted set kept), the three sets, ambient set.

use crate::error::{Context, Result};
use crate::spec::Capabilities;
use crate::sys::capability as sys;

/// All capabilities by number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The bit of `CAP_SYS_ADMIN`, which loading a filter takes.
pub const SYS_ADMIN: u64 = 1 << 21;

/// The five sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// The most that exec can give.
    pub bounding: u64,
    /// What counts.
    pub effective: u64,
    /// What files may pass on.
    pub inheritable: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What stays over exec without root.
    pub ambient: u64,
}

impl CapabilitySets {
    /// Reads the names; one that is unknown becomes a warning.
    pub fn parse(names: &Capabilities, warnings: &mut Vec<String>) -> Self {
        Self {
            bounding: mask(&names.bounding, warnings),
            effective: mask(&names.effective, warnings),
            inheritable: mask(&names.inheritable, warnings),
            permitted: mask(&names.permitted, warnings),
            ambient: mask(&names.ambient, warnings),
        }
    }

    /// All capabilities that this runtime knows.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }
}

fn mask(names: &[String], warnings: &mut Vec<String>) -> u64 {
    let mut mask = 0;
    for name in names {
        match NAMES.iter().position(|known| known.eq_ignore_ascii_case(name)) {
            Some(number) => mask |= 1 << number,
            None => {
                let warning = format!("the capability {name} is unknown and is left out");
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
    }
    mask
}

/// Names of the capabilities in `mask`.
pub fn list(mask: u64) -> String {
    let names: Vec<_> = NAMES
        .iter()
        .enumerate()
        .filter(|(n, _)| mask & (1 << n) != 0)
        .map(|(_, name)| *name)
        .collect();
    names.join(", ")
}

/// Takes everything out of the bounding set that is not in `keep`.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for number in 0..64_u32 {
        // The first error means: no more capabilities.
        let Ok(present) = sys::in_bounding(number) else {
            break;
        };
        if present && keep & (1 << number) == 0 {
            sys::drop_bounding(number)
                .context(|| format!("drop capability {number} from the bounding set"))?;
        }
    }
    Ok(())
}

/// Puts the permitted, effective, inheritable and ambient sets in force, keeping `extra` for the moment.
pub fn apply(sets: &CapabilitySets, extra: u64) -> Result<()> {
    let have = sys::get().context(|| "read the capabilities")?.permitted;
    let permitted = (sets.permitted | extra) & have;
    let wanted = sys::Sets {
        permitted,
        effective: (sets.effective | extra) & permitted,
        // Without CAP_SETPCAP, inheritable may grow by permitted ones only.
        inheritable: sets.inheritable & have,
    };
    let missing = (sets.permitted | sets.inheritable) & !have;
    if missing != 0 {
        tracing::warn!(
            "the runtime itself lacks these capabilities, they are left out: {}",
            list(missing)
        );
    }
    sys::set(wanted).context(|| "set the capabilities")?;
    if extra != 0 {
        return Ok(());
    }
    // Kernels before 4.3 have no ambient set, and then there is nothing to clear.
    let _ = sys::clear_ambient();
    for number in (0..64).filter(|number| sets.ambient & (1 << number) != 0) {
        if let Err(error) = sys::raise_ambient(number) {
            tracing::warn!(
                "the ambient capability {} is left out: {error}",
                list(1 << number)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits_and_unknown_ones_warnings() {
        let names = Capabilities {
            bounding: vec![
                "CAP_CHOWN".into(),
                "CAP_CHECKPOINT_RESTORE".into(),
                "CAP_TOMORROW".into(),
            ],
            effective: vec!["cap_sys_admin".into(), "CAP_TOMORROW".into()],
            ..Capabilities::default()
        };
        let mut warnings = Vec::new();
        let sets = CapabilitySets::parse(&names, &mut warnings);
        assert_eq!(sets.bounding, 1 | 1 << 40);
        assert_eq!(sets.effective, SYS_ADMIN);
        assert_eq!(warnings.len(), 1, "each unknown name once: {warnings:?}");
        assert_eq!(list(sets.bounding), "CAP_CHOWN, CAP_CHECKPOINT_RESTORE");
    }
}
