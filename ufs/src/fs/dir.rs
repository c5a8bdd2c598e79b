//! Listing directories.
//!
//! Directories are listed without a handle: a position is a hash of the name before it, and entries come in the order
//! of their hashes. So every entry that stays comes exactly once whatever is added and removed meanwhile, positions
//! stay valid for as long as the directory exists (`seekdir(3)`), and the kernel need not tell us of an open. A few
//! listings are kept, since a large directory is read in many pieces. A directory that cannot change needs none of
//! this: it is listed from its index (see `browse`).

use std::ffi::OsStr;
use std::hash::Hasher;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::{DirEntry, Entry, Fs};
use crate::attr::{Attr, FileType, Time};
use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::union::inode::Inode;

/// Listings kept for directories that are being read.
const LISTINGS_MAX: usize = 64;

/// Positions after `.` and `..`; the hashes of names come after them.
const AFTER_DOT: u64 = 1;
const AFTER_DOTS: u64 = 2;

/// Bit of the number under which a file is listed that cannot be read. No file's own number has it (see
/// `union::number`).
const UNREADABLE: u64 = 1 << 63;

impl Entry {
    /// Stands in a listing for a file that cannot be read now: its type is known and nothing else. Who looks it up
    /// hears why.
    fn unreadable(position: u64, file_type: FileType) -> Self {
        let number = UNREADABLE | position;
        Self {
            node: number,
            attr: Attr {
                ino: number,
                dev: 0,
                mode: file_type.bits(),
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                size_bytes: 0,
                blocks: 0,
                block_size: 4096,
                atime: Time::default(),
                mtime: Time::default(),
                ctime: Time::default(),
                mount_root: false,
            },
        }
    }

    /// Whether it only stands for a file that cannot be read: the caller must look it up before it believes anything
    /// but the name and the type.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.node & UNREADABLE != 0
    }
}

/// A directory's entries by position.
type Listing = Arc<[(u64, DirEntry)]>;

/// The listings kept, by inode number.
#[derive(Debug)]
pub(crate) struct Listings(Mutex<LruCache<u64, Listing>>);

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(
            NonZeroUsize::new(LISTINGS_MAX).unwrap_or(NonZeroUsize::MIN),
        )))
    }
}

