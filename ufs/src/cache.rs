//! Page cache for what had to be decompressed (or, one day, fetched from afar).
//!
//! ```text
//! (stream, chunk) ──hash──► one of up to 16 shards ──► here │ in flight │ absent: fetch
//! ```
//!
//! - Bounded in bytes; every shard has an equal part of the limit. What is in use by a reader after it was put out
//!   counts no more: it is one chunk per reader at most.
//! - One fetch for all who want the same chunk at the same time (`cache/pages.rs`).
//! - A long read does not put out what is used again and again (`cache/eviction.rs`).
//! - No lock is held while a chunk is fetched. A fetch may itself ask the cache (a stream inside of a stream), for
//!   chunks of *another* stream only: asking for its own would wait for itself.
//!
//! Uncompressed data needs none of this: the kernel's own page cache serves it.

mod eviction;
mod pages;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pages::{Answer, Shard};

use crate::stream::Opened;

/// Bytes that a cache holds when nothing else is asked for.
pub const DEFAULT_LIMIT_BYTES: u64 = 128 << 20;

/// Bytes for which another shard is worth its while: a hundred chunks, so that the queues in it mean something.
const SHARD_BYTES: u64 = 16 << 20;
/// More threads than this do not read at once.
const SHARDS_MAX: u64 = 16;

/// Whose chunk it is: given out by [`PageCache::stream_id`], one per open stream. A number and not the stream's key,
/// so that what was read through one opening is never taken for the bytes of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// What a cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests for a chunk that was here.
    pub hits: u64,
    /// Requests that fetched it.
    pub misses: u64,
    /// Requests that waited for the fetch of another.
    pub waits: u64,
    /// Fetches that failed.
    pub failures: u64,
    /// Chunks taken in although nobody had asked for them: they lay on the way to another.
    pub offered: u64,
    /// Chunks put out.
    pub evictions: u64,
    /// Bytes held now.
    pub bytes: u64,
    /// Bytes that may be held.
    pub limit_bytes: u64,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    waits: AtomicU64,
    failures: AtomicU64,
    offered: AtomicU64,
    evictions: AtomicU64,
}

/// Chunks of streams, as many as fit into a number of bytes.
pub struct PageCache {
    limit_bytes: u64,
    shards: Vec<Shard>,
    counts: Counts,
    next_stream: AtomicU64,
    /// Streams that are open through this cache, so that many who use one share it.
    pub(crate) opened: Opened,
}

impl PageCache {
    /// A cache that holds at most `limit_bytes` bytes of chunks.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        let shards = (limit_bytes / SHARD_BYTES).clamp(1, SHARDS_MAX);
        Self {
            limit_bytes,
            shards: (0..shards).map(|_| Shard::new(limit_bytes / shards)).collect(),
            counts: Counts::default(),
            next_stream: AtomicU64::new(0),
            opened: Opened::default(),
        }
    }

    /// A number that no other stream of this cache has.
    pub fn stream_id(&self) -> StreamId {
        StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// The chunk number `chunk` of a stream; `fetch` is called when it is not here, once for all who ask meanwhile.
    /// They all get its error when it fails; the next request tries again.
    pub fn get_or_fetch(
        &self,
        stream: StreamId,
        chunk: u64,
        fetch: impl FnOnce() -> io::Result<Arc<[u8]>>,
    ) -> io::Result<Arc<[u8]>> {
        let key = (stream.0, chunk);
        match self.shard(key).get_or_fetch(key, fetch) {
            Answer::Hit(page) => {
                count(&self.counts.hits, 1);
                Ok(page)
            }
            Answer::Waited(outcome) => {
                count(&self.counts.waits, 1);
                outcome
            }
            Answer::Fetched(outcome, displaced) => {
                count(&self.counts.misses, 1);
                count(&self.counts.evictions, displaced);
                count(&self.counts.failures, u64::from(outcome.is_err()));
                outcome
            }
        }
    }

    /// Takes in a chunk that nobody asked for. It displaces others like it, not those that are in use.
    pub fn offer(&self, stream: StreamId, chunk: u64, page: Arc<[u8]>) {
        let key = (stream.0, chunk);
        let displaced = self.shard(key).offer(key, page);
        count(&self.counts.offered, 1);
        count(&self.counts.evictions, displaced);
    }

    /// Whether a chunk is here. No request for it: nothing is counted and nothing moves.
    #[must_use]
    pub fn contains(&self, stream: StreamId, chunk: u64) -> bool {
        let key = (stream.0, chunk);
        self.shard(key).contains(&key)
    }

    /// A chunk if it is here, without counting as a request.
    pub(crate) fn peek(&self, stream: StreamId, chunk: u64) -> Option<Arc<[u8]>> {
        let key = (stream.0, chunk);
        self.shard(key).peek(&key)
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            hits: read(&self.counts.hits),
            misses: read(&self.counts.misses),
            waits: read(&self.counts.waits),
            failures: read(&self.counts.failures),
            offered: read(&self.counts.offered),
            evictions: read(&self.counts.evictions),
            bytes: self.shards.iter().map(Shard::held_bytes).sum(),
            limit_bytes: self.limit_bytes,
        }
    }

    fn shard(&self, key: pages::Key) -> &Shard {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.shards[(hash % self.shards.len() as u64) as usize]
    }
}

impl std::fmt::Debug for PageCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.counters().fmt(formatter)
    }
}

fn count(counter: &AtomicU64, by: u64) {
    if by != 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
