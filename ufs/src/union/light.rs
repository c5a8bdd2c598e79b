//! Light files: found by their number, counted, and otherwise forgotten.
//!
//! ```text
//! number ──► count of answers the kernel holds      8 + 4 bytes a file
//!        └─► node, while somebody uses it           a request, an open file, or the list of recent directories
//! ```
//!
//! A mount without an upper does not even count: nothing of it can ever be promoted.

use std::collections::HashMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use lru::LruCache;

use super::inode::{Inode, Node, State};
use super::{Resolved, Union};
use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The tables are split, so that threads seldom meet.
const SHARDS: usize = 16;

/// Directories whose nodes stay for the next request.
const RECENT_MAX: usize = 1024;

/// A shard's dead nodes are taken out when it has grown to this.
const SWEEP_MIN: usize = 64;

/// Counts and nodes in use of light files.
#[derive(Debug)]
pub(super) struct Light {
    shards: [Mutex<Shard>; SHARDS],
    recent: Mutex<LruCache<u64, Arc<Node>>>,
    counting: AtomicBool,
}

#[derive(Debug)]
struct Shard {
    counts: HashMap<u64, u32>,
    in_use: HashMap<u64, InUse>,
    sweep_at: usize,
}

/// A light file that somebody uses. The inode may outlive the node: as the parent of another one.
#[derive(Debug)]
struct InUse {
    inode: Weak<Inode>,
    node: Weak<Node>,
}

impl Default for Light {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| {
                Mutex::new(Shard {
                    counts: HashMap::new(),
                    in_use: HashMap::new(),
                    sweep_at: SWEEP_MIN,
                })
            }),
            recent: Mutex::new(LruCache::new(
                NonZeroUsize::new(RECENT_MAX).unwrap_or(NonZeroUsize::MIN),
            )),
            counting: AtomicBool::new(true),
        }
    }
}

impl Light {
    fn shard(&self, id: u64) -> &Mutex<Shard> {
        // The low bits count files of a layer.
        &self.shards[id as usize % SHARDS]
    }

    /// Stops counting: nothing will ever be promoted.
    pub(super) fn stop_counting(&self) {
        self.counting.store(false, Ordering::Relaxed);
    }

    pub(super) fn hold(&self, id: u64) {
        if self.counting.load(Ordering::Relaxed) {
            *self.shard(id).lock().counts.entry(id).or_default() += 1;
        }
    }

    pub(super) fn forget(&self, id: u64, count: u64) {
        if !self.counting.load(Ordering::Relaxed) {
            return;
        }
        let mut shard = self.shard(id).lock();
        let Some(held) = shard.counts.get_mut(&id) else {
            return;
        };
        let left = u64::from(*held).saturating_sub(count);
        match u32::try_from(left) {
            Ok(left @ 1..) => *held = left,
            _ => {
                shard.counts.remove(&id);
                if shard.counts.capacity() > 8 * shard.counts.len().max(1024) {
                    shard.counts.shrink_to_fit();
                }
            }
        }
    }

    pub(super) fn in_use(&self, id: u64) -> Option<Arc<Node>> {
        if let Some(node) = self.recent.lock().get(&id) {
            return Some(Arc::clone(node));
        }
        self.shard(id).lock().in_use.get(&id)?.node.upgrade()
    }

    /// Whether anybody holds or uses the file.
    pub(super) fn is_known(&self, id: u64) -> bool {
        let shard = self.shard(id).lock();
        let used = |used: &InUse| used.inode.strong_count() > 0;
        shard.counts.contains_key(&id) || shard.in_use.get(&id).is_some_and(used)
    }

    /// The inode of a light file that somebody uses.
    pub(super) fn inode_in_use(&self, id: u64) -> Option<Arc<Inode>> {
        self.shard(id).lock().in_use.get(&id)?.inode.upgrade()
    }

    /// The node of a light file, made of `inode` if nobody uses one.
    pub(super) fn node(&self, inode: Arc<Inode>) -> Arc<Node> {
        let (id, is_dir) = (inode.ino, inode.is_dir());
        let node = {
            let mut shard = self.shard(id).lock();
            let used = shard.in_use.get(&id);
            let (node, known) = used.map_or((None, None), |used| (used.node.upgrade(), used.inode.upgrade()));
            node.unwrap_or_else(|| {
                let inode = known.unwrap_or(inode);
                shard.insert(Arc::new(Node::light(inode)))
            })
        };
        if is_dir {
            self.recent.lock().put(id, Arc::clone(&node));
        }
        node
    }