impl Fs {
    /// Hands the entries after position `offset` to `take` — with the position after each — until it answers `false`
    /// (it has no room for this one) or all are given. Nodes are held for the caller, but for `.` and `..`; one that
    /// was refused is given back here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn read_dir_plus(
        &self,
        node: u64,
        offset: u64,
        mut take: impl FnMut(&OsStr, u64, &Entry) -> bool,
    ) -> Result<()> {
        let node = self.dir_node(node)?;
        let dir = &node.inode;
        if offset < AFTER_DOTS {
            for (position, name, entry) in self.dots(dir)? {
                if offset < position && !take(OsStr::new(name), position, &entry) {
                    return Ok(());
                }
            }
        }
        if self.list_in_place(dir, AFTER_DOTS, offset, &mut take)? {
            return Ok(());
        }
        let listing = self.listing(dir, offset == 0)?;
        let first = listing.partition_point(|(position, _)| *position <= offset);
        for (position, found) in &listing[first..] {
            let entry = match self.lookup_in(dir, &found.name) {
                Ok(entry) => entry,
                // Removed since the listing was made.
                Err(Error::NotFound) => continue,
                // Its name is there all the same: a listing without it would be a wrong one.
                Err(error) => {
                    tracing::warn!(name = %found.name.display(), %error, "a listed file cannot be read");
                    Entry::unreadable(*position, found.file_type)
                }
            };
            if !take(&found.name, *position, &entry) {
                self.union.nodes.forget(entry.node, 1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// As [`Fs::read_dir_plus`], with number and type only, and nothing held.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn read_dir(
        &self,
        node: u64,
        offset: u64,
        mut take: impl FnMut(&OsStr, u64, u64, FileType) -> bool,
    ) -> Result<()> {
        let mut held = Vec::new();
        let result = self.read_dir_plus(node, offset, |name, next, entry| {
            let taken = take(name, next, entry.attr.ino, entry.attr.file_type());
            if taken && next > AFTER_DOTS {
                held.push(entry.node);
            }
            taken
        });
        for node in held {
            self.union.nodes.forget(node, 1);
        }
        result
    }

    /// All entries of a directory, in no particular order, for callers inside the program.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self, node: u64) -> Result<Vec<DirEntry>> {
        let node = self.dir_node(node)?;
        let _shared = node.inode.entries.read();
        self.union.entries(&node.inode)
    }

    /// Brings a directory's changes to the disk, unless the mount is volatile.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn sync_dir(&self, node: u64) -> Result<()> {
        let node = self.dir_node(node)?;
        let Some(upper) = &self.union.upper else {
            return Ok(());
        };
        let Some(dir) = upper.dir(&node.inode)? else {
            return Ok(());
        };
        if upper.options.volatile {
            return Ok(());
        }
        let open = sys::reopen(&*dir, rustix::fs::OFlags::RDONLY).doing("open directory to sync")?;
        sys::retry(|| rustix::fs::fsync(&open)).doing("sync directory")
    }

    /// A new listing for who reads from the start, else the kept one. Whoever starts makes a new one for all who read
    /// the directory, so that the kept one is never older than any of them: what has come since need not be shown, and
    /// what has gone is not found (readdir in POSIX). Made anew at every change, a large directory in which others work
    /// would take forever to read.
    fn listing(&self, dir: &Inode, afresh: bool) -> Result<Listing> {
        if !afresh && let Some(listing) = self.listings.0.lock().get(&dir.ino) {
            return Ok(Arc::clone(listing));
        }
        let entries = {
            let _shared = dir.entries.read();
            let removed = dir.state.read().removed;
            if removed {
                Vec::new()
            } else {
                self.union.entries(dir)?
            }
        };
        let listing = by_position(entries);
        self.listings.0.lock().put(dir.ino, Arc::clone(&listing));
        Ok(listing)
    }

    /// `.` and `..` with their numbers. The kernel holds both anyway.
    fn dots(&self, own: &Arc<Inode>) -> Result<[(u64, &'static str, Entry); 2]> {
        let above = own
            .state
            .read()
            .links
            .first()
            .map(|link| Arc::clone(&link.parent));
        let parent = above.unwrap_or_else(|| Arc::clone(own));
        let entry = |inode: &Arc<Inode>| -> Result<Entry> {
            let attr = self.union.shown_attr(inode, self.union.stored_attr(inode)?);
            Ok(Entry {
                node: inode.ino,
                attr,
            })
        };
        Ok([(AFTER_DOT, ".", entry(own)?), (AFTER_DOTS, "..", entry(&parent)?)])
    }
}

/// Sorts entries by the hash of their names. Two names with one hash, which is not expected to happen, get
/// neighbouring positions in the order of the names.
fn by_position(entries: Vec<DirEntry>) -> Listing {
    let mut listing: Vec<(u64, DirEntry)> = entries
        .into_iter()
        .map(|entry| (position_of(&entry.name), entry))
        .collect();
    listing.sort_by(|(a, left), (b, right)| (a, &left.name).cmp(&(b, &right.name)));
    for index in 1..listing.len() {
        listing[index].0 = listing[index].0.max(listing[index - 1].0 + 1);
    }
    listing.into()
}

/// A position above those of the dots that fits a signed number, the same for a name as long as the program is.
fn position_of(name: &OsStr) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(name.as_encoded_bytes());
    (hasher.finish() >> 2) + AFTER_DOTS + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> DirEntry {
        DirEntry {
            name: name.into(),
            file_type: FileType::Regular,
        }
    }

    #[test]
    fn positions_rise_and_do_not_depend_on_the_neighbours() {
        let all = by_position((0..1000).map(|n| entry(&n.to_string())).collect());
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(
            all.iter()
                .all(|(position, _)| *position > AFTER_DOTS && i64::try_from(*position).is_ok())
        );
        let some = by_position((0..1000).step_by(7).map(|n| entry(&n.to_string())).collect());
        assert!(some.iter().all(|found| all.contains(found)));
    }
}
