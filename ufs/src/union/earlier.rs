//! What a server before this one told the kernel, and the way back to it.
//!
//! ```text
//! number ──► names that led there ──► looked up again: the number found must be the same
//!        ├─► descriptor that the supervisor held       a file that was deleted while it was open
//!        └─► place in an indexed layer                 the same, of a file that was never changed
//! ```
//!
//! Directories come back at once, since light files find the way through them; all else when it is asked for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::inode::{Inode, Node, State};
use super::lowers::Lowers;
use super::nodes::Hold;
use super::{LowerRef, Union, resolve};
use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result};
use crate::journal::{Live, LiveNode};
use crate::layer::marks::{Marks, Redirect};
use crate::sys::{self, XattrOf};

/// The numbers that an earlier server gave and this one has not met yet.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    nodes: Mutex<HashMap<u64, LiveNode>>,
    orphans: HashMap<u64, Arc<OwnedFd>>,
    /// There was none: nobody need ask.
    is_empty: bool,
    /// The largest number given.
    pub(super) node_max: u64,
}

impl Earlier {
    /// What the journal holds, and the deleted files that were kept.
    pub(crate) fn new(live: &mut Live, orphans: HashMap<u64, Arc<OwnedFd>>) -> Self {
        Self {
            is_empty: live.nodes.is_empty(),
            nodes: Mutex::new(std::mem::take(&mut live.nodes)),
            orphans,
            node_max: live.node_max,
        }
    }

    fn get(&self, id: u64) -> Option<LiveNode> {
        if self.is_empty {
            return None;
        }
        self.nodes.lock().get(&id).cloned()
    }

    /// A node is met. `true`: the kernel held it before this server began.
    pub(super) fn is_met(&self, id: u64) -> bool {
        if self.is_empty {
            return false;
        }
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(&id) else {
            return false;
        };
        node.held.take().is_some()
    }

    /// Whether the kernel holds a node of this number that was not met yet. A new file with this number is another one.
    pub(crate) fn is_held(&self, id: u64) -> bool {
        !self.is_empty && self.nodes.lock().get(&id).is_some_and(|node| node.held.is_some())
    }

    fn directories(&self) -> Vec<u64> {
        let nodes = self.nodes.lock();
        let held = nodes
            .iter()
            .filter(|(_, node)| node.is_dir && node.held.is_some());
        held.map(|(number, _)| *number).collect()
    }
}

impl Union {
    /// Finds the directories that the kernel knows from an earlier server.
    pub(crate) fn recover_directories(&self) {
        for number in self.nodes.earlier.directories() {
            if let Err(error) = self.node(number) {
                tracing::debug!(number, %error, "a directory is gone");
            }
        }
    }

    /// Finds a node that an earlier server gave; `None` when none did.
    pub(super) fn recover(&self, id: u64) -> Result<Option<Arc<Node>>> {
        self.recover_below(id, &mut Vec::new())
    }

    /// `asked`: the numbers whose names are being followed, which must not lead back to one of them.
    fn recover_below(&self, id: u64, asked: &mut Vec<u64>) -> Result<Option<Arc<Node>>> {
        let Some(known) = self.nodes.earlier.get(id) else {
            return Ok(None);
        };
        if let Some(first) = known.held.filter(|inode| *inode != id) {
            let inode = Arc::clone(&self.node(first)?.inode);
            return Ok(Some(self.nodes.hold_second(id, &inode)));
        }
        asked.push(id);
        for (parent, name) in known.links.iter().rev() {
            if asked.contains(parent) {
                continue;
            }
            let Ok(parent) = self.node_below(*parent, asked) else {
                continue;
            };
            let found = {
                let _shared = parent.inode.entries.read();
                self.resolve(&parent.inode, name)
            };
            if let Ok(Some(found)) = found
                && found.ino == id
            {
                asked.pop();
                let node = self.adopt(&parent.inode, name, found)?;
                self.nodes.forget(node.id, 1);
                return Ok(Some(node));
            }
        }
        asked.pop();
        let Some(nameless) = self.nameless(id)? else {
            return Ok(None);
        };
        match self.nodes.hold(nameless, self.nodes.copies(), None) {
            Hold::Node(node) => {
                self.nodes.forget(node.id, 1);
                Ok(Some(node))
            }
            Hold::Doubt(..) | Hold::Light | Hold::Again => Err(Error::Stale),
        }
    }

    fn node_below(&self, id: u64, asked: &mut Vec<u64>) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes.get(id) {
            return Ok(node);
        }
        match self.recover_below(id, asked)? {
            Some(node) => Ok(node),
            None => self.node(id),
        }
    }

    fn marks_of_nameless(&self, orphan: &OwnedFd, attr: &Attr) -> Result<Marks> {
        if attr.file_type() != FileType::Regular {
            return Ok(Marks::default());
        }
        let of = XattrOf::Fd(orphan.as_fd());
        let names = sys::xattr_names(of).doing("list marks of deleted file")?;
        let get = |name: &OsStr| sys::xattr(of, name).doing("read mark of deleted file");
        self.space.marks(false, &names, get)
    }

    /// A file that lost its name while it was open.
    fn nameless(&self, id: u64) -> Result<Option<Inode>> {
        if let Some(orphan) = self.nodes.earlier.orphans.get(&id) {
            let attr = sys::stat_fd(orphan).doing("read attributes of deleted file")?;
            let marks = self.marks_of_nameless(orphan, &attr)?;
            let lowers = match &marks.redirect {
                Some(Redirect::Absolute(path)) if marks.metacopy => {
                    resolve::by_path(&self.layers, path.join(OsStr::new("/")).as_os_str())?
                }
                _ => Vec::new(),
            };
            let state = State {
                upper: Some(attr.ino),
                metadata_only: marks.metacopy,
                partial: marks.partial,
                lowers: lowers.into_iter().map(|(place, _)| place).collect(),
                orphan: Some(Arc::clone(orphan)),
                ..State::default()
            };
            return Ok(Some(Inode::new(id, attr.file_type(), state)));
        }
        let Some((layer, number)) = self.numbers.layer_of(id) else {
            return Ok(None);
        };
        let Some(node) = self.layers[layer].by_number(number)? else {
            return Ok(None);
        };
        let file_type = self.layers[layer].attr(&node)?.file_type();
        if file_type == FileType::Directory {
            return Ok(None);
        }
        let state = State {
            lowers: Lowers::One(LowerRef { layer, node }),
            ..State::default()
        };
        Ok(Some(Inode::new(id, file_type, state)))
    }
}