    /// Takes a light file out, with its count, to be kept elsewhere.
    pub(super) fn take(&self, inode: &Arc<Inode>) -> Option<(Arc<Node>, u64)> {
        let id = inode.ino;
        self.recent.lock().pop(&id);
        let mut shard = self.shard(id).lock();
        let used = shard.in_use.get(&id)?;
        let is_it = std::ptr::eq(used.inode.as_ptr(), Arc::as_ptr(inode));
        debug_assert!(is_it, "one inode for one file");
        if !is_it {
            return None;
        }
        let used = shard.in_use.remove(&id)?;
        let node = used.node.upgrade();
        let node = node.unwrap_or_else(|| Arc::new(Node::light(Arc::clone(inode))));
        let count = shard.counts.remove(&id).unwrap_or(0);
        Some((node, u64::from(count)))
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().counts.len()).sum()
    }
}

impl Shard {
    fn insert(&mut self, node: Arc<Node>) -> Arc<Node> {
        if self.in_use.len() >= self.sweep_at {
            self.in_use.retain(|_, used| used.inode.strong_count() > 0);
            self.sweep_at = (2 * self.in_use.len()).max(SWEEP_MIN);
        }
        let used = InUse {
            inode: Arc::downgrade(&node.inode),
            node: Arc::downgrade(&node),
        };
        self.in_use.insert(node.id, used);
        node
    }
}

/// A file's number, and its name in the directory above.
type Step = (u64, OsString);

impl Union {
    /// The node with this id.
    ///
    /// # Errors
    /// [`Error::UnknownNode`] for an id that nobody was told, [`Error::Stale`] when what it named has moved on.
    pub(crate) fn node(&self, id: u64) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes.get(id) {
            return Ok(node);
        }
        if let Some(node) = self.recover(id)? {
            return Ok(node);
        }
        match self.make_light(id) {
            // Another thread has taken it into keeping meanwhile, to change it.
            Err(error @ (Error::Stale | Error::UnknownNode(_))) => self.nodes.get(id).ok_or(error),
            made => made,
        }
    }

    /// The number of a file that can be light: it lies in one place of an indexed layer and has one name, or can never
    /// change.
    pub(crate) fn light_number(&self, found: &Resolved) -> Option<u64> {
        let [place] = found.lowers.as_slice() else {
            return None;
        };
        let one_name = found.attr.is_dir() || found.attr.nlink == 1 || self.upper.is_none();
        let light = found.upper.is_none() && one_name && self.layers[place.layer].is_numbered();
        light.then_some(found.ino)
    }

    /// Makes the node of a light file, and those of the directories above that have none.
    fn make_light(&self, id: u64) -> Result<Arc<Node>> {
        let (mut missing, mut parent) = self.path_to(id)?;
        while let Some((number, name)) = missing.pop() {
            let found = {
                let _shared = parent.entries.read();
                self.resolve(&parent, &name)?.ok_or(Error::Stale)?
            };
            if self.light_number(&found) != Some(number) {
                return Err(Error::Stale);
            }
            let state = State::below(parent, name.into(), found.lowers.into());
            let node = self
                .nodes
                .light_node(Inode::new(number, found.attr.file_type(), state));
            if missing.is_empty() {
                return Ok(node);
            }
            parent = Arc::clone(&node.inode);
        }
        Err(Error::UnknownNode(id))
    }

    /// The names that lead to a light file from the nearest directory that has an inode, the last one first.
    fn path_to(&self, id: u64) -> Result<(Vec<Step>, Arc<Inode>)> {
        let unknown = || Error::UnknownNode(id);
        let (layer, in_layer) = self.numbers.layer_of(id).ok_or_else(unknown)?;
        let asked = self.layers.get(layer).ok_or_else(unknown)?;
        let mut node = asked.by_number(in_layer)?.ok_or_else(unknown)?;
        let mut names = Vec::new();
        let mut number = id;
        loop {
            let Some((dir, name)) = asked.parent(&node)? else {
                return Err(unknown());
            };
            names.push((number, name));
            if dir == asked.root() {
                return Ok((names, Arc::clone(&self.root)));
            }
            let attr = asked.attr(&dir)?;
            number = self.numbers.of_lower(layer, attr.dev, attr.ino);
            let known = self.nodes.at_place(number);
            if let Some(inode) = known.or_else(|| self.nodes.inode(number)) {
                return Ok((names, inode));
            }
            node = dir;
        }
    }

    /// Notes which places of indexed layers a kept directory merges.
    pub(super) fn note_places(&self, inode: &Arc<Inode>) {
        if !inode.is_dir() {
            return;
        }
        for place in inode.lowers().iter() {
            let layer = &self.layers[place.layer];
            if layer.is_numbered()
                && let Ok(attr) = layer.attr(&place.node)
            {
                let number = self.numbers.of_lower(place.layer, attr.dev, attr.ino);
                self.nodes.note_place(number, inode);
            }
        }
    }
}
