//! Deletion markers: the one place that knows how a removal is written down.
//!
//! Two encodings say "the name below is gone":
//!
//! ```text
//!                     in a layer's tar (OCI image-spec, layer.md)   in a directory (overlayfs)
//! one name is gone    empty file `.wh.NAME`                         character device 0:0 called NAME
//! hide all below      empty file `.wh..wh..opq` in the directory    xattr overlay.opaque=y on the directory
//! ```
//!
//! Directories written by old rootless tools use the tar names on disk as well, so both are read there.
//! A marker hides **lower layers only**, never an entry of its own layer, whatever the order in which the
//! entries of a tar arrive.
//!
//! This module is pure: names and numbers in, meaning out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Prefix of every marker name in a tar.
pub const PREFIX: &[u8] = b".wh.";

/// Name of the marker that makes its directory opaque.
pub const OPAQUE_NAME: &str = ".wh..wh..opq";

/// Prefix of the names that AUFS kept for itself (`.wh..wh.plnk`, `.wh..wh.aufs`).
const RESERVED_PREFIX: &[u8] = b".wh..wh.";

/// Device number of an overlayfs whiteout (a character device 0:0).
pub const DEVICE: u64 = 0;

/// What a marker name in a tar says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker<'a> {
    /// `.wh.NAME`: the entry NAME of the same directory is gone from the layers below.
    Whiteout(&'a OsStr),
    /// `.wh..wh..opq`: everything in this directory is gone from the layers below.
    Opaque,
    /// A name reserved by AUFS; it carries no content and is left out.
    Reserved,
    /// `.wh.` alone, or a whiteout of `.` or `..`: no name a removal could have.
    Invalid,
}

/// Reads the last component of a tar entry's path. `None`: an ordinary entry.
#[must_use]
pub fn parse_tar_name(name: &OsStr) -> Option<Marker<'_>> {
    let bytes = name.as_bytes();
    let hidden = bytes.strip_prefix(PREFIX)?;
    Some(match hidden {
        _ if bytes == OPAQUE_NAME.as_bytes() => Marker::Opaque,
        _ if bytes.starts_with(RESERVED_PREFIX) => Marker::Reserved,
        b"" | b"." | b".." => Marker::Invalid,
        _ => Marker::Whiteout(OsStr::from_bytes(hidden)),
    })
}

/// The tar name that says that `name` is gone.
#[must_use]
pub fn tar_name(name: &OsStr) -> OsString {
    let mut bytes = PREFIX.to_vec();
    bytes.extend_from_slice(name.as_bytes());
    OsString::from_vec(bytes)
}

/// Whether a file of this mode and device number is overlayfs' whiteout.
#[must_use]
pub fn is_device(mode: u32, rdev: u64) -> bool {
    mode & libc::S_IFMT == libc::S_IFCHR && rdev == DEVICE
}

/// Whether an entry of an upper looks like the file that fuse-overlayfs puts into a directory beside the attribute
/// that makes it opaque: empty, and for its owner alone.
#[must_use]
pub fn is_opaque_note(name: &OsStr, mode: u32, size_bytes: u64) -> bool {
    name == OPAQUE_NAME && mode & (libc::S_IFMT | 0o7777) == libc::S_IFREG | 0o700 && size_bytes == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_told_apart() {
        let cases: &[(&str, Option<Marker<'_>>)] = &[
            ("etc", None),
            ("wh.etc", None),
            (".wh", None),
            (".wh.etc", Some(Marker::Whiteout(OsStr::new("etc")))),
            (".wh..hidden", Some(Marker::Whiteout(OsStr::new(".hidden")))),
            (".wh..wh..opq", Some(Marker::Opaque)),
            (".wh..wh.plnk", Some(Marker::Reserved)),
            (".wh.", Some(Marker::Invalid)),
            (".wh..", Some(Marker::Invalid)),
            (".wh...", Some(Marker::Invalid)),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_tar_name(OsStr::new(name)), *expected, "{name}");
        }
    }

    #[test]
    fn only_character_device_zero_is_a_whiteout() {
        assert!(is_device(libc::S_IFCHR | 0o600, 0));
        assert!(!is_device(libc::S_IFCHR, 1));
        assert!(!is_device(libc::S_IFBLK, 0));
        assert!(!is_device(libc::S_IFREG, 0));
    }

    proptest! {
        #[test]
        fn written_markers_read_back(name in proptest::collection::vec(1u8.., 1..200)) {
            let name = OsString::from_vec(name);
            prop_assume!(name != "." && name != ".." && !name.as_bytes().starts_with(PREFIX));
            let written = tar_name(&name);
            prop_assert_eq!(parse_tar_name(&written), Some(Marker::Whiteout(&name)));
        }
    }
}
