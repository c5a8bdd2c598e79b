//! Random access to the bytes of archives where they lie, plain or compressed.
//!
//! ```text
//!                        ┌ plain: read as it is ───────────────┐
//! archive ── slice ──────┤                                     ├──► ReadAt
//!   file or stream       └ compressed: chunks, page cache ─────┘
//!                              ▲ checkpoints, sums
//! Indexer: one pass ──► ROOT/archives/HEX/stream
//! ```
//!
//! A *stream* is the plain bytes of a *slice* of an archive. The slice lies in a file, or in another stream: a layer in
//! a compressed Docker archive. One pass over it ([`Indexer`]) writes its stream file (`stream/table.rs`); afterwards any place
//! can be read ([`open`]):
//!
//! - plain: straight from the file; the kernel caches it;
//! - gzip: from checkpoints about every MiB, each with the 32 KiB before it;
//! - Zstandard: from the start of the frame;
//! - what has no such places for more than 4 MiB (one large Zstandard frame, bzip2, xz, gzip data of one block): from a
//!   copy in the stream file, in frames of its own (`docs/decisions/0008`).
//!
//! **Never a wrong byte**: decompressed chunks are compared with the sums that the pass recorded, and after every read
//! of the file its identity is compared with the recorded one ([`identity`]). An archive that changed answers errors,
//! and the log says once what changed.

mod beside;
mod chunks;
mod draft;
mod file;
mod frames;
mod gzip;
pub mod identity;
pub mod indexer;
mod input;
mod recorder;
mod table;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::cache::PageCache;
use crate::index::Sha256;
use crate::repository::Repository;

use chunks::{Compressed, Decoders};
use file::{ArchiveFile, OwnFile, Part, failed};
use input::Origin;
use table::{Stamp, Table};

pub use draft::{DRAFT_PREFIX, sweep};
pub use identity::Identity;
pub use indexer::{Finished, Indexer, Options, write_plain};

/// The name of a stream file in the directory of its archive.
pub const STREAM_FILE: &str = "stream";

/// How deep streams may lie inside of each other: an archive, a layer in it, and some for what nobody thought of.
const DEPTH_MAX: u32 = 8;

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
    /// Bytes that are not those that were indexed.
    #[error(
        "{name}: bytes {from} to {to} of its plain data are not those that were indexed: the archive or its stream file is damaged"
    )]
    Mismatch {
        /// The archive, or the stream it lies in.
        name: String,
        /// The first plain byte of the chunk.
        from: u64,
        /// The end of the chunk.
        to: u64,
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

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        Self::other(error)
    }
}

impl StreamError {
    /// The error inside of a failed read; one that comes from elsewhere is put under a name.
    fn from_io(error: io::Error, name: impl FnOnce() -> String) -> Self {
        error.downcast::<Self>().unwrap_or_else(|source| Self::Io {
            path: PathBuf::from(name()),
            action: "reading",
            source,
        })
    }
}

/// What reading streams cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Decompressions that went on where an earlier one had stopped.
    pub continued: u64,
    /// Decompressions that started at a checkpoint.
    pub started: u64,
    /// Waits for the decompression of another.
    pub waited: u64,
    /// Plain bytes decompressed.
    pub plain_bytes: u64,
}

/// What the streams that were opened through `cache` did so far.
#[must_use]
pub fn stats(cache: &PageCache) -> Stats {
    let work = &cache.opened.work;
    Stats {
        continued: work.continued.load(Ordering::Relaxed),
        started: work.started.load(Ordering::Relaxed),
        waited: work.waited.load(Ordering::Relaxed),
        plain_bytes: work.plain_bytes.load(Ordering::Relaxed),
    }
}

#[derive(Debug, Default)]
struct Work {
    continued: AtomicU64,
    started: AtomicU64,
    waited: AtomicU64,
    plain_bytes: AtomicU64,
}

impl Work {
    fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// Which archive, by path and identity.
type FileKey = (PathBuf, Identity);
/// Which stream: the repository's root, the key, and the identity of the stream file.
type StreamKey = (PathBuf, Sha256, Identity);

/// What is open through a page cache: whoever opens the same again shares it, its decoders and its chunks.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    files: Mutex<HashMap<FileKey, Weak<ArchiveFile>>>,
    streams: Mutex<HashMap<StreamKey, Weak<Stream>>>,
    work: Work,
}

/// An open stream.
struct Stream {
    source: Source,
    base: OpenBase,
    stamp: u64,
}

enum Source {
    Plain(Part),
    Compressed(Box<Compressed>),
}

enum OpenBase {
    File(Arc<ArchiveFile>),
    Stream(Arc<Stream>),
}

