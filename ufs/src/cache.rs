//! Page cache for what was decompressed.

use std::io;
use std::sync::Arc;

/// Bytes that a cache holds when nothing else is asked for.
pub const DEFAULT_LIMIT_BYTES: u64 = 128 << 20;

/// Whose chunk it is: given out by [`PageCache::stream_id`], one per open stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What a cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chunks found.
    pub hits: u64,
    /// Chunks that had to be fetched.
    pub misses: u64,
    /// Requests that waited for the fetch of another.
    pub waits: u64,
    /// Fetches that failed.
    pub failures: u64,
    /// Chunks put out.
    pub evictions: u64,
    /// Bytes held now.
    pub bytes: u64,
    /// Bytes that may be held.
    pub limit_bytes: u64,
}

/// Chunks of streams, as many as fit into a number of bytes.
#[derive(Debug)]
pub struct PageCache {
    limit_bytes: u64,
}

impl PageCache {
    /// A cache that holds at most `limit_bytes` bytes of chunks.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes }
    }

    /// The chunk number `chunk` of a stream; `fetch` is called when it is not here, once for all who ask meanwhile.
    pub fn get_or_fetch(
        &self,
        stream: StreamId,
        chunk: u64,
        fetch: impl FnOnce() -> io::Result<Arc<[u8]>>,
    ) -> io::Result<Arc<[u8]>> {
        let _ = (stream, chunk);
        fetch()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            limit_bytes: self.limit_bytes,
            ..Counters::default()
        }
    }
}
