//! Filling partial copies in, until they are whole.
//!
//! ```text
//! all blocks there ─► synced ─► metacopy gone ─► redirect gone ─► mark gone
//!                             └─ from here on the copy is whole, for everybody
//! ```
//!
//! What was written before and what was filled in is on the disk before the first mark goes. What is written after the
//! last block came to be there only overwrites blocks that are on the disk.
//!
//! What is below is read without a lock, and put into the copy in small pieces, each with the file's lock and with its
//! time of modification put back before the lock goes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, FlockOperation};
use rustix::io::Errno;

use super::blocks::Place;
use super::{Partial, index};
use crate::error::{Doing, Error, Result};
use crate::sys::{self, SetTime};
use crate::union::Union;
use crate::union::inode::Inode;
use crate::union::lowers::Lowers;
use crate::upper::Upper;

/// Read at a time from below.
const READ_BYTES: u64 = 1 << 20;

/// Written at a time, with the file's lock held: some ten microseconds.
const LOCKED_BYTES: usize = 128 << 10;

/// Between two syncs, so that no flood of dirty pages makes other writers wait.
const SYNC_BYTES: u64 = 32 << 20;

/// From so many copies on, one sync of the whole file system takes less time than one for each.
const SYNC_TOGETHER_MIN: usize = 8;

/// So much space is left free.
const LEAVE_FREE_BYTES: u64 = 64 << 20;

/// What became of a copy that was to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// It is whole, or was no partial copy.
    Whole,
    /// It stays as it is for now: the caller wanted to stop, somebody reads it, or it changed at the last moment.
    NotYet,
    /// It has no name any more.
    Deleted,
    /// There is not enough space.
    NoSpace,
}

/// Why a copy stays partial.
enum Unsealed {
    For(Sealed),
    Failed(Error),
}

impl From<Error> for Unsealed {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) enum Filled {
    Everything,
    UpTo(u64),
    Locked,
}

impl Partial {
    /// As much as is absent: what is past the length needs nothing.
    fn absent(&self, from: u64) -> Option<Range<u64>> {
        let limit = self.limit();
        self.blocks.absent(from, self.size_bytes().min(limit), limit)
    }

    /// How many bytes are absent.
    pub(crate) fn absent_bytes(&self) -> u64 {
        let (mut at, mut sum) = (0, 0);
        while let Some(absent) = self.absent(at) {
            sum += absent.end - absent.start;
            at = absent.end;
        }
        sum
    }

    /// Puts what was read from below into the blocks that are still absent. `start` is that of a block. With `filling`
    /// and `length` held.
    pub(super) fn put(&self, bytes: &mut [u8], start: u64) -> Result<()> {
        let limit = self.limit();
        if let Some(past) = bytes.get_mut(index(limit.saturating_sub(start))..) {
            past.fill(0);
        }
        let end = self.size_bytes().min(start + bytes.len() as u64);
        let mut data: Option<Range<u64>> = None;
        let mut at = start;
        while at < end {
            let to = self.blocks.end_of(at).min(end);
            let is_absent = self.blocks.piece(at, to, limit).0 != Place::Upper;
            let is_zero = bytes[index(at - start)..index(to - start)]
                .iter()
                .all(|byte| *byte == 0);
            match (&mut data, is_absent && !is_zero) {
                (Some(data), true) => data.end = to,
                (none, true) => *none = Some(at..to),
                (some, false) => {
                    if let Some(data) = some.take() {
                        self.put_data(bytes, start, data)?;
                    }
                    if is_absent {
                        // A hole is zeros here and below.
                        self.blocks.set(at..to);
                    }
                }
            }
            at = to;
        }
        data.map_or(Ok(()), |data| self.put_data(bytes, start, data))
    }

    fn put_data(&self, bytes: &[u8], start: u64, data: Range<u64>) -> Result<()> {
        let part = &bytes[index(data.start - start)..index(data.end - start)];
        match self.write_whole(part, data.start) {
            (_, None) => Ok(()),
            (_, Some(error)) => Err(error).doing("fill in partial copy"),
        }
    }

