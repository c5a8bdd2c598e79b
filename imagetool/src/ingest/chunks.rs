//! Chunks of a stream that several threads read, from a pool of fixed size.
//!
//! ```text
//! pool ──► filled ──► shared with the readers ──► the last one drops it ──► pool
//! ```
//!
//! When all chunks are in use, filling waits. Readers that have gone give their chunks back, so that it never waits for
//! them.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Size of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Number of chunks of one stream.
pub(super) const COUNT: usize = 8;

/// A chunk that several threads read.
pub(super) type Shared = Arc<Chunk>;

/// Bytes of the stream; goes back to the pool when nobody needs it any more.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    length: usize,
    pool: SyncSender<Vec<u8>>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // a pool that is gone needs none
        let _ = self.pool.try_send(std::mem::take(&mut self.bytes));
    }
}

/// Fills chunks.
pub(super) struct Feed {
    pool: Receiver<Vec<u8>>,
    back: SyncSender<Vec<u8>>,
}

impl Feed {
    /// A stream's chunks.
    pub(super) fn new() -> Self {
        let (back, pool) = sync_channel(COUNT);
        for _ in 0..COUNT {
            // the channel has room for exactly these; they are allocated when they are used first
            let _ = back.try_send(Vec::new());
        }
        Self { pool, back }
    }

    /// Reads to the end and hands each chunk to `wanted`, until that says no. Tells whether the end was reached.
    pub(super) fn fill(
        &self,
        reader: &mut dyn Read,
        mut wanted: impl FnMut(Shared) -> bool,
    ) -> io::Result<bool> {
        loop {
            // the sender is ours: this waits, but never fails
            let Ok(mut bytes) = self.pool.recv() else {
                return Ok(false);
            };
            bytes.resize(CHUNK_BYTES, 0);
            let mut length = 0;
            let mut ended = false;
            while length < CHUNK_BYTES && !ended {
                match reader.read(&mut bytes[length..]) {
                    Ok(0) => ended = true,
                    Ok(count) => length += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let pool = self.back.clone();
            if length > 0 && !wanted(Arc::new(Chunk { bytes, length, pool })) {
                return Ok(false);
            }
            if ended {
                return Ok(true);
            }
        }
    }
}

/// The chunks one after another as a reader.
pub(super) struct ChunkReader {
    receiver: Receiver<io::Result<Shared>>,
    current: Option<Shared>,
    at: usize,
}

impl ChunkReader {
    /// Reads what is sent to `receiver`; its end is the stream's end.
    pub(super) fn new(receiver: Receiver<io::Result<Shared>>) -> Self {
        Self {
            receiver,
            current: None,
            at: 0,
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.current {
                let rest = &chunk[self.at..];
                if !rest.is_empty() {
                    let count = rest.len().min(buffer.len());
                    buffer[..count].copy_from_slice(&rest[..count]);
                    self.at += count;
                    return Ok(count);
                }
            }
            // given back before the next one is waited for
            self.current = None;
            self.at = 0;
            match self.receiver.recv() {
                Ok(chunk) => self.current = Some(chunk?),
                Err(_) => return Ok(0),
            }
        }
    }
}
