//! The table of nodes and inodes: what the kernel holds, what is current, what is forgotten. See [`super::inode`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use super::earlier::Earlier;
use super::inode::{Inode, Likeness, Node, ROOT};
use super::light::Light;
use crate::io_mode::IoState;
use crate::journal::{Journal, Record};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::{Mutex, RwLock};
use crate::upper::Upper;

/// Ids of second nodes start here; no inode number reaches it. As a signed number it is still positive.
const SECOND_NODES: u64 = 3 << 61;

/// Whether a file may say that this is its number: neither none, nor the root's, nor one of those above.
pub(crate) fn can_be_noted(ino: u64) -> bool {
    ino > ROOT && ino < SECOND_NODES
}

/// All nodes the kernel knows, and the inodes behind them.
#[derive(Debug)]
pub(crate) struct Nodes {
    by_id: RwLock<HashMap<u64, Arc<Node>>>,
    /// For the few files with a second node: the one that lookups answer.
    current: RwLock<HashMap<u64, u64>>,
    any_current: AtomicBool,
    next_second: AtomicU64,
    /// Inodes that may have no node of their own number, by number: an open file may hold them, a second node, or the names
    /// of the files in a directory; and those of files that were light. So that there is one inode for one file, also when
    /// the kernel forgot it in between.
    inodes: RwLock<HashMap<u64, Weak<Inode>>>,
    /// Copied-up files by their number in the upper.
    by_upper: RwLock<HashMap<u64, Weak<Inode>>>,
    /// Directories that are kept, by the numbers of their places in indexed layers: light files find their parent here.
    by_place: RwLock<HashMap<u64, Weak<Inode>>>,
    light: Light,
    /// What must be known after a restart is written here before the kernel hears of it.
    pub(crate) journal: Arc<Journal>,
    pub(crate) earlier: Earlier,
    copies: Arc<Copies>,
    /// Size of the tables of weak references at which the dead ones are taken out.
    sweep_at: AtomicUsize,
}

/// How many files were copied up, or got some or all of their content. A file that is looked up is found below, then
/// copied up and forgotten by others, and nothing tells who has found it but this count.
#[derive(Debug, Default)]
pub(crate) struct Copies(AtomicU64);

impl Copies {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// A copy is as its inode, still held, says.
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The tables of weak references are not swept below this size.
const SWEEP_MIN: usize = 1024;

/// What [`Nodes::hold`] found.
pub(crate) enum Hold {
    /// The file's node.
    Node(Arc<Node>),
    /// The file must be looked up again when this inode is not being copied up; and if the same is found then, held
    /// with this doubt, for it is another file.
    Doubt(Arc<Inode>, Doubt),
    /// A light file has the number: its node must be kept, and the file looked up again.
    Light,
    /// The file may have been copied up since it was looked up, and forgotten: it must be looked up again.
    Again,
}

/// A doubt about identity: where the known file and the found one were seen in the upper.
pub(crate) type Doubt = (Option<u64>, Option<u64>);

impl Nodes {
    /// A table that knows the root, and what was given `earlier`. `upper`: where files change.
    pub(crate) fn new(
        root: Arc<Inode>,
        upper: Option<&Upper>,
        journal: Arc<Journal>,
        earlier: Earlier,
    ) -> Self {
        let copies = upper.map(|upper| Arc::clone(&upper.copies)).unwrap_or_default();
        let light = Light::default();
        if upper.is_none() {
            light.stop_counting();
        }
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
            next_second: AtomicU64::new(SECOND_NODES.max(earlier.node_max + 1)),
            inodes: RwLock::default(),
            by_upper: RwLock::default(),
            by_place: RwLock::default(),
            light,
            journal,
            earlier,
            copies,
            sweep_at: AtomicUsize::new(SWEEP_MIN),
        }
    }

