//! Building the index of one layer from the members of its archive.

use std::io::{self, Write};

use super::{BuildError, ContentId, Piece, Sha256};
use crate::attr::{FileType, Time};

/// What a member says of its file, beside its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-id and sticky among them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Extended attributes. Those by which an overlay steers itself are dropped.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where a content was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// In the layer's pack.
    Pack {
        /// Where it starts.
        offset: u64,
        /// XXH3-64 of the content.
        sum: u64,
        /// SHA-256 of the content.
        digest: Sha256,
    },
    /// In an object.
    Object {
        /// SHA-256 of the content.
        digest: Sha256,
    },
    /// In the layer's tar stream.
    Stream {
        /// The stretches, ascending and apart.
        pieces: Vec<Piece>,
    },
}

/// The files of a layer, as its members come in.
#[derive(Debug, Default)]
pub struct Tree {}

/// A layer whose members have all come.
#[derive(Debug)]
pub struct Finished {}

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    unused_variables,
    clippy::unused_self
)]
impl Tree {
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
    /// Takes note of a content. The same digest again gives the same number.
    pub fn add_content(&mut self, stored: Stored, size_bytes: u64) -> ContentId {
        ContentId(0)
    }
    #[must_use]
    pub fn known(&self, digest: &Sha256) -> Option<ContentId> {
        None
    }
    pub fn directory(&mut self, path: &[u8], meta: Meta) -> Result<(), BuildError> {
        Ok(())
    }
    pub fn file(
        &mut self,
        path: &[u8],
        meta: Meta,
        size_bytes: u64,
        content: Option<ContentId>,
    ) -> Result<(), BuildError> {
        Ok(())
    }
    pub fn symlink(&mut self, path: &[u8], meta: Meta, target: &[u8]) -> Result<(), BuildError> {
        Ok(())
    }
    pub fn special(
        &mut self,
        path: &[u8],
        meta: Meta,
        file_type: FileType,
        rdev: u64,
    ) -> Result<(), BuildError> {
        Ok(())
    }
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), BuildError> {
        Ok(())
    }
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), BuildError> {
        Ok(())
    }
    pub fn opaque(&mut self, dir: &[u8]) -> Result<(), BuildError> {
        Ok(())
    }
    /// How many attributes were dropped because an overlay would take them for its own.
    #[must_use]
    pub fn dropped_xattrs(&self) -> u64 {
        0
    }
    pub fn finish(self) -> Result<Finished, BuildError> {
        Ok(Finished {})
    }
}

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    unused_variables,
    clippy::unused_self
)]
impl Finished {
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        0
    }
    #[must_use]
    pub fn inode_count(&self) -> u32 {
        0
    }
    pub fn write(&self, layer: &Sha256, out: &mut impl Write) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
