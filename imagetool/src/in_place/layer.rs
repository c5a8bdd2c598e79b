//! One layer of an archive: its index and its stream.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use ufs::cache::PageCache;
use ufs::index::Sha256;
use ufs::index::build::Tree;
use ufs::stream::{self, Base, Compression, Indexer, Options, ReadAt, Slice};

use super::cache::Cache;
use super::outer::{read_tree, seek_tree};
use super::summary::LayerSummary;
use super::{InPlaceError, open_regular};
use crate::archive::compression;
use crate::digest::Digest;
use crate::layer::LayerError;

/// Enough to recognise a compression.
const START_BYTES: usize = 6;
/// Headers of small files are read together.
const BUFFER_BYTES: usize = 128 << 10;
/// For reading while indexing: a pass comes by each place once.
const CACHE_BYTES: u64 = 16 << 20;

/// Indexes a layer under its key. What the manifest and the configuration say of it must be true.
pub(super) fn index(
    cache: &Cache,
    key: &Sha256,
    slice: &Slice,
    expected: &LayerSummary,
) -> Result<(), InPlaceError> {
    let compression = compression_of(cache, slice)?;
    cache.hold(key)?;
    let tree = if compression == Compression::None {
        expected.check_plain()?;
        stream::write_plain(cache.repository(), key, slice)?;
        let bytes = stream::open(cache.repository(), key, &page_cache())?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(bytes));
        seek_tree(reader).map_err(|source| failed(expected, source))?.0
    } else {
        let mut indexer = Indexer::new(cache.repository(), slice.clone(), compression, Options::default())?;
        let read = read_tree(&mut indexer);
        let tree = read.map_err(|source| failed(expected, source))?.0;
        let found = indexer.complete()?;
        expected.check_read(
            found.slice_sha256.map(Digest::from),
            found.plain_sha256.map(Digest::from),
        )?;
        indexer.finish(key)?;
        tree
    };
    check_file(cache, key, expected)?;
    write(cache, key, tree, expected)
}

/// Writes the index of a layer's tree.
pub(super) fn write(
    cache: &Cache,
    key: &Sha256,
    tree: Tree,
    expected: &LayerSummary,
) -> Result<(), InPlaceError> {
    let finished = tree.finish().map_err(|source| failed(expected, source.into()))?;
    let digest = expected.diff_id.map(|digest| digest.to_string());
    cache.write(key, "digest", |out| {
        io::Write::write_all(out, digest.unwrap_or_default().as_bytes())
    })?;
    cache.write_index(key, |out| finished.write(key, out))
}

/// That the file of a layout directory that was read is the one that was found inside it.
fn check_file(cache: &Cache, key: &Sha256, expected: &LayerSummary) -> Result<(), InPlaceError> {
    let Some(file) = &expected.file else {
        return Ok(());
    };
    let read = stream::describe(cache.repository(), key)?.identity;
    if read == Some(file.identity) {
        return Ok(());
    }
    cache.delete(key);
    Err(InPlaceError::Invalid(format!(
        "{} changed while it was read",
        file.path.display()
    )))
}

fn failed(layer: &LayerSummary, source: LayerError) -> InPlaceError {
    InPlaceError::Layer {
        what: layer.to_string(),
        source,
    }
}

/// A page cache for one pass.
pub(super) fn page_cache() -> Arc<PageCache> {
    Arc::new(PageCache::new(CACHE_BYTES))
}

/// How the bytes of a slice are compressed.
fn compression_of(cache: &Cache, slice: &Slice) -> Result<Compression, InPlaceError> {
    let mut start = [0; START_BYTES];
    let wanted = start
        .len()
        .min(usize::try_from(slice.length).unwrap_or(START_BYTES));
    let count = match &slice.base {
        Base::File(path) => {
            use std::os::unix::fs::FileExt;
            let file = open_regular(path)?;
            let read = file.read_at(&mut start[..wanted], slice.offset);
            read.map_err(InPlaceError::io("read", path))?
        }
        Base::Stream(key) => {
            let bytes = stream::open(cache.repository(), key, &page_cache())?;
            let read = bytes.read_at(&mut start[..wanted], slice.offset);
            read.map_err(|error| InPlaceError::Invalid(error.to_string()))?
        }
    };
    Ok(detect(&start[..count]))
}

/// Recognises a compression by the first bytes.
pub(super) fn detect(start: &[u8]) -> Compression {
    match compression::Compression::detect(start) {
        compression::Compression::None => Compression::None,
        compression::Compression::Gzip => Compression::Gzip,
        compression::Compression::Bzip2 => Compression::Bzip2,
        compression::Compression::Xz => Compression::Xz,
        compression::Compression::Zstd => Compression::Zstd,
    }
}

/// Reads bytes that can be read at any place, one after another.
pub(super) struct Cursor {
    bytes: Arc<dyn ReadAt>,
    at: u64,
}

impl Cursor {
    /// Starts at the first byte.
    pub(super) fn new(bytes: Arc<dyn ReadAt>) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.bytes.size_bytes(), by),
        };
        let at = from.checked_add_signed(by);
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
