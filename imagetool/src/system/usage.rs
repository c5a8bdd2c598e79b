//! What the store takes on disk, and whose it is.
//!
//! Every part of the store (a document, a compressed blob, a layer's own files, an object) is counted once and belongs
//! to the images that need it:
//!
//! ```text
//! needed by one image    its unique size: what its removal frees
//! needed by several      shared
//! needed by none         unused: left by killed commands, gone with the next sweep
//!
//! sum of unique sizes + shared parts, once = size of all images
//! ```
//!
//! Sizes are bytes on disk, in which holes count nothing. What is removed while sizes are taken counts nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use ufs::index::{Index, Sha256};

use super::disk;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::{ContainerRecord, ContainerStatus, ImageDetails, Store};

/// What an image takes.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub details: ImageDetails,
    /// Parts that other images need as well.
    pub shared_bytes: u64,
    /// Parts that only it needs.
    pub unique_bytes: u64,
    /// Number of containers made from it.
    pub containers: usize,
}

/// What a layer takes: its own files, and objects.
#[derive(Debug, Clone)]
pub struct LayerUsage {
    /// The layer.
    pub diff_id: Digest,
    /// Number of images that have it.
    pub images: usize,
    /// Objects that other layers have as well.
    pub shared_bytes: u64,
    /// Its own files and the objects that no other layer has.
    pub unique_bytes: u64,
    /// Why its contents cannot be told.
    pub damage: Option<String>,
}

/// What a container takes.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// The container.
    pub record: ContainerRecord,
    /// Everything in its directory.
    pub bytes: u64,
}

/// Bytes by kind of file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Manifests, configurations and compressed layers.
    pub blobs: u64,
    /// Layers' indexes.
    pub indexes: u64,
    /// Layers' small contents.
    pub packs: u64,
    /// What turns layers back into tar streams.
    pub recipes: u64,
    /// Contents by digest.
    pub objects: u64,
}

/// Something that is kept to be faster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cache {
    /// Number of entries.
    pub count: usize,
    /// What they take.
    pub bytes: u64,
}

/// What the whole store takes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Images, the newest first.
    pub images: Vec<ImageUsage>,
    /// Layers, in order of their digests.
    pub layers: Vec<LayerUsage>,
    /// Containers, the newest first.
    pub containers: Vec<ContainerUsage>,
    /// Parts that several images need, once.
    pub shared_bytes: u64,
    /// Parts that no image needs.
    pub unused_bytes: u64,
    /// Parts that no image with a container needs, unused ones included.
    pub reclaimable_bytes: u64,
    /// All parts by kind.
    pub kinds: Kinds,
    /// Merged indexes.
    pub chains: Cache,
    /// Indexes of archives that are mounted where they lie.
    pub archives: Cache,
    /// Layers of which only a part came, for the next pull to go on with.
    pub downloads: Cache,
}

impl Usage {
    /// What all images take.
    pub fn image_bytes(&self) -> u64 {
        self.images.iter().map(|image| image.unique_bytes).sum::<u64>() + self.shared_bytes
    }

    /// What all containers take.
    pub fn container_bytes(&self) -> u64 {
        self.containers.iter().map(|container| container.bytes).sum()
    }

    /// What the containers take that do not run.
    pub fn stopped_bytes(&self) -> u64 {
        let stopped = |container: &&ContainerUsage| container.record.status != ContainerStatus::Running;
        self.containers
            .iter()
            .filter(stopped)
            .map(|container| container.bytes)
            .sum()
    }
}

/// A part of the store, and the images that need it by their numbers.
#[derive(Debug, Default)]
struct Part {
    bytes: u64,
    users: Vec<usize>,
}

impl Part {
    fn add_users(&mut self, users: &[usize]) {
        for user in users {
            if !self.users.contains(user) {
                self.users.push(*user);
            }
        }
    }
}

/// An object, and the layers that name it by their numbers.
#[derive(Debug, Default)]
struct Object {
    bytes: u64,
    layers: Vec<usize>,
}

/// Takes the sizes.
///
/// # Errors
/// When the store cannot be read.
pub fn usage(store: &Store) -> Result<Usage, StoreError> {
    let mut usage = Usage {
        containers: containers(store)?,
        chains: cache(&store.root().join("chains"))?,
        archives: cache(&store.root().join("archives"))?,
        downloads: cache(&store.root().join("downloads"))?,
        ..Usage::default()
    };
    usage.images = images(store, &usage.containers)?;
    let mut parts = blobs(store, &mut usage)?;
    parts.extend(layers(store, &mut usage)?);
    let active: Vec<bool> = usage.images.iter().map(|image| image.containers > 0).collect();
    for part in parts {
        match part.users.as_slice() {
            [] => usage.unused_bytes += part.bytes,
            [only] => usage.images[*only].unique_bytes += part.bytes,
            several => {
                usage.shared_bytes += part.bytes;
                for user in several {
                    usage.images[*user].shared_bytes += part.bytes;
                }
            }
        }
        if !part.users.iter().any(|user| active[*user]) {
            usage.reclaimable_bytes += part.bytes;
        }
    }
    Ok(usage)
}

fn images(store: &Store, containers: &[ContainerUsage]) -> Result<Vec<ImageUsage>, StoreError> {
    let mut images = Vec::new();
    for id in store.image_ids()? {
        let details = match store.image_details(&id) {
            Err(StoreError::NoSuchImage(_)) => continue, // removed meanwhile
            other => other?,
        };
        let users = containers
            .iter()
            .filter(|container| container.record.image_id == Some(id));
        images.push(ImageUsage {
            details,
            shared_bytes: 0,
            unique_bytes: 0,
            containers: users.count(),
        });
    }
    Ok(images)
}

