//! Files in pieces, with holes between them: written and copied so, read and hashed as if the holes were zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use sha2::{Digest as _, Sha256};
use ufs::layer::Merged;
use ufs::stream::ReadAt;

use super::LayerError;
use crate::error::StoreError;

/// So much of a file is written before the kernel is asked to begin with bringing it to disk.
const WRITE_BACK_BYTES: u64 = 8 << 20;
/// Holes count in a content's digest, byte by byte: more than this much zeros would take longer than anybody waits.
const HOLES_BYTES_MAX: u64 = 1 << 40;
/// Zeros for the hash of a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Size of the buffer through which files are read.
const BUFFER_BYTES: usize = 256 << 10;

/// The pieces (offset, length) of a file that are no holes, in order.
pub(super) type Pieces<'a> = &'a [(u64, u64)];

/// An object being written; what is passed over becomes a hole.
pub(super) struct Sink<'a> {
    file: &'a File,
    path: &'a Path,
    /// `None` where somebody else hashes.
    hasher: Option<Sha256>,
    at: u64,
    written_back: u64,
    holes_bytes: u64,
}

impl<'a> Sink<'a> {
    /// For a file that will have `size_bytes`. A length that the file system cannot have is refused before work is done.
    pub(super) fn new(file: &'a File, path: &'a Path, size_bytes: u64) -> Result<Self, StoreError> {
        file.set_len(size_bytes).map_err(StoreError::io("write", path))?;
        Ok(Self {
            file,
            path,
            hasher: None,
            at: 0,
            written_back: 0,
            holes_bytes: 0,
        })
    }

    /// The same, and hashes what the file will hold.
    pub(super) fn hashing(file: &'a File, path: &'a Path, size_bytes: u64) -> Result<Self, StoreError> {
        let mut sink = Self::new(file, path, size_bytes)?;
        sink.hasher = Some(Sha256::new());
        Ok(sink)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.file
            .write_all_at(bytes, self.at)
            .map_err(StoreError::io("write", self.path))?;
        self.at += bytes.len() as u64;
        if self.at - self.written_back >= WRITE_BACK_BYTES {
            self.write_back();
        }
        Ok(())
    }

    /// Asks the kernel to begin with writing, so that the sync at the end has little left to wait for. The advice
    /// starts the writing of dirty pages; whether it is taken does not matter.
    fn write_back(&mut self) {
        let length = std::num::NonZeroU64::new(self.at - self.written_back);
        let _ = rustix::fs::fadvise(self.file, self.written_back, length, rustix::fs::Advice::DontNeed);
        self.written_back = self.at;
    }

    /// Everything up to `to` is zero.
    pub(super) fn hole(&mut self, to: u64) -> Result<(), StoreError> {
        let length = to.saturating_sub(self.at);
        self.holes_bytes = self.holes_bytes.saturating_add(length);
        if self.holes_bytes > HOLES_BYTES_MAX {
            let problem =
                format!("has holes of more than {HOLES_BYTES_MAX} bytes, which nobody can hash in time");
            let error = io::Error::new(io::ErrorKind::FileTooLarge, problem);
            return Err(StoreError::io("take in a file as", self.path)(error));
        }
        if let Some(hasher) = &mut self.hasher {
            hash_zeros(hasher, length);
        }
        self.at = self.at.max(to);
        Ok(())
    }

    /// Ends the object; gives its digest when it was hashed here.
    pub(super) fn finish(mut self, size_bytes: u64) -> Result<Option<ufs::index::Sha256>, StoreError> {
        self.hole(size_bytes)?;
        Ok(self.hasher.map(|hasher| hasher.finalize().into()))
    }
}

fn hash_zeros(hasher: &mut Sha256, mut count: u64) {
    while count > 0 {
        let part = ZEROS.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        hasher.update(&ZEROS[..part]);
        count -= part as u64;
    }
}

