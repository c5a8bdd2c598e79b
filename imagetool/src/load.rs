//! Loading images from Docker archives, OCI archives and OCI layout directories.
//!
//! ```text
//! archive file, layout ──► documents; layers where they lie ──┬─► images described ──► layers taken in, in parallel
//! stream ──► documents; layers taken in as they pass ─────────┘        └──► verified ──► published
//! ```
//!
//! A plain archive that is a file is not read but for its documents: its layers are taken in from where they lie, and
//! those that the store has are not looked at. An archive that comes through a pipe is read once, front to back:
//! what looks like a layer is taken in while it passes, and matched with the images by its digest afterwards.
//! Nothing is visible before every digest of an image was verified.
//! Specifications: OCI image-spec, image-layout.md; moby, image/spec/v1.2.md (`manifest.json`).

mod contents;
pub(crate) mod describe;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::contents::{Contents, Found};
use self::describe::{Described, LayerSource, describe};
use crate::archive::compression::{Compression, sniff};
use crate::config::{LayerBlob, manifest_json};
use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::ingest::{Ingested, TakenBlob, ingest, ingest_staged, keep_blob, widen_pipe};
use crate::manifest::{OCI_LAYER, parse_config};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{NewImage, Renamed, StagedBlob, StagedLayer, Staging, Store};
use crate::time::Timestamp;

/// An image that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// Its names in the archive.
    pub names: Vec<Reference>,
    /// Names that other images lost to it.
    pub renamed: Vec<Renamed>,
}

/// Loads every image of an archive stream.
pub fn load_archive(
    store: &Store,
    what: &str,
    archive: impl Read + Send,
    progress: &Progress,
) -> Result<Vec<Loaded>, ImageError> {
    let staging = store.stage("load")?;
    let bar = progress.bytes("Loading", None);
    let contents = Contents::from_stream(&staging, what, bar.wrap(archive))?;
    drop(bar);
    load(store, &staging, &contents, progress)
}

/// Loads every image of an archive that is a file. One that is compressed is read as a stream.
pub fn load_file(
    store: &Store,
    what: &str,
    archive: File,
    progress: &Progress,
) -> Result<Vec<Loaded>, ImageError> {
    let metadata = archive.metadata().map_err(ImageError::io("look at", what))?;
    if !metadata.is_file() {
        widen_pipe(&archive);
        return load_archive(store, what, archive, progress);
    }
    let staging = store.stage("load")?;
    let contents = Contents::from_file(&staging, what, archive, progress)?;
    load(store, &staging, &contents, progress)
}

/// Loads every image of an OCI layout directory.
pub fn load_directory(store: &Store, path: &Path, progress: &Progress) -> Result<Vec<Loaded>, ImageError> {
    let staging = store.stage("load")?;
    let contents = Contents::from_directory(path)?;
    load(store, &staging, &contents, progress)
}

fn load(
    store: &Store,
    staging: &Staging,
    contents: &Contents,
    progress: &Progress,
) -> Result<Vec<Loaded>, ImageError> {
    let mut loaded = Vec::new();
    let described = describe(contents)?;
    for (before, image) in described.iter().enumerate() {
        if before + 1 == described.len() {
            staging.hand_over();
        }
        loaded.push(load_one(store, staging, contents, image, progress)?);
    }
    Ok(loaded)
}

fn load_one(
    store: &Store,
    staging: &Staging,
    contents: &Contents,
    described: &Described,
    progress: &Progress,
) -> Result<Loaded, ImageError> {
    let id = Digest::of(&described.config);
    let names = described.names.clone();
    if store.has_image(&id)? && store.has_sound_layers(&id)? {
        match store.add_names(&id, &names) {
            Ok(renamed) => return Ok(Loaded { id, names, renamed }),
            Err(StoreError::NoSuchImage(_)) => {} // removed meanwhile
            Err(error) => return Err(error.into()),
        }
    }
    let config_json = String::from_utf8(described.config.clone())
        .map_err(|_| ImageError::Invalid(format!("configuration {id} is no UTF-8 text")))?;
    let (config, diff_ids) = parse_config(&format!("configuration {}", id.short()), config_json.as_bytes())?;
    if diff_ids.len() != described.layers.len() {
        return Err(ImageError::Invalid(format!(
            "image {} has {} layers in its manifest and {} in its configuration",
            id.short(),
            described.layers.len(),
            diff_ids.len()
        )));
    }
    let work = Work {
        store,
        staging,
        contents,
        progress,
    };
    let prepared = work.prepare_all(&described.layers, &diff_ids)?;
    let mut blobs: Vec<StagedBlob> = Vec::new();
    let mut staged: Vec<StagedLayer> = Vec::new();
    let mut layers = Vec::new();
    let mut layer_blobs = Vec::new();
    for (diff_id, part) in diff_ids.iter().zip(prepared) {
        layers.push((*diff_id, part.blob.digest));
        layer_blobs.push(LayerBlob {
            media_type: part.blob.media_type.to_owned(),
            digest: part.blob.digest,
            size_bytes: part.blob.size_bytes,
        });
        blobs.extend(part.blob.staged);
        staged.extend(part.layer);
    }
    let manifest = match &described.manifest {
        Some(bytes) => staging.add_blob(bytes)?,
        None => staging.add_blob(&manifest_json(&config_json, &layer_blobs)?)?,
    };
    let image = NewImage {
        manifest: manifest.digest,
        layers,
        parent: None,
        base_rootfs: None,
        created: config.created().as_deref().and_then(Timestamp::parse_rfc3339),
        config_json,
        origin: None,
    };
    blobs.push(staging.add_blob(&described.config)?);
    blobs.push(manifest);
    let renamed = store.publish(staging, &blobs, &staged, &image, &names)?;
    store.prepare_mounts(&id);
    Ok(Loaded { id, names, renamed })
}

