//! One repository at one endpoint.

use std::fmt;
use std::io::{self, Read};

use super::RegistryError;
use crate::digest::Digest;

/// Which manifest is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// What the tag points to now.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest or index as the registry keeps it, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What a registry answered to the wish to mount a blob from another repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted {
    /// The blob is there now.
    Done,
    /// The registry did not: the blob is to be uploaded.
    Refused,
}

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upload {
    /// In one request with a known length.
    #[default]
    Whole,
    /// In parts of this many bytes, each of which can be repeated.
    Chunked(u64),
}

/// A repository at an endpoint. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    endpoint: String,
}

impl Repository {
    /// The repository's path on its registry (`library/debian`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `HOST[:PORT]`, for messages.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The manifest or index. Its bytes are limited to [`crate::manifest::DOCUMENT_LIMIT`]; the digest is verified where
    /// one was asked for or the registry names one.
    pub fn manifest(&self, which: &Which) -> Result<Document, RegistryError> {
        let _ = which;
        Err(RegistryError::NotImplemented)
    }

    /// The digest of a manifest, without the manifest where the registry can tell it so. None: there is no such manifest.
    pub fn manifest_digest(&self, which: &Which) -> Result<Option<Digest>, RegistryError> {
        let _ = which;
        Err(RegistryError::NotImplemented)
    }

    /// Puts a manifest under a tag or its digest; gives its digest.
    pub fn put_manifest(
        &self,
        which: &Which,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let _ = (which, media_type, bytes);
        Err(RegistryError::NotImplemented)
    }

    /// A blob from an offset on. Reading goes on by itself after a broken connection. The digest is not verified.
    pub fn blob(&self, digest: &Digest, offset_bytes: u64) -> Result<Blob, RegistryError> {
        let _ = (digest, offset_bytes);
        Err(RegistryError::NotImplemented)
    }

    /// The size of a blob. None: the repository has no such blob.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let _ = digest;
        Err(RegistryError::NotImplemented)
    }

    /// Asks the registry to take a blob over from another of its repositories.
    pub fn mount_blob(&self, digest: &Digest, from: &str) -> Result<Mounted, RegistryError> {
        let _ = (digest, from);
        Err(RegistryError::NotImplemented)
    }

    /// Uploads a blob. `open` gives its content from the beginning, once per attempt.
    pub fn upload_blob(
        &self,
        digest: &Digest,
        size_bytes: u64,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
        method: Upload,
    ) -> Result<(), RegistryError> {
        let _ = (digest, size_bytes, open, method);
        Err(RegistryError::NotImplemented)
    }

    /// All tags, in the registry's order.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        Err(RegistryError::NotImplemented)
    }
}

/// The content of a blob; see [`Repository::blob`].
#[derive(Debug)]
pub struct Blob {
    total_bytes: Option<u64>,
}

impl Blob {
    /// The size of the whole blob, as the registry tells it.
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }
}

impl Read for Blob {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(RegistryError::NotImplemented))
    }
}
