//! Chunks of a stream that one thread fills and another reads, from a pool of fixed size.
//!
//! ```text
//! pool ──► filled ──► read and hashed ──► dropped ──► pool
//! ```
//!
//! When all chunks are in use, filling waits. A reader that has gone gives its chunks back, so that it never waits for
//! it.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ufs::sha256::{Sha256, update_both};

use crate::archive::hashed::HashedRead;

/// Size of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Number of chunks of one stream.
pub(super) const COUNT: usize = 8;

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
        mut wanted: impl FnMut(Chunk) -> bool,
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
            if length > 0 && !wanted(Chunk { bytes, length, pool }) {
                return Ok(false);
            }
            if ended {
                return Ok(true);
            }
        }
    }
}

/// The chunks one after another as a reader, which hashes what it gives.
pub(super) struct ChunkReader {
    receiver: Receiver<io::Result<Chunk>>,
    current: Option<Chunk>,
    at: usize,
    whole: Sha256,
    stretch: Option<Sha256>,
}

impl ChunkReader {
    /// Reads what is sent to `receiver`; its end is the stream's end.
    pub(super) fn new(receiver: Receiver<io::Result<Chunk>>) -> Self {
        Self {
            receiver,
            current: None,
            at: 0,
            whole: Sha256::new(),
            stretch: None,
        }
    }

    /// The SHA-256 of everything that was read.
    pub(super) fn finish(self) -> [u8; 32] {
        self.whole.finish()
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
                    match &mut self.stretch {
                        Some(stretch) => update_both(&mut self.whole, stretch, &rest[..count]),
                        None => self.whole.update(&rest[..count]),
                    }
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

impl HashedRead for ChunkReader {
    fn begin(&mut self) {
        self.stretch = Some(Sha256::new());
    }

    fn end(&mut self) -> ufs::index::Sha256 {
        self.stretch.take().unwrap_or_default().finish()
    }
}
