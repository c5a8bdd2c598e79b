//! Archives mounted where they lie, without being imported.
//!
//! ```text
//! FILE ── outer tar: where each member is ──► documents ──► images, their layers' places   archives/ARCHIVE/summary
//!              (plain: by seeking over contents; compressed: one pass that records checkpoints → archives/ARCHIVE/stream)
//! layer ── plain: by seeking │ compressed: one pass ──► tree ──► archives/LAYER/{index,stream} ──┐
//!                                                                archives/CHAIN/index ◄── merged ┘
//! ```
//!
//! A file is a Docker archive, an OCI archive or a bare tar; a directory is an OCI layout or an unpacked Docker archive;
//! the file and each layer may be compressed. Layers are indexed in parallel.
//!
//! Invariants:
//! - every key is a hash of the file's identity (path, device, inode number, size, times), of the place in it and of the
//!   digests that were expected, so that what is found under a key was made of this very file and verified;
//! - a summary or index has its name once it is whole; all of it may be deleted whenever nobody holds it ([`cache`]);
//! - of compressed layers every byte is read, and the digests of manifest and configuration must fit. Plain layers are
//!   sought over: their digests are not verified, as nothing of them is copied.

pub mod cache;
mod documents;
mod layer;
mod outer;
mod summary;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::ImageConfiguration;
use ufs::index::merge::merge;
use ufs::index::{Index, IndexError, Kind, Sha256};
use ufs::stream::{Base, Slice, StreamError};

pub use self::cache::Cache;
use self::summary::{ImageSummary, LayerSummary, Summary};
use crate::archive::member::TarError;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::LayerError;

/// More threads would only wait for the disk.
const THREADS_MAX: usize = 8;

/// Why an archive cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InPlaceError {
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The archive's bytes cannot be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// An index of the cache cannot be used.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A document is wrong or missing.
    #[error("{}", path.display())]
    Document {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
    /// It is no tar archive, or a damaged one.
    #[error("{}", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: TarError,
    },
    /// A layer is wrong.
    #[error("{what}")]
    Layer {
        /// Which.
        what: String,
        /// What is wrong.
        source: LayerError,
    },
    /// The archive contradicts itself, or lacks something.
    #[error("{0}")]
    Invalid(String),
    /// It holds several images and none was chosen.
    #[error("{} holds several images, choose one with --image: {}", path.display(), names.join(", "))]
    Several {
        /// The archive.
        path: PathBuf,
        /// Names or ids of its images.
        names: Vec<String>,
    },
    /// It holds no image of that name.
    #[error("{} holds no image {wanted}, but: {}", path.display(), names.join(", "))]
    NoSuchImage {
        /// The archive.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// Names or ids of its images.
        names: Vec<String>,
    },
}

