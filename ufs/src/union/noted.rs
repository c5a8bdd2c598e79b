//! Names and nodes as they are written down for the server that may come after this one.
//!
//! A new name is written down before the change that makes it, an old one after the change that takes it away: at
//! every moment one of those written down is right.

use std::ffi::OsStr;
use std::sync::Arc;

use super::inode::Inode;
use super::nodes::Nodes;
use crate::journal::Record;

impl Nodes {
    /// The kernel forgot what only an earlier server knew.
    pub(super) fn note_gone_unmet(&self, id: u64) {
        if self.earlier.is_met(id) {
            self.journal.note(&Record::Gone { number: id });
            self.journal.let_go(id);
        }
    }

    /// Notes that a file is called `name` in `parent`.
    pub(crate) fn add_link(&self, inode: &Inode, parent: &Arc<Inode>, name: &OsStr) {
        if inode.add_link(parent, name) {
            self.note_link(inode, parent, name);
        }
    }

    /// Notes one more name while a file moves to it, also for a directory.
    pub(crate) fn add_name(&self, inode: &Inode, parent: &Arc<Inode>, name: &OsStr) {
        inode.add_name(parent, name);
        self.note_link(inode, parent, name);
    }

    /// Notes that a file is no longer called `name` in `parent`. Returns whether it has another known name.
    pub(crate) fn remove_link(&self, inode: &Inode, parent: &Arc<Inode>, name: &OsStr) -> bool {
        self.journal.note(&Record::Unlink {
            number: inode.ino,
            parent: parent.ino,
            name,
        });
        inode.remove_link(parent, name)
    }

    fn note_link(&self, inode: &Inode, parent: &Inode, name: &OsStr) {
        self.journal.note(&Record::Link {
            number: inode.ino,
            parent: parent.ino,
            name,
        });
    }

    pub(super) fn note_node(&self, id: u64, inode: &Inode) {
        if !self.journal.is_kept() {
            return;
        }
        self.journal.note(&Record::Held {
            number: id,
            inode: inode.ino,
            is_dir: inode.is_dir(),
        });
        for link in &inode.state.read().links {
            self.note_link(inode, &link.parent, &link.name);
        }
    }
}
