//! The OCI layout's own files: `oci-layout` and `index.json`, for other tools. Written anew from the database after
//! every change; the database is what counts.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::Store;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Annotations, Descriptor, Index, OCI_INDEX, OCI_MANIFEST,
};

/// Content of the file that marks an OCI layout.
pub const OCI_LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

impl Store {
    /// Writes `oci-layout` when it is missing.
    pub(super) fn ensure_layout(&self) -> Result<(), StoreError> {
        if self.root().join("oci-layout").exists() {
            return Ok(());
        }
        self.write_index()?;
        self.write_layout()
    }

    fn lock_index(&self) -> Result<File, StoreError> {
        let path = self.root().join("index.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = lock.map_err(StoreError::io("open", &path))?;
        lock.lock().map_err(StoreError::io("lock", &path))?;
        Ok(lock)
    }

    /// Writes `index.json` from the database.
    pub(super) fn write_index(&self) -> Result<(), StoreError> {
        let _lock = self.lock_index()?;
        replace_file(self.root(), "index.json", &self.index_json()?)
    }

    /// Writes `oci-layout`.
    pub(super) fn write_layout(&self) -> Result<(), StoreError> {
        let _lock = self.lock_index()?;
        replace_file(self.root(), "oci-layout", OCI_LAYOUT.as_bytes())
    }

    /// What `index.json` has to say.
    pub(super) fn index_json(&self) -> Result<Vec<u8>, StoreError> {
        let sql =
            "SELECT manifest_digest, name FROM images LEFT JOIN names ON image_id = id ORDER BY name, id";
        let rows: Vec<(String, Option<String>)> = {
            let database = self.database();
            let mut statement = database.prepare(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        let mut manifests = Vec::new();
        for (digest, name) in rows {
            let Ok(digest) = digest.parse::<Digest>() else {
                continue;
            };
            let Ok(size) = self.blob_path(&digest).metadata().map(|blob| blob.len()) else {
                continue;
            };
            let mut descriptor = Descriptor::new(OCI_MANIFEST, digest, size);
            descriptor.annotations = name.map(|name| name_annotations(&name));
            manifests.push(descriptor);
        }
        let index = Index {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests,
        };
        serde_json::to_vec(&index).map_err(|error| StoreError::Damaged {
            what: "index.json".to_owned(),
            detail: error.to_string(),
        })
    }
}

/// The annotations that carry a canonical name, as Docker writes them.
pub fn name_annotations(canonical: &str) -> Annotations {
    let mut annotations = Annotations::from([(ANNOTATION_IMAGE_NAME.to_owned(), canonical.to_owned())]);
    if !canonical.contains('@') {
        let tag = canonical.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        annotations.insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
    }
    annotations
}

/// Replaces a file of the store by a rename. The caller holds ROOT/index.lock, so that one temporary name is enough and
/// what a killed command left is overwritten.
fn replace_file(root: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let path = root.join(name);
    let temporary = root.join(format!("{name}.new"));
    let mut file = File::create(&temporary).map_err(StoreError::io("create", &temporary))?;
    file.write_all(bytes)
        .map_err(StoreError::io("write", &temporary))?;
    file.sync_data().map_err(StoreError::io("sync", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(StoreError::io("rename to", &path))
}
