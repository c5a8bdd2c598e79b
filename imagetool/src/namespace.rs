//! Questions about the user namespace the process is in.

/// Whether the process is in the machine's first user namespace, where root is the real root.
pub fn is_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        map.split_whitespace()
            .map(str::parse::<u64>)
            .collect::<Result<Vec<_>, _>>()
            == Ok(vec![0, 0, 4_294_967_295])
    })
}
