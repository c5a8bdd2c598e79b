//! Compressed bytes on their way into a decoder: a buffer that knows its place in the slice.

use std::io::{self, Read};
use std::sync::Arc;

use super::file::Part;
use super::{ReadAt, StreamError};

/// What compressed bytes are taken from.
pub(crate) trait Supply: Send {
    /// Bytes that are worth asking for at once.
    const BUFFER_BYTES: usize;

    /// Reads bytes from `offset` on; 0 is the end.
    fn fill(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// From any place: for reading at random, in small portions since little of it may be needed.
impl Supply for Part {
    const BUFFER_BYTES: usize = 32 << 10;

    fn fill(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }
}

/// From beginning to end.
pub(crate) struct InOrder<R>(pub(crate) R);

impl<R: Read + Send> Supply for InOrder<R> {
    const BUFFER_BYTES: usize = 256 << 10;

    fn fill(&mut self, buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                outcome => return outcome,
            }
        }
    }
}

/// What is compressed, for errors: a name, and where the slice begins in it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) name: Arc<str>,
    pub(crate) offset: u64,
}

impl Origin {
    /// The error that the bytes at `position` of the slice are damaged.
    pub(crate) fn corrupt(&self, what: impl Into<String>, position: u64) -> io::Error {
        StreamError::Corrupt {
            name: self.name.to_string(),
            what: what.into(),
            offset: self.offset + position,
        }
        .into()
    }
}

/// A buffered supply.
pub(crate) struct Input<S> {
    supply: S,
    /// Empty until it is needed.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Of the byte at `end`, in the slice.
    offset: u64,
}

impl<S: Supply> Input<S> {
    /// Input that begins at `offset` of the slice.
    pub(crate) fn new(supply: S, offset: u64) -> Self {
        Self {
            supply,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset,
        }
    }

    /// Of the next byte, in the slice.
    pub(crate) fn position(&self) -> u64 {
        self.offset - (self.end - self.start) as u64
    }

    /// The next bytes, at least one; none at the end.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            if self.buffer.is_empty() {
                self.buffer = vec![0; S::BUFFER_BYTES];
            }
            let count = self.supply.fill(&mut self.buffer, self.offset)?;
            (self.start, self.end) = (0, count);
            self.offset += count as u64;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes `count` of the bytes that `peek` showed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// The next byte; none at the end.
    pub(crate) fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?.first().copied();
        self.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    /// Gives the memory back until the next use; a supply that can be read at any place is read again then.
    pub(crate) fn rest(&mut self) {
        self.offset = self.position();
        (self.start, self.end) = (0, 0);
        self.buffer = Vec::new();
    }
}
