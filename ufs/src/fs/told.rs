//! Attributes of a directory that were on their way to a caller when its entries changed.
//!
//! Who makes or removes a name changes the times, the size and the link count of the directory. The kernel then forgets
//! what it knew of them; but an answer to another caller that was given before the change, and arrives after it, it
//! takes for new, and keeps it (`fuse_dir_changed` in fs/fuse/dir.c does not advance the version that
//! `fuse_change_attributes` compares). So the kernel is told once more, by `FUSE_NOTIFY_INVAL_INODE`, which does
//! advance it: every answer to a question that was asked before is then of no use.
//!
//! ```text
//! who answers:  note the asker ─► read attributes ────────────────────► answer
//! who changes:            change ─► somebody else asked? ─► notify ─► answer
//! ```
//!
//! Seldom is that necessary: a thread has one question at a time, so whoever changes the directory has the answers to
//! all its own.

use std::cell::Cell;

use super::Fs;
use crate::attr::Attr;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::thread_local;
use crate::union::inode::Inode;

thread_local! {
    static ASKER: Cell<u32> = const { Cell::new(SEVERAL) };
}

/// Says whose question this thread answers from here on: the caller's thread id, 0 for one that is not known.
pub fn asked_by(thread: u32) {
    ASKER.with(|asker| asker.set(if thread == NOBODY { SEVERAL } else { thread }));
}

fn asker() -> u32 {
    ASKER.with(Cell::get)
}

/// Who was told the attributes of a directory since its entries last changed.
#[derive(Debug)]
pub(crate) struct Told(AtomicU32);

const NOBODY: u32 = 0;
const SEVERAL: u32 = u32::MAX;

impl Default for Told {
    /// Of a directory that nothing was kept of, anybody may have been told.
    fn default() -> Self {
        Self(AtomicU32::new(SEVERAL))
    }
}

impl Told {
    fn note(&self, asker: u32) {
        let first = self
            .0
            .compare_exchange(NOBODY, asker, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_err_and(|before| before != asker) {
            self.0.store(SEVERAL, Ordering::SeqCst);
        }
    }

    /// Whether anybody but the one who changes the directory was told. From here on nobody was.
    fn take(&self, changer: u32) -> bool {
        let told = self.0.swap(NOBODY, Ordering::SeqCst);
        told != NOBODY && (told != changer || changer == SEVERAL)
    }
}

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
            self.told.note(asker());
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
            .is_ok_and(|node| node.inode.told.take(asker()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_questions_of_others_matter() {
        let told = Told::default();
        assert!(told.take(7), "anybody may have been told at first");
        assert!(!told.take(7));
        told.note(7);
        told.note(7);
        assert!(
            !told.take(7),
            "whoever changes has the answers to all its questions"
        );
        told.note(8);
        assert!(told.take(7));
        told.note(7);
        told.note(8);
        assert!(told.take(7));
        told.note(8);
        told.note(7);
        assert!(told.take(7));
        told.note(SEVERAL);
        assert!(told.take(SEVERAL), "two that are not known need not be one");
    }
}
