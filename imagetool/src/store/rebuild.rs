//! Layers made anew from their blobs: those of a store in its earlier form, which kept unpacked directories
//! (`layers/HEX/diff`) beside every blob, and damaged ones.
//!
//! The parts are placed into the layer's directory one by one, the index last: a layer without an index is one that was
//! not made anew yet. The same stream gives the same parts, so that a process that has the old ones open sees no
//! difference.

use std::fs::{self, File};
use std::path::PathBuf;

use super::{StagedBlob, StagedLayer, Staging, Store, objects, publish, staging};
use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::ingest::ingest_staged;

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
            let ingested = ingest_staged(&staging, &what, &blob)?;
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
        let diff = self.layer_path(diff_id).join("diff");
        if !diff.is_dir() {
            return Err(StoreError::Missing {
                what: "layer",
                digest: *diff_id,
            });
        }
        tracing::info!("bringing layer {diff_id} into the new form");
        self.rebuild_layer(diff_id)
            .map_err(|source| StoreError::Rebuild {
                digest: *diff_id,
                source: Box::new(source),
            })?;
        // a container that was started before stands on it
        if !self.containers().any_running()? {
            let staging = self.stage("migrate")?;
            fs::rename(&diff, staging.path().join("diff")).map_err(StoreError::io("rename", &diff))?;
        }
        Ok(())
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
        objects::sync(self, &folders)?;
        let folder: PathBuf = self.layer_path(&layer.diff_id);
        for name in ["pack", "recipe", "index"] {
            let path = folder.join(name);
            fs::rename(layer.path.join(name), &path).map_err(StoreError::io("rename to", &path))?;
        }
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(StoreError::io("sync", &folder))
    }
}
