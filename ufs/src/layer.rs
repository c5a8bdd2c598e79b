//! A read-only layer, whatever it is made of.
//!
//! The union asks layers by node: a [`LayerNode`] is a place in one layer, found from its root by [`Layer::lookup`].
//! A layer answers in its own terms (its numbers, its whiteouts); what that means for the merged tree is decided in
//! `union`. Layers never change while they are mounted.

pub mod directory;
pub mod marks;
pub mod whiteout;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::attr::{Attr, FileType};
use crate::error::Result;
use marks::Marks;

/// A place in one layer: its path from the layer's root, without leading slash; empty for the root.
///
/// Paths of a layer never change, so they serve as names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayerNode {
    /// The path, components separated by `/`.
    pub path: Arc<OsStr>,
}

impl LayerNode {
    /// The layer's root.
    #[must_use]
    pub fn root() -> Self {
        Self {
            path: Arc::from(OsStr::new("")),
        }
    }

    /// The place of `name` in this directory.
    #[must_use]
    pub fn child(&self, name: &OsStr) -> Self {
        if self.path.is_empty() {
            return Self {
                path: Arc::from(name),
            };
        }
        let mut path = OsString::with_capacity(self.path.len() + 1 + name.len());
        path.push(&self.path);
        path.push("/");
        path.push(name);
        Self {
            path: Arc::from(path),
        }
    }
}

/// What a layer says of a name.
#[derive(Debug)]
pub enum Found {
    /// Nothing: ask the layer below.
    Absent,
    /// The name is gone, here and below.
    Whiteout,
    /// This file.
    Entry(LayerNode, Attr),
}

/// An entry of a layer's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry {
    /// Its name; for a whiteout, the name that is gone.
    pub name: OsString,
    /// `None` for a whiteout.
    pub file_type: Option<FileType>,
}

/// Where the content of a regular file comes from.
#[derive(Debug)]
#[non_exhaustive]
pub enum Content {
    /// A whole file that can be opened and passed through.
    File(OwnedFd),
}

/// What `statfs(2)` tells, in the units of `statvfs(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Space {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_bytes: u64,
    pub fragment_bytes: u64,
    pub name_bytes_max: u64,
}

/// A read-only tree of files. Implementations are asked by several threads at once.
pub trait Layer: Send + Sync {
    /// The layer's name in messages.
    fn name(&self) -> String;

    /// Attributes of the root directory.
    ///
    /// # Errors
    /// When the root cannot be read.
    fn root_attr(&self) -> Result<Attr>;

    /// Looks for `name` in the directory `dir`.
    ///
    /// # Errors
    /// When the directory cannot be read; a missing name is [`Found::Absent`].
    fn lookup(&self, dir: &LayerNode, name: &OsStr) -> Result<Found>;

    /// Lists a directory, whiteouts included, in no particular order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn read_dir(&self, dir: &LayerNode) -> Result<Vec<LayerEntry>>;

    /// Attributes of a node found before.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn attr(&self, node: &LayerNode) -> Result<Attr>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When the link cannot be read.
    fn read_link(&self, node: &LayerNode) -> Result<OsString>;

    /// One extended attribute as stored; `None` when it is not set.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn xattr(&self, node: &LayerNode, name: &OsStr) -> Result<Option<Vec<u8>>>;

    /// The names of all extended attributes as stored, the overlay's own included.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn xattr_names(&self, node: &LayerNode) -> Result<Vec<OsString>>;

    /// The overlay's own marks on a directory or regular file.
    ///
    /// # Errors
    /// When the file cannot be read, or a mark makes no sense.
    fn marks(&self, node: &LayerNode, attr: &Attr) -> Result<Marks>;

    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    fn content(&self, node: &LayerNode) -> Result<Content>;

    /// Space and limits of the file system that holds the layer, for `statfs(2)`.
    ///
    /// # Errors
    /// When the file system does not answer.
    fn space(&self) -> Result<Space>;

    /// All places of the file at `node`, itself included, when it has several names.
    ///
    /// # Errors
    /// When the layer cannot be searched.
    fn hard_links(&self, node: &LayerNode, attr: &Attr) -> Result<Vec<LayerNode>>;
}
