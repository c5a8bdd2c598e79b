//! The part of a pass that runs beside decompression: sums of chunks, windows, stored frames, checkpoints.
//!
//! ```text
//!                     ┌─ blocks ──► SHA-256 of the plain bytes        (a thread)
//! decompression ──────┼─ blocks, frames, windows ──► recorder         (a thread)
//!   (the caller)      └─ compressed bytes ──► SHA-256 of the slice    (a thread)
//! ```
//!
//! The decoder marks where decompression could begin again: members, blocks and frames. The bytes between two marks are
//! a *stretch*. A stretch above [`STRETCH_BYTES_MAX`] (one large Zstandard frame, any bzip2 or xz, gzip data that is
//! one single block) cannot be read from its middle where it lies, so it is compressed again into frames of
//! [`STORED_BYTES`], in the stream file: see `docs/decisions/0008`.

use std::ops::Range;
use std::sync::Arc;

use super::draft::Draft;
use super::table::{CHUNK_BYTES, Checkpoint, Chunks, Start, Window, sum_of};
use super::{StreamError, file::failed};

/// Plain bytes between two checkpoints, about.
pub(crate) const SPACING_BYTES: u64 = 1 << 20;
/// Longest stretch that is read where it lies: a few milliseconds from its beginning to its end.
const STRETCH_BYTES_MAX: u64 = 4 << 20;
/// Plain bytes of a stored frame.
const STORED_BYTES: usize = 1 << 20;
/// Stored frames are caches: speed comes before size.
const STORED_LEVEL: i32 = 1;
const WINDOW_LEVEL: i32 = 1;

/// Plain bytes on their way through a pass: a whole number of chunks, but for the last one.
pub(crate) struct Block {
    pub(crate) bytes: Box<[u8]>,
    /// How many of them are filled.
    pub(crate) length: usize,
    /// Of the first, in the stream.
    pub(crate) plain: u64,
    /// In ascending order, at the end of the block at the latest.
    pub(crate) marks: Vec<Mark>,
}

impl Block {
    /// Room of a block.
    pub(crate) const BYTES: usize = 4 * CHUNK_BYTES as usize;

    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; Self::BYTES].into(),
            length: 0,
            plain: 0,
            marks: Vec::new(),
        }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

/// A place where decompression could begin again.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) plain: u64,
    pub(crate) source: u64,
    pub(crate) how: How,
}

/// How it could begin there.
#[derive(Debug, Clone)]
pub(crate) enum How {
    /// At the header of a gzip member.
    Member,
    /// Between two deflate blocks.
    Boundary { bits: u32, window: Arc<[u8]> },
    /// At a Zstandard frame.
    Frame,
    /// Not at all: the bytes are stored.
    Nowhere,
}

/// What became of the blocks.
pub(crate) struct Recorded {
    pub(crate) chunks: Chunks,
    pub(crate) draft: Draft,
}

pub(crate) struct Recorder {
    draft: Draft,
    chunks: Chunks,
    plain_bytes: u64,
    stretch: Stretch,
    /// Plain bytes of the stored frame that is being filled, and where they begin.
    store: Vec<u8>,
    store_plain: u64,
    compressor: zstd::bulk::Compressor<'static>,
}

/// The bytes since the last mark.
struct Stretch {
    mark: Mark,
    /// They themselves, while they may still be few enough: not copied, the blocks are held.
    pending: Vec<(Arc<Block>, Range<usize>)>,
    stored: bool,
}

impl Stretch {
    fn at(mark: Mark) -> Self {
        Self {
            stored: matches!(mark.how, How::Nowhere),
            mark,
            pending: Vec::new(),
        }
    }
}

impl Recorder {
    /// A recorder of a stream that begins as `how` says.
    pub(crate) fn new(draft: Draft, how: How) -> Result<Self, StreamError> {
        let compressor = zstd::bulk::Compressor::new(STORED_LEVEL)
            .map_err(|error| failed("zstd".as_ref(), "making a compressor", error))?;
        Ok(Self {
            draft,
            chunks: Chunks {
                chunk_bytes: CHUNK_BYTES,
                checkpoints: Vec::new(),
                sums: Vec::new(),
            },
            plain_bytes: 0,
            stretch: Stretch::at(Mark {
                plain: 0,
                source: 0,
                how,
            }),
            store: Vec::new(),
            store_plain: 0,
            compressor,
        })
    }

