//! Removing what nothing uses: stopped containers, images, caches.
//!
//! Each object is looked at and removed by itself, and whether it is in use is decided where it is removed: a container
//! started meanwhile, or an image given a name, is left alone.

use crate::container::{self, ContainerConfig, ContainerError};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::in_place::InPlaceError;
use crate::store::{ContainerId, ContainerStatus, ImageDetails, Removal, Store};

use super::disk;
use super::filter::PruneFilter;

/// What a prune did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Containers that are gone.
    pub containers: Vec<ContainerId>,
    /// Names, images and layers that are gone.
    pub images: Vec<Removal>,
    /// Bytes on disk that are free now.
    pub freed_bytes: u64,
}

/// Which images a prune takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// Those without a name, and that no other one is based on.
    Dangling,
    /// All that no container uses.
    Unused,
}

/// Removes the containers that do not run.
///
/// # Errors
/// When the store cannot be read or a container's files cannot be deleted.
pub fn prune_containers(
    store: &Store,
    filter: &PruneFilter,
    pruned: &mut Pruned,
) -> Result<(), ContainerError> {
    container::reconcile(store)?;
    for record in store.containers().list()? {
        let labels = ContainerConfig::of(&record).labels;
        let passes = filter.passes(record.created_at_s, |key| labels.get(key).map(String::as_str));
        if record.status == ContainerStatus::Running || !passes {
            continue;
        }
        let directory = store.container_dir(&record.id);
        let bytes = disk::of_tree(&directory).unwrap_or(0);
        match container::remove(store, record.id.as_str(), false) {
            Ok(()) => {
                pruned.containers.push(record.id);
                pruned.freed_bytes += bytes;
            }
            // started or removed meanwhile
            Err(ContainerError::Running(_) | ContainerError::Store(StoreError::NoSuchContainer(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes images that nothing uses, and with them the layers and contents that nothing else needs.
///
/// # Errors
/// When the store cannot be read or files cannot be deleted.
pub fn prune_images(
    store: &Store,
    which: Images,
    filter: &PruneFilter,
    pruned: &mut Pruned,
) -> Result<(), StoreError> {
    // An image that served as another's parent may be unused once that one is gone: until nothing changes.
    loop {
        let before = pruned.images.len();
        for id in store.image_ids()? {
            let Some(details) = details(store, &id)? else {
                continue;
            };
            if !filter.passes_image(details.created_at_s, &details.image.config_json) {
                continue;
            }
            if let Some(removed) = store.remove_unused_image(&id, which == Images::Unused)? {
                pruned.images.extend(removed.lines);
                pruned.freed_bytes += removed.freed_bytes;
            }
        }
        if pruned.images.len() == before {
            break;
        }
    }
    let removed = store.remove_unused_layers()?;
    pruned.images.extend(removed.lines);
    pruned.freed_bytes += removed.freed_bytes;
    Ok(())
}

/// Drops the compressed copies of layers whose own parts give the same content. What cannot be read whole keeps its
/// copy: it may be all that is left of it.
///
/// # Errors
/// When the store cannot be read or files cannot be deleted.
pub fn prune_blobs(store: &Store, pruned: &mut Pruned) -> Result<(), StoreError> {
    for (blob, diff_ids) in store.compressed_blobs()? {
        let whole = diff_ids.iter().all(|diff_id| {
            let read = store
                .open_layer_stream(diff_id)
                .map_err(|error| error.to_string())
                .and_then(|mut stream| {
                    std::io::copy(&mut stream, &mut std::io::sink()).map_err(|error| error.to_string())
                });
            if let Err(error) = &read {
                tracing::warn!("layer {} keeps its compressed copy: {error}", diff_id.short());
            }
            read.is_ok()
        });
        if whole {
            pruned.freed_bytes += store.delete_blob(&blob)?;
        }
    }
    Ok(())
}

/// Deletes layers that were downloaded in part, but for those that somebody works on.
///
/// # Errors
/// When they cannot be read or deleted.
pub fn prune_downloads(store: &Store, pruned: &mut Pruned) -> Result<(), StoreError> {
    pruned.freed_bytes += store.prune_downloads(std::time::Duration::ZERO)?;
    Ok(())
}

/// Deletes the indexes of archives that are not mounted.
///
/// # Errors
/// When they cannot be read or deleted.
pub fn prune_caches(store: &Store, pruned: &mut Pruned) -> Result<(), InPlaceError> {
    pruned.freed_bytes += crate::in_place::cache::prune(store.root(), 0)?.bytes;
    Ok(())
}

fn details(store: &Store, id: &Digest) -> Result<Option<ImageDetails>, StoreError> {
    match store.image_details(id) {
        Ok(details) => Ok(Some(details)),
        Err(StoreError::NoSuchImage(_)) => Ok(None), // removed meanwhile
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::warn!("image {} is left: {error}", id.short());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
