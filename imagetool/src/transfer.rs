//! What pulling and pushing have in common: how they fail and what they show.

mod board;

pub use self::board::{Board, Counter, Lines, Row};
use crate::error::{ImageError, StoreError};
use crate::registry::RegistryError;

/// Most layers that are downloaded at once.
pub const DOWNLOADS_DEFAULT: usize = 3;
/// Most layers that are packed and uploaded at once.
pub const UPLOADS_DEFAULT: usize = 5;

/// Why an image was not pulled or pushed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The image or the store failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no such repository, or it is not for everybody. Docker's words.
    #[error("pull access denied for {name}, repository does not exist or may require 'shale login'")]
    PullDenied {
        /// The repository.
        name: String,
        /// What the registry said.
        source: RegistryError,
    },
    /// The repository has no such tag or digest. Docker's words.
    #[error("manifest for {name} not found: manifest unknown")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What the registry said.
        source: RegistryError,
    },
    /// The repository may not be written to. Docker's words.
    #[error("push access denied for {name}, repository does not exist or may require 'shale login'")]
    PushDenied {
        /// The repository.
        name: String,
        /// What the registry said.
        source: RegistryError,
    },
    /// No image of an index is for the platform.
    #[error(
        "no matching manifest for {wanted} in the manifest list entries of {name}: it has {offered}; choose one with \
         --platform"
    )]
    NoPlatform {
        /// The image.
        name: String,
        /// Which platform was wanted.
        wanted: String,
        /// Which ones there are.
        offered: String,
    },
    /// A single image for another platform than the one that was asked for. Docker's words.
    #[error(
        "image with reference {name} was found but does not match the specified platform: wanted {wanted}, actual: \
         {actual}"
    )]
    OtherPlatform {
        /// The image.
        name: String,
        /// Which platform was wanted.
        wanted: String,
        /// Which one it is for.
        actual: String,
    },
    /// What came is no image, or contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

impl From<StoreError> for TransferError {
    fn from(error: StoreError) -> Self {
        Self::Image(error.into())
    }
}

impl From<crate::manifest::ManifestError> for TransferError {
    fn from(error: crate::manifest::ManifestError) -> Self {
        Self::Image(error.into())
    }
}
