//! Reading an index.

use std::marker::PhantomData;
use std::path::Path;

use super::{ContentId, EntryId, Found, IndexError, Inode, InodeId, Kind, Piece, Place, Sha256};

/// An open index.
#[derive(Debug)]
pub struct Index {
    layers: Vec<Sha256>,
}

/// The names of a directory, sorted.
#[derive(Debug, Clone)]
pub struct Entries<'a>(PhantomData<&'a Index>);

/// The digests of objects, sorted.
#[derive(Debug, Clone)]
pub struct Objects<'a>(PhantomData<&'a Index>);

/// The stretches of a content, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces<'a>(PhantomData<&'a ()>);

impl Iterator for Pieces<'_> {
    type Item = Piece;
    fn next(&mut self) -> Option<Piece> {
        None
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a [u8], Found), IndexError>;
    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

impl<'a> Iterator for Objects<'a> {
    type Item = Result<&'a Sha256, IndexError>;
    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
impl Index {
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn kind(&self) -> Kind {
        Kind::Layer
    }
    pub fn layers(&self) -> &[Sha256] {
        &self.layers
    }
    pub fn inode_count(&self) -> u32 {
        0
    }
    pub fn entry_count(&self) -> u32 {
        0
    }
    pub fn inode(&self, inode: InodeId) -> Result<Inode, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn lookup(&self, dir: InodeId, name: &[u8]) -> Result<Option<Found>, IndexError> {
        Err(IndexError::Unfinished)
    }
    /// A path from the root, without leading slash; symbolic links are not followed.
    pub fn find(&self, path: &[u8]) -> Result<Option<Found>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn entries(&self, dir: InodeId) -> Result<Entries<'_>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn entries_after(&self, dir: InodeId, entry: EntryId) -> Result<Entries<'_>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn entry(&self, entry: EntryId) -> Result<(&[u8], Found), IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn parent(&self, entry: EntryId) -> Result<InodeId, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn path(&self, entry: EntryId) -> Result<Vec<u8>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn by_origin(&self, layer: u16, origin: u32) -> Result<Option<InodeId>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn links(&self, inode: InodeId) -> Result<Vec<EntryId>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn link_target(&self, inode: InodeId) -> Result<&[u8], IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Option<&[u8]>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn xattrs(&self, inode: InodeId) -> Result<Vec<(&[u8], &[u8])>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn place(&self, inode: InodeId) -> Result<Place<'_>, IndexError> {
        Err(IndexError::Unfinished)
    }
    /// The content of a regular file; `None` when it is empty or one hole.
    pub fn content_of(&self, inode: InodeId) -> Result<Option<ContentId>, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn content_count(&self) -> u32 {
        0
    }
    pub fn content(&self, content: ContentId) -> Result<(Place<'_>, u64), IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn has_object(&self, digest: &Sha256) -> Result<bool, IndexError> {
        Err(IndexError::Unfinished)
    }
    pub fn objects(&self) -> Objects<'_> {
        Objects(PhantomData)
    }
    pub fn check(&self) -> Result<(), IndexError> {
        Err(IndexError::Unfinished)
    }
}
