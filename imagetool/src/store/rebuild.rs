//! Layers made anew from their blobs: those of a store in its earlier form, which kept unpacked directories
//! (`layers/HEX/diff`) beside every blob, and damaged ones.
//!
//! The parts are placed into the layer's directory one by one, the index last: a layer without an index is one that was
//! not made anew yet. The same stream gives the same parts, so that a process that has the old ones open sees no
//! difference.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{StagedBlob, StagedLayer, Staging, Store, layers, objects, publish, staging};
use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::ingest::ingest_staged;

/// Size of the buffers through which two indexes are compared.
const BUFFER_BYTES: usize = 256 << 10;

impl Store {
    /// Makes index, pack, objects and recipe of a layer from a blob that the store has. What is damaged must be deleted
    /// before: an object that is there is taken for a good one.
    pub fn rebuild_layer(&self, diff_id: &Digest) -> Result<(), ImageError> {
        let staging = self.stage("rebuild")?;
        let what = format!("layer {}", diff_id.short());
        let missing = || StoreError::Missing {
            what: "layer",
            digest: *diff_id,
        };
        if !self.pin_layer(&staging, diff_id)? {
            return Err(missing().into());
        }
        for blob in self.blobs_of(diff_id)? {
            let path = self.blob_path(&blob);
            let Ok(metadata) = path.metadata() else { continue };
            let blob = StagedBlob {
                digest: blob,
                size_bytes: metadata.len(),
                path,
            };
            let ingested = match ingest_staged(&staging, &what, &blob) {
                Ok(ingested) => ingested,
                Err(error @ ImageError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!("{what}: blob {}: {error}", blob.digest);
                    continue;
                }
            };
            if ingested.layer.diff_id != *diff_id {
                tracing::warn!("{what}: blob {} is damaged", blob.digest);
                continue;
            }
            return Ok(self.put_in_place(&staging, &ingested.layer)?);
        }
        Err(missing().into())
    }

    /// As [`Store::rebuild_layer`], for a layer of the earlier form; its directory is deleted afterwards.
    pub(super) fn migrate_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let path = self.layer_path(diff_id);
        let is_done = || path.join("index").is_file();
        if !path.join("diff").is_dir() {
            // perhaps another command was faster
            return match is_done() {
                true => Ok(()),
                false => Err(StoreError::Missing {
                    what: "layer",
                    digest: *diff_id,
                }),
            };
        }
        tracing::info!("bringing layer {diff_id} into the new form");
        if let Err(source) = self.rebuild_layer(diff_id)
            && !is_done()
        {
            return Err(StoreError::Rebuild {
                digest: *diff_id,
                source: Box::new(source),
            });
        }
        let staging = self.stage("migrate")?;
        self.drop_earlier_form(diff_id, staging.path())
    }

    /// Deletes the earlier forms of layers that were made anew, as far as nobody stands on them: moves them to `bin`.
    pub(super) fn drop_earlier_forms(&self, bin: &Path) -> Result<(), StoreError> {
        for diff_id in self.layers_on_disk()? {
            self.drop_earlier_form(&diff_id, bin)?;
        }
        Ok(())
    }

    fn drop_earlier_form(&self, diff_id: &Digest, bin: &Path) -> Result<(), StoreError> {
        let path = self.layer_path(diff_id);
        let diff = path.join("diff");
        if !diff.is_dir() || !path.join("index").is_file() {
            return Ok(());
        }
        // a container that was started before stands on it; a mount made before holds a lock
        if self.containers().any_running()? {
            return Ok(());
        }
        let Ok(lock) = File::open(&path) else {
            return Ok(());
        };
        if lock.try_lock().is_err() {
            return Ok(());
        }
        match fs::rename(&diff, bin.join(format!("diff.{}", diff_id.hex()))) {
            // another command was faster
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(StoreError::io("rename", &diff)),
        }
    }

    fn put_in_place(&self, staging: &Staging, layer: &StagedLayer) -> Result<(), StoreError> {
        publish::sync_file_system(staging)?;
        // objects may be left that no index names
        self.place_parts(staging, layer)
            .inspect_err(|_| staging.leave_trace())
    }

    fn place_parts(&self, staging: &Staging, layer: &StagedLayer) -> Result<(), StoreError> {
        let _guard = staging::lock_shared(self.root())?;
        let mut folders = std::collections::BTreeSet::new();
        objects::place(self, staging, layer, &mut folders)?;
        objects::sync(self, staging, &folders)?;
        self.replace_parts(layer)
    }

    /// Puts the parts of a layer into the directory that it has, which stays: whoever has it locked keeps it. The mark
    /// of damage goes last.
    pub(super) fn replace_parts(&self, layer: &StagedLayer) -> Result<(), StoreError> {
        let folder: PathBuf = self.layer_path(&layer.diff_id);
        let (old, new) = (folder.join("index"), layer.path.join("index"));
        if old.exists() && !has_same_content(&old, &new) {
            // what was merged from it names other places
            self.forget_chains_of(&layer.diff_id)?;
        }
        for name in ["pack", "recipe", "index"] {
            let path = folder.join(name);
            fs::rename(layer.path.join(name), &path).map_err(StoreError::io("rename to", &path))?;
        }
        let sync = || File::open(&folder).and_then(|folder| folder.sync_all());
        sync().map_err(StoreError::io("sync", &folder))?;
        let mark = folder.join(layers::DAMAGED);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("delete", &mark)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two files have the same bytes; not where one cannot be read.
fn has_same_content(one: &Path, other: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let (one, other) = (File::open(one)?, File::open(other)?);
        if one.metadata()?.len() != other.metadata()?.len() {
            return Ok(false);
        }
        let mut others = BufReader::with_capacity(BUFFER_BYTES, other).bytes();
        for byte in BufReader::with_capacity(BUFFER_BYTES, one).bytes() {
            if others.next().transpose()? != Some(byte?) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    same().unwrap_or(false)
}
