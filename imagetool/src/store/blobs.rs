//! Blobs: immutable files named by their digest, in the folder of the OCI layout.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use super::{StagedBlob, Store};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::DOCUMENT_LIMIT;

impl Store {
    /// Where a blob is.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Opens a blob.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing {
                what: "blob",
                digest: *digest,
            },
            _ => StoreError::io("open", &path)(error),
        })
    }

    /// Reads a blob that is a document, and verifies it.
    pub fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        file.take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", &self.blob_path(digest)))?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Damaged {
                what: format!("blob {digest}"),
                detail: "other content".to_owned(),
            });
        }
        Ok(bytes)
    }

    /// The size of a blob.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64, StoreError> {
        let file = self.open_blob(digest)?;
        Ok(file
            .metadata()
            .map_err(StoreError::io("look at", &self.blob_path(digest)))?
            .len())
    }

    /// Whether a blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }
}

/// Gives a staged blob its name. The staged one stays: another image of the same archive may need it.
pub(super) fn place(store: &Store, blob: &StagedBlob) -> Result<(), StoreError> {
    let path = store.blob_path(&blob.digest);
    match fs::hard_link(&blob.path, &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("link to", &path)(error))
        }
        _ => Ok(()),
    }
}
