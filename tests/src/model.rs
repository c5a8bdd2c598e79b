//! The reference: a file system of plain values, run as root with umask 022.
//!
//! A node is a number; a name in a directory points to a node; several names of one node are hard links; a
//! node without names lives on while something holds it. Nothing here knows of layers, except that files
//! that come from one are marked: a descriptor opened for reading on such a file may keep showing the old
//! content after the file was copied up (overlayfs' documented non-standard behaviour), or show the new one.

use crate::layers::{Item, Layer, LayerEntry, linked_names};
use crate::ops::{Access, Op, Outcome, RelPath, StatView};
use crate::snapshot::{Content, Entry, Kind, Snapshot};
use std::collections::{BTreeMap, VecDeque};

mod changes;

type NodeId = usize;
type Answer = Result<Outcome, i32>;

const ROOT: NodeId = 0;
const MAX_LINKS_FOLLOWED: usize = 40;

#[derive(Clone, Debug)]
enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, NodeId>),
    Symlink(Vec<u8>),
    Fifo,
    Device,
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    mtime: Option<(i64, i64)>,
    from_layer: bool,
}

#[derive(Clone, Debug)]
struct Held {
    node: NodeId,
    access: Access,
    /// What it may keep showing, being opened for reading on a layer's file.
    stale: Option<Vec<u8>>,
}

/// The tree and what is held open.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: Vec<Node>,
    held: BTreeMap<u8, Held>,
}

/// Where a path leads.
struct Found {
    parent: NodeId,
    name: Vec<u8>,
    node: Option<NodeId>,
}

impl Model {
    /// The union of `layers`, top first.
    #[must_use]
    pub fn of_layers(layers: &[Layer]) -> Model {
        let root = Node::new(Body::Dir(BTreeMap::new()), 0o755, 0);
        let mut model = Model {
            nodes: vec![root],
            held: BTreeMap::new(),
        };
        for layer in layers.iter().rev() {
            for (path, entry) in &layer.entries {
                model.lay(path, entry);
            }
        }
        model
    }

    /// Puts one entry of a layer over what is there; its parents come before it.
    fn lay(&mut self, path: &RelPath, entry: &LayerEntry) {
        if matches!(entry.item, Item::Linked(_)) {
            let (first, second) = linked_names(path);
            let node = self.add(Node::of_layer(entry));
            self.nodes[node].nlink = 2;
            self.put_at(&first, Some(node));
            self.put_at(&second, Some(node));
            return;
        }
        if let Item::Dir { opaque: false } = entry.item
            && let Some(below) = self.plain_lookup(path)
            && let Body::Dir(children) = &self.nodes[below].body
        {
            let mut node = Node::of_layer(entry);
            node.body = Body::Dir(children.clone());
            self.nodes[below] = node;
            return;
        }
        let node = (entry.item != Item::Whiteout).then(|| self.add(Node::of_layer(entry)));
        self.put_at(path, node);
    }

    fn put_at(&mut self, path: &RelPath, node: Option<NodeId>) {
        let parent = match path.parent() {
            Some(parent) => self.plain_lookup(&parent).expect("parents are laid first"),
            None => ROOT,
        };
        let name = path.0.last().expect("a name").clone();
        let children = self.children_mut(parent);
        match node {
            Some(node) => children.insert(name, node),
            None => children.remove(&name),
        };
    }