pub(super) fn write_pieces(file: &File, bytes: &[u8], pieces: Pieces<'_>) -> io::Result<()> {
    let mut written = 0;
    for (offset, length) in pieces {
        let from = usize::try_from(*offset).unwrap_or(usize::MAX);
        let part = bytes.get(from..).unwrap_or_default();
        let part = &part[..part.len().min(usize::try_from(*length).unwrap_or(0))];
        file.write_all_at(part, *offset)?;
        written = offset + part.len() as u64;
    }
    match written < bytes.len() as u64 {
        true => file.set_len(bytes.len() as u64),
        false => Ok(()),
    }
}

/// A file that can be copied with its holes.
pub trait Sparse {
    /// The file itself, if its bytes are all the content.
    fn file(&self) -> Option<&File>;

    /// Its length.
    ///
    /// # Errors
    /// When it cannot be read.
    fn size_bytes(&self) -> io::Result<u64>;

    /// The next stretch at or after `at` and before `end` that is no hole.
    ///
    /// # Errors
    /// When it cannot be read.
    fn data_from(&self, at: u64, end: u64) -> io::Result<Option<Range<u64>>>;

    /// Reads until the buffer is full.
    ///
    /// # Errors
    /// When it cannot be read, or ends before.
    fn fill_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl Sparse for File {
    fn file(&self) -> Option<&File> {
        Some(self)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn data_from(&self, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        let Some(start) = next_data(self, at)?.filter(|start| *start < end) else {
            return Ok(None);
        };
        Ok(Some(start..next_hole(self, start, end)?))
    }

    fn fill_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl Sparse for Merged {
    fn file(&self) -> Option<&File> {
        None
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(ReadAt::size_bytes(self))
    }

    fn data_from(&self, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        Merged::data_from(self, at, end)
    }

    fn fill_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self.read_at(buffer, at)? {
            read if read == buffer.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Where data begins at or after an offset; `None` when only a hole is left.
fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(rustix::io::Errno::INVAL) => Ok(Some(from)), // no holes are known here
        Err(error) => Err(error.into()),
    }
}

fn next_hole(file: &File, from: u64, size_bytes: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(from)) {
        Ok(at) => Ok(at.min(size_bytes)),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NXIO) => Ok(size_bytes),
        Err(error) => Err(error.into()),
    }
}

/// Runs `data` over everything that is no hole, in order.
fn each_piece<E: From<LayerError>>(
    file: &impl Sparse,
    size_bytes: u64,
    mut data: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let read = |error| E::from(LayerError::Read(error));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    while let Some(piece) = file.data_from(at, size_bytes).map_err(read)? {
        at = piece.start;
        while at < piece.end {
            let wanted = buffer
                .len()
                .min(usize::try_from(piece.end - at).unwrap_or(usize::MAX));
            file.fill_at(&mut buffer[..wanted], at).map_err(read)?;
            data(at, &buffer[..wanted])?;
            at += wanted as u64;
        }
    }
    Ok(())
}

/// The SHA-256 of a file, holes included; holes are not read.
pub(super) fn hash_file(file: &File, size_bytes: u64) -> io::Result<ufs::index::Sha256> {
    let (mut hasher, mut at) = (Sha256::new(), 0);
    let hashed = each_piece(file, size_bytes, |offset, bytes| -> Result<(), LayerError> {
        hash_zeros(&mut hasher, offset.saturating_sub(at));
        hasher.update(bytes);
        at = offset + bytes.len() as u64;
        Ok(())
    });
    match hashed {
        Ok(()) => {}
        Err(LayerError::Read(error)) => return Err(error),
        Err(error) => return Err(io::Error::other(error)),
    }
    hash_zeros(&mut hasher, size_bytes.saturating_sub(at));
    Ok(hasher.finalize().into())
}

pub(super) fn copy_to(sink: &mut Sink<'_>, file: &impl Sparse, size_bytes: u64) -> Result<(), LayerError> {
    each_piece(file, size_bytes, |offset, bytes| -> Result<(), LayerError> {
        sink.hole(offset)?;
        Ok(sink.write(bytes)?)
    })
}
