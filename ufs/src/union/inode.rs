//! Identity: one [`Inode`] for one file, however it was reached; one [`Node`] for each number the kernel holds of it.
//!
//! ```text
//! kernel's node id ──► Node { lookup count, I/O mode } ──► Inode { number, names, place in upper, places below }
//! ```
//!
//! Nearly always a file has one node, whose id is the inode's number. A second one is made when the kernel has to
//! leave the first behind (see `io_mode`): then both lead to the same inode.
//!
//! Lock order: `Inode::entries` (parent before child; of two directories the one with the smaller number first),
//! then `Inode::copying` (child before parent), then `Inode::state`, then the tables in the order `by_id`, `current`,
//! `by_upper`. `state` and the tables are never held over I/O.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::LowerRef;
use crate::attr::FileType;
use crate::error::{Error, Result};
use crate::io_mode::IoState;

/// A name of a file in the merged tree.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) parent: Arc<Inode>,
    pub(crate) name: OsString,
}

/// What may change about a file while it is mounted.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its names, as far as they have been met. Empty for the root and for deleted files.
    pub(crate) links: Vec<Link>,
    /// Its inode number in the upper layer, once it is there.
    pub(crate) upper: Option<u64>,
    /// The upper holds only the metadata; the content is still that of the last of `lowers`.
    pub(crate) metadata_only: bool,
    /// Its places below, top first: all merged ones of a directory; for a file the visible one, and after that
    /// those that hold its content when the visible one is a metadata-only copy.
    pub(crate) lowers: Arc<[LowerRef]>,
    /// Keeps a deleted file of the upper reachable.
    pub(crate) orphan: Option<Arc<OwnedFd>>,
    /// A directory that was removed: nothing can be created in it.
    pub(crate) removed: bool,
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
    /// Of a directory: counts the changes of its entries.
    pub(crate) entries_version: AtomicU64,
    /// Counts how often the content moved to another file, so that open handles follow.
    pub(crate) content_version: AtomicU32,
    /// Whether a directory has a default ACL: 0 unknown, 1 no, 2 yes.
    pub(crate) default_acl: AtomicU32,
}

impl Inode {
    pub(crate) fn new(ino: u64, file_type: FileType, state: State) -> Self {
        Self {
            ino,
            file_type,
            state: RwLock::new(state),
            copying: Mutex::default(),
            entries: RwLock::default(),
            entries_version: AtomicU64::new(0),
            content_version: AtomicU32::new(0),
            default_acl: AtomicU32::new(0),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Locks a directory's entries to change them.
    pub(crate) fn change_entries(&self) -> parking_lot::RwLockWriteGuard<'_, ()> {
        let guard = self.entries.write();
        self.entries_version.fetch_add(1, Ordering::Release);
        guard
    }

    pub(crate) fn in_upper(&self) -> bool {
        self.state.read().upper.is_some()
    }

    pub(crate) fn lowers(&self) -> Arc<[LowerRef]> {
        Arc::clone(&self.state.read().lowers)
    }

    /// Whether a file just found, with the same number, is this one.
    fn is_same_file(&self, candidate: &Inode) -> bool {
        let same_upper = match (self.state.read().upper, candidate.state.read().upper) {
            (Some(known), Some(candidate)) => known == candidate,
            // A file that was copied up between reading and comparing is still the same file.
            _ => true,
        };
        same_upper && self.file_type == candidate.file_type
    }

    /// Notes that the file is called `name` in `parent`.
    pub(crate) fn add_link(&self, parent: &Arc<Inode>, name: &OsStr) {
        let known = |links: &[Link]| links.iter().any(|link| link.is(parent, name));
        if known(&self.state.read().links) {
            return;
        }
        let mut state = self.state.write();
        // A directory has one name: one that was met under another was moved.
        if self.is_dir() {
            state.links.clear();
        } else if known(&state.links) {
            return;
        }
        state.links.push(Link {
            parent: Arc::clone(parent),
            name: name.to_os_string(),
        });
    }

    /// Notes one more name while a file moves to it, also for a directory.
    pub(crate) fn add_name(&self, parent: &Arc<Inode>, name: &OsStr) {
        self.state.write().links.push(Link {
            parent: Arc::clone(parent),
            name: name.to_os_string(),
        });
    }

    /// Notes that the file is no longer called `name` in `parent`. Returns whether it has another known name.
    pub(crate) fn remove_link(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        let mut state = self.state.write();
        state.links.retain(|link| !link.is(parent, name));
        !state.links.is_empty()
    }
}

impl Node {
    fn hold(self: &Arc<Self>) -> Arc<Self> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self)
    }
}

impl Link {
    fn is(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && self.name == name
    }
}

/// A number that the kernel holds of a file.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) inode: Arc<Inode>,
    /// How many answers named this node and are not yet forgotten.
    lookups: AtomicU64,
    pub(crate) io: Mutex<IoState>,
}

/// Ids of second nodes start here; no inode number reaches it.
const SECOND_NODES: u64 = 1 << 63;

/// All nodes the kernel knows, and the inodes behind them.
#[derive(Debug)]
pub(crate) struct Nodes {
    by_id: RwLock<HashMap<u64, Arc<Node>>>,
    /// For the few files with a second node: the one that lookups answer.
    current: RwLock<HashMap<u64, u64>>,
    any_current: AtomicBool,
    next_second: AtomicU64,
    /// Copied-up files by their number in the upper.
    by_upper: RwLock<HashMap<u64, Arc<Inode>>>,
}

