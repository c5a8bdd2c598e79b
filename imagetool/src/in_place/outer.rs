//! The outer tar of an archive: where each of its members is.
//!
//! Whether a tar is an archive of images or a bare tree is known only at its end, so that both are noted on the way:
//! the members' places, and the tree that they would make. Of a compressed archive, which is not to be read twice,
//! members that look like a layer are indexed on the way, too.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use ufs::index::build::{Stored, Tree};
use ufs::index::{ContentId, Piece};

use crate::archive::member::{Kind, Member, Members, TarError};
use crate::digest::{Digest, Hashing};
use crate::layer::path::clean;
use crate::layer::{LayerError, members};

/// Archives of images have fewer members.
const MEMBERS_MAX: usize = 100_000;
/// Most links followed from one name to another.
const LINKS_MAX: usize = 8;
/// Of a tar header, what tells it from other files: `ustar` and where it stands.
const MAGIC: (usize, &[u8]) = (257, b"ustar");
/// Size of a tar block.
const BLOCK_BYTES: u64 = 512;

/// Where a member's content is in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its first byte.
    pub(super) at: u64,
    /// Its length in bytes.
    pub(super) length: u64,
}

/// A member that is a tar itself, indexed on the way.
pub(super) struct Nested {
    /// Its tree.
    pub(super) tree: Tree,
    /// The digest of its bytes.
    pub(super) digest: Digest,
}

/// What a pass over the outer tar found.
pub(super) struct Outer {
    files: BTreeMap<String, Extent>,
    links: BTreeMap<String, String>,
    /// The tree that the members make, or why they make none.
    pub(super) own: Result<Tree, LayerError>,
    /// By where they begin.
    pub(super) nested: BTreeMap<u64, Nested>,
    /// Whether the tar has its end marker.
    pub(super) end_marker: bool,
    /// More members than an archive of images has.
    too_many: bool,
}

/// Goes through a plain tar without reading contents.
pub(super) fn scan_plain(reader: impl Read + Seek) -> Result<Outer, TarError> {
    let mut members = Members::new(reader);
    let mut outer = Outer::new();
    while let Some(member) = members.next()? {
        let at = members.offset();
        outer.visit(member, at, members.remaining());
        members.seek_over()?;
    }
    outer.end_marker = members.end_marker();
    Ok(outer)
}

/// Goes through a stream that can only be read once. It is read to its end.
pub(super) fn scan_stream(reader: impl Read) -> Result<Outer, TarError> {
    let mut members = Members::new(reader);
    let mut outer = Outer::new();
    while let Some(member) = members.next()? {
        let at = members.offset();
        let may_be_layer = may_be_layer(&member);
        outer.visit(member, at, members.remaining());
        if may_be_layer && let Some(nested) = nested(&mut members) {
            outer.nested.insert(at, nested);
        }
    }
    outer.end_marker = members.finish()?.0;
    Ok(outer)
}

/// Whether a name could be one of a layer: reading other members twice would be a waste.
fn may_be_layer(member: &Member) -> bool {
    let path = member.path.strip_prefix(b"./").unwrap_or(&member.path);
    member.kind == Kind::Regular
        && member.segments.is_none()
        && member.size_bytes >= 2 * BLOCK_BYTES
        && (path.ends_with(b".tar") || path.starts_with(b"blobs/sha256/"))
}

/// The tree of a member that is a plain tar. What goes wrong is told when the member turns out to be a layer.
fn nested<R: Read>(members: &mut Members<R>) -> Option<Nested> {
    let mut first = Vec::new();
    members.by_ref().take(BLOCK_BYTES).read_to_end(&mut first).ok()?;
    if first.get(MAGIC.0..MAGIC.0 + MAGIC.1.len()) != Some(MAGIC.1) {
        return None;
    }
    let mut hashing = Hashing::new(first.as_slice().chain(members));
    let tree = read_tree(&mut hashing).ok()?.0;
    Some(Nested {
        tree,
        digest: hashing.finish().0,
    })
}

/// The tree of a layer's tar, with contents as places in it; whether it had an end marker. It is read to its end.
pub(super) fn read_tree(reader: impl Read) -> Result<(Tree, bool), LayerError> {
    let mut members = Members::new(reader);
    let mut tree = Tree::new();
    while let Some(member) = members.next()? {
        let at = members.offset();
        add(&mut tree, member, at)?;
    }
    Ok((tree, members.finish()?.0))
}

/// The tree of a layer's tar, whose contents are sought over.
pub(super) fn seek_tree(reader: impl Read + Seek) -> Result<(Tree, bool), LayerError> {
    let mut members = Members::new(reader);
    let mut tree = Tree::new();
    while let Some(member) = members.next()? {
        let at = members.offset();
        add(&mut tree, member, at)?;
        members.seek_over()?;
    }
    Ok((tree, members.end_marker()))
}

/// Adds a member whose content begins at `at`.
fn add(tree: &mut Tree, member: Member, at: u64) -> Result<(), LayerError> {
    let content = members::has_content(&member)
        .then(|| content(tree, &member, at))
        .flatten();
    members::add(tree, member, content)
}

/// Notes where a file's bytes are; `None` when it has none.
fn content(tree: &mut Tree, member: &Member, at: u64) -> Option<ContentId> {
    let mut from = at;
    let mut piece = |(at, length): (u64, u64)| {
        let piece = Piece { at, from, length };
        from += length;
        piece
    };
    let pieces: Vec<Piece> = match &member.segments {
        None if member.size_bytes == 0 => Vec::new(),
        None => vec![piece((0, member.size_bytes))],
        Some(segments) => segments.iter().copied().map(&mut piece).collect(),
    };
    (!pieces.is_empty()).then(|| tree.add_content(Stored::Stream { pieces }, member.size_bytes))
}

impl Outer {
    fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            own: Ok(Tree::new()),
            nested: BTreeMap::new(),
            end_marker: false,
            too_many: false,
        }
    }

    /// Notes a member.
    fn visit(&mut self, member: Member, at: u64, length: u64) {
        if !self.too_many {
            self.note(&member, Extent { at, length });
        }
        if let Ok(tree) = &mut self.own
            && let Err(error) = add(tree, member, at)
        {
            self.own = Err(error);
        }
    }

    fn note(&mut self, member: &Member, extent: Extent) {
        let Some(path) = clean(&member.path).and_then(|path| String::from_utf8(path).ok()) else {
            return; // nothing that an image is made of
        };
        match member.kind {
            Kind::Regular if member.segments.is_none() => {
                self.links.remove(&path);
                self.files.insert(path, extent);
            }
            Kind::Symlink | Kind::HardLink => {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                let from = if member.kind == Kind::Symlink { parent } else { "" };
                let joined = [from.as_bytes(), b"/", &member.link].concat();
                if let Some(target) = clean(&joined).and_then(|target| String::from_utf8(target).ok()) {
                    self.files.remove(&path);
                    self.links.insert(path, target);
                }
            }
            _ => {}
        }
        self.too_many = self.files.len() + self.links.len() > MEMBERS_MAX;
    }

    /// Where a file is. Old Docker archives link to layers that come twice.
    pub(super) fn find(&self, path: &str) -> Option<Extent> {
        if self.too_many {
            return None;
        }
        let mut path = String::from_utf8(clean(path.as_bytes())?).ok()?;
        for _ in 0..LINKS_MAX {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        self.files.get(&path).copied()
    }
}
