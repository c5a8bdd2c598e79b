//! Limits of the configuration to files of a cgroup, in both versions.

use std::path::Path;

use super::{Place, write};
use crate::error::Result;
use crate::spec::{BlockIo, Cpu, Memory, Pids, Resources};

/// What to write, to which file: in this order.
type Writes = Vec<(String, String)>;

/// Writes the limits of one hierarchy of version 1.
pub(super) fn write_version_1(place: &Place, resources: &Resources) -> Result<()> {
    let mut writes = Writes::new();
    if place.has("memory") {
        writes.extend(memory_version_1(&resources.memory, current_limit(&place.path)));
    }
    if place.has("cpu") {
        writes.extend(cpu_version_1(&resources.cpu));
    }
    if place.has("cpuset") {
        writes.extend(cpuset(&resources.cpu));
    }
    if place.has("pids") {
        writes.extend(pids(&resources.pids));
    }
    if place.has("blkio") {
        writes.extend(block_io_version_1(&resources.block_io));
    }
    if place.has("hugetlb") {
        let limit = |limit: &crate::spec::HugepageLimit| {
            (
                format!("hugetlb.{}.limit_in_bytes", limit.page_size),
                limit.limit.to_string(),
            )
        };
        writes.extend(resources.hugepage_limits.iter().map(limit));
    }
    if place.has("net_cls") {
        writes.extend(
            resources
                .network
                .class_id
                .map(|class| ("net_cls.classid".into(), class.to_string())),
        );
    }
    if place.has("net_prio") {
        let priority = |entry: &crate::spec::InterfacePriority| {
            (
                "net_prio.ifpriomap".into(),
                format!("{} {}", entry.name, entry.priority),
            )
        };
        writes.extend(resources.network.priorities.iter().map(priority));
    }
    if place.has("rdma") {
        writes.extend(rdma(resources));
    }
    write_all(&place.path, writes)
}

/// Writes the limits of version 2.
pub(super) fn write_unified(directory: &Path, resources: &Resources) -> Result<()> {
    let mut writes = memory_unified(&resources.memory);
    writes.extend(cpu_unified(&resources.cpu));
    writes.extend(cpuset(&resources.cpu));
    writes.extend(pids(&resources.pids));
    writes.extend(io_unified(&resources.block_io));
    let huge = |limit: &crate::spec::HugepageLimit| {
        (
            format!("hugetlb.{}.max", limit.page_size),
            limit.limit.to_string(),
        )
    };
    writes.extend(resources.hugepage_limits.iter().map(huge));
    writes.extend(rdma(resources));
    writes.extend(
        resources
            .unified
            .iter()
            .filter(|(file, _)| !file.contains('/'))
            .map(|(f, v)| (f.clone(), v.clone())),
    );
    write_all(directory, writes)
}

fn write_all(directory: &Path, writes: Writes) -> Result<()> {
    for (file, value) in writes {
        let path = directory.join(&file);
        // Swap may not be accounted for on this kernel: without it there is nothing to limit.
        let optional = matches!(
            file.as_str(),
            "memory.memsw.limit_in_bytes" | "memory.swap.max" | "memory.swappiness"
        );
        if optional && !path.exists() {
            tracing::warn!("{}: this kernel does not limit swap, left out", path.display());
            continue;
        }
        write(&path, &value)?;
    }
    Ok(())
}

