//! Building the index of one layer from the members of its archive. Pure.
//!
//! ```text
//! members, in any order ──► Tree (names, files, contents) ──► finish: links that waited, markers, order ──► Finished
//! ```
//!
//! Invariants:
//! - a marker hides lower layers only, so the order of members does not matter: a whiteout of a name that the layer has
//!   itself makes a directory opaque and is nothing for a file;
//! - of two members with one name the last one counts; directories are merged;
//! - a symbolic link of the layer that stands on the way is followed as it would be inside a container;
//! - attributes by which an overlay steers itself are dropped.
//!
//! A tree of a million files takes about 130 bytes for each: names, files and contents lie in arenas and are found
//! through tables of 32-bit numbers. A hostile archive costs time and memory in proportion to its size, whatever it
//! holds; nothing recurses. Specification: OCI image-spec, layer.md.

mod contents;
mod finish;
mod tree;
mod walk;
mod write;

use crate::attr::{FileType, Time};

use super::{BuildError, Piece, Sha256};

pub use finish::Finished;
pub use tree::Tree;

/// Attributes by which this or a neighbouring file system steers itself: never taken from an archive.
pub const RESERVED_XATTRS: [&[u8]; 6] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"user.fuseoverlayfs.",
    b"trusted.fuseoverlayfs.",
    b"user.containers.",
    b"user.shale.",
];

/// Longest path of a member, as the kernel allows it.
pub const PATH_BYTES_MAX: usize = 4095;

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
    /// Extended attributes. Those of [`RESERVED_XATTRS`] are dropped.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// What a directory gets that no member describes.
    fn implied() -> Self {
        Self {
            mode: 0o755,
            ..Self::default()
        }
    }
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
        /// The stretches, ascending and apart; what lies between them is a hole.
        pieces: Vec<Piece>,
    },
}

/// A path for a message.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(if path.is_empty() { b"/" } else { path }).into_owned()
}

fn entry_error(path: &[u8], problem: impl Into<String>) -> BuildError {
    BuildError::Entry {
        path: shown(path),
        problem: problem.into(),
    }
}

/// The last component of a path, and the path of the directory it is in.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Whether files of a type have a device number.
fn is_device(file_type: FileType) -> bool {
    matches!(file_type, FileType::CharDevice | FileType::BlockDevice)
}

#[cfg(test)]
mod tests;
