//! The kernel's side: decodes a request, calls [`crate::fs`], replies. No policy lives here but that of caching.
//!
//! A mount is the only one that changes its upper, so the kernel may keep names, attributes and absence for as long
//! as it likes: it hears of every change because it asked for it.

mod again;
mod ahead;
mod backing;
mod convert;
mod counted;
mod ends;
pub mod fuzzing;
mod gate;
pub mod handover;
mod nearness;
mod opening;
pub mod options;
mod requests;
pub mod session;
pub mod supervisor;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahead::{Ahead, Giver};
use convert::{errno, file_attr};
use ends::Ends;
use fuser::{Generation, INodeNo, InitFlags, KernelConfig, ReplyEmpty, ReplyEntry, ReplyXattr, Request};

use crate::error::Result;
use crate::fs::{End, Fs, NewNode, Owner};

/// Requests the kernel may have under way in the background (read-ahead).
const BACKGROUND_MAX: u16 = 64;

/// The largest write or read in one request: the kernel's default limit of 256 pages.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// How the mount behaves towards the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// How long the kernel may keep names and attributes.
    pub timeout: Duration,
    /// Let the kernel check and inherit POSIX ACLs.
    pub acl: bool,
    /// Have the kernel open files without asking, so that a file in its cache costs no request. Such files are not
    /// passed through.
    pub skip_open: bool,
    /// Where it asks at open: let it read and write files itself where it can.
    pub passthrough: bool,
    /// Where it does not ask: let it keep what is written until the file is closed or synced, or for some seconds.
    pub writeback: bool,
}

/// The adapter between the FUSE library and [`Fs`].
pub(crate) struct Adapter {
    fs: Arc<Fs>,
    behaviour: Behaviour,
    can_pass: AtomicBool,
    can_skip_opendir: bool,
    /// The kernel keeps for a while what is written.
    keeps_writes: bool,
    /// Where nothing can change: the way to what is read ahead.
    ahead: Option<Ahead>,
    ends: Ends,
    /// The way to tell the kernel what it did not ask for, once it is there.
    notifier: Arc<OnceLock<fuser::Notifier>>,
    /// The device, where backings outlive this server.
    device: Option<Arc<OwnedFd>>,
}

impl Adapter {
    /// An adapter, and what gives the kernel contents ahead of their reading, where that can be done.
    pub(crate) fn new(fs: Arc<Fs>, behaviour: Behaviour) -> (Self, Option<Giver>) {
        let reads_ahead = behaviour.skip_open && fs.is_immutable();
        let (ahead, giver) = reads_ahead.then(|| ahead::pair(&fs)).unzip();
        let adapter = Self {
            fs,
            behaviour,
            can_pass: AtomicBool::new(false),
            can_skip_opendir: false,
            keeps_writes: false,
            ahead,
            ends: Ends::default(),
            notifier: Arc::default(),
            device: None,
        };
        (adapter, giver)
    }

    /// Where the notifier of the session is to be put before the first request is answered.
    pub(crate) fn notifier(&self) -> Arc<OnceLock<fuser::Notifier>> {
        Arc::clone(&self.notifier)
    }

    /// Lets backings be found again by the next server.
    pub(crate) fn keep_backings(&mut self, device: &Arc<OwnedFd>) {
        self.device = Some(Arc::clone(device));
    }

    fn negotiate(&mut self, config: &mut KernelConfig) {
        let mut has = |feature| config.add_capabilities(feature).is_ok();
        let skips_open = self.behaviour.skip_open && has(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.keeps_writes = skips_open && self.behaviour.writeback && has(InitFlags::FUSE_WRITEBACK_CACHE);
        self.can_skip_opendir = has(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_EXPORT_SUPPORT;
        if self.behaviour.acl {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        if skips_open {
            // Whether set-id bits must go is then said with each write, and the kernel need not ask for capabilities.
            wanted |= InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        } else {
            // Where there is no open, the kernel empties files by SETATTR.
            wanted |= InitFlags::FUSE_ATOMIC_O_TRUNC;
        }
        for flag in wanted.iter() {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::debug!(?missing, "the kernel does not offer a FUSE feature");
            }
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        if skips_open {
            self.fs.open_nothing();
        } else if self.behaviour.passthrough && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
            let _ = config.set_max_stack_depth(1);
            self.can_pass.store(true, Ordering::Relaxed);
        }
        tracing::debug!(abi = %config.kernel_abi(), passthrough = self.can_pass.load(Ordering::Relaxed), "negotiated");
    }

    fn ttl(&self) -> Duration {
        self.behaviour.timeout
    }

    fn reply_entry(&self, result: Result<crate::fs::Entry>, reply: ReplyEntry) {
        match result {
            Ok(entry) => reply.entry(&self.ttl(), &file_attr(&entry.attr), Generation(0)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// The entries of a directory changed. To be called before that is answered.
    fn dir_changed(&self, dir: INodeNo) {
        if self.fs.was_told(dir.0) {
            self.attributes_changed(dir);
        }
    }

    /// Has the kernel ask for attributes again. To be called before an answer lets it go on.
    fn attributes_changed(&self, node: INodeNo) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(node, -1, 0)
        {
            tracing::debug!(%node, %error, "attributes may be kept too long");
        }
    }

    /// Answers who lists a directory, when the kernel has forgotten what it must not keep.
    fn after(&self, dir: INodeNo, end: Option<End>, answer: impl FnOnce() + Send + 'static) {
        match self.notifier.get() {
            Some(notifier) if end == Some(End::Passing) => self.ends.answer(notifier, dir, answer),
            _ => answer(),
        }
    }

    fn make(
        &self,
        request: &Request,
        at: (INodeNo, &OsStr),
        new: NewNode<'_>,
        owner: Owner,
        reply: ReplyEntry,
    ) {
        let (parent, name) = at;
        let made = self.fs.make(parent.0, name, new, owner).map(|(entry, file)| {
            if let Some(file) = file {
                self.fs.keep_new(entry.node, file);
            }
            entry
        });
        self.dir_changed(parent);
        self.reply_entry(self.unless_made_before(request, (parent.0, name), made), reply);
    }
}

fn answer(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers with the length when the caller only asks for it, with the value when it fits.
fn reply_xattr(result: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}
