//! What the server of a mount has counted (see [`ufs::counters`]), read through the mount itself.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use serde::Deserialize;
use ufs::counters::bucket_limit;

/// The counters of one server since it was started.
#[derive(Debug, Clone, Deserialize)]
pub struct FsStats {
    /// Files that the kernel holds or that are in use.
    pub nodes: u64,
    /// Requests by kind.
    pub requests: BTreeMap<String, Requests>,
    /// Of contents that must be decompressed.
    pub page_cache: PageCache,
}

/// Requests of one kind.
#[derive(Debug, Clone, Deserialize)]
pub struct Requests {
    /// How many came.
    pub count: u64,
    /// How long those answered took together, in nanoseconds.
    pub nanoseconds: u64,
    /// How many took less than the limit of each bucket, and not less than that of the one before.
    pub buckets: Vec<u64>,
}

/// Use of the page cache.
#[derive(Debug, Clone, Deserialize)]
pub struct PageCache {
    /// Found.
    pub hits: u64,
    /// Not found, and read.
    pub misses: u64,
    /// Taken out to make room.
    pub evictions: u64,
    /// Held now.
    pub bytes: u64,
    /// Held at most.
    pub limit_bytes: u64,
}

impl FsStats {
    /// Asks the server of the mount whose root directory is `root`.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] when no server of Shale answers there.
    pub fn of(root: &Path) -> io::Result<Self> {
        let unsupported = |text: &str| io::Error::new(io::ErrorKind::Unsupported, text.to_owned());
        let text = match xattr::get(root, ufs::fs::COUNTERS) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(unsupported("not the root directory of a mount of shale")),
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                return Err(unsupported("not the root directory of a mount of shale"));
            }
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text)
            .map_err(|_| unsupported("its server is of another version of shale; mount it again"))
    }
}

impl Requests {
    /// How many were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean time to an answer.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.checked_div(self.answered()).unwrap_or(0))
    }

    /// A time that at least this share of the answers (0 to 1) did not take; `None` when some took longer than is
    /// told apart.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let wanted = (self.answered() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return bucket_limit(bucket);
            }
        }
        None
    }
}

/// All counters in the text format of Prometheus, one family after another. `stats` are the mounts by name.
#[must_use]
pub fn prometheus(stats: &[(String, FsStats)]) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, lines: &mut dyn Iterator<Item = String>| {
        out += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        lines.for_each(|line| out += &format!("{name}{line}\n"));
    };
    let mounts = || stats.iter().map(|(name, stats)| (label(name), stats));
    family(
        "shale_fs_request_duration_seconds",
        "histogram",
        "Time to answer a request of the kernel.",
        &mut mounts().flat_map(|(mount, stats)| {
            let kinds = stats.requests.iter();
            kinds
                .flat_map(move |(kind, requests)| histogram(&mount, kind, requests))
                .collect::<Vec<_>>()
        }),
    );
    type Read = fn(&FsStats) -> u64;
    let singles: [(&str, &str, &str, Read); 6] = [
        (
            "shale_fs_nodes",
            "gauge",
            "Files held by the kernel or in use.",
            |s| s.nodes,
        ),
        (
            "shale_fs_page_cache_hits_total",
            "counter",
            "Chunks found.",
            |s| s.page_cache.hits,
        ),
        (
            "shale_fs_page_cache_misses_total",
            "counter",
            "Chunks not found.",
            |s| s.page_cache.misses,
        ),
        (
            "shale_fs_page_cache_evictions_total",
            "counter",
            "Chunks taken out.",
            |s| s.page_cache.evictions,
        ),
        ("shale_fs_page_cache_bytes", "gauge", "Bytes held.", |s| {
            s.page_cache.bytes
        }),
        (
            "shale_fs_page_cache_limit_bytes",
            "gauge",
            "Bytes held at most.",
            |s| s.page_cache.limit_bytes,
        ),
    ];
    for (name, kind, help, read) in singles {
        let mut lines = mounts().map(|(mount, stats)| format!("{{mount=\"{mount}\"}} {}", read(stats)));
        family(name, kind, help, &mut lines);
    }
    out
}

fn histogram(mount: &str, kind: &str, requests: &Requests) -> Vec<String> {
    let labels = format!("mount=\"{mount}\",operation=\"{kind}\"");
    let mut lines = Vec::new();
    let mut below = 0;
    for (bucket, count) in requests.buckets.iter().enumerate() {
        below += count;
        if let Some(limit) = bucket_limit(bucket) {
            lines.push(format!(
                "_bucket{{{labels},le=\"{}\"}} {below}",
                limit.as_secs_f64()
            ));
        }
    }
    lines.push(format!("_bucket{{{labels},le=\"+Inf\"}} {}", requests.answered()));
    lines.push(format!(
        "_sum{{{labels}}} {}",
        Duration::from_nanos(requests.nanoseconds).as_secs_f64()
    ));
    lines.push(format!("_count{{{labels}}} {}", requests.answered()));
    lines
}

/// A label's value: backslashes, quotes and line ends are escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> FsStats {
        let text = r#"{"nodes":3,"requests":{"lookup":{"count":11,"nanoseconds":20480,"buckets":[5,4,0,1]}},
            "page_cache":{"hits":1,"misses":2,"waits":0,"failures":0,"evictions":0,"bytes":4096,"limit_bytes":8192}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let requests = &stats().requests["lookup"];
        assert_eq!(requests.answered(), 10);
        assert_eq!(requests.mean(), Duration::from_nanos(2048));
        assert_eq!(requests.quantile(0.5), bucket_limit(0));
        assert_eq!(requests.quantile(0.51), bucket_limit(1));
        assert_eq!(requests.quantile(0.99), bucket_limit(3));
        let none = Requests {
            count: 0,
            nanoseconds: 0,
            buckets: vec![],
        };
        assert_eq!((none.mean(), none.quantile(0.5)), (Duration::ZERO, None));
    }

    #[test]
    fn prometheus_gets_cumulative_buckets_and_escaped_names() {
        let text = prometheus(&[("/a \"b\"\\".to_owned(), stats())]);
        let labels = r#"mount="/a \"b\"\\",operation="lookup""#;
        for line in [
            format!("shale_fs_request_duration_seconds_bucket{{{labels},le=\"0.000001024\"}} 5"),
            format!("shale_fs_request_duration_seconds_bucket{{{labels},le=\"0.000002048\"}} 9"),
            format!("shale_fs_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 10"),
            format!("shale_fs_request_duration_seconds_sum{{{labels}}} 0.00002048"),
            "shale_fs_nodes{mount=\"/a \\\"b\\\"\\\\\"} 3".to_owned(),
            "# TYPE shale_fs_page_cache_hits_total counter".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n\n{text}");
        }
    }
}
