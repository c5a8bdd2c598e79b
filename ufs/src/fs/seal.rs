//! When partial copies are made whole: in the background, when they rest; at once, when that is asked for.
//!
//! ```text
//! opened ─► waiting ─► rests for some seconds ─► sealed
//!              ▲ found when the upper is looked through: once after the mount, and when it is asked for
//! ```
//!
//! One thread does it, at the lowest priority for processor and disk. It sleeps until there is something to do.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::Fs;
use crate::attr::{Attr, FileType};
use crate::error::{Error, Result};
use crate::sys::{self, XattrOf};
use crate::union::inode::Inode;
use crate::upper::partial::mark;
use crate::upper::partial::seal::Sealed;
use crate::upper::partial::waiting::{TOGETHER_MAX, Task};

/// What sealing did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Copies that are whole now.
    pub sealed: u64,
    /// Copies that are still partial.
    pub left: u64,
}

impl Fs {
    /// Attributes just read; again if they may be those of a moment in which the file was filled in.
    pub(super) fn at_rest(&self, inode: &Inode, read: Attr) -> Result<Attr> {
        if inode.state.read().partial {
            return self.union.stored_attr(inode);
        }
        Ok(read)
    }

    /// A partial copy is about to lose its last name: its space is to be free as soon as nobody has it open.
    pub(super) fn let_go_of_partial(&self, inode: &Inode) {
        let number = {
            let state = inode.state.read();
            state.upper.filter(|_| state.partial)
        };
        if let (Some(upper), Some(number)) = (&self.union.upper, number) {
            upper.partials.let_go(number);
            upper.partials.expect_no_more(inode);
        }
    }

    /// Makes all partial copies of the upper whole.
    ///
    /// # Errors
    /// When the upper cannot be read. A copy that cannot be made whole is told of in the log and counted.
    pub fn seal_all(&self) -> Result<SealReport> {
        let mut report = SealReport::default();
        let mut found = Vec::new();
        self.each_partial_copy(&|| true, &mut |inode| {
            found.push(Arc::clone(inode));
            if found.len() == TOGETHER_MAX {
                self.seal_found(&mut found, &mut report)?;
            }
            Ok(())
        })?;
        self.seal_found(&mut found, &mut report)?;
        Ok(report)
    }

    fn seal_found(&self, found: &mut Vec<Arc<Inode>>, report: &mut SealReport) -> Result<()> {
        self.union
            .seal(found, &|_| true, &mut |inode, outcome| match outcome {
                Ok(Sealed::Deleted) => {}
                Ok(Sealed::Whole) => report.sealed += 1,
                outcome => {
                    report.left += 1;
                    let links = inode.state.read().links.clone();
                    let name = links.first().map(|link| &*link.name).unwrap_or_default();
                    tracing::warn!(name = %name.display(), ?outcome, "a copy stays partial");
                }
            })?;
        found.clear();
        Ok(())
    }

    /// Seals what rests until that is ended. For a thread of its own.
    fn seal_at_rest(&self) {
        let Some(upper) = &self.union.upper else { return };
        let after = upper.options.seal_after;
        sys::idle::be_idle();
        if let Some(after) = after {
            upper.partials.look_after(after);
        }
        loop {
            match upper.partials.next_task(after.is_some()) {
                Task::End => return,
                Task::Look => {
                    let go_on = || !upper.partials.is_ended();
                    let looked = self.each_partial_copy(&go_on, &mut |inode| {
                        upper.partials.expect(inode);
                        Ok(())
                    });
                    if let Err(error) = looked {
                        tracing::warn!(%error, "the upper cannot be looked through for partial copies");
                    }
                }
                Task::Seal(inodes) => {
                    let rests = |inode: &Inode| {
                        let rests_for = self.union.rests_for(inode);
                        let has_rested = |after| rests_for.is_none_or(|time| time >= after);
                        upper.partials.wants_now() || after.is_some_and(has_rested)
                    };
                    let go_on = |inode: &Inode| !upper.partials.is_ended() && rests(inode);
                    let inodes: Vec<_> = inodes.into_iter().filter(|inode| rests(inode)).collect();
                    let sealed = self.union.seal(&inodes, &go_on, &mut |inode, outcome| {
                        upper.partials.note_outcome(inode, &outcome);
                    });
                    if let Err(error) = sealed {
                        tracing::warn!(%error, "partial copies cannot be sealed");
                    }
                }
            }
        }
    }

    /// Has all partial copies sealed in the background, whether they rest or not.
    pub(super) fn ask_to_seal(&self) -> Result<()> {
        let upper = self.union.writable()?;
        if upper.options.partial_min_bytes.is_none() {
            return Err(Error::Unsupported("a mount without partial copies seals none"));
        }
        upper.partials.seal_now();
        Ok(())
    }

    /// What is still to be sealed, as JSON.
    pub(super) fn seal_state(&self) -> String {
        let (waiting, looks) = match &self.union.upper {
            Some(upper) => upper.partials.state(),
            None => (0, false),
        };
        format!("{{\"waiting\":{waiting},\"looking\":{looks}}}")
    }

    /// Runs `act` on every partial copy of the upper.
    fn each_partial_copy(
        &self,
        go_on: &dyn Fn() -> bool,
        act: &mut dyn FnMut(&Arc<Inode>) -> Result<()>,
    ) -> Result<()> {
        let upper = self.union.writable()?;
        let mark = upper.space.name(mark::NAME);
        let mut pending = vec![Arc::clone(&self.union.root)];
        while let Some(dir) = pending.pop() {
            let Ok(Some(fd)) = upper.dir(&dir) else { continue };
            let open = sys::open_at(&*fd, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY);
            // One that is gone meanwhile, or that nobody here can read (rootless).
            let Ok(entries) = open.and_then(sys::list) else {
                continue;
            };
            for entry in entries {
                if !go_on() {
                    return Ok(());
                }
                let is_copy = match entry.file_type {
                    Some(FileType::Directory) => false,
                    Some(FileType::Regular) | None => {
                        // Also one that is gone meanwhile is none.
                        let of = XattrOf::Entry(fd.as_fd(), &entry.name);
                        matches!(sys::xattr(of, &mark), Ok(Some(_)))
                    }
                    Some(_) => continue,
                };
                let is_dir = matches!(entry.file_type, Some(FileType::Directory) | None);
                if !is_copy && !is_dir {
                    continue;
                }
                let Ok(node) = self.union.adopt_unasked(&dir, &entry.name) else {
                    continue;
                };
                let held = self.keep_held(node);
                let inode = &held.node().inode;
                if inode.is_dir() {
                    pending.push(Arc::clone(inode));
                } else if inode.state.read().partial {
                    act(inode)?;
                }
            }
        }
        Ok(())
    }
}

/// The thread that seals in the background.
#[derive(Debug, Default)]
pub(crate) struct Background {
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Starts the thread, where there is anything for it to do.
    pub(crate) fn start(fs: &Arc<Fs>) -> std::io::Result<Self> {
        let upper = fs.union.upper.as_ref();
        if upper.is_none_or(|upper| upper.options.partial_min_bytes.is_none()) {
            return Ok(Self::default());
        }
        let fs = Arc::clone(fs);
        let thread = std::thread::Builder::new()
            .name("sealing".to_owned())
            .spawn(move || fs.seal_at_rest())?;
        Ok(Self { thread: Some(thread) })
    }

    /// Waits until what is under way has stopped.
    pub(crate) fn finish(self, fs: &Fs) {
        if let (Some(thread), Some(upper)) = (self.thread, &fs.union.upper) {
            upper.partials.end();
            let _ = thread.join();
        }
    }
}
