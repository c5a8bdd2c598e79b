//! Layers: directories `layers/HEX` with index, pack and recipe; who uses one holds a shared lock on its directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension;

use super::images::digest;
use super::{Image, StagedLayer, Staging, Store};
use crate::digest::Digest;
use crate::error::{StoreError, chain};

/// A file in a layer's directory that says that the layer is damaged and cannot be repaired from what the store has: it
/// is used as far as it goes, and replaced when an image that has it is loaded.
pub(super) const DAMAGED: &str = "damaged";

impl Store {
    /// The directory that belongs to a layer.
    pub(super) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// The layers that have a directory, whether a row names them or not.
    pub(super) fn layers_on_disk(&self) -> Result<Vec<Digest>, StoreError> {
        let path = self.root.join("layers");
        let entries = std::fs::read_dir(&path).map_err(StoreError::io("read", &path))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| Digest::from_hex(&name).ok()).collect())
    }

    /// Keeps the layers of an image from being deleted for as long as one of the descriptors is open, here or in a
    /// process that inherits it: those of a mount, say.
    pub fn pin_layers_for(&self, image: &Image) -> Result<Vec<File>, StoreError> {
        let staging = self.stage("pin")?;
        for diff_id in image.diff_ids()? {
            if !self.pin_layer(&staging, &diff_id)? {
                return Err(StoreError::Missing {
                    what: "layer",
                    digest: diff_id,
                });
            }
        }
        Ok(staging.take_pins())
    }

    /// The blobs that images have for a layer.
    pub(super) fn blobs_of(&self, diff_id: &Digest) -> Result<Vec<Digest>, StoreError> {
        let database = self.database();
        let sql = "SELECT DISTINCT blob_digest FROM image_layers WHERE diff_id = ?1";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([diff_id.to_string()], |row| row.get::<_, String>(0))?;
        rows.map(|row| digest(&row?)).collect()
    }

    /// Whether an image has this blob for this layer: then it was verified once that they belong together.
    pub fn is_blob_of(&self, blob: &Digest, diff_id: &Digest) -> Result<bool, StoreError> {
        Ok(self.blobs_of(diff_id)?.contains(blob))
    }

    /// Whether the layer is there; if so, it stays there for as long as `staging` lives.
    pub fn pin_layer(&self, staging: &Staging, diff_id: &Digest) -> Result<bool, StoreError> {
        let path = self.layer_path(diff_id);
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        loop {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(StoreError::io("open", &path)(error)),
            };
            file.lock_shared().map_err(StoreError::io("lock", &path))?;
            // a deletion that was under way is over now: the row tells whether it took the layer
            if self.layer_size(diff_id)?.is_none() {
                return Ok(false);
            }
            let own = file.metadata().map_err(StoreError::io("look at", &path))?;
            let there = match path.metadata() {
                Ok(there) => there,
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(StoreError::io("look at", &path)(error)),
            };
            // it may be there again, in another directory, whose lock is the one that counts
            if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
                staging.pin(file);
                return Ok(true);
            }
        }
    }

    /// As [`Store::pin_layer`], but a layer that is not whole is not there: a new one is to take its place. One of the
    /// store's earlier form is made anew first, so that its plain tar can be had from it.
    pub fn pin_sound_layer(&self, staging: &Staging, diff_id: &Digest) -> Result<bool, StoreError> {
        let path = self.layer_path(diff_id);
        if path.join("diff").is_dir()
            && !path.join("index").is_file()
            && let Err(error) = self.migrate_layer(diff_id)
        {
            tracing::warn!("layer {}: {}", diff_id.short(), chain(&error));
        }
        Ok(self.pin_layer(staging, diff_id)? && is_sound(&path))
    }

    /// Whether all layers of an image are there, and none is known to be damaged.
    pub fn has_sound_layers(&self, image: &Digest) -> Result<bool, StoreError> {
        let diff_ids = self.image(image)?.diff_ids()?;
        let is_sound = |diff_id: &Digest| {
            let path = self.layer_path(diff_id);
            is_sound(&path) || path.join("diff").is_dir()
        };
        Ok(diff_ids.iter().all(is_sound))
    }

    /// The size of a layer's regular files; `None` when the layer is not there.
    pub fn layer_size(&self, diff_id: &Digest) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT size_bytes FROM layers WHERE diff_id = ?1";
        let size = self
            .database()
            .query_row(sql, [diff_id.to_string()], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(size.map(|size| u64::try_from(size).unwrap_or(0)))
    }
}

/// Whether a layer's directory holds a whole layer, as far as is known.
fn is_sound(path: &Path) -> bool {
    path.join("index").is_file() && !path.join(DAMAGED).exists()
}

/// Gives a staged layer its name. One that is there already, from another command, is as good when it is sound; of one
/// that is not, the parts are replaced, and the directory stays, so that a kill in between leaves no less than before and
/// the locks on it count.
pub(super) fn place(store: &Store, staging: &Staging, layer: &StagedLayer) -> Result<(), StoreError> {
    let path = store.layer_path(&layer.diff_id);
    let lock = File::open(&layer.path).map_err(StoreError::io("open", &layer.path))?;
    lock.lock_shared().map_err(StoreError::io("lock", &layer.path))?;
    match std::fs::rename(&layer.path, &path) {
        Ok(()) => {
            staging.pin(lock);
            Ok(())
        }
        Err(error) if is_there(&error, &path) => {
            let other = File::open(&path).map_err(StoreError::io("open", &path))?;
            other.lock_shared().map_err(StoreError::io("lock", &path))?;
            staging.pin(other);
            match is_sound(&path) {
                true => Ok(()),
                false => store.replace_parts(layer),
            }
        }
        Err(error) => Err(StoreError::io("rename to", &path)(error)),
    }
}

fn is_there(error: &io::Error, path: &Path) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) && path.is_dir()
}
