//! Merging the indexes of several layers into one, in one pass over all of them.
//!
//! ```text
//!            top ──►  b  d/          a dir of the result = its parts, top first, down to the first that is opaque,
//!            ···      ·  x  d/       a whiteout or a file; its names = the k-way merge of the parts' sorted names;
//!            bottom ► a  b  d/       each name is decided by the topmost part that has it
//! ```
//!
//! The rules are overlayfs': the topmost file wins, directories merge and have the attributes of the topmost, a whiteout
//! hides lower layers only. A chain lies over nothing, so its markers are dropped. A run keeps the whiteouts and opaque
//! directories that may hide something below it, and makes those directories opaque whose lower parts it lost to a
//! whiteout or a file; so merging runs gives what merging all their layers gives.
//!
//! Cost: every entry of a visible directory is looked at once. Memory: about 40 bytes for each file of the result; the
//! records are read again when they are written.

mod plan;
mod side;
#[cfg(test)]
mod tests;
mod write;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::attr::FileType;

use super::{Found, Index, IndexError, Inode, InodeId, Kind};

pub use plan::Merged;
use plan::{Name, Source};
pub use side::side_by_side;

/// Merges layers, bottom first, into a chain or a run. A chain may only be the first of them, and only of a chain.
///
/// # Errors
/// When one is damaged, or they do not fit together.
pub fn merge<'a>(layers: &[&'a Index], kind: Kind) -> Result<Merged<'a>, IndexError> {
    if kind == Kind::Layer {
        return Err(IndexError::Merge("layers merge into a chain or a run".to_owned()));
    }
    let chain_at = |at: usize| at > 0 || kind != Kind::Chain;
    if let Some(at) = (0..layers.len()).find(|&at| layers[at].kind() == Kind::Chain && chain_at(at)) {
        let problem = format!("a chain can only be at the bottom of a chain, not at place {at}");
        return Err(IndexError::Merge(problem));
    }
    let mut merger = Merger {
        merged: Merged::new(layers, kind)?,
        parts: Vec::new(),
        dirs: Vec::new(),
        heads: BinaryHeap::new(),
    };
    merger.root()?;
    let mut at = 0;
    while at < merger.dirs.len() {
        merger.directory(at)?;
        at += 1;
    }
    Ok(merger.merged.seal())
}

/// A merge under way.
struct Merger<'a> {
    merged: Merged<'a>,
    /// Directories of the sources that make up those of the result, top first.
    parts: Vec<(Source, InodeId)>,
    /// Directories of the result, in their order.
    dirs: Vec<Dir>,
    /// Kept for its memory.
    heads: BinaryHeap<Reverse<Head<'a>>>,
}

/// A directory of the result.
#[derive(Clone, Copy)]
struct Dir {
    /// Its parts.
    first: usize,
    end: usize,
    /// Nothing below the result shows in it.
    closed: bool,
}

/// The next name of a part. The order is that of the names, and of the parts for one name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head<'a> {
    name: &'a [u8],
    /// Which of the directory's parts, top first.
    part: usize,
    entry: EntryOrder,
    end: u32,
}

/// What was found; has no part in the order.
struct EntryOrder(Found);

impl PartialEq for EntryOrder {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for EntryOrder {}

impl PartialOrd for EntryOrder {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryOrder {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// What the parts of one name come to.
struct Stack {
    first: usize,
    stopped: bool,
}

impl<'a> Merger<'a> {
    /// The root: the roots of all sources, down to the first opaque one.
    fn root(&mut self) -> Result<(), IndexError> {
        let mut stack = Stack {
            first: 0,
            stopped: false,
        };
        let sources = self.merged.source_count();
        for source in (0..sources).rev() {
            let root = self.merged.index(source).inode(InodeId::ROOT)?;
            self.add_part(&mut stack, source, InodeId::ROOT, &root);
        }
        match self.parts.first() {
            Some(&(source, inode)) => self.merged.root(Some((source, inode)))?,
            None => self.merged.root(None)?,
        }
        self.add_dir(&stack, false);
        Ok(())
    }

