//! Removing images and what nothing needs any more.
//!
//! A layer's objects go with it, but for those that another layer names (see `objects`). Deleting happens under ROOT/lock held exclusively, so that nothing is published meanwhile. What a living command
//! has pinned (a shared lock on the layer's directory) is left for a later removal.

use std::collections::BTreeSet;
use std::fs::{self, File};

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::images::digest;
use super::objects::Users;
use super::{ContainerStatus, Store, origins, staging};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::reference::Reference;
use crate::system::disk;

/// One line of what a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A name is gone.
    Untagged(String),
    /// An image or layer is gone.
    Deleted(Digest),
}

impl std::fmt::Display for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untagged(name) => write!(f, "Untagged: {name}"),
            Self::Deleted(digest) => write!(f, "Deleted: {digest}"),
        }
    }
}

/// What may be removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Also when stopped containers use it, and all names of an image given by id.
    pub force: bool,
    /// Leave parents that nothing needs.
    pub keep_parents: bool,
}

/// What a removal did altogether.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Line by line.
    pub lines: Vec<Removal>,
    /// Bytes on disk that are free now.
    pub freed_bytes: u64,
}

impl Store {
    /// Removes an image that nothing needs: no container and no child and, unless `named` ones may go as well, no name.
    /// `None` when something does need it, as is decided with nobody else changing the store.
    pub fn remove_unused_image(&self, id: &Digest, named: bool) -> Result<Option<Removed>, StoreError> {
        let guard = staging::lock_exclusive(self.root())?;
        if !self.has_image(id)? {
            return Ok(None);
        }
        let mut removed = Removed::default();
        let mut trash = Trash::new(self)?;
        {
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let names = names_of(&transaction, id)?;
            if container_of(&transaction, id)?.is_some()
                || child_of(&transaction, id)?.is_some()
                || (!names.is_empty() && !named)
            {
                return Ok(None);
            }
            for name in &names {
                untag(&transaction, id, name, &mut removed.lines, &mut trash)?;
            }
            let options = RemoveOptions::default();
            self.delete_chain(&transaction, *id, options, &mut removed.lines, &mut trash)?;
            self.delete_unused_layers(&transaction, &mut removed.lines, &mut trash)?;
            trash.keep_needed(&transaction)?;
            transaction.commit()?;
        }
        let emptied = trash.empty(self);
        drop(guard);
        self.write_index()?;
        removed.freed_bytes = emptied?;
        Ok(Some(removed))
    }