impl InPlaceError {
    /// A closure for `map_err` that names the action and the path.
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// An image in an archive, its layers indexed.
#[derive(Debug, Clone)]
pub struct ArchiveImage {
    /// Its names; none for a bare tar.
    pub names: Vec<String>,
    /// Its configuration; `None` for a bare tar.
    pub config: Option<ImageConfiguration>,
    /// Its layers, bottom first.
    pub layers: Vec<ArchiveLayer>,
}

/// A layer in an archive.
#[derive(Debug, Clone)]
pub struct ArchiveLayer {
    /// Under which key its index is kept.
    pub key: Sha256,
    /// Its diff id; unknown of a plain bare tar.
    pub diff_id: Option<Digest>,
}

/// Finds the image `wanted` (or the only one) in an archive or layout and indexes its layers, unless that was done.
pub fn open(cache: &Cache, path: &Path, wanted: Option<&str>) -> Result<ArchiveImage, InPlaceError> {
    let path = path.canonicalize().map_err(InPlaceError::io("open", path))?;
    let metadata = path.metadata().map_err(InPlaceError::io("look at", &path))?;
    if metadata.is_dir() {
        let summary = summary::of_directory(&path)?;
        return prepare(cache, &path, summary.choose(&path, wanted)?, None);
    }
    let key = cache::file_key(&path, &metadata);
    cache.hold(&key)?;
    let known = Summary::load(cache, &key).filter(|known| !known.needs_stream() || cache.has_stream(&key));
    let summary = match known {
        Some(known) => known,
        None => {
            let made = summary::of_file(cache, &path, &key)?;
            // what was read while the file changed belongs to neither state
            let now = path.metadata().map_err(InPlaceError::io("look at", &path))?;
            if cache::file_key(&path, &now) != key {
                cache.delete(&key);
                return Err(InPlaceError::Invalid(format!(
                    "{} changed while it was read",
                    path.display()
                )));
            }
            made.save(cache, &key)?;
            made
        }
    };
    prepare(cache, &path, summary.choose(&path, wanted)?, Some(key))
}

/// Indexes the layers that are not indexed yet, several at a time.
fn prepare(
    cache: &Cache,
    path: &Path,
    image: &ImageSummary,
    archive: Option<Sha256>,
) -> Result<ArchiveImage, InPlaceError> {
    let slices = image
        .layers
        .iter()
        .map(|layer| Ok((layer, slice(path, layer, archive)?)))
        .collect::<Result<Vec<_>, InPlaceError>>()?;
    let mut layers = Vec::new();
    let mut missing: Vec<(Sha256, &LayerSummary, &Slice)> = Vec::new();
    for (layer, slice) in &slices {
        let key = match (image.bare, archive) {
            (true, Some(archive)) => archive,
            _ => layer.key(slice)?,
        };
        cache.hold(&key)?;
        let whole = cache.has_index(&key) && cache.has_stream(&key);
        if !whole && !missing.iter().any(|(known, ..)| *known == key) {
            missing.push((key, *layer, slice));
        }
        layers.push(ArchiveLayer {
            key,
            diff_id: layer.diff_id,
        });
    }
    in_parallel(&missing, |(key, layer, slice)| {
        layer::index(cache, key, slice, layer)
    })?;
    let config = match &image.config {
        Some(text) => {
            let parsed = crate::manifest::parse_config("configuration", text.as_bytes());
            Some(
                parsed
                    .map_err(|error| InPlaceError::Document {
                        path: path.to_owned(),
                        source: error.into(),
                    })?
                    .0,
            )
        }
        None => None,
    };
    Ok(ArchiveImage {
        names: image.names.clone(),
        config,
        layers,
    })
}

/// Where a layer lies.
fn slice(path: &Path, layer: &LayerSummary, archive: Option<Sha256>) -> Result<Slice, InPlaceError> {
    let base = match (&layer.file, layer.in_stream, archive) {
        (Some(file), ..) => Base::File(file.path.clone()),
        (None, true, Some(archive)) => Base::Stream(archive),
        _ => Base::File(path.to_owned()),
    };
    Ok(Slice {
        base,
        offset: layer.at,
        length: layer.length,
    })
}

/// Does the work for all items, in several threads; the first failure ends it.
fn in_parallel<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), InPlaceError> + Sync,
) -> Result<(), InPlaceError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                let mut first = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                first.get_or_insert(error);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()).min(THREADS_MAX) {
            scope.spawn(run);
        }
        run();
    });
    let failure = failure
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

impl ArchiveImage {
    /// The path of the index of all layers together, made when it is not there yet.
    pub fn chain(&self, cache: &Cache) -> Result<PathBuf, InPlaceError> {
        if let [only] = self.layers.as_slice() {
            return Ok(cache.index(&only.key));
        }
        let key = cache::chain_key(self.layers.iter().map(|layer| &layer.key));
        cache.hold(&key)?;
        if !cache.has_index(&key) {
            let layers = self.open_layers(cache)?;
            let layers: Vec<&Index> = layers.iter().collect();
            let merged = merge(&layers, Kind::Chain)?;
            cache.write_index(&key, |out| merged.write(out))?;
        }
        Ok(cache.index(&key))
    }

    /// The layers' own indexes, bottom first.
    pub fn open_layers(&self, cache: &Cache) -> Result<Vec<Index>, InPlaceError> {
        let open = |layer: &ArchiveLayer| Index::open(&cache.index(&layer.key));
        Ok(self.layers.iter().map(open).collect::<Result<_, _>>()?)
    }
}

/// Opens a regular file; never hangs on a pipe.
fn open_regular(path: &Path) -> Result<File, InPlaceError> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(InPlaceError::io("open", path))?;
    let metadata = file.metadata().map_err(InPlaceError::io("look at", path))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        Err(InPlaceError::Invalid(format!(
            "{} is no regular file",
            path.display()
        )))
    }
}
