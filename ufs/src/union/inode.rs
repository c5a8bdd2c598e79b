//! Identity: one [`Inode`] for one file, however it was reached; one [`Node`] for each number the kernel holds of it.
//!
//! ```text
//! kernel's node id ──► Node { lookup count, I/O mode } ──► Inode { number, names, place in upper, places below }
//! ```
//!
//! Nearly always a file has one node, whose id is the inode's number. A second one is made when the kernel has to
//! leave the first behind (see `io_mode`): then both lead to the same inode.
//!
//! A file that lies in one place of an indexed layer and was never changed is *light*: its number alone tells where
//! it is, so nothing is kept of it but how often the kernel was told of it. Its node is made when a request needs one
//! and goes with the last user. Before such a file changes, its node becomes one that is kept.
//!
//! Lock order: `Inode::copying` (child before parent), then `Inode::entries` (parent before child; of two directories
//! the one with the smaller number first), then `Inode::state`, then the tables in the order `by_id`, `current`,
//! `light`, `inodes`, `by_upper`, `by_place`. Data moves under `copying` alone; `state` and the tables are never held
//! over I/O.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::lowers::Lowers;
use crate::attr::FileType;
use crate::fs::told::Told;
use crate::io_mode::IoState;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// A name of a file in the merged tree.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) parent: Arc<Inode>,
    pub(crate) name: Box<OsStr>,
}

/// The names of a file: nearly always one, which is kept without an allocation.
pub(crate) type Links = SmallVec<[Link; 1]>;

/// What may change about a file while it is mounted.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its names, as far as they have been met. Empty for the root and for deleted files.
    pub(crate) links: Links,
    /// Its inode number in the upper layer, once it is there.
    pub(crate) upper: Option<u64>,
    /// The upper holds only the metadata; the content is still that of the last of `lowers`.
    pub(crate) metadata_only: bool,
    /// As well as `metadata_only`: the upper holds some of the content (see `upper::partial`).
    pub(crate) partial: bool,
    /// Its places below, top first: all merged ones of a directory; for a file the visible one, and after that
    /// those that hold its content when the visible one is a metadata-only copy.
    pub(crate) lowers: Lowers,
    /// Keeps a deleted file of the upper reachable.
    pub(crate) orphan: Option<Arc<OwnedFd>>,
    /// A directory that was removed: nothing can be created in it.
    pub(crate) removed: bool,
}

impl State {
    /// Of a file that only layers below have, and that was met under one name.
    pub(super) fn below(parent: Arc<Inode>, name: Box<OsStr>, lowers: Lowers) -> Self {
        Self {
            links: smallvec![Link { parent, name }],
            lowers,
            ..Self::default()
        }
    }
}

/// One file of the merged tree.
#[derive(Debug)]
pub(crate) struct Inode {
    /// Its number: the same over copy-up and remount.
    pub(crate) ino: u64,
    pub(crate) file_type: FileType,
    pub(crate) state: RwLock<State>,
    /// Held by the one thread that copies this file up, or takes its name away; the others wait for it here.
    pub(crate) copying: Mutex<()>,
    /// Of a directory: held shared to read its entries, alone to change them.
    pub(crate) entries: RwLock<()>,
    /// Counts how often the content moved to another file, so that open handles follow; of a directory also how often its
    /// entries changed.
    pub(crate) content_version: AtomicU32,
    /// Whether a directory has a default ACL: 0 unknown, 1 no, 2 yes.
    pub(crate) default_acl: AtomicU32,
    /// A directory that is known to be marked as one that holds metadata-only copies.
    pub(crate) impure: AtomicBool,
    /// How many handles are open to run the file as a program.
    pub(crate) running: AtomicU32,
    /// Of a directory: who was told its attributes since its entries last changed (see `fs/told.rs`).
    pub(crate) told: Told,
    /// How many handles are open on it.
    pub(crate) open_count: AtomicU32,
}