    /// Removes what no image has any more and a living command had pinned when its image was removed.
    pub fn remove_unused_layers(&self) -> Result<Removed, StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        let mut removed = Removed::default();
        let mut trash = Trash::new(self)?;
        {
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            self.delete_unused_layers(&transaction, &mut removed.lines, &mut trash)?;
            transaction.commit()?;
        }
        removed.freed_bytes = trash.empty(self)?;
        Ok(removed)
    }

    /// Removes an image by name or id, in Docker's way: of several names only the one that was given.
    pub fn remove_image(&self, name_or_id: &str, options: RemoveOptions) -> Result<Vec<Removal>, StoreError> {
        let guard = staging::lock_exclusive(self.root())?;
        let (id, name) = self.find_image(name_or_id)?;
        let mut done = Vec::new();
        let mut trash = Trash::new(self)?;
        {
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // names come and go without ROOT/lock: what counts is what the transaction sees
            let names = names_of(&transaction, &id)?;
            let is_tag = |name: &&Reference| name.digest().is_none();
            if name
                .as_ref()
                .filter(is_tag)
                .is_some_and(|name| !names.contains(name))
            {
                return Err(StoreError::NoSuchImage(name_or_id.to_owned()));
            }
            match &name {
                Some(name) if names.iter().any(|other| other != name) => {
                    untag(&transaction, &id, name, &mut done, &mut trash)?;
                }
                _ => self.remove_whole(
                    &transaction,
                    &id,
                    name.as_ref(),
                    &names,
                    options,
                    &mut done,
                    &mut trash,
                )?,
            }
            self.delete_unused_layers(&transaction, &mut done, &mut trash)?;
            trash.keep_needed(&transaction)?;
            transaction.commit()?;
        }
        let emptied = trash.empty(self);
        drop(guard);
        // the rows are gone, whatever became of the files
        self.write_index()?;
        emptied?;
        Ok(done)
    }

    /// Removes the last name and, where nothing needs it, the image.
    #[allow(clippy::too_many_arguments)] // one transaction's state, used in this file alone
    fn remove_whole(
        &self,
        transaction: &Transaction<'_>,
        id: &Digest,
        name: Option<&Reference>,
        names: &[Reference],
        options: RemoveOptions,
        done: &mut Vec<Removal>,
        trash: &mut Trash,
    ) -> Result<(), StoreError> {
        if name.is_none() && names.len() > 1 && !options.force {
            return Err(StoreError::Conflict(format!(
                "unable to delete {} (must be forced) - image is referenced in multiple repositories",
                id.short()
            )));
        }
        let user = container_of(transaction, id)?;
        if let Some((container, status)) = &user {
            let short = &container[..12.min(container.len())];
            let running = *status == ContainerStatus::Running;
            match name {
                Some(name) if !options.force => {
                    return Err(StoreError::Conflict(format!(
                        "unable to remove repository reference {:?} (must force) - container {short} is using its \
                         referenced image {}",
                        name.familiar(),
                        id.short()
                    )));
                }
                None if running => {
                    return Err(StoreError::Conflict(format!(
                        "unable to delete {} (cannot be forced) - image is being used by running container {short}",
                        id.short()
                    )));
                }
                // with no name to take away nothing would be done
                None if names.is_empty() && options.force => {
                    return Err(StoreError::Conflict(format!(
                        "unable to delete {} (cannot be forced) - image is being used by stopped container {short}: \
                         remove the container first",
                        id.short()
                    )));
                }
                None if !options.force => {
                    return Err(StoreError::Conflict(format!(
                        "unable to delete {} (must be forced) - image is being used by stopped container {short}",
                        id.short()
                    )));
                }
                _ => {}
            }
        }
        let child = child_of(transaction, id)?;
        if let (Some(child), None) = (&child, name)
            && names.is_empty()
        {
            return Err(StoreError::Conflict(format!(
                "unable to delete {} (cannot be forced) - image has dependent child images: {}",
                id.short(),
                child.short()
            )));
        }
        for name in names {
            untag(transaction, id, name, done, trash)?;
        }
        // an image that a container or a child still uses stays, without a name
        if user.is_none() && child.is_none() {
            self.delete_chain(transaction, *id, options, done, trash)?;
        }
        Ok(())
    }

    /// Deletes an image and then each parent that has no name and that nothing else needs.
    fn delete_chain(
        &self,
        transaction: &Transaction<'_>,
        first: Digest,
        options: RemoveOptions,
        done: &mut Vec<Removal>,
        trash: &mut Trash,
    ) -> Result<(), StoreError> {
        let mut next = Some(first);
        while let Some(id) = next.take() {
            let key = id.to_string();
            let sql = "SELECT manifest_digest, parent_id FROM images WHERE id = ?1";
            let (manifest, parent): (String, Option<String>) =
                transaction.query_row(sql, [&key], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut statement = transaction.prepare(
                "SELECT diff_id, blob_digest FROM image_layers WHERE image_id = ?1 ORDER BY position DESC",
            )?;
            let rows = statement.query_map([&key], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
            let layers: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
            transaction.execute("DELETE FROM image_layers WHERE image_id = ?1", [&key])?;
            trash.blobs.extend(origins::delete(transaction, &key)?);
            transaction.execute("DELETE FROM images WHERE id = ?1", [&key])?;
            done.push(Removal::Deleted(id));
            trash.blobs.extend([id, digest(&manifest)?]);
            for (diff_id, blob) in layers {
                trash.blobs.insert(digest(&blob)?);
                self.delete_layer(transaction, &digest(&diff_id)?, done, trash)?;
            }
            if let (Some(parent), false) = (parent, options.keep_parents)
                && is_unneeded(transaction, &parent)?
            {
                next = Some(digest(&parent)?);
            }
        }
        origins::delete_unneeded(transaction)
    }

    /// Deletes the layers that no image has: those that were pinned when their last image was removed.
    fn delete_unused_layers(
        &self,
        transaction: &Transaction<'_>,
        done: &mut Vec<Removal>,
        trash: &mut Trash,
    ) -> Result<(), StoreError> {
        let sql = "SELECT diff_id FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)";
        let mut statement = transaction.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        for diff_id in rows.collect::<Result<Vec<_>, _>>()? {
            self.delete_layer(transaction, &digest(&diff_id)?, done, trash)?;
        }
        Ok(())
    }

    /// Deletes the row of a layer that no image has any more, unless a living command has pinned it.
    fn delete_layer(
        &self,
        transaction: &Transaction<'_>,
        diff_id: &Digest,
        done: &mut Vec<Removal>,
        trash: &mut Trash,
    ) -> Result<(), StoreError> {
        let key = diff_id.to_string();
        let sql = "SELECT count(*) FROM image_layers WHERE diff_id = ?1";
        if transaction.query_row(sql, [&key], |row| row.get::<_, i64>(0))? > 0 {
            return Ok(());
        }
        let path = self.layer_path(diff_id);
        match File::open(&path) {
            Ok(lock) => {
                if lock.try_lock().is_err() {
                    return Ok(());
                }
                trash.locks.push(lock);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // whether somebody needs it is not known
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        }
        origins::delete_layer(transaction, &key)?;
        if transaction.execute("DELETE FROM layers WHERE diff_id = ?1", [&key])? > 0 {
            done.push(Removal::Deleted(*diff_id));
        }
        trash.layers.insert(*diff_id);
        Ok(())
    }

    /// Deletes layers, objects and blobs that no row names: what a command left that was killed between its renames and
    /// its transaction, or the other way round. Called with ROOT/lock held exclusively.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let mut trash = Trash::new(self)?;
        trash.all_objects = true;
        let blobs = self.root().join("blobs/sha256");
        let entries = fs::read_dir(&blobs).map_err(StoreError::io("read", &blobs))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        trash
            .blobs
            .extend(names.filter_map(|name| Digest::from_hex(&name).ok()));
        {
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for diff_id in self.layers_on_disk()? {
                self.delete_layer(&transaction, &diff_id, &mut Vec::new(), &mut trash)?;
            }
            trash.keep_needed(&transaction)?;
            transaction.commit()?;
        }
        trash.empty(self)?;
        Ok(())
    }
}

/// What is to be deleted from disk once the transaction is over.
///
/// Its folder in ROOT/tmp is made before the transaction: a command that is killed in between leaves it, and so tells
/// the next one to look for what has no row. It needs no lock while ROOT/lock is held exclusively.
struct Trash {
    bin: tempfile::TempDir,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
    /// Look for objects that no layer names, beside those of `layers`: a killed command may have left them.
    all_objects: bool,
    locks: Vec<File>,
}

impl Trash {
    fn new(store: &Store) -> Result<Self, StoreError> {
        let tmp = store.root().join("tmp");
        let bin = tempfile::Builder::new().prefix("trash.").tempdir_in(&tmp);
        let bin = bin.map_err(StoreError::io("create a directory in", &tmp))?;
        Ok(Self {
            bin,
            blobs: BTreeSet::new(),
            layers: BTreeSet::new(),
            all_objects: false,
            locks: Vec::new(),
        })
    }

    /// Takes out the blobs that an image still needs.
    fn keep_needed(&mut self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM images WHERE id = ?1 OR manifest_digest = ?1)
                   OR EXISTS (SELECT 1 FROM repo_digests WHERE manifest_digest = ?1)
                   OR EXISTS (SELECT 1 FROM image_layers WHERE blob_digest = ?1)";
        let mut statement = transaction.prepare(sql)?;
        let mut unneeded = BTreeSet::new();
        for blob in std::mem::take(&mut self.blobs) {
            if !statement.query_row([blob.to_string()], |row| row.get::<_, bool>(0))? {
                unneeded.insert(blob);
            }
        }
        self.blobs = unneeded;
        Ok(())
    }

    /// Deletes it; gives the bytes on disk that this made free. Where that fails its folder stays: the next command
    /// finds it and looks for what has no row.
    fn empty(self, store: &Store) -> Result<u64, StoreError> {
        match self.delete(store) {
            Ok(freed_bytes) => {
                let path = self.bin.path().to_owned();
                self.bin.close().map_err(StoreError::io("delete", &path))?;
                Ok(freed_bytes)
            }
            Err(error) => {
                let _ = self.bin.keep();
                Err(error)
            }
        }
    }

    fn delete(&self, store: &Store) -> Result<u64, StoreError> {
        let mut freed_bytes = 0;
        for blob in &self.blobs {
            let path = store.blob_path(blob);
            freed_bytes += disk::of_file(&path).map_err(StoreError::io("look at", &path))?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("delete", &path)(error));
                }
                _ => {}
            }
        }
        // renamed first: a deletion that is killed never leaves half a layer under its name
        let bin = &self.bin;
        for layer in &self.layers {
            let path = store.layer_path(layer);
            if path.exists() {
                freed_bytes += disk::of_tree(&path).map_err(StoreError::io("look at", &path))?;
                fs::rename(&path, bin.path().join(layer.hex())).map_err(StoreError::io("rename", &path))?;
            }
        }
        if self.all_objects || !self.layers.is_empty() {
            let mut users = Users::open(store)?;
            for layer in &self.layers {
                let index = bin.path().join(layer.hex()).join("index");
                if index.is_file() {
                    freed_bytes += users.delete_of(store, &index, layer)?;
                }
            }
            if self.all_objects {
                freed_bytes += users.sweep(store)?;
            }
        }
        store.drop_earlier_forms(bin.path())?;
        if let Err(error) = store.sweep_chains() {
            // caches, of which the next removal finds what is left
            tracing::warn!("merged indexes that nothing needs are left: {error}");
        }
        Ok(freed_bytes)
    }
}

