//! How often the kernel asked, what for, and how long the answers took.
//!
//! Counting costs two readings of the clock and three additions a request, some 60 ns of the 10,000 and more that a
//! round trip takes, so it is always on.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Buckets of a histogram. Bucket `n` counts what took less than [`bucket_limit`]`(n)`; the last one all the rest.
pub const BUCKETS: usize = 24;

/// The limit of the first bucket: 2^10 ns.
const FIRST_LIMIT_LOG2: u32 = 10;

/// The time below which an answer falls into a bucket; `None` for the last bucket, which has no limit.
#[must_use]
pub fn bucket_limit(bucket: usize) -> Option<Duration> {
    let log2 = FIRST_LIMIT_LOG2 + u32::try_from(bucket).ok()?;
    (bucket + 1 < BUCKETS).then(|| Duration::from_nanos(1 << log2))
}

fn bucket_of(took: Duration) -> usize {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let log2 = u64::BITS - nanoseconds.leading_zeros();
    (log2.saturating_sub(FIRST_LIMIT_LOG2) as usize).min(BUCKETS - 1)
}

macro_rules! operations {
    ($($name:ident $text:literal,)*) => {
        /// A kind of request, by its name in fuse.h.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are those of the system calls behind them")]
        pub enum Operation { $($name,)* }

        impl Operation {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kind's name in lower case.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

operations! {
    Lookup "lookup",
    Forget "forget",
    GetAttr "getattr",
    SetAttr "setattr",
    ReadLink "readlink",
    MkNod "mknod",
    MkDir "mkdir",
    Unlink "unlink",
    RmDir "rmdir",
    Symlink "symlink",
    Rename "rename",
    Link "link",
    Open "open",
    Create "create",
    Read "read",
    Write "write",
    Flush "flush",
    Release "release",
    Fsync "fsync",
    OpenDir "opendir",
    ReleaseDir "releasedir",
    ReadDir "readdir",
    ReadDirPlus "readdirplus",
    FsyncDir "fsyncdir",
    StatFs "statfs",
    SetXattr "setxattr",
    GetXattr "getxattr",
    ListXattr "listxattr",
    RemoveXattr "removexattr",
    Poll "poll",
    Ioctl "ioctl",
    Fallocate "fallocate",
    Lseek "lseek",
    CopyFileRange "copy_file_range",
}

/// The counts of all kinds of requests.
#[derive(Debug)]
pub struct Requests([Histogram; Operation::ALL.len()]);

#[derive(Debug, Default)]
struct Histogram {
    /// Those under way included: whoever has an answer finds it counted.
    begun: AtomicU64,
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Histogram::default()))
    }
}

impl Requests {
    /// Counts a request. It is answered when what is returned is dropped.
    #[must_use]
    pub fn begin(&self, operation: Operation) -> Timed<'_> {
        let histogram = &self.0[operation as usize];
        histogram.begun.fetch_add(1, Ordering::Relaxed);
        Timed {
            histogram,
            since: Instant::now(),
        }
    }

    /// How many requests of a kind came.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        load(&self.0[operation as usize].begun)
    }

    /// What was counted, as one JSON object: for each kind that occurred `count`, `nanoseconds` (of all together) and
    /// `buckets` (see [`bucket_limit`]; zeros at the end are left out).
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::from("{");
        for (operation, histogram) in Operation::ALL.iter().zip(&self.0) {
            let count = load(&histogram.begun);
            if count == 0 {
                continue;
            }
            let comma = if json.len() > 1 { "," } else { "" };
            let buckets: Vec<u64> = histogram.buckets.iter().map(load).collect();
            let used = buckets
                .iter()
                .rposition(|count| *count > 0)
                .map_or(0, |last| last + 1);
            let _ = write!(
                json,
                "{comma}\"{}\":{{\"count\":{count},\"nanoseconds\":{},\"buckets\":{:?}}}",
                operation.name(),
                load(&histogram.nanoseconds),
                &buckets[..used],
            );
        }
        json.push('}');
        json
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Timed<'a> {
    histogram: &'a Histogram,
    since: Instant,
}

impl Timed<'_> {
    /// It was answered, and that took so long.
    pub(crate) fn end(self, took: Duration) {
        self.count(took);
        std::mem::forget(self);
    }

    fn count(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.histogram
            .nanoseconds
            .fetch_add(nanoseconds, Ordering::Relaxed);
        self.histogram.buckets[bucket_of(took)].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.count(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_below_the_limit_of_its_bucket_and_not_below_the_one_before() {
        for nanoseconds in [
            0,
            1,
            1023,
            1024,
            1025,
            2047,
            2048,
            1 << 20,
            (1 << 32) - 1,
            1 << 32,
            1 << 40,
        ] {
            let took = Duration::from_nanos(nanoseconds);
            let bucket = bucket_of(took);
            assert!(
                bucket_limit(bucket).is_none_or(|limit| took < limit),
                "{nanoseconds}"
            );
            if bucket > 0 {
                assert!(took >= bucket_limit(bucket - 1).unwrap(), "{nanoseconds}");
            }
        }
    }

    #[test]
    fn only_what_occurred_is_told() {
        let requests = Requests::default();
        assert_eq!(requests.to_json(), "{}");
        drop(requests.begin(Operation::Lookup));
        drop(requests.begin(Operation::Lookup));
        drop(requests.begin(Operation::Read));
        assert_eq!(requests.count(Operation::Lookup), 2);
        let json = requests.to_json();
        assert!(
            json.starts_with("{\"lookup\":{\"count\":2,\"nanoseconds\":"),
            "{json}"
        );
        assert!(json.contains("},\"read\":{\"count\":1,"), "{json}");
        assert!(!json.contains("write"), "{json}");
    }
}
