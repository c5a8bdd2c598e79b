//! Files that nobody opens: where the kernel was told not to ask at open, it reads and writes by node.
//!
//! What a file was last read or written by stays open for the next request: as long as the kernel knows the file, not too
//! many others were used since, and for a second or two. So the space of a deleted file is free when its last user is gone,
//! and nothing is held busy that nobody uses.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use super::Fs;
use super::file::{FileHandle, Mode};
use crate::attr::FileType;
use crate::error::{Error, Result};
use crate::layer::Content;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::union::inode::Inode;
use crate::upper::copy_up::Depth;

/// Files kept open. A descriptor each, or two for a partial copy.
const OPEN_MAX: usize = 256;

/// What was not used for so long is closed, after as much again at most.
const IDLE: Duration = Duration::from_secs(1);

/// What was opened to serve the requests by node.
#[derive(Debug)]
pub(super) struct Unopened {
    /// Whether requests name nodes: then any file may be open without anybody having said so.
    on: AtomicBool,
    files: Mutex<Files>,
    /// For the thread that closes: something is open, or the end has come.
    wake: Condvar,
}

#[derive(Debug)]
struct Files {
    /// By node, with the time of the last use.
    open: LruCache<u64, (u64, Arc<FileHandle>)>,
    /// In units of [`IDLE`].
    now: u64,
    /// The thread that closes has nothing to do until something is open.
    waits: bool,
    ended: bool,
}

impl Default for Unopened {
    fn default() -> Self {
        let files = Files {
            open: LruCache::new(NonZeroUsize::new(OPEN_MAX).unwrap_or(NonZeroUsize::MIN)),
            now: 0,
            waits: false,
            ended: false,
        };
        Self {
            on: AtomicBool::new(false),
            files: Mutex::new(files),
            wake: Condvar::new(),
        }
    }
}

// What is closed is closed with no lock held.
impl Unopened {
    /// The kernel is about to forget the node.
    pub(super) fn close(&self, node: u64) {
        if self.on.load(Ordering::Relaxed) {
            let closed = self.files.lock().open.pop(&node);
            drop(closed);
        }
    }

    fn find(&self, node: u64, write: bool) -> Option<Arc<FileHandle>> {
        let mut files = self.files.lock();
        let now = files.now;
        let (used, open) = files.open.get_mut(&node)?;
        *used = now;
        (open.mode.write || !write).then(|| Arc::clone(open))
    }

    fn keep(&self, node: u64, open: &Arc<FileHandle>) {
        let mut files = self.files.lock();
        if std::mem::take(&mut files.waits) {
            self.wake.notify_one();
        }
        let used = files.now;
        let closed = files.open.push(node, (used, Arc::clone(open)));
        drop(files);
        drop(closed);
    }

    /// Closes what is idle until the end, for a thread of its own.
    fn close_idle(&self) {
        let mut files = self.files.lock();
        loop {
            while files.open.is_empty() && !files.ended {
                files.waits = true;
                self.wake.wait(&mut files);
            }
            if !files.ended {
                self.wake.wait_for(&mut files, IDLE);
            }
            if files.ended {
                return;
            }
            files.now += 1;
            let oldest = files.now - 1;
            let mut idle = Vec::new();
            while files.open.peek_lru().is_some_and(|(_, (used, _))| *used < oldest) {
                idle.extend(files.open.pop_lru());
            }
            drop(files);
            drop(idle);
            files = self.files.lock();
        }
    }
}

/// The thread that closes what is idle.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    thread: Option<JoinHandle<()>>,
}

impl Closing {
    /// Starts the thread, where there is anything for it to do.
    pub(crate) fn start(fs: &Arc<Fs>) -> std::io::Result<Self> {
        if !fs.opens_nothing() || fs.is_immutable() {
            return Ok(Self::default());
        }
        let fs = Arc::clone(fs);
        let thread = std::thread::Builder::new()
            .name("closing".to_owned())
            .spawn(move || fs.unopened.close_idle())?;
        Ok(Self { thread: Some(thread) })
    }

    /// Ends it.
    pub(crate) fn finish(self, fs: &Fs) {
        if let Some(thread) = self.thread {
            fs.unopened.files.lock().ended = true;
            fs.unopened.wake.notify_one();
            let _ = thread.join();
        }
    }
}

impl Fs {
    /// From here on files are read and written by their nodes, without having been opened.
    pub(crate) fn open_nothing(&self) {
        self.unopened.on.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub(crate) fn opens_nothing(&self) -> bool {
        self.unopened.on.load(Ordering::Relaxed)
    }

    /// Whether a program may have the file open.
    pub(super) fn may_be_open(&self, inode: &Inode) -> bool {
        self.opens_nothing() || inode.open_count.load(Ordering::SeqCst) > 0
    }

    /// Keeps a file just made open for the requests that will name its node.
    pub(crate) fn keep_new(&self, node: u64, file: OwnedFd) {
        if self.opens_nothing()
            && let Ok(node) = self.union.node(node)
        {
            let version = node.inode.content_version.load(Ordering::Acquire);
            let open = FileHandle::new(&node, Mode::of_new(), version, Content::File(file).into());
            self.unopened.keep(node.id, &Arc::new(open));
        }
    }

    /// Opens a regular file for a request that names its node, or finds it open.
    pub(super) fn open_by_node(&self, id: u64, write: bool) -> Result<Arc<FileHandle>> {
        if !self.opens_nothing() {
            return Err(Error::UnknownHandle(0));
        }
        if let Some(open) = self.unopened.find(id, write) {
            return Ok(open);
        }
        let node = self.union.node(id)?;
        if node.inode.file_type != FileType::Regular {
            return Err(Error::Invalid("not a regular file"));
        }
        if write {
            self.union.copy_up(&node.inode, Depth::Content)?;
        }
        let version = node.inode.content_version.load(Ordering::Acquire);
        let (data, _) = self.open_content(&node.inode, write)?;
        self.keep_orphan(&node.inode);
        let mode = Mode { write, runs: false };
        let open = Arc::new(FileHandle::new(&node, mode, version, data));
        self.unopened.keep(id, &open);
        Ok(open)
    }
}
