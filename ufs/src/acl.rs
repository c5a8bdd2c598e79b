//! POSIX access control lists as extended attributes: the ids in them, mapped like owners. Pure.
//!
//! ```text
//! u32 version (2)   then for each entry: u16 tag   u16 permissions   u32 id       all little-endian
//! ```
//!
//! Source: `struct posix_acl_xattr_entry` of the kernel's user headers; acl(5).

use std::ffi::OsStr;

use crate::idmap::{IdMap, NOBODY_AT_ALL};

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;

/// Whether an attribute of this name is an access control list.
#[must_use]
pub fn is_acl(name: &OsStr) -> bool {
    name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

/// A stored list with its ids as shown. Entries of those who are not mapped are left out: they say nothing of anybody
/// here, and the kernel takes no list with an id that it cannot name. What is no list stays as it is: the kernel will
/// judge it.
#[must_use]
pub fn to_shown(value: Vec<u8>, ids: &IdMap) -> Vec<u8> {
    if !is_list(&value) {
        return value;
    }
    let mut shown = value[..HEADER_BYTES].to_vec();
    for entry in value[HEADER_BYTES..].chunks_exact(ENTRY_BYTES) {
        let map = |tag, id| {
            let shown = if tag == TAG_USER {
                ids.shown_uid(id)
            } else {
                ids.shown_gid(id)
            };
            (shown != NOBODY_AT_ALL).then_some(shown)
        };
        shown.extend(mapped_entry(entry, map).into_iter().flatten());
    }
    shown
}

/// A list as a program sets it with its ids as stored; `None` when one of them is not mapped.
#[must_use]
pub fn to_stored(value: &[u8], ids: &IdMap) -> Option<Vec<u8>> {
    let map = |tag, id| {
        if tag == TAG_USER {
            ids.stored_uid(id)
        } else {
            ids.stored_gid(id)
        }
    };
    if !is_list(value) {
        return Some(value.to_vec());
    }
    let mut stored = value[..HEADER_BYTES].to_vec();
    for entry in value[HEADER_BYTES..].chunks_exact(ENTRY_BYTES) {
        stored.extend(mapped_entry(entry, map)?);
    }
    Some(stored)
}

fn is_list(value: &[u8]) -> bool {
    value.len() >= HEADER_BYTES
        && value[..HEADER_BYTES] == VERSION.to_le_bytes()
        && (value.len() - HEADER_BYTES).is_multiple_of(ENTRY_BYTES)
}

/// An entry with its id mapped, if it has one; `None` when that is not mapped.
fn mapped_entry(entry: &[u8], map: impl Fn(u16, u32) -> Option<u32>) -> Option<[u8; ENTRY_BYTES]> {
    let mut entry: [u8; ENTRY_BYTES] = entry.try_into().ok()?;
    let [tag_low, tag_high, _, _, id @ ..] = entry;
    let tag = u16::from_le_bytes([tag_low, tag_high]);
    if tag == TAG_USER || tag == TAG_GROUP {
        entry[4..].copy_from_slice(&map(tag, u32::from_le_bytes(id))?.to_le_bytes());
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of an owner, one user, one group and a mask.
    fn list(user: u32, group: u32) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, id) in [
            (0x01_u16, u32::MAX),
            (TAG_USER, user),
            (TAG_GROUP, group),
            (0x10, u32::MAX),
        ] {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&6_u16.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    fn ids() -> IdMap {
        let ranges = IdMap::parse_ranges("0:100000:65536").unwrap();
        IdMap {
            users: ranges.clone(),
            groups: ranges,
            ..IdMap::default()
        }
    }

    #[test]
    fn ids_are_mapped_both_ways_and_nothing_else_is() {
        assert_eq!(to_stored(&list(5, 6), &ids()), Some(list(100_005, 100_006)));
        assert_eq!(to_shown(list(100_005, 100_006), &ids()), list(5, 6));
    }

    #[test]
    fn entries_of_those_who_are_not_mapped_are_not_shown() {
        let shown = to_shown(list(7, 100_006), &ids());
        assert_eq!(shown.len(), list(5, 6).len() - ENTRY_BYTES);
        assert_eq!(
            to_stored(&shown, &ids()).map(|stored| stored.len()),
            Some(shown.len())
        );
    }

    #[test]
    fn an_unmapped_id_cannot_be_stored() {
        assert_eq!(to_stored(&list(70_000, 6), &ids()), None);
    }

    #[test]
    fn what_is_no_list_is_left_to_the_kernel() {
        for value in [&b""[..], b"abc", &[2, 0, 0, 0, 1], &[9, 0, 0, 0]] {
            assert_eq!(to_stored(value, &ids()).as_deref(), Some(value));
            assert_eq!(to_shown(value.to_vec(), &ids()), value);
        }
    }
}