fn current_limit(directory: &Path) -> Option<i64> {
    std::fs::read_to_string(directory.join("memory.limit_in_bytes"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The kernel wants memory never to exceed memory and swap: when growing, swap comes first.
fn memory_version_1(memory: &Memory, current: Option<i64>) -> Writes {
    let file = |name: &str, value: i64| (format!("memory.{name}"), value.to_string());
    let limit = memory.limit.map(|limit| file("limit_in_bytes", limit));
    // An unlimited memory with a limited swap makes no sense, and engines say -1 for both.
    let swap = memory
        .swap
        .or(memory.limit.filter(|limit| *limit == -1))
        .map(|swap| file("memsw.limit_in_bytes", swap));
    let grows = memory
        .limit
        .is_some_and(|limit| limit == -1 || current.is_some_and(|current| limit > current));
    let mut writes: Writes = if grows {
        swap.into_iter().chain(limit).collect()
    } else {
        limit.into_iter().chain(swap).collect()
    };
    writes.extend(memory.reservation.map(|value| file("soft_limit_in_bytes", value)));
    writes.extend(memory.swappiness.map(|value| file("swappiness", value as i64)));
    writes.extend(
        memory
            .disable_oom_killer
            .filter(|disable| *disable)
            .map(|_| file("oom_control", 1)),
    );
    writes
}

fn memory_unified(memory: &Memory) -> Writes {
    let amount = |bytes: i64| {
        if bytes < 0 {
            "max".to_owned()
        } else {
            bytes.to_string()
        }
    };
    let mut writes = Writes::new();
    // Version 2 counts swap alone, the configuration memory and swap together.
    let swap = match (memory.swap, memory.limit) {
        (Some(swap), Some(limit)) if swap >= 0 && limit >= 0 => Some(amount((swap - limit).max(0))),
        (Some(swap), _) if swap < 0 => Some("max".to_owned()),
        (None, Some(limit)) if limit < 0 => Some("max".to_owned()),
        _ => None,
    };
    writes.extend(swap.map(|swap| ("memory.swap.max".to_owned(), swap)));
    writes.extend(memory.limit.map(|limit| ("memory.max".to_owned(), amount(limit))));
    writes.extend(
        memory
            .reservation
            .map(|low| ("memory.low".to_owned(), amount(low))),
    );
    writes
}

fn cpu_version_1(cpu: &Cpu) -> Writes {
    let mut writes = Writes::new();
    let mut push =
        |name: &str, value: Option<String>| writes.extend(value.map(|value| (format!("cpu.{name}"), value)));
    push(
        "shares",
        cpu.shares
            .filter(|shares| *shares != 0)
            .map(|value| value.to_string()),
    );
    push(
        "cfs_period_us",
        cpu.period
            .filter(|period| *period != 0)
            .map(|value| value.to_string()),
    );
    push(
        "cfs_quota_us",
        cpu.quota
            .filter(|quota| *quota != 0)
            .map(|value| value.to_string()),
    );
    push("cfs_burst_us", cpu.burst.map(|value| value.to_string()));
    push(
        "rt_period_us",
        cpu.realtime_period
            .filter(|period| *period != 0)
            .map(|value| value.to_string()),
    );
    push(
        "rt_runtime_us",
        cpu.realtime_runtime
            .filter(|runtime| *runtime != 0)
            .map(|value| value.to_string()),
    );
    push("idle", cpu.idle.map(|value| value.to_string()));
    writes
}

fn cpu_unified(cpu: &Cpu) -> Writes {
    let mut writes = Writes::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        writes.push(("cpu.weight".into(), weight_of_shares(shares).to_string()));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota
            .filter(|quota| *quota > 0)
            .map_or("max".to_owned(), |quota| quota.to_string());
        writes.push(("cpu.max".into(), format!("{quota} {}", period.unwrap_or(100_000))));
    }
    writes.extend(cpu.burst.map(|burst| ("cpu.max.burst".into(), burst.to_string())));
    writes.extend(cpu.idle.map(|idle| ("cpu.idle".into(), idle.to_string())));
    writes
}

/// Shares of 2 to 262144 to a weight of 1 to 10000, as the specification maps them.
fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

fn cpuset(cpu: &Cpu) -> Writes {
    let set = |name: &str, list: &Option<String>| {
        list.clone()
            .filter(|list| !list.is_empty())
            .map(|list| (format!("cpuset.{name}"), list))
    };
    set("cpus", &cpu.cpus)
        .into_iter()
        .chain(set("mems", &cpu.mems))
        .collect()
}

fn pids(pids: &Pids) -> Writes {
    let text = |limit: i64| {
        if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        }
    };
    pids.limit
        .filter(|limit| *limit != 0)
        .map(|limit| ("pids.max".to_owned(), text(limit)))
        .into_iter()
        .collect()
}

fn block_io_version_1(io: &BlockIo) -> Writes {
    let mut writes = Writes::new();
    writes.extend(
        io.weight
            .filter(|weight| *weight != 0)
            .map(|weight| ("blkio.weight".into(), weight.to_string())),
    );
    writes.extend(
        io.leaf_weight
            .map(|weight| ("blkio.leaf_weight".into(), weight.to_string())),
    );
    for device in &io.weight_device {
        let text = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
        writes.extend(
            device
                .weight
                .map(|weight| ("blkio.weight_device".into(), text(weight))),
        );
        writes.extend(
            device
                .leaf_weight
                .map(|weight| ("blkio.leaf_weight_device".into(), text(weight))),
        );
    }
    let throttles = [
        ("read_bps", &io.throttle_read_bps_device),
        ("write_bps", &io.throttle_write_bps_device),
        ("read_iops", &io.throttle_read_iops_device),
        ("write_iops", &io.throttle_write_iops_device),
    ];
    for (name, devices) in throttles {
        let text = |d: &crate::spec::ThrottleDevice| format!("{}:{} {}", d.major, d.minor, d.rate);
        writes.extend(
            devices
                .iter()
                .map(|device| (format!("blkio.throttle.{name}_device"), text(device))),
        );
    }
    writes
}

fn io_unified(io: &BlockIo) -> Writes {
    let mut writes = Writes::new();
    // 10 to 1000 becomes 1 to 10000.
    let weight = |weight: u16| 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
    writes.extend(
        io.weight
            .filter(|given| *given != 0)
            .map(|given| ("io.weight".into(), weight(given).to_string())),
    );
    for device in &io.weight_device {
        let text = |given: u16| format!("{}:{} {}", device.major, device.minor, weight(given));
        writes.extend(device.weight.map(|given| ("io.weight".into(), text(given))));
    }
    let throttles = [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ];
    for (name, devices) in throttles {
        let text = |d: &crate::spec::ThrottleDevice| format!("{}:{} {name}={}", d.major, d.minor, d.rate);
        writes.extend(devices.iter().map(|device| ("io.max".into(), text(device))));
    }
    writes
}

fn rdma(resources: &Resources) -> Writes {
    let text = |(device, limit): (&String, &crate::spec::Rdma)| {
        let amount = |value: Option<u32>| value.map_or("max".to_owned(), |value| value.to_string());
        let (handles, objects) = (amount(limit.hca_handles), amount(limit.hca_objects));
        (
            "rdma.max".to_owned(),
            format!("{device} hca_handle={handles} hca_object={objects}"),
        )
    };
    resources.rdma.iter().map(text).collect()
}

/// What `events --stats` shows, in the shape of runc.
pub(super) fn statistics(places: &[Place]) -> serde_json::Value {
    let number = |files: &[&str]| {
        let read = |file: &&str| {
            let texts = places
                .iter()
                .filter_map(|place| std::fs::read_to_string(place.path.join(file)).ok());
            texts.filter_map(|text| text.trim().parse::<u64>().ok()).next()
        };
        files.iter().find_map(read)
    };
    let table = |file: &str| {
        let text = places
            .iter()
            .find_map(|place| std::fs::read_to_string(place.path.join(file)).ok());
        let text = text.unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let pairs =
            pairs.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse::<u64>().ok()?)));
        pairs.collect::<std::collections::BTreeMap<_, _>>()
    };
    let cpu = table("cpu.stat");
    let total = number(&["cpuacct.usage"]).or_else(|| cpu.get("usage_usec").map(|usec| usec * 1000));
    serde_json::json!({
        "cpu": { "usage": { "total": total, "kernel": 0, "user": 0 }, "throttling": {
            "periods": cpu.get("nr_periods"), "throttledPeriods": cpu.get("nr_throttled") } },
        "memory": { "usage": {
            "usage": number(&["memory.usage_in_bytes", "memory.current"]),
            "limit": number(&["memory.limit_in_bytes", "memory.max"]),
            "max": number(&["memory.max_usage_in_bytes", "memory.peak"]) },
            "raw": table("memory.stat") },
        "pids": { "current": number(&["pids.current"]), "limit": number(&["pids.max"]) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_comes_first_when_memory_grows() {
        let memory = Memory {
            limit: Some(200),
            swap: Some(300),
            ..Memory::default()
        };
        let files = |writes: Writes| writes.into_iter().map(|(file, _)| file).collect::<Vec<_>>();
        assert_eq!(
            files(memory_version_1(&memory, Some(100)))[0],
            "memory.memsw.limit_in_bytes"
        );
        assert_eq!(
            files(memory_version_1(&memory, Some(500)))[0],
            "memory.limit_in_bytes"
        );
    }

    #[test]
    fn version_2_counts_swap_alone() {
        let memory = Memory {
            limit: Some(100),
            swap: Some(150),
            ..Memory::default()
        };
        let writes = memory_unified(&memory);
        assert!(
            writes.contains(&("memory.swap.max".into(), "50".into())),
            "{writes:?}"
        );
        assert!(
            writes.contains(&("memory.max".into(), "100".into())),
            "{writes:?}"
        );
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(0), 1);
        assert_eq!(weight_of_shares(1 << 40), 10_000);
        let cpu = Cpu {
            quota: Some(-1),
            period: Some(50_000),
            ..Cpu::default()
        };
        assert_eq!(
            cpu_unified(&cpu),
            [("cpu.max".to_owned(), "max 50000".to_owned())]
        );
    }
}
