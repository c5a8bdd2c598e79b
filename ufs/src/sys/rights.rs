//! What this process may do, as far as that is known before it is tried.

/// CAP_SYS_ADMIN of capabilities(7).
const SYS_ADMIN: u32 = 21;

/// Whether this process has CAP_SYS_ADMIN in its own user namespace.
pub(crate) fn is_admin() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set >> SYS_ADMIN & 1 == 1)
}

/// Whether the user namespace is the first one: every number stands for itself (user_namespaces(7)).
pub(crate) fn in_first_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}
