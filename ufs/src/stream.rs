//! Random access to the bytes of archives where they lie, plain or compressed.

pub mod identity;
pub mod indexer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cache::PageCache;
use crate::index::Sha256;
use crate::repository::Repository;

pub use identity::Identity;
pub use indexer::{Finished, Indexer, Options};

/// Bytes that can be read at any place.
pub trait ReadAt: Send + Sync {
    /// Reads at `offset` until `buffer` is full or the bytes end; gives how many were read. Only the end makes it
    /// fewer than asked for, and an `offset` at or past the end gives 0.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How many bytes there are.
    fn size_bytes(&self) -> u64;
}

/// What holds the bytes of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A file, by its path.
    File(PathBuf),
    /// The plain bytes of another stream of the same repository, by its key.
    Stream(Sha256),
}

/// Where the (perhaps compressed) bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// What holds them.
    pub base: Base,
    /// Where they begin in it.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
}

/// How the bytes of a slice are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878), any number of frames.
    Zstd,
}

/// Why a stream cannot be made, opened or read. Inside of an [`io::Error`] when a read fails.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A file cannot be opened, read or written.
    #[error("{}: {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A stream file is not what was written.
    #[error("{}: damaged stream file: {what}; remove it and mount the archive again", path.display())]
    Damaged {
        /// The stream file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A stream file is of another version.
    #[error("{}: stream file of version {found}, this program reads {expected}; remove it and mount the archive again", path.display())]
    Version {
        /// The stream file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The archive is not the file that was indexed.
    #[error("{}: archive changed {when}: {what}", path.display())]
    Changed {
        /// The archive.
        path: PathBuf,
        /// `since it was indexed`, `while mounted`, `while it was indexed`.
        when: &'static str,
        /// What differs.
        what: String,
    },
    /// The compressed bytes are damaged or cut.
    #[error("{name}: {what} at offset {offset}")]
    Corrupt {
        /// The archive, or the stream it lies in.
        name: String,
        /// What is wrong.
        what: String,
        /// Where, from the beginning of what `name` names.
        offset: u64,
    },
    /// The slice does not lie in its base.
    #[error("{name}: bytes {offset} to {end} lie outside of its {size_bytes} bytes")]
    Outside {
        /// The base.
        name: String,
        /// Where the slice begins.
        offset: u64,
        /// Where it ends.
        end: u64,
        /// How many bytes the base has.
        size_bytes: u64,
    },
    /// Streams in streams in streams.
    #[error("streams lie inside of each other more than {limit} deep")]
    TooDeep {
        /// How deep they may lie.
        limit: u32,
    },
}

/// Opens a stream that was indexed into `repository` under `key`.
pub fn open(
    repository: &Repository,
    key: &Sha256,
    cache: &Arc<PageCache>,
) -> Result<Arc<dyn ReadAt>, StreamError> {
    let _ = cache;
    Err(StreamError::Damaged {
        path: repository.archive(key).join("stream"),
        what: "streams are not served yet".to_owned(),
    })
}

/// Writes the stream file of an uncompressed slice, which needs no pass over its bytes.
pub fn write_plain(repository: &Repository, key: &Sha256, slice: &Slice) -> Result<(), StreamError> {
    let _ = slice;
    Err(StreamError::Damaged {
        path: repository.archive(key).join("stream"),
        what: "streams are not served yet".to_owned(),
    })
}
