//! The store: images, layers and containers on disk.
//!
//! ```text
//! ROOT/
//!   oci-layout index.json blobs/sha256/HEX   an OCI image layout, but for the plain tars of layers
//!   layers/HEX/{index,pack,recipe}           layers, named by diff id
//!   objects/ab/HEX                           larger contents of all layers, named by their SHA-256
//!   chains/                                  layers merged for mounting; caches
//!   containers/ID/                           upper, work, merged, bundle, init
//!   downloads/HEX                            layers on their way from a registry, as far as they came
//!   tmp/NAME.XXXXXX/                         work in progress; its owner holds a flock on it
//!   lock                                     shared: publishing; exclusive: deleting and recovery
//!   shale.db                                 SQLite (WAL): names, images, layers, containers
//! ```
//!
//! Invariants: what has a final name is complete and was synced before its rename; a database row is written last, in
//! one transaction, so that what it names is there; what a killed command left (an unlocked directory in `tmp`,
//! files without a row) is deleted by the next command that opens the store; nothing pinned by a living command is
//! deleted. A layer's plain tar is no file: its recipe gives it back, and is verified whenever it does. The format is
//! described in `docs/store-format.md`.

mod blobs;
mod chains;
mod containers;
mod downloads;
mod images;
mod index;
mod layers;
mod objects;
mod origins;
mod publish;
mod rebuild;
mod remove;
mod repair;
mod schema;
mod staging;
mod verify;

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use oci_spec::image::ImageConfiguration;
use ufs::repository::Repository;

pub use self::blobs::Blob;
pub use self::chains::chain_ids;
pub use self::containers::{ContainerId, ContainerRecord, ContainerStatus, Containers};
pub use self::downloads::Download;
pub use self::images::ImageDetails;
pub use self::index::{OCI_LAYOUT, name_annotations};
pub use self::origins::{Origin, Packed, RepoDigest};
pub use self::publish::{NewImage, Renamed};
pub use self::remove::{Removal, RemoveOptions, Removed};
pub use self::staging::{BlobWriter, StagedBlob, StagedLayer, Staging};
pub use self::verify::{Listing, RawImage, RawLayer};
use crate::digest::Digest;
use crate::error::StoreError;

/// What everything in a store has at most: layers hold set-user-id programs of any age, rows hold environments.
const PRIVATE: u32 = 0o700;

/// An open store. Cheap to open; several processes may have the same one open.
pub struct Store {
    root: PathBuf,
    database: Mutex<rusqlite::Connection>,
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The image id: the digest of its configuration.
    pub id: Digest,
    /// The configuration, parsed.
    pub config: ImageConfiguration,
    /// The configuration as it came: what the specification does not know (a health check, say) is kept in it.
    pub config_json: String,
    /// Names, in the short form that people read (`debian:12`), sorted.
    pub names: Vec<String>,
    /// The host directory that lies below the layers, of an image committed from `run --rootfs DIR`. Local only,
    /// never read from an archive: otherwise a hostile image could show host files.
    pub base_rootfs: Option<PathBuf>,
}

impl Image {
    /// The diff ids of its layers, bottom first.
    pub fn diff_ids(&self) -> Result<Vec<Digest>, StoreError> {
        self.config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|error: crate::digest::DigestError| StoreError::Damaged {
                        what: format!("configuration of image {}", self.id),
                        detail: error.to_string(),
                    })
            })
            .collect()
    }
}

impl Store {
    /// Opens the store at `root`; creates it when it is not there, migrates it when it is older, and deletes what a
    /// killed command left behind.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let private = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE)
            .create(root);
        private.map_err(StoreError::io("create", root))?;
        make_folders(root)?;
        let database = schema::open(root)?;
        let store = Self {
            root: root.to_owned(),
            database: Mutex::new(database),
        };
        store.ensure_layout()?;
        staging::recover(root, || {
            store.sweep()?;
            store.write_index()
        })?;
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where layers and their contents lie.
    pub fn repository(&self) -> Repository {
        Repository::at(&self.root)
    }

    /// The image of this name (`NAME[:TAG]`), id or unique id prefix.
    pub fn resolve_image(&self, name_or_id: &str) -> Result<Image, StoreError> {
        let (id, _) = self.find_image(name_or_id)?;
        self.image(&id)
    }

    /// Starts work that adds something: a temporary directory of the store.
    pub fn stage(&self, purpose: &str) -> Result<Staging, StoreError> {
        Staging::new(&self.root, purpose)
    }

    /// The table of containers.
    pub fn containers(&self) -> Containers<'_> {
        Containers::new(self)
    }

    /// The directory of a container.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// The database, for one statement or transaction.
    fn database(&self) -> std::sync::MutexGuard<'_, rusqlite::Connection> {
        self.database
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The folders, for their owner alone: a root that was there before may be open to all.
fn make_folders(root: &Path) -> Result<(), StoreError> {
    for folder in [
        "blobs",
        "layers",
        "objects",
        "chains",
        "containers",
        "downloads",
        "tmp",
    ] {
        let path = root.join(folder);
        match std::fs::DirBuilder::new().mode(PRIVATE).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => close(&path)?,
            made => made.map_err(StoreError::io("create", &path))?,
        }
    }
    let algorithm = root.join("blobs/sha256");
    std::fs::create_dir_all(&algorithm).map_err(StoreError::io("create", &algorithm))?;
    // SQLite gives the files beside its database the database's own mode.
    let database = root.join("shale.db");
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE & 0o666)
        .open(&database)
        .map_err(StoreError::io("create", &database))?;
    close(&database)
}

/// Takes away what a store of an earlier version gave to others.
fn close(path: &Path) -> Result<(), StoreError> {
    let mode = std::fs::metadata(path)
        .map_err(StoreError::io("look at", path))?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let private = std::fs::Permissions::from_mode(mode & PRIVATE);
    std::fs::set_permissions(path, private).map_err(StoreError::io("chmod", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gets_in_whatever_the_root_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let mode = |name: &str| std::fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(root.join("layers")).unwrap();
        std::fs::set_permissions(root.join("layers"), std::fs::Permissions::from_mode(0o755)).unwrap();
        drop(Store::open(&root).unwrap());
        for name in ["blobs", "layers", "containers", "tmp"] {
            assert_eq!(mode(name), 0o700, "{name}");
        }
        assert_eq!(mode("shale.db"), 0o600);
        assert_eq!(mode(""), 0o755, "the root is its owner's business");
    }
}
