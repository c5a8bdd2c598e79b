//! Merging the indexes of several layers into one.

use std::io::{self, Write};
use std::marker::PhantomData;

use super::{Index, IndexError, Kind};

/// Merged layers, ready to be written. It borrows the indexes it was made from.
#[derive(Debug)]
pub struct Merged<'a>(PhantomData<&'a Index>);

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    unused_variables,
    clippy::unused_self
)]
impl Merged<'_> {
    pub fn inode_count(&self) -> u32 {
        0
    }
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Merges layers, bottom first, into a chain or a run.
///
/// # Errors
/// When one is damaged, or they do not fit together.
pub fn merge<'a>(layers: &[&'a Index], kind: Kind) -> Result<Merged<'a>, IndexError> {
    let _ = (layers, kind);
    Err(IndexError::Unfinished)
}

/// A chain whose root holds one directory per part. Markers are shown as the empty files that they are in a tar.
///
/// # Errors
/// When one is damaged, or two have the same name.
pub fn side_by_side<'a>(parts: &[(Vec<u8>, &'a Index)]) -> Result<Merged<'a>, IndexError> {
    let _ = parts;
    Err(IndexError::Unfinished)
}
