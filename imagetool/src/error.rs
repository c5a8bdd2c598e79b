//! What can go wrong in the store, and how a command ends.
//!
//! Texts are lower case, name the thing, say what to do and keep the cause as their source.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// A failure of the image store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb: "create", "rename".
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The database failed.
    #[error("store database")]
    Database(#[from] rusqlite::Error),
    /// The database was written by a newer program.
    #[error("the store {} has schema version {found}, this program knows up to {known}: use a newer shale", path.display())]
    NewerSchema {
        /// The store's directory.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// No image has this name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// No container has this name or id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// An id prefix fits several.
    #[error("{kind} id prefix {prefix:?} is ambiguous: give more digits")]
    AmbiguousId {
        /// "image" or "container".
        kind: &'static str,
        /// What was given.
        prefix: String,
    },
    /// Docker's answer to a container name in use.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// Removal refused.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A reference was malformed.
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    /// A blob or layer that the database names is not there.
    #[error("store is damaged: {what} {digest} is missing: remove the image and load it again")]
    Missing {
        /// "blob" or "layer".
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// A layer could not be made anew from its blob.
    #[error("make layer {digest} anew from its blob")]
    Rebuild {
        /// Which.
        digest: Digest,
        /// The cause.
        source: Box<ImageError>,
    },
    /// Something in the store does not parse.
    #[error("store is damaged: {what}: {detail}")]
    Damaged {
        /// What was read.
        what: String,
        /// Why it is wrong.
        detail: String,
    },
}

/// A failure while an image is read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer could not be taken in.
    #[error("{what}")]
    Layer {
        /// Which layer or file.
        what: String,
        /// The cause.
        source: crate::layer::LayerError,
    },
    /// An archive of images cannot be read.
    #[error(transparent)]
    Tar(#[from] crate::archive::member::TarError),
    /// A document of an image is wrong.
    #[error(transparent)]
    Manifest(#[from] crate::manifest::ManifestError),
    /// A name is malformed.
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    /// The content contradicts itself, or lacks something.
    #[error("{0}")]
    Invalid(String),
    /// Reading or writing outside the store failed.
    #[error("{action} {what}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The changes of a container could not be read.
    #[error("read the changes of the container")]
    Changes(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ImageError {
    /// A closure for `map_err` that names the action and its object.
    pub fn io(action: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> ImageError {
        let what = what.into();
        move |source| ImageError::Io { action, what, source }
    }
}

impl StoreError {
    /// A closure for `map_err` that names the action and the path.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
