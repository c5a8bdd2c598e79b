//! Blobs: immutable files named by their digest, in the folder of the OCI layout.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use super::{StagedBlob, Store};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::layer::stream::LayerStream;
use crate::manifest::DOCUMENT_LIMIT;

impl Store {
    /// Where a blob is.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Opens a blob. One that is a layer's plain tar need not be a file: it is put together from the layer's parts
    /// and verified on the way, so that it counts only once it was read to its end without an error.
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let size_bytes = file.metadata().map_err(StoreError::io("look at", &path))?.len();
                Ok(Blob {
                    size_bytes,
                    source: Source::File(file),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let stream = self.open_layer_stream(digest).map_err(|error| match error {
                    StoreError::Missing { digest, .. } => StoreError::Missing { what: "blob", digest },
                    error => error,
                })?;
                Ok(Blob {
                    size_bytes: stream.size_bytes(),
                    source: Source::Layer(Box::new(stream)),
                })
            }
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    /// The exact plain tar of a layer, put together from its parts; the last read fails where its digest is another.
    pub fn open_layer_stream(&self, diff_id: &Digest) -> Result<LayerStream, StoreError> {
        LayerStream::open(&self.repository(), diff_id).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing {
                what: "layer",
                digest: *diff_id,
            },
            _ => StoreError::io("open", &self.layer_path(diff_id))(error),
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
        Ok(self.open_blob(digest)?.size_bytes())
    }

    /// Whether a blob is there, as a file or as a layer's plain tar.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file() || self.layer_path(digest).join("recipe").is_file()
    }
}

/// An open blob.
pub struct Blob {
    size_bytes: u64,
    source: Source,
}

enum Source {
    File(File),
    Layer(Box<LayerStream>),
}

impl Blob {
    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether its bytes are compared with its digest while they are read: a file's are not.
    pub fn is_verified(&self) -> bool {
        matches!(self.source, Source::Layer(_))
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::File(file) => file.read(buffer),
            Source::Layer(stream) => stream.read(buffer),
        }
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
