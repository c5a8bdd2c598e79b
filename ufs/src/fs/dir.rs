//! Listing directories.
//!
//! An open directory keeps one listing, made when it is read from the start, so that every entry that stays comes
//! exactly once whatever is added and removed meanwhile, and positions stay valid (`seekdir(3)`). Reading from the
//! start again makes a new one (`rewinddir(3)`).

use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirEntry, Entry, Fs};
use crate::attr::FileType;
use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::union::inode::Inode;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Listing {
    inode: Arc<Inode>,
    entries: Mutex<Option<Arc<[DirEntry]>>>,
}

/// Positions of `.` and `..`; the entries follow.
const DOTS: u64 = 2;

impl Fs {
    /// Opens a directory for listing.
    ///
    /// # Errors
    /// [`Error::NotDirectory`].
    pub fn open_dir(&self, node: u64) -> Result<u64> {
        let node = self.dir_node(node)?;
        let handle = self.handles.fresh();
        let listing = Listing {
            inode: Arc::clone(&node.inode),
            entries: Mutex::default(),
        };
        self.handles.dirs.write().insert(handle, Arc::new(listing));
        Ok(handle)
    }

    /// Closes a directory.
    pub fn release_dir(&self, handle: u64) {
        self.handles.dirs.write().remove(&handle);
    }

    /// Hands the entries from position `offset` on to `take` — with the position after each — until it answers
    /// `false` (it has no room for this one) or all are given. Nodes are held for the caller; one that was refused
    /// is given back here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn read_dir_plus(
        &self,
        handle: u64,
        offset: u64,
        mut take: impl FnMut(&OsStr, u64, &Entry) -> bool,
    ) -> Result<()> {
        let listing = self.listing(handle)?;
        let entries = self.entries_of(&listing, offset)?;
        let dots = self.dots(&listing)?;
        for (index, (name, entry)) in dots
            .iter()
            .enumerate()
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if !take(OsStr::new(name), index as u64 + 1, entry) {
                return Ok(());
            }
        }
        let first = usize::try_from(offset.saturating_sub(DOTS)).unwrap_or(usize::MAX);
        for (index, found) in entries.iter().enumerate().skip(first) {
            let entry = match self.lookup_in(&listing.inode, &found.name) {
                Ok(entry) => entry,
                // Removed since the listing was made.
                Err(Error::NotFound) => continue,
                Err(error) => {
                    tracing::warn!(name = %found.name.display(), %error, "entry left out of a listing");
                    continue;
                }
            };
            if !take(&found.name, index as u64 + DOTS + 1, &entry) {
                self.forget(entry.node, 1);
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
        handle: u64,
        offset: u64,
        mut take: impl FnMut(&OsStr, u64, u64, FileType) -> bool,
    ) -> Result<()> {
        let mut held = Vec::new();
        let result = self.read_dir_plus(handle, offset, |name, next, entry| {
            let taken = take(name, next, entry.attr.ino, entry.attr.file_type());
            if taken && next > DOTS {
                held.push(entry.node);
            }
            taken
        });
        for node in held {
            self.forget(node, 1);
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
    pub fn sync_dir(&self, handle: u64) -> Result<()> {
        let listing = self.listing(handle)?;
        let Some(upper) = &self.union.upper else {
            return Ok(());
        };
        let Some(dir) = upper.dir(&listing.inode)? else {
            return Ok(());
        };
        if upper.options.volatile {
            return Ok(());
        }
        let open = sys::reopen(&*dir, rustix::fs::OFlags::RDONLY).doing("open directory to sync")?;
        sys::retry(|| rustix::fs::fsync(&open)).doing("sync directory")
    }

    fn listing(&self, handle: u64) -> Result<Arc<Listing>> {
        self.handles
            .dirs
            .read()
            .get(&handle)
            .cloned()
            .ok_or(Error::UnknownHandle(handle))
    }

    fn entries_of(&self, listing: &Listing, offset: u64) -> Result<Arc<[DirEntry]>> {
        if offset > 0
            && let Some(entries) = &*listing.entries.lock()
        {
            return Ok(Arc::clone(entries));
        }
        let fresh: Arc<[DirEntry]> = {
            let _shared = listing.inode.entries.read();
            if listing.inode.state.read().removed {
                Arc::from([])
            } else {
                self.union.entries(&listing.inode)?.into()
            }
        };
        *listing.entries.lock() = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// `.` and `..` with their numbers. The kernel holds both anyway.
    fn dots(&self, listing: &Listing) -> Result<[(&'static str, Entry); 2]> {
        let own = &listing.inode;
        let parent = own
            .state
            .read()
            .links
            .first()
            .map_or_else(|| Arc::clone(own), |link| Arc::clone(&link.parent));
        let entry = |inode: &Arc<Inode>| -> Result<Entry> {
            let attr = self.union.shown_attr(inode, self.union.stored_attr(inode)?);
            Ok(Entry {
                node: inode.ino,
                attr,
            })
        };
        Ok([(".", entry(own)?), ("..", entry(&parent)?)])
    }
}
