//! Loading images from Docker archives, OCI archives and OCI layout directories.
//!
//! ```text
//! contents (staged blobs, documents) ──► images described ──► layers unpacked in parallel ──► published
//! ```
//!
//! An archive is read once, front to back, since it may come from a pipe: documents are kept in memory, everything else
//! becomes a staged blob. Nothing is visible before every digest of an image was verified.
//! Specifications: OCI image-spec, image-layout.md; moby, image/spec/v1.2.md (`manifest.json`).

mod contents;
pub(crate) mod describe;

use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::contents::Contents;
use self::describe::{Described, describe};
use crate::config::{LayerBlob, manifest_json};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::ingest::{diff_id_of, ingest_staged};
use crate::manifest::parse_config;
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
    let contents = Contents::from_archive(&staging, what, archive)?;
    load(store, &staging, &contents, progress)
}

/// Loads every image of an OCI layout directory.
pub fn load_directory(store: &Store, path: &Path, progress: &Progress) -> Result<Vec<Loaded>, ImageError> {
    let staging = store.stage("load")?;
    let contents = Contents::from_directory(path);
    load(store, &staging, &contents, progress)
}

fn load(
    store: &Store,
    staging: &Staging,
    contents: &Contents,
    progress: &Progress,
) -> Result<Vec<Loaded>, ImageError> {
    let mut loaded = Vec::new();
    for described in describe(contents)? {
        loaded.push(load_one(store, staging, contents, &described, progress)?);
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
    if store.has_image(&id)? {
        let renamed = store.add_names(&id, &names)?;
        return Ok(Loaded { id, names, renamed });
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
    let prepared = prepare_layers(store, staging, contents, described, &diff_ids, progress)?;
    let mut blobs: Vec<StagedBlob> = Vec::new();
    let mut staged: Vec<StagedLayer> = Vec::new();
    let mut layers = Vec::new();
    let mut layer_blobs = Vec::new();
    for (diff_id, part) in diff_ids.iter().zip(prepared) {
        layers.push((*diff_id, part.blob.digest));
        layer_blobs.push(LayerBlob {
            media_type: part.media_type,
            digest: part.blob.digest,
            size_bytes: part.blob.size_bytes,
        });
        blobs.push(part.blob);
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
    };
    blobs.push(staging.add_blob(&described.config)?);
    blobs.push(manifest);
    let renamed = store.publish(staging, &blobs, &staged, &image, &names)?;
    Ok(Loaded { id, names, renamed })
}

/// A layer that is ready to be published.
struct Prepared {
    blob: StagedBlob,
    media_type: String,
    /// `None` when the store has the layer already.
    layer: Option<StagedLayer>,
}

/// Unpacks and verifies the layers, several at a time.
fn prepare_layers(
    store: &Store,
    staging: &Staging,
    contents: &Contents,
    described: &Described,
    diff_ids: &[Digest],
    progress: &Progress,
) -> Result<Vec<Prepared>, ImageError> {
    let count = diff_ids.len();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Prepared, ImageError>>>> =
        Mutex::new((0..count).map(|_| None).collect());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(diff_id) = diff_ids.get(at) else { return };
            // a layer that comes twice is unpacked once
            let repeated = diff_ids[..at].contains(diff_id);
            let result = prepare(
                store,
                staging,
                contents,
                &described.layers[at],
                diff_id,
                repeated,
                progress,
            );
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
    let (mut prepared, mut missing) = (Vec::new(), false);
    for result in results {
        match result {
            Some(result) => prepared.push(result?),
            None => missing = true,
        }
    }
    if missing {
        return Err(ImageError::Invalid("a layer was not read".to_owned()));
    }
    Ok(prepared)
}

fn prepare(
    store: &Store,
    staging: &Staging,
    contents: &Contents,
    source: &describe::LayerSource,
    diff_id: &Digest,
    repeated: bool,
    progress: &Progress,
) -> Result<Prepared, ImageError> {
    let what = format!("layer {}", diff_id.short());
    let blob = contents.blob(staging, &source.path)?;
    if let Some(expected) = &source.expected
        && (expected.digest != blob.digest || expected.size_bytes != blob.size_bytes)
    {
        return Err(ImageError::Invalid(format!(
            "{what}: the manifest says {} with {} bytes, the content is {} with {} bytes",
            expected.digest, expected.size_bytes, blob.digest, blob.size_bytes
        )));
    }
    let disagree = |found: Digest| {
        ImageError::Invalid(format!(
            "{what}: the content has the diff id {found}, the configuration says {diff_id}"
        ))
    };
    if repeated || store.pin_layer(staging, diff_id)? {
        let (found, media_type) = diff_id_of(&what, &blob)?;
        if found != *diff_id {
            return Err(disagree(found));
        }
        if let Some(media_type) = media_type {
            return Ok(Prepared {
                blob,
                media_type: media_type.to_owned(),
                layer: None,
            });
        }
    }
    let ingested = ingest_staged(staging, &what, &blob)?;
    if ingested.layer.diff_id != *diff_id {
        return Err(disagree(ingested.layer.diff_id));
    }
    for warning in &ingested.unpacked.warnings {
        progress.warn(&format!("{what}: {warning}"));
    }
    progress.line(&format!(
        "{what}: {}",
        crate::time::human_size(ingested.layer.size_bytes)
    ));
    Ok(Prepared {
        blob: ingested.blob,
        media_type: ingested.media_type.to_owned(),
        layer: Some(ingested.layer),
    })
}