impl Inode {
    pub(crate) fn new(ino: u64, file_type: FileType, state: State) -> Self {
        Self {
            ino,
            file_type,
            state: RwLock::new(state),
            copying: Mutex::default(),
            entries: RwLock::default(),
            content_version: AtomicU32::new(0),
            default_acl: AtomicU32::new(0),
            impure: AtomicBool::new(false),
            running: AtomicU32::new(0),
            told: Told::default(),
            open_count: AtomicU32::new(0),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Locks a directory's entries to change them.
    pub(crate) fn change_entries(&self) -> crate::sync::RwLockWriteGuard<'_, ()> {
        let guard = self.entries.write();
        self.content_version.fetch_add(1, Ordering::Release);
        guard
    }

    pub(crate) fn in_upper(&self) -> bool {
        self.state.read().upper.is_some()
    }

    /// Whether nothing of it is left to be copied up.
    pub(super) fn is_whole_above(&self) -> bool {
        let state = self.state.read();
        state.upper.is_some() && !state.metadata_only
    }

    /// The places below of what is not in the upper: the two are one answer, for a copy-up may come between two.
    pub(super) fn only_below(&self) -> Option<Lowers> {
        let state = self.state.read();
        state.upper.is_none().then(|| state.lowers.clone())
    }

    pub(crate) fn lowers(&self) -> Lowers {
        self.state.read().lowers.clone()
    }

    /// Compares with a file just found that has the same number.
    pub(super) fn compare(&self, candidate: &Inode) -> Likeness {
        let places = (self.state.read().upper, candidate.state.read().upper);
        match places {
            _ if self.file_type != candidate.file_type => Likeness::Other,
            (Some(known), Some(found)) if known != found => Likeness::Other,
            (Some(_), Some(_)) | (None, None) => Likeness::Same,
            _ => Likeness::Unsure(places),
        }
    }

    /// Notes that the file is called `name` in `parent`; `false` when that is known.
    pub(super) fn add_link(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        let known = |links: &[Link]| links.iter().any(|link| link.is(parent, name));
        if known(&self.state.read().links) {
            return false;
        }
        let mut state = self.state.write();
        // A directory has one name: one that was met under another was moved.
        if self.is_dir() {
            state.links.clear();
        } else if known(&state.links) {
            return false;
        }
        state.links.push(Link {
            parent: Arc::clone(parent),
            name: name.into(),
        });
        true
    }

    pub(crate) fn is_called(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        self.state.read().links.iter().any(|link| link.is(parent, name))
    }

    /// Notes one more name while a file moves to it, also for a directory.
    pub(super) fn add_name(&self, parent: &Arc<Inode>, name: &OsStr) {
        self.state.write().links.push(Link {
            parent: Arc::clone(parent),
            name: name.into(),
        });
    }

    /// Notes that the file is no longer called `name` in `parent`. Returns whether it has another known name.
    pub(super) fn remove_link(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        let mut state = self.state.write();
        state.links.retain(|link| !link.is(parent, name));
        !state.links.is_empty()
    }
}

/// Whether two files with one number are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    Other,
    /// One of the two was seen in the upper, the other below: a copy-up came between, or a crash has left some names
    /// of a hard-linked file below. The places tell, once nothing is under way any more.
    Unsure((Option<u64>, Option<u64>)),
}

impl Node {
    pub(super) fn light(inode: Arc<Inode>) -> Self {
        Self {
            id: inode.ino,
            inode,
            lookups: AtomicU64::new(0),
            io: Mutex::default(),
        }
    }

    pub(super) fn hold(self: &Arc<Self>) -> Arc<Self> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self)
    }
}

impl Link {
    fn is(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

/// A number that the kernel holds of a file.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) inode: Arc<Inode>,
    /// How many answers named this node and are not yet forgotten. Of a light node they are counted elsewhere.
    pub(super) lookups: AtomicU64,
    pub(crate) io: Mutex<IoState>,
}

/// The node id of the root, fixed by the protocol.
pub(crate) const ROOT: u64 = 1;
