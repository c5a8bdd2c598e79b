//! Opening files: how the kernel is to do I/O on them, and what must be let go of when they are closed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{
    BackingId, FileHandle, FopenFlags, Generation, INodeNo, OpenFlags, ReplyCreate, ReplyOpen, Request,
};
use rustix::fs::OFlags;

use super::Adapter;
use super::again::number;
use super::backing::Lent;
use super::convert::{errno, file_attr};
use crate::error::{Error, Result};
use crate::fs::{NewNode, OpenFile, Opened, Owner};
use crate::io_mode::{Backing, Choice};
use crate::sys;

impl Adapter {
    /// Where nothing is to be opened, the kernel is told once that it need not ask.
    pub(super) fn answer_open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.fs.opens_nothing() {
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.close_unanswered(request);
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        let opened = match self.fs.open_file(node.0, flags, request.uid() == 0) {
            Ok(opened) => opened,
            Err(error) => return reply.error(errno(&error)),
        };
        match self.choose_mode(&opened, |file| reply.open_backing(file)) {
            Ok((flags, backing)) => {
                self.fs.note_open(opened.handle, number(request));
                let wrap = |kept: &sys::fuse::Backing| sys::fuse::lent_to_open(&reply, kept);
                match backing.as_deref().and_then(|backing| Lent::of(backing, wrap)) {
                    Some(lent) => reply.opened_passthrough(FileHandle(opened.handle), flags, lent.id()),
                    None => reply.opened(FileHandle(opened.handle), flags),
                }
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn answer_create(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        owner: Owner,
        reply: ReplyCreate,
    ) {
        // The kernel then makes the file first.
        if self.fs.opens_nothing() {
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.close_unanswered(request);
        let made = self
            .fs
            .make(parent.0, name, NewNode::File, owner)
            .and_then(|(entry, file)| {
                let file = file.ok_or(Error::Damaged("a new file was not opened"))?;
                Ok((entry, self.fs.open_new(entry.node, file)?))
            });
        self.dir_changed(parent);
        let made = self.unless_created_before(request, (parent.0, name), made);
        let (entry, opened) = match made {
            Ok(made) => made,
            Err(error) => return reply.error(errno(&error)),
        };
        let attr = file_attr(&entry.attr);
        let handle = FileHandle(opened.handle);
        match self.choose_mode(&opened, |file| reply.open_backing(file)) {
            Ok((flags, backing)) => {
                self.fs.note_open(opened.handle, number(request));
                let wrap = |kept: &sys::fuse::Backing| sys::fuse::lent_to_create(&reply, kept);
                match backing.as_deref().and_then(|backing| Lent::of(backing, wrap)) {
                    Some(lent) => {
                        let (ttl, generation) = (self.ttl(), Generation(0));
                        reply.created_passthrough(&ttl, &attr, generation, handle, flags, lent.id());
                    }
                    None => reply.created(&self.ttl(), &attr, Generation(0), handle, flags),
                }
            }
            Err(error) => {
                self.fs.forget(entry.node, 1);
                reply.error(errno(&error));
            }
        }
    }

    /// Whether set-id bits must go when this caller changes a file and the request does not say so: what the kernel leaves to
    /// us (FUSE_HANDLE_KILLPRIV_V2 of fuse.h), with root standing for those who have CAP_FSETID.
    pub(super) fn looks_after_set_id(&self, request: &Request) -> bool {
        self.fs.opens_nothing() && request.uid() != 0
    }

    pub(super) fn drop_set_id_for(&self, request: &Request, node: INodeNo, file: OpenFile) -> Result<()> {
        if self.looks_after_set_id(request) {
            self.drop_set_id(node, file)?;
        }
        Ok(())
    }

    pub(super) fn drop_set_id(&self, node: INodeNo, file: OpenFile) -> Result<()> {
        if self.fs.drop_set_id(file)? {
            self.attributes_changed(node);
        }
        Ok(())
    }

    pub(super) fn close(&self, handle: u64) {
        if let Some(node) = self.fs.release(handle) {
            let mut io = node.io.lock();
            let unused = io.close();
            if unused.is_some() {
                // With the lock: whoever opens it next may note another one.
                self.fs.note_backing(node.id, None);
            }
            drop(io);
            drop(unused);
        }
    }

    /// Chooses the I/O mode of a file just opened. `register` makes a backing of a descriptor. On an error the file is
    /// closed again.
    fn choose_mode(
        &self,
        opened: &Opened,
        register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> Result<(FopenFlags, Option<Arc<dyn Backing>>)> {
        let node = self.fs.node_of(opened.handle)?;
        let mut wish = opened.wish;
        wish.can_pass &= self.can_pass.load(Ordering::Relaxed) && opened.file.is_some();
        let mut io = node.io.lock();
        let choice = match (io.choose(wish), &opened.file) {
            (Choice::Register, Some(file)) => match register(file) {
                Ok(backing) => {
                    let backing: Arc<dyn Backing> = match &self.device {
                        Some(device) => {
                            let kept = sys::fuse::Backing::new(device, backing.into_raw());
                            self.fs.note_backing(node.id, Some((kept.id(), wish.side)));
                            Arc::new(kept)
                        }
                        None => Arc::new(backing),
                    };
                    io.passing(wish.side, Arc::clone(&backing));
                    Choice::PassTo(backing)
                }
                Err(error) => {
                    self.note_refusal(&error);
                    io.cached()
                }
            },
            (choice, _) => choice,
        };
        drop(io);
        match choice {
            Choice::Cached { keep } => {
                let keep = if keep {
                    FopenFlags::FOPEN_KEEP_CACHE
                } else {
                    FopenFlags::empty()
                };
                Ok((keep | FopenFlags::FOPEN_NOFLUSH, None))
            }
            Choice::PassTo(backing) => Ok((
                FopenFlags::FOPEN_PASSTHROUGH | FopenFlags::FOPEN_NOFLUSH,
                Some(backing),
            )),
            Choice::Stale | Choice::Register => {
                self.fs.leave_behind(&node);
                self.fs.release(opened.handle);
                Err(Error::Stale)
            }
        }
    }

    /// A refusal for lack of rights holds for the whole mount; one for a file (its file system is itself stacked)
    /// for that file.
    fn note_refusal(&self, error: &io::Error) {
        tracing::debug!(%error, "a file cannot be passed through");
        if matches!(
            error.raw_os_error(),
            Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOTTY)
        ) {
            self.can_pass.store(false, Ordering::Relaxed);
        }
    }
}