    /// The node, if it is kept, or light and in use.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Node>> {
        let kept = self.by_id.read().get(&id).cloned();
        kept.or_else(|| self.light.in_use(id))
    }

    /// The inode with this number, if anybody uses it: one that was kept may outlive its node.
    pub(crate) fn inode(&self, number: u64) -> Option<Arc<Inode>> {
        let node = self.get(number).map(|node| Arc::clone(&node.inode));
        node.or_else(|| self.kept_inode(number))
            .or_else(|| self.light.inode_in_use(number))
    }

    fn kept_inode(&self, number: u64) -> Option<Arc<Inode>> {
        self.inodes.read().get(&number).and_then(Weak::upgrade)
    }

    /// See [`Copies`].
    pub(crate) fn copies(&self) -> u64 {
        self.copies.now()
    }

    /// Whether what was found with that count of copies, and is kept by nobody, is still where it was found.
    fn is_still(&self, copies: u64) -> bool {
        // Whoever copied it up let go of its inode after counting.
        fence(Ordering::Acquire);
        self.copies() == copies
    }

    /// Counts one more answer that names a light file, found when there were so many [`copies`](Self::copies), unless
    /// its node or inode is kept, or was.
    pub(crate) fn hold_light(&self, id: u64, copies: u64) -> bool {
        let by_id = self.by_id.read();
        let kept =
            |table: &HashMap<u64, Weak<Inode>>| table.get(&id).is_some_and(|inode| inode.strong_count() > 0);
        let light = !by_id.contains_key(&id)
            && !self.is_left_behind(id)
            && !kept(&self.inodes.read())
            && self.is_still(copies);
        if light {
            self.light.hold(id);
        }
        light
    }

    /// The node of a light file, made of `inode` if there is none yet.
    pub(crate) fn light_node(&self, inode: Inode) -> Arc<Node> {
        let by_id = self.by_id.read();
        match by_id.get(&inode.ino) {
            Some(node) => Arc::clone(node),
            None => {
                let kept = self.kept_inode(inode.ino);
                self.light.node(kept.unwrap_or_else(|| Arc::new(inode)))
            }
        }
    }

    /// Keeps the node of a light file from here on: it is about to change.
    pub(crate) fn keep(&self, inode: &Arc<Inode>) {
        let mut by_id = self.by_id.write();
        if by_id.contains_key(&inode.ino) {
            return;
        }
        let Some((node, lookups)) = self.light.take(inode) else {
            return;
        };
        // For whoever has looked for a kept node already, and looks for a light one only now.
        self.inodes.write().insert(inode.ino, Arc::downgrade(inode));
        node.lookups.store(lookups, Ordering::Relaxed);
        self.note_node(node.id, inode);
        by_id.insert(node.id, node);
    }

    /// Makes a second node anew that an earlier server gave.
    pub(super) fn hold_second(&self, id: u64, inode: &Arc<Inode>) -> Arc<Node> {
        let mut by_id = self.by_id.write();
        if let Some(node) = by_id.get(&id) {
            return Arc::clone(node);
        }
        let node = self.insert(&mut by_id, id, Arc::clone(inode));
        node.lookups.store(1, Ordering::Relaxed);
        self.current.write().insert(inode.ino, id);
        self.any_current.store(true, Ordering::Release);
        node
    }

    /// The kept directory that this place of an indexed layer belongs to.
    pub(crate) fn at_place(&self, number: u64) -> Option<Arc<Inode>> {
        self.by_place.read().get(&number)?.upgrade()
    }

    pub(crate) fn note_place(&self, number: u64, inode: &Arc<Inode>) {
        let known = |table: &HashMap<u64, Weak<Inode>>| {
            table
                .get(&number)
                .is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(inode)))
        };
        if !known(&self.by_place.read()) {
            self.by_place.write().insert(number, Arc::downgrade(inode));
        }
    }

    fn is_left_behind(&self, ino: u64) -> bool {
        self.any_current.load(Ordering::Acquire) && self.current.read().contains_key(&ino)
    }

    /// The copied-up inode that has this number in the upper, if the kernel holds it.
    pub(crate) fn copied_up(&self, upper_ino: u64) -> Option<Arc<Inode>> {
        self.by_upper.read().get(&upper_ino)?.upgrade()
    }

    pub(crate) fn note_copied_up(&self, upper_ino: u64, inode: &Arc<Inode>) {
        self.by_upper.write().insert(upper_ino, Arc::downgrade(inode));
    }

    fn current_id(&self, ino: u64) -> u64 {
        if self.any_current.load(Ordering::Acquire) {
            self.current.read().get(&ino).copied().unwrap_or(ino)
        } else {
            ino
        }
    }

    /// Finds the node of the file that `candidate` describes, or makes the candidate's own, and counts one more
    /// answer that names it. `copies`: how many there were before it was looked up. `doubt`: what the last try was told.
    pub(crate) fn hold(&self, candidate: Inode, copies: u64, doubt: Option<Doubt>) -> Hold {
        let id = self.current_id(candidate.ino);
        if let Some(node) = self.by_id.read().get(&id)
            && node.inode.compare(&candidate) == Likeness::Same
        {
            return Hold::Node(node.hold());
        }
        let mut by_id = self.by_id.write();
        let known = match by_id.get(&id) {
            Some(node) => Some(Arc::clone(&node.inode)),
            None => self.inodes.read().get(&candidate.ino).and_then(Weak::upgrade),
        };
        let Some(known) = known else {
            if self.light.is_known(candidate.ino) {
                return Hold::Light;
            }
            if !candidate.is_whole_above() && !self.is_still(copies) {
                return Hold::Again;
            }
            return Hold::Node(self.insert(&mut by_id, id, Arc::new(candidate)));
        };
        match known.compare(&candidate) {
            Likeness::Same => return Hold::Node(self.node_of(&mut by_id, id, &known)),
            Likeness::Unsure(places) if doubt != Some(places) => return Hold::Doubt(known, places),
            // The number belongs to another file that is still held (a name that a crash left behind, an upper
            // copied together with its marks): this one gets a number of its own.
            Likeness::Other | Likeness::Unsure(_) => {}
        }
        let id = self.next_second.fetch_add(1, Ordering::Relaxed);
        Hold::Node(self.insert(&mut by_id, id, Arc::new(Inode { ino: id, ..candidate })))
    }

    /// Counts one more answer that names a known inode, making its present node when it has none yet.
    pub(crate) fn hold_known(&self, inode: &Arc<Inode>) -> Arc<Node> {
        let id = self.current_id(inode.ino);
        self.node_of(&mut self.by_id.write(), id, inode)
    }

    fn node_of(&self, by_id: &mut HashMap<u64, Arc<Node>>, id: u64, inode: &Arc<Inode>) -> Arc<Node> {
        match by_id.get(&id) {
            Some(node) => node.hold(),
            None => self.insert(by_id, id, Arc::clone(inode)),
        }
    }

    /// Leaves a node behind, if lookups still answer it: they answer a new one from here on.
    pub(crate) fn replace(&self, node: &Node) {
        let inode = &node.inode;
        self.keep(inode);
        if self.current_id(inode.ino) != node.id {
            return;
        }
        let id = self.next_second.fetch_add(1, Ordering::Relaxed);
        self.note_node(id, inode);
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

    fn insert(&self, by_id: &mut HashMap<u64, Arc<Node>>, id: u64, inode: Arc<Inode>) -> Arc<Node> {
        if id != inode.ino {
            self.inodes.write().insert(inode.ino, Arc::downgrade(&inode));
        }
        self.note_node(id, &inode);
        let mut io = IoState::default();
        let mut lookups = 1;
        if self.earlier.is_met(id) {
            // How often the kernel was told of it is not known, but that it was. It forgets all at once.
            lookups += 1;
            io.doubt_cache();
        }
        let node = Arc::new(Node {
            id,
            inode,
            lookups: AtomicU64::new(lookups),
            io: Mutex::new(io),
        });
        by_id.insert(id, Arc::clone(&node));
        node
    }

    /// The kernel dropped `count` of the answers it was given.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        if id == ROOT {
            return;
        }
        {
            let by_id = self.by_id.read();
            if !by_id.contains_key(&id) {
                self.note_gone_unmet(id);
                return self.light.forget(id, count);
            }
        }
        let mut by_id = self.by_id.write();
        let Some(node) = by_id.get(&id) else { return };
        let before = node.lookups.load(Ordering::Relaxed);
        node.lookups
            .store(before.saturating_sub(count), Ordering::Relaxed);
        if before > count {
            return;
        }
        let ino = node.inode.ino;
        if id != ino && by_id.contains_key(&ino) {
            // The kernel asks, forgets and asks again before it opens: the node that was left behind must not come
            // back as the answer while it is still there.
            return;
        }
        // Whoever does not find the node finds the inode.
        self.inodes.write().insert(ino, Arc::downgrade(&node.inode));
        let Some(node) = by_id.remove(&id) else { return };
        self.journal.note(&Record::Gone { number: id });
        if self.journal.is_kept() && node.inode.state.read().orphan.is_some() {
            self.journal.let_go(ino);
        }
        self.drop_unused_second(&mut by_id, ino);
        drop(by_id);
        drop(node);
        self.drop_if_unused(ino);
        self.sweep();
    }

    /// Takes the weak reference out that was left for others, if there are none: it keeps memory.
    fn drop_if_unused(&self, ino: u64) {
        if let Entry::Occupied(found) = self.inodes.write().entry(ino)
            && found.get().strong_count() == 0
        {
            found.remove();
        }
    }

    /// Takes dead weak references out, seldom enough that it costs nothing per file.
    fn sweep(&self) {
        if self.weak_len() < self.sweep_at.load(Ordering::Relaxed) {
            return;
        }
        self.inodes.write().retain(|_, inode| inode.strong_count() > 0);
        self.by_upper.write().retain(|_, inode| inode.strong_count() > 0);
        self.by_place.write().retain(|_, inode| inode.strong_count() > 0);
        let next = (2 * self.weak_len()).max(SWEEP_MIN);
        self.sweep_at.store(next, Ordering::Relaxed);
    }

    fn weak_len(&self) -> usize {
        self.inodes.read().len() + self.by_upper.read().len() + self.by_place.read().len()
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
            self.journal.note(&Record::Gone { number: *second });
            by_id.remove(second);
            current.remove(&ino);
        }
    }

    /// How many nodes the kernel holds.
    pub(crate) fn len(&self) -> usize {
        self.by_id.read().len() + self.light.len()
    }
}