    /// Fills in some of what is absent at or after `from`.
    pub(super) fn fill_some(&self, from: u64, buffer: &mut Vec<u8>) -> Result<Filled> {
        let Some(absent) = self.absent(from) else {
            return Ok(Filled::Everything);
        };
        if fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Ok(Filled::Locked);
        }
        let end = absent.end.min(absent.start + READ_BYTES);
        buffer.resize(index(end - absent.start), 0);
        let mut result = self.read_below(buffer, absent.start);
        let mut at = absent.start;
        for part in buffer.chunks_mut(LOCKED_BYTES) {
            result = result.and_then(|()| self.put_quietly(part, at));
            at += part.len() as u64;
        }
        let _ = fs::flock(&self.file, FlockOperation::Unlock);
        result.map(|()| Filled::UpTo(end))
    }

    /// As [`Partial::put`], for who holds no lock.
    fn put_quietly(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let _filling = self.filling.lock();
        self.put_keeping_time(bytes, at)
    }

    /// Filling in is no modification. With `filling` held.
    pub(super) fn put_keeping_time(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let _alone = self.length.write();
        let before = sys::stat_fd(&self.file).doing("read times of partial copy")?;
        let result = self.put(bytes, at);
        sys::set_times(&self.file, SetTime::Keep, SetTime::At(before.mtime)).doing("set times of copy")?;
        result
    }

    /// Fills in all that is absent, as long as `go_on` says so. Not all of it is on the disk then.
    fn fill(&self, volatile: bool, go_on: &dyn Fn() -> bool) -> Result<Sealed> {
        let mut buffer = Vec::new();
        let (mut at, mut dirty) = (0, 0);
        loop {
            if !go_on() {
                return Ok(Sealed::NotYet);
            }
            match self.fill_some(at, &mut buffer)? {
                Filled::Everything => return Ok(Sealed::Whole),
                Filled::Locked => return Ok(Sealed::NotYet),
                Filled::UpTo(end) => {
                    dirty += buffer.len() as u64;
                    at = end;
                }
            }
            if dirty >= SYNC_BYTES && !volatile {
                self.sync(true)?;
                dirty = 0;
            }
        }
    }
}

impl Union {
    /// Makes partial copies whole, each as long as `go_on` says so, and tells what became of it. They reach the disk
    /// together.
    pub(crate) fn seal(
        &self,
        inodes: &[Arc<Inode>],
        go_on: &dyn Fn(&Inode) -> bool,
        tell: &mut dyn FnMut(&Inode, Result<Sealed>),
    ) -> Result<()> {
        let upper = self.writable()?;
        let mut filled = Vec::new();
        for inode in inodes {
            match self.fill_to_seal(upper, inode, &|| go_on(inode)) {
                Ok(Some(partial)) => filled.push((inode, partial)),
                Ok(None) => tell(inode, Ok(Sealed::Whole)),
                Err(Unsealed::For(reason)) => tell(inode, Ok(reason)),
                Err(Unsealed::Failed(error)) => tell(inode, Err(error)),
            }
        }
        let is_synced = upper.options.volatile
            || (filled.len() >= SYNC_TOGETHER_MIN && sys::retry(|| fs::syncfs(&*upper.root)).is_ok());
        for (inode, partial) in filled {
            let synced = if is_synced { Ok(()) } else { partial.sync(true) };
            let sealed = synced.and_then(|()| {
                let _copying = inode.copying.lock();
                self.unmark(upper, inode, &partial)
            });
            tell(inode, sealed);
        }
        Ok(())
    }

