//! Unpacked layers. The one place that knows that a layer is a directory `layers/HEX/diff`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension;

use super::{StagedLayer, Staging, Store};
use crate::digest::Digest;
use crate::error::StoreError;

impl Store {
    /// The directory that belongs to a layer.
    pub(super) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// The directory that serves as an overlay's lower directory.
    pub fn layer_diff(&self, diff_id: &Digest) -> PathBuf {
        self.layer_path(diff_id).join("diff")
    }

    /// Whether the layer is there; if so, it stays there for as long as `staging` lives.
    pub fn pin_layer(&self, staging: &Staging, diff_id: &Digest) -> Result<bool, StoreError> {
        let path = self.layer_path(diff_id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        file.lock_shared().map_err(StoreError::io("lock", &path))?;
        // a deletion that was under way is over now: the row tells whether it took the layer
        if self.layer_size(diff_id)?.is_none() {
            return Ok(false);
        }
        staging.pin(file);
        Ok(true)
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

/// Gives a staged layer its name. One that is there already, from another command, is as good.
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
            Ok(())
        }
        Err(error) => Err(StoreError::io("rename to", &path)(error)),
    }
}

fn is_there(error: &io::Error, path: &Path) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) && path.join("diff").is_dir()
}