impl Stream {
    /// Whether the archive below it is still what was indexed, and where it was.
    fn in_place(&self) -> Result<(), StreamError> {
        match &self.base {
            OpenBase::File(file) => file.in_place(),
            OpenBase::Stream(stream) => stream.in_place(),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl ReadAt for Stream {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.source {
            Source::Plain(part) => part.read_at(buffer, offset),
            Source::Compressed(compressed) => compressed.read_at(buffer, offset),
        }
    }

    fn size_bytes(&self) -> u64 {
        match &self.source {
            Source::Plain(part) => part.size_bytes(),
            Source::Compressed(compressed) => compressed.size_bytes(),
        }
    }
}

/// Opens a stream that was indexed into `repository` under `key`. The archive must be the one that was indexed.
pub fn open(
    repository: &Repository,
    key: &Sha256,
    cache: &Arc<PageCache>,
) -> Result<Arc<dyn ReadAt>, StreamError> {
    Ok(open_stream(repository, key, cache, DEPTH_MAX)?)
}

fn open_stream(
    repository: &Repository,
    key: &Sha256,
    cache: &Arc<PageCache>,
    depth_left: u32,
) -> Result<Arc<Stream>, StreamError> {
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(StreamError::TooDeep { limit: DEPTH_MAX });
    };
    let (own, identity) = open_own(repository, key)?;
    let name = (repository.root().to_owned(), *key, identity);
    let known = cache.opened.streams.lock().get(&name).and_then(Weak::upgrade);
    // one whose base was indexed anew is of no use
    if let Some(stream) = known.filter(|stream| stream.in_place().is_ok()) {
        return Ok(stream);
    }
    let table = Table::read(&own)?;
    let base = match (&table.slice.base, table.stamp) {
        (Base::File(path), Stamp::File(identity)) => OpenBase::File(open_file(cache, path, identity)?),
        (Base::Stream(base), Stamp::Stream(stamp)) => {
            let stream = open_stream(repository, base, cache, depth_left)?;
            if stamp.is_some_and(|stamp| stamp != stream.stamp) {
                return Err(StreamError::Changed {
                    path: own.path,
                    when: "since it was indexed",
                    what: "the stream that it lies in has other bytes".to_owned(),
                });
            }
            OpenBase::Stream(stream)
        }
        _ => {
            return Err(StreamError::Damaged {
                path: own.path,
                what: "its base is of two kinds".to_owned(),
            });
        }
    };
    let stream = Arc::new(assemble(table, base, own, cache)?);
    let mut streams = cache.opened.streams.lock();
    streams.retain(|_, stream| stream.strong_count() != 0);
    streams.insert(name, Arc::downgrade(&stream));
    Ok(stream)
}

fn assemble(
    table: Table,
    base: OpenBase,
    own: OwnFile,
    cache: &Arc<PageCache>,
) -> Result<Stream, StreamError> {
    let bytes: Arc<dyn ReadAt> = match &base {
        OpenBase::File(file) => Arc::clone(file) as _,
        OpenBase::Stream(stream) => Arc::clone(stream) as _,
    };
    table.slice.check(bytes.size_bytes())?;
    let stamp = table.stamp();
    let slice = Part {
        base: bytes,
        offset: table.slice.offset,
        length: table.slice.length,
    };
    let source = match table.chunks {
        None => Source::Plain(slice),
        Some(chunks) => Source::Compressed(Box::new(Compressed {
            chunks,
            plain_bytes: table.plain_bytes,
            own: chunks::stored_part(Arc::new(own), table.data_end),
            origin: Origin {
                name: table.slice.base.name().into(),
                offset: slice.offset,
            },
            slice,
            cache: Arc::clone(cache),
            id: cache.stream_id(),
            decoders: Decoders::default(),
            complained: AtomicBool::new(false),
        })),
    };
    Ok(Stream { source, base, stamp })
}

fn open_file(
    cache: &PageCache,
    path: &std::path::Path,
    identity: Identity,
) -> Result<Arc<ArchiveFile>, StreamError> {
    let name = (path.to_owned(), identity);
    let known = cache.opened.files.lock().get(&name).and_then(Weak::upgrade);
    if let Some(file) = known.filter(|file| file.in_place().is_ok()) {
        return Ok(file);
    }
    let file = Arc::new(ArchiveFile::open_recorded(path, identity)?);
    let mut files = cache.opened.files.lock();
    files.retain(|_, file| file.strong_count() != 0);
    files.insert(name, Arc::downgrade(&file));
    Ok(file)
}

fn open_own(repository: &Repository, key: &Sha256) -> Result<(OwnFile, Identity), StreamError> {
    let path = repository.archive(key).join(STREAM_FILE);
    let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((metadata, file)) if metadata.is_file() => {
            let own = OwnFile {
                path,
                file,
                size_bytes: metadata.len(),
            };
            Ok((own, Identity::of(&metadata)))
        }
        Ok(_) => Err(StreamError::Damaged {
            path,
            what: "it is no file".to_owned(),
        }),
        Err(error) => Err(failed(&path, "opening the stream file", error)),
    }
}

/// What a stream file says.
fn read_table(repository: &Repository, key: &Sha256) -> Result<Table, StreamError> {
    Table::read(&open_own(repository, key)?.0)
}

/// The stamp of a stream; none when it was not written yet.
fn stamp_of(repository: &Repository, key: &Sha256) -> Result<Option<u64>, StreamError> {
    match read_table(repository, key) {
        Ok(table) => Ok(Some(table.stamp())),
        Err(StreamError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is known of a stream without opening its archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Where its bytes lie.
    pub slice: Slice,
    /// The file they lie in, as it was when it was indexed; absent when they lie in another stream.
    pub identity: Option<Identity>,
    /// What the pass found out.
    pub finished: Finished,
}

/// Reads a stream file, without a look at the archive.
pub fn describe(repository: &Repository, key: &Sha256) -> Result<Described, StreamError> {
    let table = read_table(repository, key)?;
    Ok(Described {
        identity: match table.stamp {
            Stamp::File(identity) => Some(identity),
            Stamp::Stream(_) => None,
        },
        finished: Finished {
            slice_sha256: table.slice_sha256,
            plain_sha256: table.plain_sha256,
            plain_bytes: table.plain_bytes,
        },
        slice: table.slice,
    })
}

#[cfg(test)]
mod tests;