    /// The copy with all blocks there; `None` when it was whole already.
    fn fill_to_seal(
        &self,
        upper: &Upper,
        inode: &Arc<Inode>,
        go_on: &dyn Fn() -> bool,
    ) -> std::result::Result<Option<Arc<Partial>>, Unsealed> {
        if inode.state.read().links.is_empty() {
            return Err(Unsealed::For(Sealed::Deleted));
        }
        let Some(partial) = self.partial_of(inode)? else {
            return Ok(None);
        };
        let free = sys::space(&upper.root).doing("read space of upper")?;
        let free = free.blocks_available.saturating_mul(free.fragment_bytes);
        if free < partial.absent_bytes().saturating_add(LEAVE_FREE_BYTES) {
            return Err(Unsealed::For(Sealed::NoSpace));
        }
        match partial.fill(upper.options.volatile, go_on) {
            Ok(Sealed::Whole) => Ok(Some(partial)),
            Ok(reason) => Err(Unsealed::For(reason)),
            Err(Error::Os {
                source: Errno::NOSPC | Errno::DQUOT,
                ..
            }) => Err(Unsealed::For(Sealed::NoSpace)),
            Err(error) => Err(Unsealed::Failed(error)),
        }
    }

    /// Makes a partial copy whole at once, for somebody who writes to it where there are to be none. With
    /// `Inode::copying` held.
    pub(crate) fn fill_in_partial(&self, upper: &Upper, inode: &Arc<Inode>, partial: &Partial) -> Result<()> {
        loop {
            partial.fill_at_once(upper.options.volatile)?;
            if self.unmark(upper, inode, partial)? != Sealed::NotYet {
                return Ok(());
            }
        }
    }

    /// Takes the marks of a copy away that is whole and on the disk. With `Inode::copying` held.
    fn unmark(&self, upper: &Upper, inode: &Arc<Inode>, partial: &Partial) -> Result<Sealed> {
        if !inode.state.read().partial {
            return Ok(Sealed::Whole);
        }
        let _filling = partial.filling.lock();
        let _alone = partial.length.write();
        if partial.absent(0).is_some() {
            return Ok(Sealed::NotYet);
        }
        upper.remove_mark(&partial.file, "metacopy")?;
        partial.leave(upper, inode);
        Ok(Sealed::Whole)
    }

    /// Empties a partial copy, which is then whole. With `Inode::copying` held.
    pub(crate) fn empty_partial(&self, upper: &Upper, inode: &Arc<Inode>, partial: &Partial) -> Result<()> {
        let _filling = partial.filling.lock();
        let _alone = partial.length.write();
        partial.note_change();
        sys::retry(|| fs::ftruncate(&partial.file, 0)).doing("empty copy")?;
        partial.note_size()?;
        if !upper.options.volatile {
            partial.sync(true)?;
        }
        upper.remove_mark(&partial.file, "metacopy")?;
        partial.limit.store(0, Ordering::Release);
        partial.leave(upper, inode);
        Ok(())
    }
}

impl Partial {
    /// The copy is whole, since it is no metadata-only copy any more. What else is to be done cannot undo that.
    fn leave(&self, upper: &Upper, inode: &Arc<Inode>) {
        for mark in ["redirect", super::mark::NAME] {
            if let Err(error) = upper.remove_mark(&self.file, mark) {
                tracing::warn!(mark, %error, "a mark without meaning stays on a copy");
            }
        }
        self.marked.store(false, Ordering::Release);
        {
            let mut state = inode.state.write();
            state.metadata_only = false;
            state.partial = false;
            state.lowers = Lowers::None;
        }
        upper.copies.note();
        inode.content_version.fetch_add(1, Ordering::Release);
        upper.partials.let_go(self.ino);
        upper.partials.expect_no_more(inode);
    }

    /// Fills in whoever reads it meanwhile.
    pub(super) fn fill_at_once(&self, volatile: bool) -> Result<()> {
        let mut buffer = Vec::new();
        while let Some(absent) = self.absent(0) {
            let end = absent.end.min(absent.start + READ_BYTES);
            buffer.resize(index(end - absent.start), 0);
            self.read_below(&mut buffer, absent.start)?;
            self.put_quietly(&mut buffer, absent.start)?;
        }
        if volatile { Ok(()) } else { self.sync(true) }
    }
}
