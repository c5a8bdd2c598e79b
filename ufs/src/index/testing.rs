//! What tests of indexes share: everything that an index shows, as plain values.

use std::collections::BTreeMap;

use super::build::{Meta, Tree};
use super::{Index, InodeId, Place};
use crate::attr::{FileType, Time};

/// What is shown of one path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shown {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: (i64, u32),
    pub(super) size: u64,
    pub(super) rdev: u64,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) place: String,
    pub(super) opaque: bool,
    pub(super) whiteout: bool,
    /// All names of the file, of a directory its own.
    pub(super) names: Vec<Vec<u8>>,
}

/// Every path of an index but the root's.
pub(super) fn dump(index: &Index) -> BTreeMap<Vec<u8>, Shown> {
    let mut shown = BTreeMap::new();
    let mut waiting = vec![InodeId::ROOT];
    while let Some(dir) = waiting.pop() {
        for entry in index.entries(dir).unwrap() {
            let (name, found) = entry.unwrap();
            assert_eq!(index.lookup(dir, name).unwrap(), Some(found));
            assert_eq!(index.parent(found.entry).unwrap(), dir);
            let path = index.path(found.entry).unwrap();
            assert_eq!(index.find(&path).unwrap(), Some(found));
            if found.file_type == FileType::Directory {
                waiting.push(found.inode.unwrap());
            }
            shown.insert(path, show(index, found.inode));
        }
    }
    shown
}

/// What is shown of one file.
pub(super) fn show(index: &Index, inode: Option<InodeId>) -> Shown {
    let Some(id) = inode else {
        return Shown {
            whiteout: true,
            ..Shown::default()
        };
    };
    let inode = index.inode(id).unwrap();
    let by_origin = index.by_origin(inode.layer, inode.origin).unwrap();
    assert_eq!(by_origin, (inode.origin != super::NO_ORIGIN).then_some(id));
    let names = index.links(id).unwrap();
    if !inode.is_dir() {
        assert_eq!(names.len(), inode.nlink as usize);
    }
    let target = match inode.file_type() {
        FileType::Symlink => index.link_target(id).unwrap().to_vec(),
        _ => Vec::new(),
    };
    let xattrs = index.xattrs(id).unwrap();
    for (name, value) in &xattrs {
        assert_eq!(index.xattr(id, name).unwrap(), Some(*value));
    }
    let place = match inode.file_type() {
        FileType::Regular => describe(index, index.place(id).unwrap()),
        _ => String::new(),
    };
    Shown {
        mode: inode.mode,
        owner: (inode.uid, inode.gid),
        mtime: (inode.mtime.secs, inode.mtime.nanos),
        size: inode.size_bytes,
        rdev: inode.rdev,
        target,
        xattrs: xattrs
            .into_iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        place,
        opaque: inode.opaque,
        whiteout: false,
        names: names.into_iter().map(|name| index.path(name).unwrap()).collect(),
    }
}

/// A place in words, the same wherever the layer lies in a list.
fn describe(index: &Index, place: Place<'_>) -> String {
    let layer = |layer: u16| index.layers()[usize::from(layer)][0];
    match place {
        Place::Empty => "empty".to_owned(),
        Place::Pack {
            layer: at,
            offset,
            sum,
            digest,
        } => format!("pack of {} {offset} {sum} {}", layer(at), digest[0]),
        Place::Object { digest } => format!("object {}", digest[0]),
        Place::Stream { layer: at, pieces } => {
            format!("stream of {} {:?}", layer(at), pieces.collect::<Vec<_>>())
        }
    }
}

/// The index that a tree becomes. `digest` is each byte of the layer's digest.
pub(super) fn index(tree: Tree, digest: u8) -> Index {
    let finished = tree.finish().unwrap();
    let mut bytes = Vec::new();
    finished.write(&[digest; 32], &mut bytes).unwrap();
    let index = Index::from_bytes(bytes).unwrap();
    index.check().unwrap();
    assert_eq!(index.inode_count(), finished.inode_count());
    index
}

/// Attributes that tell files apart.
pub(super) fn meta(number: u32) -> Meta {
    Meta {
        mode: 0o644,
        uid: number,
        gid: 2,
        mtime: Time {
            secs: -3,
            nanos: number,
        },
        xattrs: Vec::new(),
    }
}