/// The node id of the root, fixed by the protocol.
pub(crate) const ROOT: u64 = 1;

impl Nodes {
    pub(crate) fn new(root: Arc<Inode>) -> Self {
        let node = Node {
            id: ROOT,
            inode: root,
            lookups: AtomicU64::new(1),
            io: Mutex::default(),
        };
        Self {
            by_id: RwLock::new(HashMap::from([(ROOT, Arc::new(node))])),
            current: RwLock::default(),
            any_current: AtomicBool::new(false),
            next_second: AtomicU64::new(SECOND_NODES),
            by_upper: RwLock::default(),
        }
    }

    pub(crate) fn get(&self, id: u64) -> Result<Arc<Node>> {
        self.by_id.read().get(&id).cloned().ok_or(Error::UnknownNode(id))
    }

    /// The copied-up inode that has this number in the upper, if the kernel holds it.
    pub(crate) fn copied_up(&self, upper_ino: u64) -> Option<Arc<Inode>> {
        self.by_upper.read().get(&upper_ino).cloned()
    }

    pub(crate) fn note_copied_up(&self, upper_ino: u64, inode: &Arc<Inode>) {
        self.by_upper.write().insert(upper_ino, Arc::clone(inode));
    }

    fn current_id(&self, ino: u64) -> u64 {
        if self.any_current.load(Ordering::Acquire) {
            self.current.read().get(&ino).copied().unwrap_or(ino)
        } else {
            ino
        }
    }

    /// Finds the node of the file that `candidate` describes, or makes the candidate's own, and counts one more
    /// answer that names it.
    pub(crate) fn hold(&self, candidate: Inode) -> Arc<Node> {
        let id = self.current_id(candidate.ino);
        if let Some(node) = self.by_id.read().get(&id)
            && node.inode.is_same_file(&candidate)
        {
            return node.hold();
        }
        let mut by_id = self.by_id.write();
        match by_id.get(&id) {
            Some(node) if node.inode.is_same_file(&candidate) => node.hold(),
            // The number belongs to another file that is still held (an upper copied together with its marks):
            // this one gets a number of its own.
            Some(_) => {
                let id = self.next_second.fetch_add(1, Ordering::Relaxed);
                Self::insert(&mut by_id, id, Arc::new(Inode { ino: id, ..candidate }))
            }
            None => Self::insert(&mut by_id, id, Arc::new(candidate)),
        }
    }

    /// Counts one more answer that names a known inode, making its present node when it has none yet.
    pub(crate) fn hold_known(&self, inode: &Arc<Inode>) -> Arc<Node> {
        let id = self.current_id(inode.ino);
        let mut by_id = self.by_id.write();
        match by_id.get(&id) {
            Some(node) => node.hold(),
            None => Self::insert(&mut by_id, id, Arc::clone(inode)),
        }
    }

    /// Leaves a node behind, if lookups still answer it: they answer a new one from here on.
    pub(crate) fn replace(&self, node: &Node) {
        let inode = &node.inode;
        if self.current_id(inode.ino) != node.id {
            return;
        }
        let id = self.next_second.fetch_add(1, Ordering::Relaxed);
        let node = Node {
            id,
            inode: Arc::clone(inode),
            lookups: AtomicU64::new(0),
            io: Mutex::default(),
        };
        self.by_id.write().insert(id, Arc::new(node));
        self.current.write().insert(inode.ino, id);
        self.any_current.store(true, Ordering::Release);
    }

    fn insert(by_id: &mut HashMap<u64, Arc<Node>>, id: u64, inode: Arc<Inode>) -> Arc<Node> {
        let node = Arc::new(Node {
            id,
            inode,
            lookups: AtomicU64::new(1),
            io: Mutex::default(),
        });
        by_id.insert(id, Arc::clone(&node));
        node
    }

    /// The kernel dropped `count` of the answers it was given.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        if id == ROOT {
            return;
        }
        let mut by_id = self.by_id.write();
        let Some(node) = by_id.get(&id) else { return };
        let before = node.lookups.fetch_sub(count, Ordering::Relaxed);
        if before > count {
            return;
        }
        let ino = node.inode.ino;
        if id >= SECOND_NODES && by_id.contains_key(&ino) {
            // The kernel asks, forgets and asks again before it opens: the node that was left behind must not come
            // back as the answer while it is still there.
            return;
        }
        let Some(node) = by_id.remove(&id) else { return };
        self.drop_unused_second(&mut by_id, ino);
        drop(by_id);
        if let Some(upper) = node.inode.state.read().upper {
            let mut by_upper = self.by_upper.write();
            if by_upper
                .get(&upper)
                .is_some_and(|known| Arc::ptr_eq(known, &node.inode))
            {
                by_upper.remove(&upper);
            }
        }
    }

    /// Once the first node is gone, a second one lives only as long as the kernel holds it.
    fn drop_unused_second(&self, by_id: &mut HashMap<u64, Arc<Node>>, ino: u64) {
        if !self.any_current.load(Ordering::Acquire) {
            return;
        }
        let mut current = self.current.write();
        let Some(second) = current.get(&ino) else { return };
        if by_id
            .get(second)
            .is_none_or(|node| node.lookups.load(Ordering::Relaxed) == 0)
        {
            by_id.remove(second);
            current.remove(&ino);
        }
    }

    /// How many nodes the kernel holds.
    pub(crate) fn len(&self) -> usize {
        self.by_id.read().len()
    }
}
