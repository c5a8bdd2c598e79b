//! `update`.

use std::io::Read;
use std::path::PathBuf;

use super::Global;
use crate::error::{Context, Error, Result};
use crate::spec::Resources;
use crate::state::{ContainerId, Status};

/// `update`.
#[derive(Debug, clap::Args)]
pub struct Update {
    /// file with the new limits, or - for standard input; other options are then ignored
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// relative weight of disk access, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// period of the processor limit, in microseconds
    #[arg(long, value_name = "N")]
    cpu_period: Option<u64>,
    /// processor time in a period, in microseconds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// relative weight of the processor
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// real-time period, in microseconds
    #[arg(long, value_name = "N")]
    cpu_rt_period: Option<u64>,
    /// real-time processor time in a period, in microseconds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// processors
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// memory, in bytes
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    memory: Option<i64>,
    /// soft limit of memory, in bytes
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// memory and swap, in bytes; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// number of processes
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// name of the container
    id: ContainerId,
}

impl Update {
    /// Applies the limits, and remembers them.
    pub fn run(self, global: &Global) -> Result<i32> {
        let mut container = global.store().load(&self.id)?;
        if container.status() == Status::Stopped {
            return Err(Error::invalid("cannot update a container that is not running"));
        }
        let given = self.given()?;
        if !container.state.cgroup.exists() {
            return Err(Error::invalid(
                "the container has no cgroup, and so no limits to change",
            ));
        }
        container.state.cgroup.limit(&given)?;
        let known = container.state.spec.linux.resources.get_or_insert_default();
        let merged = merge(serde_json::to_value(&*known)?, serde_json::to_value(given)?);
        *known = serde_json::from_value(merged)?;
        container.save()?;
        Ok(0)
    }

    fn given(&self) -> Result<Resources> {
        if let Some(path) = &self.resources {
            let mut text = Vec::new();
            let read = if path.as_os_str() == "-" {
                std::io::stdin().read_to_end(&mut text).map(drop)
            } else {
                std::fs::read(path).map(|content| text = content)
            };
            read.context(|| format!("read {}", path.display()))?;
            return serde_json::from_slice(&text).context(|| format!("read the limits {}", path.display()));
        }
        let mut given = Resources::default();
        given.block_io.weight = self.blkio_weight;
        given.cpu.period = self.cpu_period;
        given.cpu.quota = self.cpu_quota;
        given.cpu.shares = self.cpu_share;
        given.cpu.realtime_period = self.cpu_rt_period;
        given.cpu.realtime_runtime = self.cpu_rt_runtime;
        given.cpu.cpus.clone_from(&self.cpuset_cpus);
        given.cpu.mems.clone_from(&self.cpuset_mems);
        given.memory.limit = self.memory;
        given.memory.reservation = self.memory_reservation;
        given.memory.swap = self.memory_swap;
        given.pids.limit = self.pids_limit;
        Ok(given)
    }
}

/// What is given takes the place of what was there, field by field.
fn merge(mut known: serde_json::Value, given: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    let (Value::Object(fields), Value::Object(new)) = (&mut known, given) else {
        return known;
    };
    for (key, value) in new {
        let merged = match (fields.remove(&key), value) {
            (Some(old @ Value::Object(_)), value @ Value::Object(_)) => merge(old, value),
            (_, value) => value,
        };
        fields.insert(key, merged);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let known = serde_json::json!({"memory": {"limit": 1, "swap": 2}, "pids": {"limit": 3}});
        let given = serde_json::json!({"memory": {"limit": 9}});
        assert_eq!(
            merge(known, given),
            serde_json::json!({"memory": {"limit": 9, "swap": 2}, "pids": {"limit": 3}})
        );
    }
}
