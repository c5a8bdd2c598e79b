//! The partial copies of an upper that are in use: one [`Partial`] for one file, however many have it open.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;

use super::mark::{self, Mark};
use super::waiting::Waiting;
use super::{Found, Merged, Partial};
use crate::attr::Attr;
use crate::error::{Doing, Error, Result};
use crate::sys::{self, XattrOf};
use crate::union::Union;
use crate::union::inode::Inode;
use crate::upper::Upper;

/// So many stay open when nobody has them open any more: asking a file for its blocks takes time.
const RECENT_MAX: usize = 16;

/// Dead entries are taken out when there are twice as many entries as after the last time, but not below this.
const SWEEP_MIN: usize = 64;

/// The partial copies of one upper.
#[derive(Debug)]
pub(crate) struct Partials {
    open: Mutex<Open>,
    /// Copies that are to be sealed.
    pub(super) waiting: Mutex<Waiting>,
    pub(super) wake: Condvar,
    /// The size of blocks, once the file system was tried.
    pub(super) fitness: OnceLock<Option<u64>>,
    /// By device of a layer: whether the upper can share its blocks.
    pub(super) sharing: Mutex<HashMap<u64, bool>>,
}

#[derive(Debug)]
struct Open {
    /// By number in the upper: an open file keeps its number.
    all: HashMap<u64, Weak<Partial>>,
    recent: LruCache<u64, Arc<Partial>>,
    sweep_at: usize,
}

impl Default for Partials {
    fn default() -> Self {
        Self {
            open: Mutex::new(Open {
                all: HashMap::new(),
                recent: LruCache::new(NonZeroUsize::new(RECENT_MAX).unwrap_or(NonZeroUsize::MIN)),
                sweep_at: SWEEP_MIN,
            }),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            fitness: OnceLock::new(),
            sharing: Mutex::default(),
        }
    }
}

impl Partials {
    pub(crate) fn get(&self, upper_ino: u64) -> Option<Arc<Partial>> {
        self.open.lock().all.get(&upper_ino)?.upgrade()
    }

    fn insert(&self, upper_ino: u64, partial: &Arc<Partial>) {
        let mut open = self.open.lock();
        open.all.insert(upper_ino, Arc::downgrade(partial));
        let dropped = open.recent.push(upper_ino, Arc::clone(partial));
        if open.all.len() >= open.sweep_at {
            open.all.retain(|_, partial| partial.strong_count() > 0);
            open.sweep_at = (2 * open.all.len()).max(SWEEP_MIN);
        }
        drop(open);
        // It may close here, with no lock held.
        drop(dropped);
    }

    /// Closes a file as soon as nobody has it open: it was deleted, or is whole.
    pub(crate) fn let_go(&self, upper_ino: u64) {
        let dropped = self.open.lock().recent.pop(&upper_ino);
        drop(dropped);
    }
}

impl Union {
    /// The partial copy that `inode` is; `None` when it is none. With nobody else holding `Inode::copying`.
    pub(crate) fn partial_of(&self, inode: &Arc<Inode>) -> Result<Option<Arc<Partial>>> {
        if let Some(known) = self.known_partial(inode) {
            return Ok(Some(known));
        }
        if !inode.state.read().partial {
            return Ok(None);
        }
        let _copying = inode.copying.lock();
        self.open_partial(inode)
    }

    /// The same with `Inode::copying` held.
    pub(crate) fn open_partial(&self, inode: &Arc<Inode>) -> Result<Option<Arc<Partial>>> {
        if let Some(known) = self.known_partial(inode) {
            return Ok(Some(known));
        }
        if !inode.state.read().partial {
            return Ok(None);
        }
        let upper = self.writable()?;
        let file = upper.open_file(inode, OFlags::RDWR)?;
        let (mark, attr) = upper.partial_mark(&file)?;
        let space = sys::space(&file).doing("read space of upper")?;
        let partial = Arc::new(Partial::open(Found {
            file,
            below: self.content_of(inode)?,
            mark,
            mark_name: upper.space.name(mark::NAME),
            block_bytes: space.block_bytes,
        })?);
        upper.use_partial(inode, attr.ino, &partial);
        Ok(Some(partial))
    }

    /// The content of a partial copy that this server may only read.
    pub(crate) fn read_partial(&self, inode: &Arc<Inode>) -> Result<Merged> {
        let upper = self.writable()?;
        let file = upper.open_file(inode, OFlags::RDONLY)?;
        Merged::new(file, self.content_of(inode)?, upper.space)
    }

    pub(super) fn known_partial(&self, inode: &Inode) -> Option<Arc<Partial>> {
        let number = {
            let state = inode.state.read();
            state.upper.filter(|_| state.partial)?
        };
        self.upper.as_ref()?.partials.get(number)
    }

    /// Runs `act`, which looks at the times of a file or sets them, while nothing is filled in to it.
    pub(crate) fn while_still<T>(&self, inode: &Inode, act: impl FnOnce() -> T) -> T {
        match self.known_partial(inode) {
            Some(partial) => partial.while_still(act),
            None => act(),
        }
    }
}

impl Upper {
    /// From here on this is what everybody has of the copy `number` who opens it.
    pub(crate) fn use_partial(&self, inode: &Arc<Inode>, number: u64, partial: &Arc<Partial>) {
        self.partials.insert(number, partial);
        self.partials.expect(inode);
    }

    /// The mark and the attributes of an open partial copy.
    pub(crate) fn partial_mark(&self, file: &OwnedFd) -> Result<(Mark, Attr)> {
        use std::os::fd::AsFd;
        let attr = sys::stat_fd(file).doing("read attributes of partial copy")?;
        let name = self.space.name(mark::NAME);
        let value = sys::xattr(XattrOf::Fd(file.as_fd()), &name).doing("read mark of partial copy")?;
        let value = value.ok_or(Error::Damaged("a partial copy without its mark"))?;
        Ok((Mark::parse(&value, attr.ino)?, attr))
    }
}