fn containers(store: &Store) -> Result<Vec<ContainerUsage>, StoreError> {
    let mut containers = Vec::new();
    for record in store.containers().list()? {
        let directory = store.container_dir(&record.id);
        let bytes = disk::of_tree(&directory).map_err(StoreError::io("read", &directory))?;
        containers.push(ContainerUsage { record, bytes });
    }
    Ok(containers)
}

/// The entries of a folder; none when it is not there.
fn entries(path: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    match fs::read_dir(path).and_then(Iterator::collect) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(StoreError::io("read", path)),
    }
}

fn file_bytes(path: &Path) -> Result<u64, StoreError> {
    disk::of_file(path).map_err(StoreError::io("look at", path))
}

fn cache(path: &Path) -> Result<Cache, StoreError> {
    let mut cache = Cache::default();
    for entry in entries(path)? {
        cache.count += 1;
        let path = entry.path();
        cache.bytes += disk::of_tree(&path).map_err(StoreError::io("read", &path))?;
    }
    Ok(cache)
}

/// Documents and compressed layers.
fn blobs(store: &Store, usage: &mut Usage) -> Result<Vec<Part>, StoreError> {
    let mut parts: HashMap<Digest, Part> = HashMap::new();
    for (number, image) in usage.images.iter().enumerate() {
        let details = &image.details;
        let blobs = details.layers.iter().map(|(_, blob)| *blob);
        let kept = store.origins_of(&details.image.id)?;
        let documents = kept.iter().map(|kept| kept.manifest);
        let documents = documents.chain([details.image.id, details.manifest]);
        for digest in blobs.chain(documents) {
            parts.entry(digest).or_default().add_users(&[number]);
        }
    }
    for entry in entries(&store.root().join("blobs/sha256"))? {
        let bytes = file_bytes(&entry.path())?;
        usage.kinds.blobs += bytes;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| Digest::from_hex(name).ok());
        match digest {
            Some(digest) => parts.entry(digest).or_default().bytes = bytes,
            None => usage.unused_bytes += bytes,
        }
    }
    Ok(parts.into_values().collect())
}

/// Layers' own files, and objects.
fn layers(store: &Store, usage: &mut Usage) -> Result<Vec<Part>, StoreError> {
    let mut users: HashMap<Digest, Part> = HashMap::new();
    for (number, image) in usage.images.iter().enumerate() {
        for (diff_id, _) in &image.details.layers {
            users.entry(*diff_id).or_default().add_users(&[number]);
        }
    }
    let repository = store.repository();
    let mut objects = objects(store, usage)?;
    let mut numbers: Vec<(Digest, Part)> = Vec::new();
    for entry in entries(&store.root().join("layers"))? {
        let name = entry.file_name();
        let Some(diff_id) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) else {
            continue;
        };
        let mut part = users.remove(&diff_id).unwrap_or_default();
        let path = entry.path();
        part.bytes = disk::of_tree(&path).map_err(StoreError::io("read", &path))?;
        usage.kinds.indexes += file_bytes(&path.join("index"))?;
        usage.kinds.packs += file_bytes(&path.join("pack"))?;
        usage.kinds.recipes += file_bytes(&path.join("recipe"))?;
        numbers.push((diff_id, part));
    }
    numbers.sort_by_key(|(diff_id, _)| *diff_id);
    for (number, (diff_id, part)) in numbers.iter().enumerate() {
        let named = name_objects(&repository.index(diff_id.as_bytes()), number, &mut objects);
        usage.layers.push(LayerUsage {
            diff_id: *diff_id,
            images: part.users.len(),
            shared_bytes: 0,
            unique_bytes: part.bytes,
            damage: named.err().map(|error| error.to_string()),
        });
    }
    let mut parts = Vec::with_capacity(objects.len());
    for object in objects.into_values() {
        let mut part = Part {
            bytes: object.bytes,
            ..Part::default()
        };
        for layer in &object.layers {
            part.add_users(&numbers[*layer].1.users);
            match object.layers.len() {
                1 => usage.layers[*layer].unique_bytes += object.bytes,
                _ => usage.layers[*layer].shared_bytes += object.bytes,
            }
        }
        parts.push(part);
    }
    parts.extend(numbers.into_iter().map(|(_, part)| part));
    Ok(parts)
}

/// Notes which objects a layer names.
fn name_objects(
    index: &Path,
    layer: usize,
    objects: &mut HashMap<Sha256, Object>,
) -> Result<(), ufs::index::IndexError> {
    let index = Index::open(index)?;
    for digest in index.objects() {
        if let Some(object) = objects.get_mut(digest?) {
            object.layers.push(layer);
        }
    }
    Ok(())
}

/// All objects on disk.
fn objects(store: &Store, usage: &mut Usage) -> Result<HashMap<Sha256, Object>, StoreError> {
    let mut objects = HashMap::new();
    for folder in entries(&store.root().join("objects"))? {
        for entry in entries(&folder.path())? {
            let bytes = file_bytes(&entry.path())?;
            usage.kinds.objects += bytes;
            let name = entry.file_name();
            match name.to_str().and_then(|name| Digest::from_hex(name).ok()) {
                Some(digest) => {
                    let object = Object {
                        bytes,
                        ..Object::default()
                    };
                    objects.insert(*digest.as_bytes(), object);
                }
                None => usage.unused_bytes += bytes,
            }
        }
    }
    Ok(objects)
}
