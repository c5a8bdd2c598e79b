//! Listing directories.
//!
//! Directories are listed without a handle: a position is a hash of the name before it, and entries come in the order
//! of their hashes. So every entry that stays comes exactly once whatever is added and removed meanwhile, positions
//! stay valid for as long as the directory exists (`seekdir(3)`), and the kernel need not tell us of an open. A few
//! listings are kept, since a large directory is read in many pieces. A directory that cannot change needs none of
//! this: it is listed from its index (see `browse`).

mod position;

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use position::{AFTER_DOT, AFTER_DOTS, Reader, Readers, place_of};

use super::{DirEntry, Entry, Fs};
use crate::attr::{Attr, FileType, Time};
use crate::error::{Doing, Error, Result};
use crate::sync::atomic::Ordering;
use crate::sys;
use crate::union::inode::Inode;

/// Listings kept for directories that are being read.
const LISTINGS_MAX: usize = 64;

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

/// Whether what the kernel keeps of a listing may stay there, for a request that gets no more entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of it was given as it stands in one listing, which another program can be given.
    Lasting,
    /// The kernel must forget it before it is told of the end: something was left out, or the kernel could not tell
    /// its end from a position that it does not find (see `fuse::ends`).
    Passing,
}

/// A directory's entries by place, as they were at some time.
#[derive(Debug)]
struct Listing {
    /// Whoever is given all of it.
    reader: Reader,
    /// The directory, and its version. Once it is forgotten, its number may come again, and its versions do.
    dir: Weak<Inode>,
    version: u32,
    entries: Vec<(u64, DirEntry)>,
    /// The kernel, when it keeps the listing, has no byte left in the last page.
    fills_its_pages: bool,
}

impl Listing {
    /// Sorts entries by the hash of their names. Two names with one hash, which is not expected to happen, get
    /// neighbouring places in the order of the names.
    fn new(reader: Reader, dir: Weak<Inode>, version: u32, entries: Vec<DirEntry>) -> Self {
        let mut entries: Vec<(u64, DirEntry)> = entries
            .into_iter()
            .map(|entry| (place_of(&entry.name), entry))
            .collect();
        entries.sort_by(|(a, left), (b, right)| (a, &left.name).cmp(&(b, &right.name)));
        for index in 1..entries.len() {
            entries[index].0 = entries[index].0.max(entries[index - 1].0 + 1);
        }
        let names = entries.iter().map(|(_, entry)| entry.name.len());
        let fills_its_pages = fills_pages([1, 2].into_iter().chain(names), rustix::param::page_size());
        Self {
            reader,
            dir,
            version,
            entries,
            fills_its_pages,
        }
    }

    fn is_of(&self, dir: &Arc<Inode>, version: u32) -> bool {
        std::ptr::eq(self.dir.as_ptr(), Arc::as_ptr(dir)) && self.version == version
    }
}

/// Whether the kernel has no byte left in the last page when it keeps entries with names of these lengths: each is
/// rounded up to 8 bytes, and goes to the next page when it does not fit (`FUSE_DIRENT_SIZE` of fuse.h,
/// `fuse_add_dirent_to_cache` in fs/fuse/readdir.c).
fn fills_pages(names: impl Iterator<Item = usize>, page_bytes: usize) -> bool {
    const HEADER_BYTES: usize = 24;
    let used = names.fold(0, |used, name| {
        let bytes = (HEADER_BYTES + name).next_multiple_of(8);
        let before = if used + bytes > page_bytes { 0 } else { used };
        before + bytes
    });
    used == page_bytes
}

/// The listings kept, by inode number.
#[derive(Debug)]
pub(crate) struct Listings {
    kept: Mutex<LruCache<u64, Arc<Listing>>>,
    readers: Readers,
}

impl Default for Listings {
    fn default() -> Self {
        let listings_max = NonZeroUsize::new(LISTINGS_MAX).unwrap_or(NonZeroUsize::MIN);
        Self {
            kept: Mutex::new(LruCache::new(listings_max)),
            readers: Readers::default(),
        }
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
    ) -> Result<End> {
        let node = self.dir_node(node)?;
        let dir = &node.inode;
        if self.is_read_only() {
            return self
                .list_unchanging(dir, offset, &mut take)
                .map(|()| End::Lasting);
        }
        if offset == 0 {
            let [(after, name, entry), _] = self.dots(dir)?;
            take(
                OsStr::new(name),
                self.listings.readers.next().position(after),
                &entry,
            );
            return Ok(End::Lasting);
        }
        let (asker, place) = Reader::of(offset);
        let begins = place <= AFTER_DOTS;
        let listing = self.listing(dir, begins)?;
        let reader = if begins || asker == listing.reader {
            listing.reader
        } else {
            self.listings.readers.next()
        };
        let reader = self.give_listed(dir, &listing, (reader, place), &mut take)?;
        Ok(match reader == listing.reader && !listing.fills_its_pages {
            true => End::Lasting,
            false => End::Passing,
        })
    }

