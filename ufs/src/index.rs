//! The mapped index of a layer or of a chain of layers.
//!
//! ```text
//! build::Tree ──► Finished ──► file ──► Index ──┬──► lookups, listings, attributes, places of contents
//!                                 ▲             └──► merge::merge ──► Merged ─┐
//!                                 └──────────────────────────────────────────┘
//! ```
//!
//! An index says what a layer (or several, merged) holds: names, attributes, deletion markers and where contents lie.
//! It is one file that is mapped and read in place: opening it costs the same for ten files and for a million, a name is
//! found by binary search, and nothing is kept on the heap per file. The bytes are described in `docs/store-format.md`.

pub mod build;
mod emit;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
pub mod merge;
mod read;
mod sets;
#[cfg(test)]
mod testing;

use crate::attr::{FileType, Time};

pub use error::{BuildError, IndexError};
pub use read::{Entries, Index, Objects, Pieces};

/// A SHA-256, as bytes.
pub type Sha256 = [u8; 32];

/// A file of an index; 0 is the root directory. A directory's number is larger than its parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);
}

/// A name in a directory; 0 is the root's own, which is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u32);

/// A content that files of an index have, or that only the layer's recipe names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub u32);

/// What an index describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One layer with its markers.
    Layer,
    /// The layers of an image from the bottom on, merged: no markers are left.
    Chain,
    /// Several layers, merged, to lie over others: markers are kept where they may hide something below.
    Run,
}

/// Attributes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names in this index; for a directory 2 and the number of directories in it.
    pub nlink: u32,
    /// Length of a file or of a symbolic link's target; otherwise 0.
    pub size_bytes: u64,
    /// Device number of a device, in the kernel's userspace encoding; otherwise 0.
    pub rdev: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// The layer it comes from, an index into [`Index::layers`].
    pub layer: u16,
    /// Its number in that layer's own index; [`NO_ORIGIN`] for what [`merge::side_by_side`] made up.
    pub origin: u32,
    /// One of its names.
    pub entry: EntryId,
    /// The directory that this name is in; the root's is the root.
    pub parent: InodeId,
    /// A directory that hides what lies below.
    pub opaque: bool,
    /// Number of its attribute set.
    xattrs: u32,
    /// First entry of a directory, content of a file, start of a link's target.
    first: u32,
    /// Number of entries of a directory, length of a link's target.
    count: u32,
}

/// [`Inode::origin`] of a file that no layer holds.
pub const NO_ORIGIN: u32 = u32::MAX;

impl Inode {
    /// The type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }
}

/// What a directory says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub entry: EntryId,
    /// The file; `None` for a whiteout.
    pub inode: Option<InodeId>,
    /// Its type; that of a whiteout is [`FileType::CharDevice`].
    pub file_type: FileType,
}

/// A stretch of a file that lies in a stream; what no piece covers is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts in the file.
    pub at: u64,
    /// Where it starts in the layer's plain tar stream.
    pub from: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Where the content of a regular file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Nowhere: the file is empty or one hole.
    Empty,
    /// In a layer's pack.
    Pack {
        /// The layer, an index into [`Index::layers`].
        layer: u16,
        /// Where it starts.
        offset: u64,
        /// XXH3-64 of the content.
        sum: u64,
        /// SHA-256 of the content.
        digest: &'a Sha256,
    },
    /// In an object.
    Object {
        /// SHA-256 of the content.
        digest: &'a Sha256,
    },
    /// In a layer's tar stream.
    Stream {
        /// The layer, an index into [`Index::layers`].
        layer: u16,
        /// The stretches, ascending.
        pieces: Pieces<'a>,
    },
}
