//! Layers in the form in which the store keeps them, and the way from a tar stream to it and back.
//!
//! ```text
//! tar stream ──► members ──► tree  (names, attributes, markers) ──► index
//!                   │   └──► contents: small ──► pack, larger ──► objects
//!                   └──────► literal bytes ──► recipe
//! index + pack + objects + recipe ──► the same tar stream, verified
//! ```
//!
//! The format is described in `docs/store-format.md`.

pub mod contents;
pub mod members;
pub(crate) mod path;
mod pieces;
pub mod recipe;
pub mod stream;
pub mod writer;

use std::io;

use ufs::index::BuildError;

use crate::archive::member::TarError;
use crate::error::StoreError;

/// Why a layer was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry may not be.
    #[error("entry {path:?}: {problem}")]
    Entry {
        /// The entry's name in the archive.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The entries do not make a tree.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A content could not be read.
    #[error("read a file's content")]
    Read(#[from] io::Error),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}
