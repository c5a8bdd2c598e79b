//! Readers that hash a stretch of what is read.

use std::io::{self, Read};

use ufs::sha256::Sha256;

/// A reader that can hash a stretch of what it gives. One that hashes its whole stream does both for the price of one.
pub trait HashedRead: Read {
    /// What is read from now on belongs to the stretch.
    fn begin(&mut self);
    /// The stretch ends; gives its SHA-256, that of nothing when none was begun.
    fn end(&mut self) -> ufs::index::Sha256;
}

/// Any reader as a [`HashedRead`].
pub struct Hashed<R> {
    reader: R,
    stretch: Option<Sha256>,
}

impl<R> Hashed<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            stretch: None,
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if let Some(stretch) = &mut self.stretch {
            stretch.update(&buffer[..count]);
        }
        Ok(count)
    }
}

impl<R: Read> HashedRead for Hashed<R> {
    fn begin(&mut self) {
        self.stretch = Some(Sha256::new());
    }

    fn end(&mut self) -> ufs::index::Sha256 {
        self.stretch.take().unwrap_or_default().finish()
    }
}
