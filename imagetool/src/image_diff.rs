//! What differs between two images, from their merged indexes alone. Pure.
//!
//! Both trees are walked side by side, names sorted, so that the cost is that of listing both once. Contents are
//! compared by their digests; nothing is read. A file that both trees have from the same layer is the same file.
//!
//! As `docker diff` does: a directory differs when its owner, mode or attributes do (not its time), or when something in
//! it differs; everything in a new directory is listed, of a removed one only itself.

use ufs::index::{Entries, Found, Index, IndexError, Inode, InodeId, NO_ORIGIN, Place};

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only the second image has it.
    Added,
    /// It differs, or something in it does.
    Changed,
    /// Only the first image has it.
    Deleted,
}

impl Kind {
    /// `A`, `C` or `D`.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What happened.
    pub kind: Kind,
    /// Where, without leading slash.
    pub path: Vec<u8>,
    /// The file in the first image.
    pub old: Option<InodeId>,
    /// The file in the second image.
    pub new: Option<InodeId>,
}

/// A name that both, or only one, of two directories have.
struct Pair<'a> {
    name: &'a [u8],
    old: Option<InodeId>,
    new: Option<InodeId>,
}

/// A directory that is being walked.
struct Frame<'a> {
    old: Option<(InodeId, Listing<'a>)>,
    new: (InodeId, Listing<'a>),
    /// Length of its path.
    path_bytes: usize,
    /// Whether it was given out already.
    listed: bool,
}

/// The differences from the first tree to the second, each directory before what is in it.
pub fn between(old: &Index, new: &Index) -> Result<Vec<Difference>, IndexError> {
    let mut found = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    let root = (InodeId::ROOT, InodeId::ROOT);
    if !same(old, root.0, new, root.1)? {
        found.push(difference(Kind::Changed, &path, Some(root.0), Some(root.1)));
    }
    let mut stack = vec![Frame {
        old: Some((root.0, Listing::new(old, root.0)?)),
        new: (root.1, Listing::new(new, root.1)?),
        path_bytes: 0,
        listed: true,
    }];
    while let Some(frame) = stack.last_mut() {
        path.truncate(frame.path_bytes);
        let Some(pair) = frame.next()? else {
            stack.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(pair.name);
        let kind = match (pair.old, pair.new) {
            (Some(one), Some(other)) if same(old, one, new, other)? => None,
            (Some(_), Some(_)) => Some(Kind::Changed),
            (Some(_), None) => Some(Kind::Deleted),
            (None, _) => Some(Kind::Added),
        };
        if let Some(kind) = kind {
            list_ancestors(&mut stack, &path, &mut found);
            found.push(difference(kind, &path, pair.old, pair.new));
        }
        let Some(new_id) = pair.new.filter(|id| is_dir(new, *id)) else {
            continue;
        };
        let old_id = pair.old.filter(|id| is_dir(old, *id));
        stack.push(Frame {
            old: old_id
                .map(|id| Ok::<_, IndexError>((id, Listing::new(old, id)?)))
                .transpose()?,
            new: (new_id, Listing::new(new, new_id)?),
            path_bytes: path.len(),
            listed: kind.is_some(),
        });
    }
    Ok(found)
}

fn difference(kind: Kind, path: &[u8], old: Option<InodeId>, new: Option<InodeId>) -> Difference {
    Difference {
        kind,
        path: path.to_vec(),
        old,
        new,
    }
}

/// Lists the directories on the way that were not listed yet: something in them differs.
fn list_ancestors(stack: &mut [Frame<'_>], path: &[u8], found: &mut Vec<Difference>) {
    for frame in stack.iter_mut().filter(|frame| !frame.listed) {
        frame.listed = true;
        let (old, new) = (frame.old.as_ref().map(|(id, _)| *id), Some(frame.new.0));
        found.push(difference(Kind::Changed, &path[..frame.path_bytes], old, new));
    }
}

fn is_dir(index: &Index, id: InodeId) -> bool {
    index.inode(id).is_ok_and(|inode| inode.is_dir())
}

impl<'a> Frame<'a> {
    /// The next name of either directory.
    fn next(&mut self) -> Result<Option<Pair<'a>>, IndexError> {
        let old = match &mut self.old {
            Some((_, listing)) => listing.peek()?,
            None => None,
        };
        let new = self.new.1.peek()?;
        let (take_old, take_new) = match (old, new) {
            (None, None) => return Ok(None),
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some((old, _)), Some((new, _))) => (old <= new, new <= old),
        };
        let (old, new) = (old.filter(|_| take_old), new.filter(|_| take_new));
        if let (true, Some((_, listing))) = (take_old, &mut self.old) {
            listing.next = None;
        }
        if take_new {
            self.new.1.next = None;
        }
        let name = old.or(new).map_or(&[][..], |(name, _)| name);
        Ok(Some(Pair {
            name,
            old: old.and_then(|(_, found)| found.inode),
            new: new.and_then(|(_, found)| found.inode),
        }))
    }
}

/// A directory's names with a look ahead; whiteouts are no files.
struct Listing<'a> {
    entries: Entries<'a>,
    next: Option<(&'a [u8], Found)>,
}

impl<'a> Listing<'a> {
    fn new(index: &'a Index, dir: InodeId) -> Result<Self, IndexError> {
        let entries = index.entries(dir)?;
        Ok(Self { entries, next: None })
    }

    fn peek(&mut self) -> Result<Option<(&'a [u8], Found)>, IndexError> {
        while self.next.is_none() {
            let Some(entry) = self.entries.next() else {
                break;
            };
            let (name, found) = entry?;
            self.next = found.inode.is_some().then_some((name, found));
        }
        Ok(self.next)
    }
}

/// Whether two files are the same: type, mode, owner, attributes and, except of directories, time and content.
fn same(old: &Index, one: InodeId, new: &Index, other: InodeId) -> Result<bool, IndexError> {
    let (a, b) = (old.inode(one)?, new.inode(other)?);
    let from = |index: &Index, inode: &Inode| index.layers().get(usize::from(inode.layer)).copied();
    if a.origin == b.origin && a.origin != NO_ORIGIN && from(old, &a) == from(new, &b) {
        return Ok(true);
    }
    let directory = a.is_dir();
    if (a.mode, a.uid, a.gid, a.rdev) != (b.mode, b.uid, b.gid, b.rdev)
        || (!directory && (a.mtime != b.mtime || a.size_bytes != b.size_bytes))
        || sorted(old.xattrs(one)?) != sorted(new.xattrs(other)?)
    {
        return Ok(false);
    }
    match a.file_type() {
        ufs::attr::FileType::Symlink => Ok(old.link_target(one)? == new.link_target(other)?),
        ufs::attr::FileType::Regular => Ok(match (old.place(one)?, new.place(other)?) {
            (Place::Empty, Place::Empty) => true,
            (
                Place::Pack { digest: a, .. } | Place::Object { digest: a },
                Place::Pack { digest: b, .. } | Place::Object { digest: b },
            ) => a == b,
            // in streams there are no digests; the same place was told above by its layer and number
            _ => false,
        }),
        _ => Ok(true),
    }
}

fn sorted<'a>(mut xattrs: Vec<(&'a [u8], &'a [u8])>) -> Vec<(&'a [u8], &'a [u8])> {
    xattrs.sort_unstable();
    xattrs
}

#[cfg(test)]
mod tests;
