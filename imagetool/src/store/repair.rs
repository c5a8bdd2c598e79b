//! Putting single parts of a store right, for [`crate::system::check`]. Each change is made with nobody else changing the
//! store.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::params;

use super::{StagedBlob, Store, blobs, layers, staging};
use crate::digest::Digest;
use crate::error::{StoreError, chain};

impl Store {
    /// Makes a layer anew from a compressed blob; tells whether there was a good one. Its damaged objects must have
    /// been deleted.
    pub fn repair_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        let path = self.layer_path(diff_id);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", &path)(error));
            }
            _ => {}
        }
        match self.rebuild_layer(diff_id) {
            Ok(()) => {
                remove(&path.join(layers::DAMAGED))?;
                Ok(true)
            }
            Err(error) => {
                tracing::debug!("layer {}: {}", diff_id.short(), chain(&error));
                Ok(false)
            }
        }
    }

    /// Puts a blob in the place of a damaged or missing one.
    pub fn replace_blob(&self, blob: &StagedBlob) -> Result<(), StoreError> {
        let staged = fs::File::open(&blob.path).and_then(|file| file.sync_all());
        staged.map_err(StoreError::io("sync", &blob.path))?;
        let _guard = staging::lock_exclusive(self.root())?;
        remove(&self.blob_path(&blob.digest))?;
        blobs::place(self, blob)
    }

    /// Deletes a blob; gives the bytes on disk that this made free.
    pub fn delete_blob(&self, digest: &Digest) -> Result<u64, StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        let path = self.blob_path(digest);
        let bytes = crate::system::disk::of_file(&path).map_err(StoreError::io("look at", &path))?;
        remove(&path)?;
        Ok(bytes)
    }

    /// Deletes a damaged object, so that a new one can take its place.
    pub fn delete_object(&self, digest: &Digest) -> Result<(), StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        remove(&self.repository().object(digest.as_bytes()))
    }

    /// Deletes a merged index; it is made anew when it is needed.
    pub fn forget_chain(&self, name: &str) -> Result<(), StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        remove(&self.root().join("chains").join(name))
    }

    /// Deletes the index of an archive that was mounted in place; not, and the answer is `false`, while it is in use: a
    /// mount's server opens some of its files late.
    pub fn forget_archive(&self, name: &str) -> Result<bool, StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        let path = self.root().join("archives").join(name);
        let folder = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        if folder.try_lock().is_err() {
            return Ok(false);
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("delete", &path)(error))
            }
            _ => Ok(true),
        }
    }

    /// Notes that a layer is damaged beyond repair: the next load of an image that has it brings it anew.
    pub fn mark_damaged(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let path = self.layer_path(diff_id);
        if !path.is_dir() {
            return Ok(());
        }
        let mark = path.join(layers::DAMAGED);
        fs::write(&mark, "").map_err(StoreError::io("write", &mark))
    }

    /// Where the files of a container are, also of one that has no row.
    pub fn container_dir_of(&self, id: &str) -> std::path::PathBuf {
        self.root().join("containers").join(id)
    }

    /// Deletes what no row names.
    pub fn delete_unnamed(&self) -> Result<(), StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        self.sweep()
    }

    /// Writes `index.json` and `oci-layout` anew.
    pub fn rewrite_layout(&self) -> Result<(), StoreError> {
        self.write_index()?;
        self.write_layout()
    }

    /// Writes an image's configuration anew, which must be the one that its id names.
    pub fn set_config(&self, id: &Digest, config_json: &str) -> Result<(), StoreError> {
        let sql = "UPDATE images SET config = ?2 WHERE id = ?1";
        self.database()
            .execute(sql, params![id.to_string(), config_json])?;
        Ok(())
    }

    /// Gives an image another manifest.
    pub fn set_manifest(&self, id: &Digest, manifest: &Digest) -> Result<(), StoreError> {
        let sql = "UPDATE images SET manifest_digest = ?2 WHERE id = ?1";
        self.database()
            .execute(sql, params![id.to_string(), manifest.to_string()])?;
        Ok(())
    }

    /// Writes a layer's size anew.
    pub fn set_layer_size(&self, diff_id: &Digest, size_bytes: u64) -> Result<(), StoreError> {
        let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        let sql = "UPDATE layers SET size_bytes = ?2 WHERE diff_id = ?1";
        self.database().execute(sql, params![diff_id.to_string(), size])?;
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(error)),
        _ => Ok(()),
    }
}