    pub(crate) fn take(&mut self, block: &Arc<Block>) -> Result<(), StreamError> {
        self.plain_bytes += block.length as u64;
        let chunks = block.filled().chunks(CHUNK_BYTES as usize);
        self.chunks.sums.extend(chunks.map(sum_of));
        let mut at = 0;
        for mark in &block.marks {
            let end = (mark.plain - block.plain) as usize;
            self.extend(block, at..end)?;
            self.end_stretch(mark.plain)?;
            self.stretch = Stretch::at(mark.clone());
            at = end;
        }
        self.extend(block, at..block.length)
    }

    /// After the last block.
    pub(crate) fn finish(mut self) -> Result<Recorded, StreamError> {
        self.end_stretch(self.plain_bytes)?;
        Ok(Recorded {
            chunks: self.chunks,
            draft: self.draft,
        })
    }

    fn extend(&mut self, block: &Arc<Block>, range: Range<usize>) -> Result<(), StreamError> {
        if range.is_empty() {
            return Ok(());
        }
        let end = block.plain + range.end as u64;
        if self.stretch.stored {
            return self.store(block, range);
        }
        self.stretch.pending.push((Arc::clone(block), range));
        if end - self.stretch.mark.plain > STRETCH_BYTES_MAX {
            self.stretch.stored = true;
            for (block, range) in std::mem::take(&mut self.stretch.pending) {
                self.store(&block, range)?;
            }
        }
        Ok(())
    }

    /// The bytes since the last mark end at `end`: now it is known what becomes of them.
    fn end_stretch(&mut self, end: u64) -> Result<(), StreamError> {
        self.stretch.pending.clear();
        if self.stretch.stored {
            return self.store_rest();
        }
        let (plain, source) = (self.stretch.mark.plain, self.stretch.mark.source);
        let due = match self.chunks.checkpoints.last() {
            None => true,
            // short stretches share a checkpoint; after stored bytes there must be one
            Some(last) => last.start.is_stored() || end - last.plain > SPACING_BYTES,
        };
        if plain == end || !due {
            return Ok(());
        }
        let start = match std::mem::replace(&mut self.stretch.mark.how, How::Nowhere) {
            How::Member => Start::Member,
            How::Frame => Start::Frame,
            How::Boundary { bits, window } => Start::Block {
                bits,
                window: self.window(&window)?,
            },
            // never: such a stretch is stored
            How::Nowhere => return Ok(()),
        };
        self.point(plain, source, start);
        Ok(())
    }

    fn point(&mut self, plain: u64, source: u64, start: Start) {
        self.chunks.checkpoints.push(Checkpoint { plain, source, start });
    }

    fn window(&mut self, window: &[u8]) -> Result<Window, StreamError> {
        let packed = zstd::bulk::compress(window, WINDOW_LEVEL)
            .map_err(|error| failed("zstd".as_ref(), "compressing a window", error))?;
        Ok(Window {
            at: self.draft.append(&packed)?,
            length: packed.len() as u32,
            sum: sum_of(&packed),
        })
    }

    fn store(&mut self, block: &Block, range: Range<usize>) -> Result<(), StreamError> {
        let mut plain = block.plain + range.start as u64;
        let mut bytes = &block.filled()[range];
        while !bytes.is_empty() {
            if self.store.is_empty() {
                self.store_plain = plain;
            }
            let count = bytes.len().min(STORED_BYTES - self.store.len());
            self.store.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            plain += count as u64;
            if self.store.len() == STORED_BYTES {
                self.store_rest()?;
            }
        }
        Ok(())
    }

    /// Writes the stored frame that is being filled.
    fn store_rest(&mut self) -> Result<(), StreamError> {
        if self.store.is_empty() {
            return Ok(());
        }
        let packed = self
            .compressor
            .compress(&self.store)
            .map_err(|error| failed("zstd".as_ref(), "compressing a stored frame", error))?;
        let at = self.draft.append(&packed)?;
        self.point(self.store_plain, at, Start::Stored);
        self.store.clear();
        Ok(())
    }
}
