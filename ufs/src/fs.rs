//! The operations of the file system, with no kernel in sight: numbers and names in, values out.
//!
//! An operation names files by node, as FUSE does: [`Fs::lookup`] and its kin hold a node for the caller until
//! [`Fs::forget`]. The FUSE adapter in [`crate::fuse`] decodes, calls and replies; [`crate::diff`] and the tests call
//! the same methods directly.
//!
//! Permissions are the kernel's business (`default_permissions`); identities are mapped here ([`crate::idmap`]).

mod attr;
mod browse;
mod dir;
mod file;
mod link;
mod remove;
mod rename;
mod resume;
mod seal;
pub(crate) mod told;
mod unopened;
mod xattr;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::attr::{Attr, FileType};
use crate::counters::Requests;
use crate::error::{Doing, Error, Result, SetupError};
use crate::idmap::IdMap;
use crate::journal::{Journal, Live};
use crate::layer::Space;
use crate::sys;
use crate::union::inode::{Inode, Node};
use crate::union::{Layout, Resolved, Union};

pub use attr::Change;
pub use browse::Neighbour;
pub use dir::End;
pub(crate) use file::Mode;
pub use file::{Handles, OpenFile, Opened};
pub use link::{NewNode, Owner};
pub use rename::RenameFlags;
pub(crate) use seal::Background;
pub use seal::SealReport;
pub use told::asked_by;
pub(crate) use unopened::Closing;
pub use xattr::{COUNTERS, PROVENANCE, SEAL};

pub use crate::sys::SetTime;
pub use crate::union::readdir::DirEntry;

/// The node id of the root directory.
pub const ROOT: u64 = crate::union::inode::ROOT;

/// A file as answered to a caller, who now holds its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The node, to be given back with [`Fs::forget`].
    pub node: u64,
    /// Its attributes; `ino` is the node.
    pub attr: Attr,
}

/// A union file system.
pub struct Fs {
    pub(crate) union: Union,
    pub(crate) ids: IdMap,
    pub(crate) handles: Handles,
    listings: dir::Listings,
    contents: browse::Contents,
    unopened: unopened::Unopened,
    changes: told::Changes,
    requests: Arc<Requests>,
    unanswered: resume::Unanswered,
}

impl Fs {
    /// Opens the layers.
    ///
    /// # Errors
    /// When a directory is missing or unfit; the text says which and what to do.
    pub fn open(layout: &Layout, ids: IdMap) -> std::result::Result<Self, SetupError> {
        Self::assemble(
            layout,
            ids,
            Journal::default(),
            &mut Live::default(),
            HashMap::new(),
        )
    }

    fn assemble(
        layout: &Layout,
        ids: IdMap,
        journal: Journal,
        live: &mut Live,
        orphans: HashMap<u64, Arc<OwnedFd>>,
    ) -> std::result::Result<Self, SetupError> {
        Ok(Self {
            union: Union::open(layout, Arc::new(journal), live, orphans)?,
            ids,
            handles: Handles::default(),
            listings: dir::Listings::default(),
            contents: browse::Contents::default(),
            unopened: unopened::Unopened::default(),
            changes: told::Changes::default(),
            requests: Arc::default(),
            unanswered: resume::Unanswered::default(),
        })
    }

    /// Whether there is no upper.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.union.upper.is_none()
    }

    /// The counts of requests, for whoever answers them to count, and for [`COUNTERS`] to show.
    #[must_use]
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Finds a name in a directory and holds its node.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no layer shows the name.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry> {
        let parent = self.union.node(parent)?;
        self.lookup_in(&parent.inode, name)
    }

    pub(crate) fn lookup_in(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Entry> {
        let before = self.changes.count();
        let found = self.find(parent, name)?;
        let stored = found.attr;
        if let Some(number) = self.union.light_number(&found)
            && self.union.nodes.hold_light(number, found.copies)
        {
            return Ok(self.light_entry(number, stored));
        }
        let node = self.union.adopt(parent, name, found)?;
        let stored = self.about_to_tell(&node.inode, stored, before);
        let stored = self.at_rest(&node.inode, stored)?;
        Ok(self.entry(&node, stored))
    }

    /// A file that nothing is kept of: it is shown as its layer shows it.
    fn light_entry(&self, number: u64, stored: Attr) -> Entry {
        let attr = Attr {
            ino: number,
            dev: 0,
            mount_root: false,
            ..stored
        };
        Entry {
            node: number,
            attr: self.with_shown_owners(attr),
        }
    }

    fn with_shown_owners(&self, attr: Attr) -> Attr {
        Attr {
            uid: self.ids.shown_uid(attr.uid),
            gid: self.ids.shown_gid(attr.gid),
            ..attr
        }
    }

    /// Resolves a name. The directory's lock is not held any more when identity is decided, which may wait for a
    /// copy-up.
    fn find(&self, parent: &Inode, name: &OsStr) -> Result<Resolved> {
        let _shared = parent.entries.read();
        self.union.resolve(parent, name)?.ok_or(Error::NotFound)
    }

    /// Gives back `count` holds of a node. What was opened to serve requests by node is closed.
    pub fn forget(&self, node: u64, count: u64) {
        self.unopened.close(node);
        self.union.nodes.forget(node, count);
    }

    /// How many nodes are held.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.union.nodes.len()
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn attr(&self, node: u64) -> Result<Attr> {
        let node = self.union.node(node)?;
        node.inode.note_told();
        let stored = self.union.stored_attr(&node.inode)?;
        Ok(self.entry(&node, stored).attr)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When the node is no symbolic link or cannot be read.
    pub fn read_link(&self, node: u64) -> Result<std::ffi::OsString> {
        let node = self.union.node(node)?;
        if node.inode.file_type != FileType::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        self.union.link_target(&node.inode)
    }

    /// Space and limits, of the upper's file system when there is one.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn space(&self) -> Result<Space> {
        match (&self.union.upper, self.union.layers.first()) {
            (Some(upper), _) => sys::space(&upper.root).doing("read space of upper"),
            (None, Some(layer)) => Ok(Space {
                blocks_available: 0,
                blocks_free: 0,
                files_free: 0,
                ..layer.space()?
            }),
            (None, None) => Err(Error::Stale),
        }
    }

    /// Stored attributes as the node's holder sees them. The number is the node's id: the two are one in the answers
    /// of the FUSE library.
    pub(crate) fn entry(&self, node: &Node, stored: Attr) -> Entry {
        let mut attr = self.union.shown_attr(&node.inode, stored);
        attr.ino = node.id;
        Entry {
            node: node.id,
            attr: self.with_shown_owners(attr),
        }
    }

    /// Gives the node's inode a new node, which lookups answer from here on.
    pub(crate) fn leave_behind(&self, node: &Node) {
        self.union.nodes.replace(node);
    }

    pub(crate) fn dir_node(&self, node: u64) -> Result<Arc<Node>> {
        let node = self.union.node(node)?;
        if node.inode.is_dir() {
            Ok(node)
        } else {
            Err(Error::NotDirectory)
        }
    }
}
