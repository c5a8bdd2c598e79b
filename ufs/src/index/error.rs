//! Why an index cannot be used or made.

use std::io;
use std::path::PathBuf;

/// Why an index gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file cannot be opened or mapped.
    #[error("cannot open index {}: {cause}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is no index.
    #[error("{} is no index", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by another version.
    #[error("index {} has format version {found}, this program reads {known}: rebuild it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version this program reads.
        known: u32,
    },
    /// A checksum or an invariant does not hold.
    #[error("index {} is damaged ({what}): run `shale system check --repair`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The file was cut short, or its medium failed, while it was in use.
    #[error("index {} can no longer be read: it was cut short or its disk failed; run `shale system check --repair`", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// A number that this index does not hold, or one of another type of file.
    #[error("index {} has no {what} {number}", path.display())]
    NoSuch {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        what: &'static str,
        /// Its number.
        number: u32,
    },
    /// Indexes that cannot be merged this way.
    #[error("cannot merge: {0}")]
    Merge(String),
    /// Not written yet.
    #[error("not written yet")]
    Unfinished,
}

/// Why a layer's index was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An entry may not be there.
    #[error("entry {path:?}: {problem}")]
    Entry {
        /// The entry's path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The layer is too large for the format.
    #[error("the layer holds too many {0} for one index")]
    TooLarge(&'static str),
    /// A content was described in a way that makes no sense.
    #[error("content {number}: {problem}")]
    Content {
        /// Its number.
        number: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
}
