//! Making staged work visible.
//!
//! Order: contents are synced; objects get their final names, then blobs and layers; the folders are synced; one database transaction; the
//! layout's index. A crash before the transaction leaves files without a row, which the next command deletes.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Origin, StagedBlob, StagedLayer, Staging, Store, blobs, layers, objects, origins, staging};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::reference::Reference;
use crate::time::Timestamp;

/// From so many files on, one sync of the file system is less work than one of each.
const FILES_SYNCED_MAX: usize = 32;

/// An image to be added.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The configuration, as it came.
    pub config_json: String,
    /// The manifest's blob.
    pub manifest: Digest,
    /// Diff id and blob of each layer, bottom first.
    pub layers: Vec<(Digest, Digest)>,
    /// The image it was committed on.
    pub parent: Option<Digest>,
    /// The host directory below its layers.
    pub base_rootfs: Option<PathBuf>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What the registry calls it that it came from.
    pub origin: Option<Origin>,
}

/// What became of a name that was given to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The name.
    pub name: Reference,
    /// The image that had it before.
    pub from: Digest,
}

impl Store {
    /// Adds an image with its staged parts and names. Gives the names that other images lost. An image that is there
    /// already only gets the names.
    pub fn publish(
        &self,
        staging: &Staging,
        blobs: &[StagedBlob],
        new_layers: &[StagedLayer],
        image: &NewImage,
        names: &[Reference],
    ) -> Result<Vec<Renamed>, StoreError> {
        sync_file_system(staging)?;
        let renamed = self
            .place(staging, blobs, new_layers, image, names)
            .inspect_err(|_| staging.leave_trace())?;
        if let Err(error) = self.write_index() {
            // the image is there; the next command writes it again
            tracing::warn!("index.json does not name all images: {error}");
            staging.leave_trace();
        }
        Ok(renamed)
    }

    /// Gives synced parts their names and writes the rows. Where that fails, names without rows may be left.
    fn place(
        &self,
        staging: &Staging,
        blobs: &[StagedBlob],
        new_layers: &[StagedLayer],
        image: &NewImage,
        names: &[Reference],
    ) -> Result<Vec<Renamed>, StoreError> {
        let id = Digest::of(image.config_json.as_bytes());
        let guard = staging::lock_shared(self.root())?;
        for blob in blobs {
            blobs::place(self, blob)?;
        }
        let mut folders = BTreeSet::new();
        for layer in new_layers {
            objects::place(self, staging, layer, &mut folders)?;
        }
        objects::sync(self, staging, &folders)?;
        for layer in new_layers {
            layers::place(self, staging, layer)?;
        }
        for folder in ["blobs/sha256", "layers"] {
            let path = self.root().join(folder);
            File::open(&path)
                .and_then(|folder| folder.sync_all())
                .map_err(StoreError::io("sync", &path))?;
        }
        let renamed = {
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert_layers(&transaction, new_layers)?;
            insert_image(&transaction, &id, image)?;
            if let Some(origin) = &image.origin {
                origins::insert(&transaction, &id, origin)?;
            }
            let renamed = set_names(&transaction, &id, names)?;
            transaction.commit()?;
            renamed
        };
        drop(guard);
        Ok(renamed)
    }

    /// Gives an image more names. Tells which images lost them.
    pub fn add_names(&self, id: &Digest, names: &[Reference]) -> Result<Vec<Renamed>, StoreError> {
        let renamed = {
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "SELECT count(*) FROM images WHERE id = ?1";
            if transaction.query_row(sql, [id.to_string()], |row| row.get::<_, i64>(0))? == 0 {
                return Err(StoreError::NoSuchImage(id.to_string()));
            }
            let renamed = set_names(&transaction, id, names)?;
            transaction.commit()?;
            renamed
        };
        self.write_index()?;
        Ok(renamed)
    }
}

/// Writes everything below the staging directory to disk: what a small commit has made file by file, so that it does not
/// wait for what others write; more by one call for the file system, which is faster then.
pub(super) fn sync_file_system(staging: &Staging) -> Result<(), StoreError> {
    let path = staging.path();
    let mut few = Vec::new();
    if !staging.sync_has_failed() && list_few(path, &mut few).map_err(StoreError::io("read", path))? {
        for path in few {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(StoreError::io("sync", &path))?;
        }
        return Ok(());
    }
    staging.sync_all()
}

/// Lists a tree, what is in a folder before the folder; false when it is too much to be synced one by one.
fn list_few(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if !list_few(&entry.path(), found)? {
                return Ok(false);
            }
        } else {
            found.push(entry.path());
        }
        if found.len() > FILES_SYNCED_MAX {
            return Ok(false);
        }
    }
    found.push(folder.to_owned());
    Ok(true)
}

fn seconds_now() -> i64 {
    let elapsed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

fn insert_layers(transaction: &Transaction<'_>, layers: &[StagedLayer]) -> Result<(), StoreError> {
    for layer in layers {
        let size = i64::try_from(layer.size_bytes).unwrap_or(i64::MAX);
        let sql =
            "INSERT INTO layers (diff_id, size_bytes, added_at_s) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        transaction.execute(sql, params![layer.diff_id.to_string(), size, seconds_now()])?;
    }
    Ok(())
}

fn insert_image(transaction: &Transaction<'_>, id: &Digest, image: &NewImage) -> Result<(), StoreError> {
    use std::os::unix::ffi::OsStrExt;
    let sql =
        "INSERT INTO images (id, manifest_digest, config, parent_id, base_rootfs, created_at_s, added_at_s)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    let inserted = transaction.execute(
        sql,
        params![
            id.to_string(),
            image.manifest.to_string(),
            image.config_json,
            image.parent.map(|parent| parent.to_string()),
            image.base_rootfs.as_ref().map(|path| path.as_os_str().as_bytes()),
            image.created.map_or(Timestamp::ZERO_S, |time| time.seconds),
            seconds_now(),
        ],
    )?;
    if inserted == 0 {
        return Ok(());
    }
    for (position, (diff_id, blob)) in (0i64..).zip(&image.layers) {
        let sql =
            "INSERT INTO image_layers (image_id, position, diff_id, blob_digest) VALUES (?1, ?2, ?3, ?4)";
        transaction.execute(
            sql,
            params![id.to_string(), position, diff_id.to_string(), blob.to_string()],
        )?;
    }
    Ok(())
}

fn set_names(
    transaction: &Transaction<'_>,
    id: &Digest,
    names: &[Reference],
) -> Result<Vec<Renamed>, StoreError> {
    let mut renamed = Vec::new();
    for name in names {
        if !origins::make_room(transaction, id, name)? {
            continue;
        }
        let key = name.canonical();
        let sql = "SELECT image_id FROM names WHERE name = ?1 AND image_id <> ?2";
        let before: Option<String> = transaction
            .query_row(sql, params![key, id.to_string()], |row| row.get(0))
            .optional()?;
        if let Some(from) = before.and_then(|text| text.parse().ok()) {
            renamed.push(Renamed {
                name: name.clone(),
                from,
            });
        }
        let sql = "INSERT INTO names (name, image_id) VALUES (?1, ?2)
                   ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id";
        transaction.execute(sql, params![key, id.to_string()])?;
    }
    Ok(renamed)
}
