//! A read-only layer, whatever it is made of.
//!
//! The union asks layers by node: a [`LayerNode`] is a place in one layer, found from its root by [`Layer::lookup`].
//! A layer answers in its own terms (its numbers, its whiteouts); what that means for the merged tree is decided in
//! `union`. Layers never change while they are mounted.

pub mod directory;
pub mod image;
pub mod marks;
pub mod whiteout;

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::attr::{Attr, FileType};
use crate::error::Result;
use crate::index::EntryId;
use crate::stream::ReadAt;
use crate::sys;
use marks::{MarkSpace, Marks};

pub use crate::upper::partial::Merged;

/// A place in one layer: what it is called there. Layers never change, so names serve as numbers would.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LayerNode {
    /// The path from the layer's root, components separated by `/`, without leading slash; empty for the root.
    Path(Arc<OsStr>),
    /// A name in an index.
    Entry(EntryId),
}

impl LayerNode {
    /// The place at this path.
    #[must_use]
    pub fn at(path: &OsStr) -> Self {
        Self::Path(Arc::from(path))
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
pub enum Content {
    /// A whole file that can be opened and passed through.
    File(OwnedFd),
    /// Bytes that are found in something larger: a pack, an archive.
    Source(Arc<dyn ReadAt>),
    /// Some bytes of a partial copy, the others of the content below it.
    Merged(Merged),
}

/// How much of its content a metadata-only copy in a layer holds.
#[derive(Debug)]
pub enum Portion {
    /// None.
    Nothing,
    /// Some: the copy, open for reading, and where its marks are.
    Blocks(OwnedFd, MarkSpace),
    /// All: it was made whole since it was looked up.
    Everything(OwnedFd),
}

impl Content {
    /// Reads at `offset`; fewer bytes than fit only at the end.
    ///
    /// # Errors
    /// What the file or source answers.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = match self {
            Self::File(file) => file,
            Self::Source(source) => return source.read_at(buffer, offset),
            Self::Merged(merged) => return merged.read_at(buffer, offset),
        };
        Ok(sys::read_fully(file, buffer, offset)?)
    }

    /// The next stretch at or after `at` and before `end` that is no hole.
    ///
    /// # Errors
    /// What the file or source answers.
    pub fn data_from(&self, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        match self {
            Self::File(file) => Ok(sys::data_from(file, at, end)?),
            Self::Source(source) => {
                let end = end.min(source.size_bytes());
                Ok((at < end).then_some(at..end))
            }
            Self::Merged(merged) => merged.data_from(at, end),
        }
    }

    /// Reads from the beginning.
    #[must_use]
    pub fn into_reader(self) -> ContentReader {
        ContentReader {
            content: self,
            offset: 0,
        }
    }
}

/// A content, read from the beginning to the end.
#[derive(Debug)]
pub struct ContentReader {
    content: Content,
    offset: u64,
}

impl io::Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => formatter.debug_tuple("File").field(file).finish(),
            Self::Source(source) => formatter
                .debug_tuple("Source")
                .field(&source.size_bytes())
                .finish(),
            Self::Merged(merged) => merged.fmt(formatter),
        }
    }
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

/// Takes an entry: its name, position, place and attributes. `false`: no more.
pub type TakeEntry<'a> = dyn FnMut(&OsStr, u64, LayerNode, Attr) -> bool + 'a;

/// A read-only tree of files. Implementations are asked by several threads at once.
pub trait Layer: Send + Sync {
    /// The layer's name in messages.
    fn name(&self) -> String;

    /// The place of the root directory.
    fn root(&self) -> LayerNode {
        LayerNode::at(OsStr::new(""))
    }

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

    /// How much of its content a metadata-only copy holds. Asked anew for each open: of an upper that is in use, which
    /// is read as a layer, copies become whole.
    ///
    /// # Errors
    /// When the file cannot be opened.
    fn portion(&self, _node: &LayerNode) -> Result<Portion> {
        Ok(Portion::Nothing)
    }

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

    /// The path of a place from the layer's root, without leading slash.
    ///
    /// # Errors
    /// When the layer cannot be read.
    fn path(&self, node: &LayerNode) -> Result<Arc<OsStr>>;

    /// For a layer whose numbers lead back to its files: how many layers of an image it stands for. Its numbers say
    /// in bits 48 and up which of them a file is from.
    fn number_tags(&self) -> Option<u64> {
        None
    }

    /// Whether the root directory is opaque: then nothing of the layers below shows (OCI image-spec, layer.md,
    /// "Opaque Whiteout"). overlayfs has no such mark for a directory that is a layer.
    ///
    /// # Errors
    /// When the layer cannot be read.
    fn hides_all_below(&self) -> Result<bool> {
        Ok(false)
    }

    /// Whether numbers lead back to files.
    fn is_numbered(&self) -> bool {
        self.number_tags().is_some()
    }

    /// The place of the file with this number, in a layer whose numbers lead back to files.
    ///
    /// # Errors
    /// When the layer cannot be read.
    fn by_number(&self, _ino: u64) -> Result<Option<LayerNode>> {
        Ok(None)
    }

    /// The directory that a place is in, and its name there; `None` for the root. For layers whose numbers lead back
    /// to files.
    ///
    /// # Errors
    /// When the layer cannot be read.
    fn parent(&self, _node: &LayerNode) -> Result<Option<(LayerNode, OsString)>> {
        Ok(None)
    }

    /// Hands the entries of a directory after a position to `take`, whiteouts left out, until it answers `false`, for
    /// layers whose numbers lead back to files. Positions are larger than 0 and rise.
    ///
    /// # Errors
    /// When the layer cannot be read.
    fn list_after(&self, _dir: &LayerNode, _after: u64, _take: &mut TakeEntry<'_>) -> Result<()> {
        Ok(())
    }

    /// The digest of the image layer that a file comes from, where that is known.
    ///
    /// # Errors
    /// When the layer cannot be read.
    fn provenance(&self, _node: &LayerNode) -> Result<Option<String>> {
        Ok(None)
    }
}
