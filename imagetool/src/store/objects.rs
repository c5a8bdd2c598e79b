//! Objects: contents that are too large for a pack, whole files named by their SHA-256, shared by all layers.
//!
//! An object belongs to the layers whose indexes name it; nothing else counts its users. It is made by a link to a
//! staged and synced file, or by moving that, while ROOT/lock is held shared, and deleted while it is held exclusively, when no layer that
//! is left names it. One that a layer names but that is missing is damage; one that no layer names is left behind by a
//! killed command and deleted by the sweep that follows.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ufs::index::{Index, Sha256};
use ufs::repository::hex;

use super::{StagedLayer, Staging, Store};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::system::disk;

/// From so many folders on, one sync of the file system is less work than one of each.
const FOLDERS_MAX: usize = 8;

/// An index that cannot be read.
fn damaged(what: impl Into<String>) -> impl FnOnce(ufs::index::IndexError) -> StoreError {
    let what = what.into();
    move |error| StoreError::Damaged {
        what,
        detail: error.to_string(),
    }
}

/// The objects that a layer's index names.
fn named(index: &Path, what: &Digest) -> Result<BTreeSet<Sha256>, StoreError> {
    let fail = || damaged(format!("layer {what}"));
    let index = Index::open(index).map_err(fail())?;
    let mut found = BTreeSet::new();
    for digest in index.objects() {
        found.insert(*digest.map_err(fail())?);
    }
    Ok(found)
}

/// Gives the staged objects of a staged layer their names. Nothing is synced.
pub(super) fn place(
    store: &Store,
    staging: &Staging,
    layer: &StagedLayer,
    folders: &mut BTreeSet<u8>,
) -> Result<(), StoreError> {
    let repository = store.repository();
    for digest in named(&layer.path.join("index"), &layer.diff_id)? {
        let (staged, path) = (staging.objects().join(hex(&digest)), repository.object(&digest));
        let name = || match staging.hands_over() {
            true => move_to(&staged, &path),
            false => fs::hard_link(&staged, &path),
        };
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let mut named = name();
        if named.as_ref().is_err_and(is_missing)
            && let Some(folder) = path.parent()
        {
            match DirBuilder::new().mode(super::PRIVATE).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::io("create", folder)(error));
                }
                _ => {}
            }
            named = name();
        }
        match named {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // moved already, for another layer
            Err(error) if staging.hands_over() && is_missing(&error) && path.exists() => {}
            Err(error) => return Err(StoreError::io("link to", &path)(error)),
        }
        // one that is there may have been linked just now by another command, which has not synced it yet
        folders.insert(digest[0]);
    }
    Ok(())
}

/// Moves a staged object, unless there is one already; where the file system cannot do that, it gets a further name.
fn move_to(staged: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::hard_link(staged, path),
        result => Ok(result?),
    }
}

/// Makes names in the folders of objects durable.
pub(super) fn sync(store: &Store, staging: &Staging, folders: &BTreeSet<u8>) -> Result<(), StoreError> {
    let objects = store.root().join("objects");
    if folders.is_empty() {
        return Ok(());
    }
    let open = |path: &Path| File::open(path).map_err(StoreError::io("open", path));
    if folders.len() > FOLDERS_MAX {
        return staging.sync_all();
    }
    let folder = open(&objects)?;
    for first in folders {
        let path = objects.join(format!("{first:02x}"));
        open(&path)?.sync_all().map_err(StoreError::io("sync", &path))?;
    }
    folder.sync_all().map_err(StoreError::io("sync", &objects))
}

/// What is to be known to delete objects: which ones the layers that are left name.
pub(super) struct Users {
    indexes: Vec<Index>,
    /// Whether an index could not be read: then anything may be in use.
    unknown: bool,
}

impl Users {
    /// Opens the indexes of all layers that have a directory. ROOT/lock is held exclusively.
    pub(super) fn open(store: &Store) -> Result<Self, StoreError> {
        let mut users = Self {
            indexes: Vec::new(),
            unknown: false,
        };
        for diff_id in store.layers_on_disk()? {
            let path = store.layer_path(&diff_id).join("index");
            if !path.exists() {
                continue; // in the earlier form, which had no objects
            }
            match Index::open(&path) {
                Ok(index) => users.indexes.push(index),
                Err(error) => {
                    tracing::warn!("no object is deleted while this layer is damaged: {error}");
                    users.unknown = true;
                }
            }
        }
        Ok(users)
    }

    /// Whether a layer that is left needs an object.
    fn need(&mut self, digest: &Sha256) -> bool {
        for index in &self.indexes {
            match index.has_object(digest) {
                Ok(false) => {}
                Ok(true) => return true,
                Err(error) => {
                    tracing::warn!("no object is deleted while this layer is damaged: {error}");
                    self.unknown = true;
                }
            }
        }
        self.unknown
    }

    /// Deletes those of the objects of a layer that nobody needs any more; gives the bytes that this set free.
    pub(super) fn delete_of(
        &mut self,
        store: &Store,
        index: &Path,
        layer: &Digest,
    ) -> Result<u64, StoreError> {
        let found = match named(index, layer) {
            Ok(found) => found,
            Err(error) => {
                // the sweep finds what such a layer named
                tracing::warn!("{error}");
                return self.sweep(store);
            }
        };
        let mut freed_bytes = 0;
        for digest in found {
            if !self.need(&digest) {
                freed_bytes += delete(&store.repository().object(&digest))?;
            }
        }
        Ok(freed_bytes)
    }

    /// Deletes all objects that nobody needs; gives the bytes that this set free.
    pub(super) fn sweep(&mut self, store: &Store) -> Result<u64, StoreError> {
        let mut freed_bytes = 0;
        for (digest, path) in store.objects_on_disk()? {
            if !self.need(digest.as_bytes()) {
                freed_bytes += delete(&path)?;
            }
        }
        Ok(freed_bytes)
    }
}

/// Deletes an object; gives the bytes that this set free.
fn delete(path: &Path) -> Result<u64, StoreError> {
    let freed_bytes = disk::of_file(path).map_err(StoreError::io("look at", path))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(error)),
        _ => Ok(freed_bytes),
    }
}

impl Store {
    /// All objects that are there, in no order.
    pub fn objects_on_disk(&self) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let objects = self.root().join("objects");
        let mut found = Vec::new();
        for folder in fs::read_dir(&objects).map_err(StoreError::io("read", &objects))? {
            let folder = folder.map_err(StoreError::io("read", &objects))?.path();
            let Ok(entries) = fs::read_dir(&folder) else {
                continue; // no folder of ours
            };
            for entry in entries {
                let entry = entry.map_err(StoreError::io("read", &folder))?;
                if let Some(digest) = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| Digest::from_hex(name).ok())
                {
                    found.push((digest, entry.path()));
                }
            }
        }
        Ok(found)
    }
}