/// The names of an image, sorted.
fn names_of(transaction: &Transaction<'_>, id: &Digest) -> Result<Vec<Reference>, StoreError> {
    let mut statement = transaction.prepare("SELECT name FROM names WHERE image_id = ?1 ORDER BY name")?;
    let rows = statement.query_map([id.to_string()], |row| row.get::<_, String>(0))?;
    let mut names = Vec::new();
    for row in rows {
        names.push(row?.parse()?);
    }
    Ok(names)
}

fn untag(
    transaction: &Transaction<'_>,
    id: &Digest,
    name: &Reference,
    done: &mut Vec<Removal>,
    trash: &mut Trash,
) -> Result<(), StoreError> {
    let deleted = transaction.execute("DELETE FROM names WHERE name = ?1", [name.canonical()])?;
    if deleted > 0 && name.digest().is_none() {
        done.push(Removal::Untagged(name.familiar()));
    }
    for (name, manifest) in origins::forget(transaction, id, name)? {
        done.push(Removal::Untagged(name.familiar()));
        trash.blobs.insert(manifest);
    }
    Ok(())
}

/// A container that uses the image, a running one first.
fn container_of(
    transaction: &Transaction<'_>,
    id: &Digest,
) -> Result<Option<(String, ContainerStatus)>, StoreError> {
    let sql = "SELECT id, status FROM containers WHERE image_id = ?1 ORDER BY status <> 'running' LIMIT 1";
    let row: Option<(String, String)> = transaction
        .query_row(sql, [id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(id, status)| Ok((id, status.parse()?))).transpose()
}

fn child_of(transaction: &Transaction<'_>, id: &Digest) -> Result<Option<Digest>, StoreError> {
    let sql = "SELECT id FROM images WHERE parent_id = ?1 LIMIT 1";
    let child: Option<String> = transaction
        .query_row(sql, [id.to_string()], |row| row.get(0))
        .optional()?;
    child.map(|id| digest(&id)).transpose()
}

/// Whether an image is there without a name, a child or a container.
fn is_unneeded(transaction: &Transaction<'_>, id: &str) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM images WHERE id = ?1)
               AND NOT EXISTS (SELECT 1 FROM names WHERE image_id = ?1)
               AND NOT EXISTS (SELECT 1 FROM images WHERE parent_id = ?1)
               AND NOT EXISTS (SELECT 1 FROM containers WHERE image_id = ?1)";
    Ok(transaction.query_row(sql, params![id], |row| row.get(0))?)
}