    fn list_unchanging(
        &self,
        dir: &Arc<Inode>,
        offset: u64,
        take: &mut impl FnMut(&OsStr, u64, &Entry) -> bool,
    ) -> Result<()> {
        let from = Reader::of(offset);
        if let Some(place) = self.place_of_all(dir) {
            if self.give_dots(dir, from, take)? {
                self.list_in_place(&place, AFTER_DOTS, offset, take)?;
            }
            return Ok(());
        }
        let listing = self.listing(dir, offset == 0)?;
        self.give_listed(dir, &listing, from, take)?;
        Ok(())
    }

    /// Gives `.` and `..`, as far as they come after a place. `false`: there was no room.
    fn give_dots(
        &self,
        dir: &Arc<Inode>,
        (reader, place): (Reader, u64),
        take: &mut impl FnMut(&OsStr, u64, &Entry) -> bool,
    ) -> Result<bool> {
        if place < AFTER_DOTS {
            for (after, name, entry) in self.dots(dir)? {
                if place < after && !take(OsStr::new(name), reader.position(after), &entry) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Gives what comes after a place, and answers who has read: somebody else when it was not all of the listing.
    fn give_listed(
        &self,
        dir: &Arc<Inode>,
        listing: &Listing,
        (mut reader, place): (Reader, u64),
        take: &mut impl FnMut(&OsStr, u64, &Entry) -> bool,
    ) -> Result<Reader> {
        if !self.give_dots(dir, (reader, place), take)? {
            return Ok(reader);
        }
        let first = listing.entries.partition_point(|(after, _)| *after <= place);
        for (after, found) in &listing.entries[first..] {
            let entry = match self.lookup_in(dir, &found.name) {
                Ok(entry) => entry,
                // Removed since the listing was made.
                Err(Error::NotFound) => {
                    reader = self.listings.readers.next();
                    continue;
                }
                // Its name is there all the same: a listing without it would be a wrong one.
                Err(error) => {
                    tracing::warn!(name = %found.name.display(), %error, "a listed file cannot be read");
                    Entry::unreadable(*after, found.file_type)
                }
            };
            if !take(&found.name, reader.position(*after), &entry) {
                self.union.nodes.forget(entry.node, 1);
                break;
            }
        }
        Ok(reader)
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
    ) -> Result<End> {
        let mut held = Vec::new();
        let result = self.read_dir_plus(node, offset, |name, next, entry| {
            let taken = take(name, next, entry.attr.ino, entry.attr.file_type());
            if taken && Reader::of(next).1 > AFTER_DOTS {
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

    /// A listing that is as new as the directory for who reads from the start, else the kept one. Whoever starts makes a
    /// new one for all who read the directory, so that the kept one is never older than any of them: what has come
    /// since need not be shown, and what has gone is not found (readdir in POSIX). Made anew at every change, a large
    /// directory in which others work would take forever to read.
    fn listing(&self, dir: &Arc<Inode>, afresh: bool) -> Result<Arc<Listing>> {
        if !afresh && let Some(listing) = self.listings.kept.lock().get(&dir.ino) {
            return Ok(Arc::clone(listing));
        }
        // Until it is kept: a newer one must not be put aside for it.
        let _shared = dir.entries.read();
        let version = dir.content_version.load(Ordering::Acquire);
        if let Some(listing) = self.listings.kept.lock().get(&dir.ino)
            && listing.is_of(dir, version)
        {
            return Ok(Arc::clone(listing));
        }
        let entries = if dir.state.read().removed {
            Vec::new()
        } else {
            self.union.entries(dir)?
        };
        let listing = Arc::new(Listing::new(
            self.listings.readers.next(),
            Arc::downgrade(dir),
            version,
            entries,
        ));
        self.listings.kept.lock().put(dir.ino, Arc::clone(&listing));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> DirEntry {
        DirEntry {
            name: name.into(),
            file_type: FileType::Regular,
        }
    }

    fn places(names: impl Iterator<Item = u32>) -> Vec<(u64, DirEntry)> {
        Listing::new(
            Reader::default(),
            Weak::new(),
            0,
            names.map(|n| entry(&n.to_string())).collect(),
        )
        .entries
    }

    #[test]
    fn places_rise_and_do_not_depend_on_the_neighbours() {
        let all = places(0..1000);
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let some = places((0..1000).step_by(7));
        assert!(some.iter().all(|found| all.contains(found)));
    }

    #[test]
    fn pages_are_full_to_the_last_byte() {
        let fills = |names: &[usize]| fills_pages(names.iter().copied(), 4096);
        // 32 bytes for names of up to 8.
        assert!(fills(&[8; 128]) && fills(&[1; 256]));
        assert!(!fills(&[8; 127]) && !fills(&[8; 129]) && !fills(&[]));
        // 40 bytes each: 102 fill a page but for 16, the next goes to the next one.
        assert!(!fills(&[9; 102]) && !fills(&[[9; 102].as_slice(), &[8; 127]].concat()));
        assert!(fills(&[[9; 102].as_slice(), &[8; 128]].concat()));
    }
}