/// A layer that is ready to be published.
struct Prepared {
    blob: TakenBlob,
    /// `None` when the store has the layer already.
    layer: Option<StagedLayer>,
}

/// What all layers of an image are prepared with.
struct Work<'a> {
    store: &'a Store,
    staging: &'a Staging,
    contents: &'a Contents,
    progress: &'a Progress,
}

impl Work<'_> {
    /// Takes in and verifies the layers, several at a time.
    fn prepare_all(&self, sources: &[LayerSource], diff_ids: &[Digest]) -> Result<Vec<Prepared>, ImageError> {
        let count = diff_ids.len();
        let next = AtomicUsize::new(0);
        // the largest first: whoever takes the last one should not keep the others waiting
        let mut order: Vec<usize> = (0..count).collect();
        let size_bytes = |at: usize| {
            sources[at]
                .expected
                .as_ref()
                .map_or(0, |expected| expected.size_bytes)
        };
        order.sort_by_key(|at| std::cmp::Reverse(size_bytes(*at)));
        let results: Mutex<Vec<Option<Result<Prepared, ImageError>>>> =
            Mutex::new((0..count).map(|_| None).collect());
        let work = || {
            loop {
                let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                let diff_id = &diff_ids[at];
                if diff_ids[..at].contains(diff_id) {
                    continue; // taken in once, and repeated below
                }
                let result = self.prepare(&sources[at], diff_id);
                if result.is_err() {
                    next.store(count, Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = Some(result);
            }
        };
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(count)
            .min(8);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let results = results
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut read = Vec::with_capacity(count);
        for result in results {
            read.push(result.transpose()?);
        }
        let mut prepared: Vec<Prepared> = Vec::with_capacity(count);
        for ((source, diff_id), own) in sources.iter().zip(diff_ids).zip(read) {
            let first = diff_ids.iter().position(|other| other == diff_id);
            let part = match (own, first.and_then(|at| prepared.get(at))) {
                (Some(own), _) => own,
                (None, Some(first)) => self.repeat(source, diff_id, &first.blob)?,
                (None, None) => return Err(ImageError::Invalid("a layer was not read".to_owned())),
            };
            prepared.push(part);
        }
        Ok(prepared)
    }

    /// A layer that the image has further down too. The store need not have it yet: its first occurrence may be staged.
    fn repeat(
        &self,
        source: &LayerSource,
        diff_id: &Digest,
        first: &TakenBlob,
    ) -> Result<Prepared, ImageError> {
        let is_same = |expected: &describe::Expected| {
            (expected.digest, expected.size_bytes) == (first.digest, first.size_bytes)
        };
        if source.expected.as_ref().is_none_or(is_same) {
            let blob = first.clone();
            return Ok(Prepared { blob, layer: None });
        }
        let what = format!("layer {}", diff_id.short());
        self.known(&what, source, self.contents.layer(&source.path)?, diff_id)
    }

    fn prepare(&self, source: &LayerSource, diff_id: &Digest) -> Result<Prepared, ImageError> {
        let what = format!("layer {}", diff_id.short());
        let found = self.contents.layer(&source.path)?;
        let prepared = match self.store.pin_sound_layer(self.staging, diff_id)? {
            true => self.known(&what, source, found, diff_id)?,
            false => {
                let ingested = self.take_in(&what, found)?;
                self.check(&what, source, diff_id, &ingested.layer.diff_id, &ingested.blob)?;
                for warning in &ingested.warnings {
                    self.progress.warn(&format!("{what}: {warning}"));
                }
                let size = crate::time::human_size(ingested.layer.size_bytes);
                self.progress.line(&format!("{what}: {size}"));
                Prepared {
                    blob: ingested.blob,
                    layer: Some(ingested.layer),
                }
            }
        };
        Ok(prepared)
    }

    fn take_in(&self, what: &str, found: Found<'_>) -> Result<Ingested, ImageError> {
        match found {
            Found::Ingested(ingested) => Ok(ingested.clone()),
            Found::Refused(error) => Err(ImageError::Invalid(error.to_owned())),
            Found::Staged(blob) => ingest_staged(self.staging, what, blob),
            Found::Lying(reader) => ingest(self.staging, what, reader),
        }
    }

    /// A layer that the store has, or that is staged: what is left is its blob, when it is one that the store does not
    /// have.
    fn known(
        &self,
        what: &str,
        source: &LayerSource,
        found: Found<'_>,
        diff_id: &Digest,
    ) -> Result<Prepared, ImageError> {
        if let Some(expected) = &source.expected
            && let Some(blob) = self.known_blob(diff_id, expected)?
        {
            return Ok(Prepared { blob, layer: None });
        }
        let (found_id, blob) = match found {
            Found::Ingested(ingested) => (ingested.layer.diff_id, ingested.blob.clone()),
            Found::Refused(error) => return Err(ImageError::Invalid(error.to_owned())),
            Found::Staged(blob) => {
                let ingested = ingest_staged(self.staging, what, blob)?;
                (ingested.layer.diff_id, ingested.blob)
            }
            Found::Lying(mut reader) => {
                let (compression, start) = sniff(&mut reader).map_err(ImageError::io("read", what))?;
                match (compression, &source.expected) {
                    // a plain tar is not needed: the store has the layer that the configuration names
                    (Compression::None, None) => {
                        drop(start);
                        let size_bytes = self.store.blob_size(diff_id)?;
                        let blob = plain_blob(*diff_id, size_bytes);
                        return Ok(Prepared { blob, layer: None });
                    }
                    _ => keep_blob(self.staging, what, start)?,
                }
            }
        };
        self.check(what, source, diff_id, &found_id, &blob)?;
        Ok(Prepared { blob, layer: None })
    }

    /// The blob of a layer that the store has, when it has this blob of it too.
    fn known_blob(
        &self,
        diff_id: &Digest,
        expected: &describe::Expected,
    ) -> Result<Option<TakenBlob>, ImageError> {
        let is_plain = expected.digest == *diff_id;
        if !is_plain && !self.store.is_blob_of(&expected.digest, diff_id)? {
            return Ok(None);
        }
        if !self.store.has_blob(&expected.digest)
            || self.store.blob_size(&expected.digest)? != expected.size_bytes
        {
            return Ok(None);
        }
        if is_plain {
            return Ok(Some(plain_blob(*diff_id, expected.size_bytes)));
        }
        let mut start = self.store.open_blob(&expected.digest)?;
        let (compression, _) = sniff(&mut start).map_err(ImageError::io("read", "a blob of the store"))?;
        // kept from deletion by a link of its own, as a new one would be
        let staged = self
            .staging
            .link_blob(self.store, &expected.digest, expected.size_bytes)?;
        let media_type = compression.layer_media_type().unwrap_or(OCI_LAYER);
        Ok(staged.map(|staged| TakenBlob {
            digest: expected.digest,
            size_bytes: expected.size_bytes,
            media_type,
            staged: Some(staged),
        }))
    }

    /// Compares what was read with what manifest and configuration say.
    fn check(
        &self,
        what: &str,
        source: &LayerSource,
        diff_id: &Digest,
        found: &Digest,
        blob: &TakenBlob,
    ) -> Result<(), ImageError> {
        if let Some(expected) = &source.expected
            && (expected.digest != blob.digest || expected.size_bytes != blob.size_bytes)
        {
            return Err(ImageError::Invalid(format!(
                "{what}: the manifest says {} with {} bytes, the content is {} with {} bytes",
                expected.digest, expected.size_bytes, blob.digest, blob.size_bytes
            )));
        }
        if found != diff_id {
            return Err(ImageError::Invalid(format!(
                "{what}: the content has the diff id {found}, the configuration says {diff_id}"
            )));
        }
        Ok(())
    }
}

fn plain_blob(diff_id: Digest, size_bytes: u64) -> TakenBlob {
    TakenBlob {
        digest: diff_id,
        size_bytes,
        media_type: OCI_LAYER,
        staged: None,
    }
}
