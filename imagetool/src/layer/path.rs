//! Names of archive entries, made relative and clean. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ufs::layer::whiteout::{Marker, parse_tar_name};

/// A clean path below the layer: no empty, `.` or `..` components. Empty: the layer's root.
pub(crate) type CleanPath = Vec<u8>;

/// Cleans a path lexically, as Docker does: `a//./b/../c` is `a/c`, `/../a` is `a`. `None` when a relative path leads
/// outside (`../a`).
pub(crate) fn clean(path: &[u8]) -> Option<CleanPath> {
    let absolute = path.first() == Some(&b'/');
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if components.pop().is_none() && !absolute => return None,
            b".." => {}
            _ => components.push(component),
        }
    }
    Some(components.join(&b'/'))
}

/// Splits a clean path into its parent and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

/// What a path says apart from naming an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// An ordinary entry.
    Entry,
    /// A deletion marker for a name in the parent directory.
    Whiteout(&'a OsStr),
    /// The parent directory is opaque.
    Opaque,
    /// Left out: AUFS' own names.
    Ignored,
    /// No name such an entry may have.
    Refused,
}

/// Tells markers from entries. Nothing can stand below a marker.
pub(crate) fn role(path: &[u8]) -> Role<'_> {
    let (parent, name) = split(path);
    for component in parent.split(|byte| *byte == b'/') {
        match parse_tar_name(OsStr::from_bytes(component)) {
            None => {}
            Some(Marker::Reserved) => return Role::Ignored,
            Some(_) => return Role::Refused,
        }
    }
    match parse_tar_name(name) {
        None => Role::Entry,
        Some(Marker::Whiteout(name)) => Role::Whiteout(name),
        Some(Marker::Opaque) => Role::Opaque,
        Some(Marker::Reserved) => Role::Ignored,
        Some(Marker::Invalid) => Role::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_cleaned_and_escapes_noticed() {
        let cases: [(&str, Option<&str>); 11] = [
            ("", Some("")),
            ("./", Some("")),
            ("/", Some("")),
            ("./a//b/", Some("a/b")),
            ("/a", Some("a")),
            ("a/../b", Some("b")),
            ("a/../../b", None),
            ("..", None),
            ("/../../b", Some("b")),
            ("...", Some("...")),
            ("a/..b", Some("a/..b")),
        ];
        for (path, expected) in cases {
            assert_eq!(
                clean(path.as_bytes()).as_deref(),
                expected.map(str::as_bytes),
                "{path}"
            );
        }
    }

    #[test]
    fn roles() {
        assert_eq!(role(b"a/b"), Role::Entry);
        assert_eq!(role(b"a/.wh.b"), Role::Whiteout(OsStr::new("b")));
        assert_eq!(role(b".wh..wh..opq"), Role::Opaque);
        assert_eq!(role(b".wh..wh.plnk/1"), Role::Ignored);
        for path in ["a/.wh.", "a/.wh...", "a/.wh..", ".wh.a/b", "a/.wh..wh..opq/b"] {
            assert_eq!(role(path.as_bytes()), Role::Refused, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_clean_path_has_no_way_out(path in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..40)) {
            if let Some(clean) = clean(&path) {
                let bad = |component: &[u8]| matches!(component, b"" | b"." | b"..");
                prop_assert!(clean.is_empty() || !clean.split(|byte| *byte == b'/').any(bad));
                prop_assert_eq!(super::clean(&clean), Some(clean.clone()));
            }
        }
    }
}