    fn plain_lookup(&self, path: &RelPath) -> Option<NodeId> {
        let mut node = ROOT;
        for name in &path.0 {
            let Body::Dir(children) = &self.nodes[node].body else {
                return None;
            };
            node = *children.get(name)?;
        }
        Some(node)
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn children_mut(&mut self, dir: NodeId) -> &mut BTreeMap<Vec<u8>, NodeId> {
        match &mut self.nodes[dir].body {
            Body::Dir(children) => children,
            _ => unreachable!("the caller knows it is a directory"),
        }
    }

    /// Changes the names in a directory; its time is then unknown.
    fn edit_dir(&mut self, dir: NodeId) -> &mut BTreeMap<Vec<u8>, NodeId> {
        self.nodes[dir].mtime = None;
        self.children_mut(dir)
    }

    fn is_dir(&self, node: NodeId) -> bool {
        matches!(self.nodes[node].body, Body::Dir(_))
    }

    /// Walks `path`; the last name need not exist.
    fn walk(&self, path: &RelPath, follow_last: bool) -> Result<Found, i32> {
        let mut rest: VecDeque<Vec<u8>> = path.0.iter().cloned().collect();
        let mut dir = ROOT;
        let mut followed = 0;
        loop {
            let name = rest.pop_front().expect("paths and targets are not empty");
            let Body::Dir(children) = &self.nodes[dir].body else {
                return Err(libc::ENOTDIR);
            };
            let node = children.get(&name).copied();
            let is_last = rest.is_empty();
            let Some(found) = node else {
                return if is_last {
                    Ok(Found {
                        parent: dir,
                        name,
                        node,
                    })
                } else {
                    Err(libc::ENOENT)
                };
            };
            match &self.nodes[found].body {
                Body::Symlink(target) if !is_last || follow_last => {
                    followed += 1;
                    if followed > MAX_LINKS_FOLLOWED {
                        return Err(libc::ELOOP);
                    }
                    for name in target.split(|byte| *byte == b'/').rev() {
                        rest.push_front(name.to_vec());
                    }
                }
                _ if is_last => {
                    return Ok(Found {
                        parent: dir,
                        name,
                        node,
                    });
                }
                _ => dir = found,
            }
        }
    }

    fn existing(&self, path: &RelPath, follow_last: bool) -> Result<NodeId, i32> {
        self.walk(path, follow_last)?.node.ok_or(libc::ENOENT)
    }

    /// A file to open: the tests never open FIFOs and devices, which could wait for ever.
    fn openable(&self, path: &RelPath) -> Result<NodeId, i32> {
        let node = self.existing(path, true)?;
        match self.nodes[node].body {
            Body::Fifo | Body::Device => Err(libc::ENXIO),
            _ => Ok(node),
        }
    }

    /// A file to open for writing.
    fn writable(&self, path: &RelPath) -> Result<NodeId, i32> {
        let node = self.openable(path)?;
        if self.is_dir(node) {
            Err(libc::EISDIR)
        } else {
            Ok(node)
        }
    }

    fn content_mut(&mut self, node: NodeId) -> &mut Vec<u8> {
        self.nodes[node].mtime = None;
        match &mut self.nodes[node].body {
            Body::File(content) => content,
            _ => unreachable!("the caller knows it is a regular file"),
        }
    }

    fn content(&self, node: NodeId) -> Result<Vec<u8>, i32> {
        match &self.nodes[node].body {
            Body::File(content) => Ok(content.clone()),
            Body::Dir(_) => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    /// Overlayfs fetches the data of a metadata-only copy when it is opened for writing, and leaves the time
    /// of that as the file's; a plain file system keeps the time. Both are right.
    fn forget_time_of_data_copy(&mut self, node: NodeId) {
        if self.nodes[node].from_layer {
            self.nodes[node].mtime = None;
        }
    }

    /// A name that must not exist yet, for everything that makes one.
    fn vacant(&self, path: &RelPath) -> Result<(NodeId, Vec<u8>), i32> {
        let found = self.walk(path, false)?;
        if found.node.is_some() {
            Err(libc::EEXIST)
        } else {
            Ok((found.parent, found.name))
        }
    }

    fn make(&mut self, parent: NodeId, name: Vec<u8>, body: Body, mode: u32) -> NodeId {
        let mut node = Node::new(body, mode, 0);
        if self.nodes[parent].mode & 0o2000 != 0 {
            node.gid = self.nodes[parent].gid;
            if matches!(node.body, Body::Dir(_)) {
                node.mode |= 0o2000;
            }
        }
        let id = self.add(node);
        self.edit_dir(parent).insert(name, id);
        id
    }

    /// Runs one step. More than one answer is right where overlayfs is documented to differ from a plain
    /// file system; the first is the plain one.
    pub fn apply(&mut self, op: &Op) -> Vec<Outcome> {
        if let Op::HeldRead { slot } = op
            && let Some(held) = self.held.get(slot)
            && let Some(stale) = held.stale.clone()
        {
            let now = self.content(held.node).unwrap_or_default();
            return vec![Outcome::Bytes(now), Outcome::Bytes(stale)];
        }
        vec![self.run(op).unwrap_or_else(Outcome::Errno)]
    }

    fn run(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create {
                path,
                data,
                exclusive,
            } => self.create(path, data, *exclusive),
            Op::WriteAt { path, offset, data } => {
                let node = self.writable(path)?;
                write_into(self.content_mut(node), *offset, data);
                Ok(Outcome::Done)
            }
            Op::Append { path, data } => {
                let node = self.writable(path)?;
                self.content_mut(node).extend(data);
                Ok(Outcome::Done)
            }
            Op::Truncate { path, len } => {
                let node = self.writable(path)?;
                self.content_mut(node)
                    .resize(usize::try_from(*len).expect("short"), 0);
                Ok(Outcome::Done)
            }
            Op::Punch { path, offset, len } => {
                let node = self.writable(path)?;
                let content = self.content_mut(node);
                let start = content.len().min(usize::try_from(*offset).expect("short"));
                let end = content.len().min(usize::try_from(offset + len).expect("short"));
                content[start..end].fill(0);
                Ok(Outcome::Done)
            }
            Op::CopyRange { from, to, len } => self.copy_range(from, to, *len),
            Op::Mkdir { path, mode } => {
                let (parent, name) = self.vacant(path)?;
                self.make(parent, name, Body::Dir(BTreeMap::new()), mode & !0o022);
                Ok(Outcome::Done)
            }
            Op::Symlink { target, path } => {
                let (parent, name) = self.vacant(path)?;
                self.make(parent, name, Body::Symlink(target.clone()), 0o777);
                Ok(Outcome::Done)
            }
            Op::Mkfifo { path } | Op::Mknod { path } => {
                let (parent, name) = self.vacant(path)?;
                let body = if matches!(op, Op::Mkfifo { .. }) {
                    Body::Fifo
                } else {
                    Body::Device
                };
                self.make(parent, name, body, 0o644);
                Ok(Outcome::Done)
            }
            Op::TmpfileLink { path, data } => self.tmpfile_link(path, data),
            Op::Rmdir { path } | Op::Unlink { path } => self.remove(path, matches!(op, Op::Rmdir { .. })),
            Op::Rename { from, to, flag } => self.rename(from, to, *flag),
            Op::Link { from, to } => self.link(from, to),
            Op::Chmod { .. } | Op::Chown { .. } | Op::SetTimes { .. } => self.set_attributes(op),
            Op::SetXattr {
                path,
                name,
                value,
                flag,
            } => self.set_xattr(path, name, value, *flag),
            Op::RemoveXattr { path, name } => self.remove_xattr(path, name),
            Op::Read { path } => {
                let node = self.openable(path)?;
                Ok(Outcome::Bytes(self.content(node)?))
            }
            Op::Stat { path } => Ok(Outcome::Stat(self.stat(self.existing(path, false)?))),
            Op::List { path } => match &self.nodes[self.existing(path, true)?].body {
                Body::Dir(children) => Ok(Outcome::Names(children.keys().cloned().collect())),
                _ => Err(libc::ENOTDIR),
            },
            Op::Readlink { path } => match &self.nodes[self.existing(path, false)?].body {
                Body::Symlink(target) => Ok(Outcome::Bytes(target.clone())),
                _ => Err(libc::EINVAL),
            },
            Op::DropCaches => Ok(Outcome::Done),
            Op::Hold { .. } | Op::HeldClose { .. } | Op::Remount => self.hold_or_release(op),
            Op::HeldWrite { .. } | Op::HeldRead { .. } | Op::HeldTruncate { .. } | Op::HeldChmod { .. } => {
                self.use_held(op)
            }
        }
    }

    fn stat(&self, id: NodeId) -> StatView {
        let node = &self.nodes[id];
        let (kind, size_bytes) = match &node.body {
            Body::File(content) => (Kind::File, content.len() as u64),
            Body::Symlink(target) => (Kind::Symlink, target.len() as u64),
            Body::Dir(_) => (Kind::Dir, 0),
            Body::Fifo => (Kind::Fifo, 0),
            Body::Device => (Kind::CharDevice, 0),
        };
        let nlink = if kind == Kind::Dir { 1 } else { node.nlink };
        StatView {
            kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size_bytes,
            nlink,
        }
    }

    /// The whole tree, as a walk of a real one would show it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut groups = BTreeMap::new();
        self.collect(ROOT, Vec::new(), &mut snapshot, &mut groups);
        snapshot
    }

    fn collect(
        &self,
        id: NodeId,
        path: Vec<u8>,
        snapshot: &mut Snapshot,
        groups: &mut BTreeMap<NodeId, Vec<u8>>,
    ) {
        let (node, stat) = (&self.nodes[id], self.stat(id));
        let content = match &node.body {
            Body::File(bytes) | Body::Symlink(bytes) => bytes.clone(),
            _ => Vec::new(),
        };
        let entry = Entry {
            kind: stat.kind,
            mode: stat.mode,
            owner: (stat.uid, stat.gid),
            size_bytes: stat.size_bytes,
            content: Content::new(content),
            xattrs: node.xattrs.clone(),
            nlink: stat.nlink,
            link_group: groups.entry(id).or_insert_with(|| path.clone()).clone(),
            rdev: if stat.kind == Kind::CharDevice {
                rustix::fs::makedev(1, 3)
            } else {
                0
            },
            mtime: node.mtime,
            ctime: None,
        };
        snapshot.entries.insert(path.clone(), entry);
        if let Body::Dir(children) = &node.body {
            for (name, child) in children {
                let mut child_path = path.clone();
                if !child_path.is_empty() {
                    child_path.push(b'/');
                }
                child_path.extend(name);
                self.collect(*child, child_path, snapshot, groups);
            }
        }
    }
}

impl Node {
    fn new(body: Body, mode: u32, owner: u32) -> Node {
        let xattrs = BTreeMap::new();
        Node {
            body,
            mode,
            uid: owner,
            gid: owner,
            nlink: 1,
            xattrs,
            mtime: None,
            from_layer: false,
        }
    }

    fn of_layer(entry: &LayerEntry) -> Node {
        let body = match &entry.item {
            Item::File(content) | Item::Linked(content) => Body::File(content.clone()),
            Item::Dir { .. } => Body::Dir(BTreeMap::new()),
            Item::Symlink(target) => Body::Symlink(target.clone()),
            Item::Fifo => Body::Fifo,
            Item::Whiteout => unreachable!("a whiteout makes no node"),
        };
        let mode = if matches!(body, Body::Symlink(_)) {
            0o777
        } else {
            entry.mode
        };
        let mut node = Node::new(body, mode, entry.owner);
        if let Some(value) = &entry.xattr {
            node.xattrs.insert(b"user.lower".to_vec(), value.clone());
        }
        node.mtime = Some((entry.mtime.0, i64::from(entry.mtime.1)));
        node.from_layer = true;
        node
    }
}

fn write_into(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).expect("short");
    let end = start + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(data);
}
