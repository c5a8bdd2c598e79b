//! `shale stats`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use imagetool::container;
use imagetool::fs_stats::{FsStats, Requests, prometheus};
use imagetool::mounts::Records;
use imagetool::store::Store;
use serde_json::{Value, json};

use super::{format::Format, output};
use crate::cli::Context;

const EXAMPLES: &str =
    "What the file system servers were asked since they were started, and how long their answers took.

Examples:
  shale stats --fs                         of all that `shale mount` lists, and of running containers
  shale stats --fs /mnt web                of a mount point and of a container
  shale stats --fs --format json /mnt
  shale stats --fs --format prometheus     for a textfile collector";

const COLUMNS: [(&str, &str); 7] = [
    ("MOUNT", "Mount"),
    ("OPERATION", "Operation"),
    ("REQUESTS", "Count"),
    ("MEAN", "Mean"),
    ("P50 <", "P50"),
    ("P99 <", "P99"),
    ("TOTAL", "Total"),
];

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Show what the file system servers counted
    #[arg(long, required = true)]
    fs: bool,
    /// Output: table, json (one object per operation), prometheus, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Mount points, their ids, or containers
    #[arg(value_name = "MOUNTPOINT|CONTAINER")]
    targets: Vec<PathBuf>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let as_prometheus = self.format.as_deref() == Some("prometheus");
        let format = match as_prometheus {
            true => Format::Table,
            false => Format::parse(self.format.as_deref(), false)?,
        };
        let mut status = 0;
        let mut found = Vec::new();
        for (name, root) in roots(&store, &self.targets)? {
            match FsStats::of(&root) {
                Ok(stats) => found.push((name, stats)),
                Err(error) => {
                    eprintln!("Error: statistics of {name}: {error}");
                    status = 1;
                }
            }
        }
        if as_prometheus {
            output::print(&prometheus(&found))?;
        } else if !found.is_empty() || status == 0 {
            let rows = found.iter().flat_map(|(name, stats)| {
                let kinds = stats.requests.iter();
                kinds
                    .map(|(kind, requests)| row(name, kind, requests))
                    .collect::<Vec<_>>()
            });
            output::print(&format.render(&COLUMNS, &[], rows)?)?;
        }
        Ok(status)
    }
}

/// The root directories to ask at, by the names they are shown under.
fn roots(store: &Store, targets: &[PathBuf]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let records = Records::open(&container::run_dir(store))?.all()?;
    let shown = |path: &Path| path.display().to_string();
    if targets.is_empty() {
        let mut roots: Vec<_> = records
            .iter()
            .map(|record| (shown(&record.target), record.target.clone()))
            .collect();
        for record in store.containers().list()? {
            if let Some(pid) = record.pid {
                roots.push((record.name, root_of(pid)));
            }
        }
        return Ok(roots);
    }
    let mut roots = Vec::new();
    for target in targets {
        let record = records
            .iter()
            .find(|record| record.id == target.to_string_lossy());
        let path = record.map_or(target, |record| &record.target);
        if path.is_dir() {
            roots.push((shown(path), path.clone()));
            continue;
        }
        let name = target.to_str().context("the name of a container is text")?;
        let found = store
            .containers()
            .get(name)
            .with_context(|| format!("{name} is no directory"))?;
        let Some(pid) = found.pid else {
            bail!(
                "container {} does not run: it has no file system server",
                found.name
            );
        };
        roots.push((found.name, root_of(pid)));
    }
    Ok(roots)
}

/// A container's root directory, as its command sees it.
fn root_of(pid: i32) -> PathBuf {
    format!("/proc/{pid}/root/.").into()
}

fn row(name: &str, kind: &str, requests: &Requests) -> Value {
    let bound = |share| requests.quantile(share).map_or_else(|| "-".to_owned(), human);
    json!({
        "Mount": name,
        "Operation": kind,
        "Count": requests.count,
        "Mean": human(requests.mean()),
        "P50": bound(0.5),
        "P99": bound(0.99),
        "Total": human(Duration::from_nanos(requests.nanoseconds)),
        "Nanoseconds": requests.nanoseconds,
        "Buckets": requests.buckets,
    })
}

/// A duration with three digits and its unit.
fn human(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        _ if seconds < 1e-3 => (seconds * 1e6, "µs"),
        _ if seconds < 1.0 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let digits = match value {
        _ if value < 10.0 => 2,
        _ if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let shown = |nanoseconds| human(Duration::from_nanos(nanoseconds));
        assert_eq!(shown(0), "0.00 µs");
        assert_eq!(shown(1_024), "1.02 µs");
        assert_eq!(shown(262_144), "262 µs");
        assert_eq!(shown(12_345_678), "12.3 ms");
        assert_eq!(shown(2_000_000_000), "2.00 s");
    }
}
