//! Attributes of a directory that were on their way to a caller when its entries changed.
//!
//! Who makes or removes a name changes the times, the size and the link count of the directory. The kernel then forgets
//! what it knew of them; but an answer to another caller that was given before the change, and arrives after it, it
//! takes for new, and keeps it (`fuse_dir_changed` in fs/fuse/dir.c does not advance the version that
//! `fuse_change_attributes` compares). So the kernel is told once more, by `FUSE_NOTIFY_INVAL_INODE`, which does
//! advance it: every answer to a question that was asked before is then of no use.
//!
//! ```text
//! who answers:  told = true ─► read attributes ──────────────────► answer
//! who changes:          change ─► told = false? it was true ─► notify ─► answer
//! ```
//!
//! Seldom is that necessary: not when nobody asked for the directory's attributes since its last change.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Fs;
use crate::attr::Attr;
use crate::union::inode::Inode;

/// Counts the changes of directories' entries, of all directories together.
#[derive(Debug, Default)]
pub(super) struct Changes(AtomicU64);

impl Changes {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Inode {
    /// Notes that attributes read from here on go to a caller. Matters for directories only.
    pub(crate) fn note_told(&self) {
        if self.is_dir() {
            self.told.store(true, Ordering::SeqCst);
        }
    }
}

impl Fs {
    /// To be asked after the entries of a directory changed and before whoever changed them is answered: whether an
    /// answer with its earlier attributes may be on its way, so that the kernel must be told to forget them.
    #[must_use]
    pub fn was_told(&self, dir: u64) -> bool {
        self.changes.0.fetch_add(1, Ordering::SeqCst);
        self.union
            .node(dir)
            .is_ok_and(|node| node.inode.told.swap(false, Ordering::SeqCst))
    }

    /// The attributes to answer with for a file that was found by its name, and was not known before its attributes
    /// were read: they are read again if some directory changed since the count of changes was `before`.
    pub(super) fn about_to_tell(&self, inode: &Inode, read: Attr, before: u64) -> Attr {
        if !inode.is_dir() {
            return read;
        }
        inode.note_told();
        if self.changes.count() == before {
            return read;
        }
        self.union.stored_attr(inode).unwrap_or(read)
    }
}
