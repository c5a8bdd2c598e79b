//! Files read at any place: the archive, guarded against change, and parts of what can be read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::identity::{Identity, Known};
use super::{ReadAt, StreamError};

/// Reads at `offset` until `buffer` is full or the file ends.
pub(crate) fn read_full(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
                read += count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// An archive: opened once and kept, so that it stays readable when it loses its name. Every read is followed by a
/// look at its identity: what was read from a file that is the same afterwards was read from the same file.
#[derive(Debug)]
pub(crate) struct ArchiveFile {
    path: PathBuf,
    file: File,
    /// As it was when it was indexed.
    recorded: Identity,
    known: Mutex<Known>,
    /// Whether the log says already that it changed.
    complained: AtomicBool,
    /// Since when it must not change, for the error's text.
    when: &'static str,
}

impl ArchiveFile {
    /// Opens an archive to index it.
    pub(crate) fn open_new(path: &Path) -> Result<Self, StreamError> {
        let file = open_regular(path)?;
        let identity =
            Identity::settled(&file).map_err(|error| failed(path, "reading its attributes", error))?;
        Self::with(path, file, identity, "while it was indexed")
    }

    /// Opens an archive that was indexed as `recorded`.
    pub(crate) fn open_recorded(path: &Path, recorded: Identity) -> Result<Self, StreamError> {
        let file = open_regular(path)?;
        let metadata = file
            .metadata()
            .map_err(|error| failed(path, "reading its attributes", error))?;
        match recorded.difference(&Identity::of(&metadata)) {
            None => Self::with(path, file, recorded, "while mounted"),
            Some(what) => Err(since_indexed(path, what)),
        }
    }

    fn with(path: &Path, file: File, recorded: Identity, when: &'static str) -> Result<Self, StreamError> {
        let known =
            Known::of(&file, recorded).map_err(|error| failed(path, "reading its attributes", error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            recorded,
            known: Mutex::new(known),
            complained: AtomicBool::new(false),
            when,
        })
    }

    pub(crate) fn recorded(&self) -> &Identity {
        &self.recorded
    }

    /// Whether its path still leads to the file that was indexed.
    pub(crate) fn in_place(&self) -> Result<(), StreamError> {
        let metadata = std::fs::metadata(&self.path)
            .map_err(|error| failed(&self.path, "opening the archive", error))?;
        match self.recorded.difference(&Identity::of(&metadata)) {
            None => Ok(()),
            Some(what) => Err(since_indexed(&self.path, what)),
        }
    }

    /// Whether the open file is still what it was.
    pub(crate) fn verify(&self) -> Result<(), StreamError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|error| failed(&self.path, "reading its attributes", error))?;
        let outcome = self.known.lock().accepts(&self.file, &metadata);
        outcome.map_err(|what| StreamError::Changed {
            path: self.path.clone(),
            when: self.when,
            what,
        })
    }
}

impl ReadAt for ArchiveFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let size_bytes = self.recorded.size;
        let wanted = buffer.len().min(usize_of(size_bytes.saturating_sub(offset)));
        let outcome = read_full(&self.file, &mut buffer[..wanted], offset);
        if let Err(changed) = self.verify() {
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::error!("{changed}; reads of it fail from now on");
            }
            return Err(changed.into());
        }
        let read = outcome.map_err(|error| failed(&self.path, "reading the archive", error))?;
        if read < wanted {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(failed(&self.path, "reading the archive", error).into());
        }
        Ok(read)
    }

    fn size_bytes(&self) -> u64 {
        self.recorded.size
    }
}

/// A file of ours, of which nobody but us writes.
#[derive(Debug)]
pub(crate) struct OwnFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) size_bytes: u64,
}

impl ReadAt for OwnFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&self.file, buffer, offset)
            .map_err(|error| failed(&self.path, "reading the stream file", error).into())
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// A part of something that can be read.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) base: Arc<dyn ReadAt>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl ReadAt for Part {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let wanted = buffer.len().min(usize_of(self.length.saturating_sub(offset)));
        if wanted == 0 {
            return Ok(0);
        }
        self.base.read_at(&mut buffer[..wanted], self.offset + offset)
    }

    fn size_bytes(&self) -> u64 {
        self.length
    }
}

/// A length for memory: what does not fit is more than any buffer has.
pub(crate) fn usize_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn open_regular(path: &Path) -> Result<File, StreamError> {
    let file = File::open(path).map_err(|error| failed(path, "opening the archive", error))?;
    let metadata = file
        .metadata()
        .map_err(|error| failed(path, "reading its attributes", error))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        Err(failed(path, "opening the archive", error))
    }
}

fn since_indexed(path: &Path, what: String) -> StreamError {
    StreamError::Changed {
        path: path.to_owned(),
        when: "since it was indexed",
        what,
    }
}

/// A failure with a file.
pub(crate) fn failed(path: &Path, action: &'static str, source: io::Error) -> StreamError {
    StreamError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}