    /// Lets a directory take part, unless something above hides it.
    fn add_part(&mut self, stack: &mut Stack, source: Source, dir: InodeId, inode: &Inode) {
        if !stack.stopped {
            self.parts.push((source, dir));
            stack.stopped = inode.opaque;
        }
    }

    /// Ends the parts of a directory of the result.
    fn add_dir(&mut self, stack: &Stack, parent_closed: bool) {
        let opaque = stack.stopped && !parent_closed && self.merged.kind() == Kind::Run;
        self.merged.end_directory(opaque);
        self.dirs.push(Dir {
            first: stack.first,
            end: self.parts.len(),
            closed: parent_closed || stack.stopped,
        });
    }

    /// Merges the names of one directory.
    fn directory(&mut self, at: usize) -> Result<(), IndexError> {
        let dir = self.dirs[at];
        let first_entry = self.merged.entry_count();
        if let [(source, inode)] = self.parts[dir.first..dir.end] {
            for entry in self.merged.index(source).entries(inode)? {
                let (name, found) = entry?;
                self.name(&dir, name, &[(source, found)])?;
            }
        } else {
            self.several(&dir)?;
        }
        self.merged.set_count(at, first_entry);
        Ok(())
    }

    fn several(&mut self, dir: &Dir) -> Result<(), IndexError> {
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        for part in 0..dir.end - dir.first {
            let (source, inode) = self.parts[dir.first + part];
            let mut entries = self.merged.index(source).entries(inode)?;
            let end = entries.end_entry();
            if let Some(entry) = entries.next() {
                let (name, found) = entry?;
                heads.push(Reverse(Head {
                    name,
                    part,
                    entry: EntryOrder(found),
                    end,
                }));
            }
        }
        let mut same: Vec<(Source, Found)> = Vec::new();
        while let Some(Reverse(head)) = heads.pop() {
            let name = head.name;
            same.clear();
            let mut next = Some(head);
            while let Some(head) = next {
                let (source, inode) = self.parts[dir.first + head.part];
                same.push((source, head.entry.0));
                let following = head.entry.0.entry.0 + 1;
                if following < head.end {
                    let (name, found) = self.merged.index(source).entry_in(inode, following)?;
                    heads.push(Reverse(Head {
                        name,
                        entry: EntryOrder(found),
                        ..head
                    }));
                }
                next = match heads.peek() {
                    Some(Reverse(other)) if other.name == name => heads.pop().map(|head| head.0),
                    _ => None,
                };
            }
            self.name(dir, name, &same)?;
        }
        self.heads = heads;
        Ok(())
    }

    /// Decides one name, from what the parts say of it, top first.
    fn name(&mut self, dir: &Dir, name: &'a [u8], said: &[(Source, Found)]) -> Result<(), IndexError> {
        let Some(&(source, top)) = said.first() else {
            return Ok(());
        };
        let place = Name::Same(top.entry);
        let Some(inode) = top.inode else {
            if self.merged.kind() == Kind::Run && !dir.closed {
                self.merged.whiteout(source, place, name)?;
            }
            return Ok(());
        };
        if top.file_type != FileType::Directory {
            return self.merged.file(source, place, name, inode, top.file_type);
        }
        let mut stack = Stack {
            first: self.parts.len(),
            stopped: false,
        };
        for &(source, found) in said {
            match found.inode {
                Some(part) if found.file_type == FileType::Directory => {
                    let attributes = self.merged.index(source).inode(part)?;
                    self.add_part(&mut stack, source, part, &attributes);
                }
                _ => stack.stopped = true,
            }
            if stack.stopped {
                break;
            }
        }
        self.merged.directory(source, place, name, inode)?;
        self.add_dir(&stack, dir.closed);
        Ok(())
    }
}
