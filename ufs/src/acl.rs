//! POSIX access control lists as extended attributes: the ids in them, mapped like owners. Pure.
//!
//! ```text
//! u32 version (2)   then for each entry: u16 tag   u16 permissions   u32 id       all little-endian
//! ```
//!
//! Source: `struct posix_acl_xattr_entry` of the kernel's user headers; acl(5).

use std::ffi::OsStr;

use crate::idmap::IdMap;

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

/// A stored list with its ids as shown. What is no list stays as it is: the kernel will judge it.
#[must_use]
pub fn to_shown(value: Vec<u8>, ids: &IdMap) -> Vec<u8> {
    let map = |tag, id| {
        Some(if tag == TAG_USER {
            ids.shown_uid(id)
        } else {
            ids.shown_gid(id)
        })
    };
    mapped(&value, map).unwrap_or(value)
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
    if is_list(value) {
        mapped(value, map)
    } else {
        Some(value.to_vec())
    }
}

fn is_list(value: &[u8]) -> bool {
    value.len() >= HEADER_BYTES
        && value[..HEADER_BYTES] == VERSION.to_le_bytes()
        && (value.len() - HEADER_BYTES).is_multiple_of(ENTRY_BYTES)
}

fn mapped(value: &[u8], map: impl Fn(u16, u32) -> Option<u32>) -> Option<Vec<u8>> {
    if !is_list(value) {
        return None;
    }
    let mut value = value.to_vec();
    for entry in value[HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == TAG_USER || tag == TAG_GROUP {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&map(tag, id)?.to_le_bytes());
        }
    }
    Some(value)
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
