//! Sub-file copy-on-write: copies that hold only the blocks that were written.
//!
//! ```text
//! upper's file   ▓▓▓▓░░░░▓▓░░░░░░░░▓▓   ▓ data   ░ hole: not there, read from below
//! content below  ──────────────────┤limit
//! mark           overlay.metacopy, overlay.redirect as on any metadata-only copy, and overlay.shale.partial
//! ```
//!
//! The holes of the file say which blocks are not there. So there is nothing beside the file to be kept in step with
//! it: after `kill -9` the page cache knows, after a power loss the file system, which commits no block before its data.
//! What follows from it:
//!
//! - Only whole blocks are written. A write that covers a part of an absent block brings the rest from below with it.
//! - A hole cannot be made where the content below counts: zeros are written instead. Space is not reserved there
//!   before it is filled from below.
//! - A write that fails in absent blocks may leave zeros in them: they are made holes again.
//!
//! The server alone changes its upper, so it asks once and then keeps a bit for each block.
//!
//! Order of locks: `Inode::copying`, then `filling`, then `length`, then `Inode::state`. Reads take none of them.
//! `filling` is held to make absent blocks present; `length` is shared by writers within the length, and held alone to
//! change it. Who asks for attributes shares it too, so nothing is read from below while it is held alone: what is
//! needed is filled in before. Readers see lengths and the limit in the order in which they are changed: the limit is
//! lowered before the length grows, and read after it.

mod allocate;
mod blocks;
pub(crate) mod mark;
pub(crate) mod merged;
mod probe;
pub(crate) mod seal;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod waiting;

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{self, FallocateFlags, XattrFlags};
use rustix::io::Errno;

use blocks::{Blocks, Place};
use mark::Mark;
pub use merged::Merged;
use merged::from_io;
pub(crate) use table::Partials;

use crate::error::{Doing, Error, Result};
use crate::layer::Content;
use crate::sync::{Mutex, RwLock};
use crate::sys;

/// From this length on a file is copied up block by block: any that is not empty, since a whole copy must be on the disk
/// before it takes the place of the file, and the sync for that takes longer than all the rest.
pub(crate) const MIN_BYTES: u64 = 1;

/// From this length on a copy that shares its blocks is better still: what it saves later is worth the sync.
pub(crate) const SHARED_MIN_BYTES: u64 = 256 << 10;

/// With less free space than what is to be written and this, absent blocks are written one by one: one block fits or
/// does not, where a stretch of them that does not fit leaves zeros behind.
const SPARE_BYTES: u64 = 16 << 20;

/// A partial copy of the upper, in use.
#[derive(Debug)]
pub(crate) struct Partial {
    file: OwnedFd,
    ino: u64,
    below: Content,
    blocks: Blocks,
    filling: Mutex<()>,
    length: RwLock<()>,
    size: AtomicU64,
    limit: AtomicU64,
    /// Cleared when the copy is whole and its marks are gone.
    marked: AtomicBool,
    /// The full name of the mark.
    mark: OsString,
    /// When it was last written to, since it was opened here.
    changed: Mutex<Option<Instant>>,
}

/// A copy just found, about to be opened.
pub(crate) struct Found {
    /// Open for reading and writing.
    pub(crate) file: OwnedFd,
    pub(crate) below: Content,
    pub(crate) mark: Mark,
    /// The full name of the mark.
    pub(crate) mark_name: OsString,
    pub(crate) block_bytes: u64,
}

impl Partial {
    /// A copy of which nothing is there yet, as long as what is below.
    pub(crate) fn fresh(found: Found) -> Self {
        let limit = found.mark.limit;
        let blocks = Blocks::none(found.block_bytes, limit);
        Self::new(found, limit, blocks)
    }

    /// Asks the file which blocks are there.
    pub(crate) fn open(found: Found) -> Result<Self> {
        let Found { file, mark, .. } = &found;
        let attr = sys::stat_fd(file).doing("read attributes of partial copy")?;
        let blocks = Blocks::none(found.block_bytes, mark.limit);
        let end = attr.size_bytes.min(mark.limit);
        let mut at = 0;
        while let Some(data) = sys::data_from(file, at, end).doing("look for blocks of partial copy")? {
            let is_whole = |at| blocks.start_of(at) == at;
            if !is_whole(data.start) || !(is_whole(data.end) || data.end == end) {
                return Err(Error::Damaged("a partial copy with parts of blocks"));
            }
            at = data.end;
            blocks.set(data);
        }
        Ok(Self::new(found, attr.size_bytes, blocks))
    }

    fn new(found: Found, size_bytes: u64, blocks: Blocks) -> Self {
        Self {
            file: found.file,
            ino: found.mark.ino,
            below: found.below,
            blocks,
            filling: Mutex::default(),
            length: RwLock::default(),
            size: AtomicU64::new(size_bytes),
            limit: AtomicU64::new(found.mark.limit),
            marked: AtomicBool::new(true),
            mark: found.mark_name,
            changed: Mutex::default(),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    fn note_change(&self) {
        *self.changed.lock() = Some(Instant::now());
    }

    /// How long ago it was written to; `None` when it was not since it was opened here.
    pub(crate) fn rests_for(&self) -> Option<Duration> {
        self.changed.lock().map(|at| at.elapsed())
    }

    /// Runs `act` while nothing is filled in, so that no time of that is seen or lost.
    pub(crate) fn while_still<T>(&self, act: impl FnOnce() -> T) -> T {
        let _shared = self.length.read();
        act()
    }

    /// Reads into `buffer`; fewer bytes than it holds only at the end of the file.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        // In this order: see the head of the module.
        let size = self.size_bytes();
        let limit = self.limit();
        let end = size.min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let (place, to) = self.blocks.piece(at, end, limit);
            let part = &mut buffer[index(at - offset)..index(to - offset)];
            match place {
                Place::Upper => {
                    let read = sys::read_fully(&self.file, part, at).doing("read partial copy")?;
                    if read < part.len() {
                        // Cut short meanwhile.
                        at += read as u64;
                        break;
                    }
                }
                Place::Below => self.read_below(part, at)?,
                Place::Zeros => part.fill(0),
            }
            at = to;
        }
        Ok(index(at.saturating_sub(offset)))
    }

    /// The content below the limit, as if nothing had been written.
    fn read_below(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        let counts = index(self.limit().saturating_sub(at)).min(buffer.len());
        let read = self
            .below
            .read_at(&mut buffer[..counts], at)
            .map_err(|error| from_io("read content below", &error))?;
        zero_past(buffer, read);
        Ok(())
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Writes all of `data`, or as much as fits: an error only when nothing was written.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<usize> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(Errno::FBIG).doing("write file")?;
        self.note_change();
        {
            let _shared = self.length.read();
            if end <= self.size_bytes() && self.blocks.hold(offset, end, self.limit()) {
                return answered(sys::write_fully(&self.file, data, offset));
            }
        }
        let _filling = self.filling.lock();
        if end <= self.size_bytes() {
            let _shared = self.length.read();
            return answered(self.write_blocks(data, offset));
        }
        self.fill_edge(offset)?;
        let _alone = self.length.write();
        self.prepare_growth()?;
        let written = self.write_blocks(data, offset);
        self.note_size()?;
        answered(written)
    }

    /// Sets the length.
    pub(crate) fn set_size(&self, size: u64) -> Result<()> {
        self.note_change();
        let _filling = self.filling.lock();
        let _alone = self.length.write();
        if size > self.size_bytes() {
            self.prepare_growth()?;
        }
        sys::retry(|| fs::ftruncate(&self.file, size)).doing("set length")?;
        self.note_size()
    }

    /// Before the file becomes longer: what it was cut of must not come back. At this moment that changes nothing, since
    /// nothing lies past the length.
    fn prepare_growth(&self) -> Result<()> {
        let size = self.size_bytes();
        if size >= self.limit() {
            return Ok(());
        }
        if self.marked.load(Ordering::Acquire) {
            let value = Mark {
                limit: size,
                ino: self.ino,
            }
            .value();
            sys::set_xattr(&self.file, &self.mark, &value, XattrFlags::empty())
                .doing("set mark of partial copy")?;
        }
        self.limit.store(size, Ordering::Release);
        Ok(())
    }

    /// Takes the length from the file, which may have grown less than was wanted.
    fn note_size(&self) -> Result<()> {
        let attr = sys::stat_fd(&self.file).doing("read length")?;
        self.size.store(attr.size_bytes, Ordering::Release);
        Ok(())
    }

    /// Writes where some blocks may be absent. Answers how much was written, and what ended it.
    fn write_blocks(&self, data: &[u8], offset: u64) -> (usize, Option<Errno>) {
        let end = offset + data.len() as u64;
        let content_end = end.max(self.size_bytes());
        let mut at = offset;
        while at < end {
            let limit = self.limit();
            let (place, mut to) = self.blocks.piece(at, end, limit);
            if place != Place::Upper {
                // The whole stretch of absent blocks, whatever is below them.
                to = self
                    .blocks
                    .absent(at, end, limit)
                    .map_or(self.blocks.end_of(at), |absent| absent.end)
                    .min(end);
                // Blocks that are written only in part come alone.
                let last = self.blocks.start_of(to);
                if self.blocks.start_of(at) != at {
                    to = to.min(self.blocks.end_of(at));
                } else if to != last && to != content_end && last > at {
                    to = last;
                }
            }
            let part = &data[index(at - offset)..index(to - offset)];
            let is_whole =
                self.blocks.start_of(at) == at && (self.blocks.start_of(to) == to || to == content_end);
            let (written, error) = match place {
                Place::Upper => sys::write_fully(&self.file, part, at),
                _ if is_whole => self.write_whole(part, at),
                _ => self.write_in_block(part, at, content_end),
            };
            at += written as u64;
            if error.is_some() {
                return (index(at - offset), error);
            }
        }
        (data.len(), None)
    }

    /// Writes absent blocks that are covered altogether.
    fn write_whole(&self, data: &[u8], at: u64) -> (usize, Option<Errno>) {
        let block = index(self.blocks.block_bytes());
        let is_near_full = data.len() > block
            && sys::space(&self.file).is_ok_and(|space| {
                space.blocks_available.saturating_mul(space.fragment_bytes) < data.len() as u64 + SPARE_BYTES
            });
        if is_near_full {
            let mut done = 0;
            for part in data.chunks(block) {
                let (written, error) = self.write_whole(part, at + done as u64);
                done += written;
                if error.is_some() {
                    return (done, error);
                }
            }
            return (done, None);
        }
        let end = at + data.len() as u64;
        let (written, error) = sys::write_fully(&self.file, data, at);
        if error.is_none() {
            self.blocks.set(at..end);
            return (written, None);
        }
        // What was written of a block that is not whole does not count.
        let whole = written / block * block;
        let whole_end = at + whole as u64;
        self.blocks.set(at..whole_end);
        self.make_absent_again(whole_end..end);
        (whole, error)
    }

    /// Writes a part of one absent block, with the rest of the block from below.
    fn write_in_block(&self, data: &[u8], at: u64, content_end: u64) -> (usize, Option<Errno>) {
        let start = self.blocks.start_of(at);
        let end = self.blocks.end_of(at).min(content_end);
        let mut bytes = vec![0; index(end - start)];
        if let Err(error) = self.read_below(&mut bytes, start) {
            return (0, Some(error.errno()));
        }
        let from = index(at - start);
        bytes[from..from + data.len()].copy_from_slice(data);
        match sys::write_fully(&self.file, &bytes, start) {
            (_, None) => {
                self.blocks.set(start..end);
                (data.len(), None)
            }
            (_, error) => {
                self.make_absent_again(start..end);
                (0, error)
            }
        }
    }

    /// Takes away what a write that failed may have left in blocks that are absent.
    fn make_absent_again(&self, bytes: Range<u64>) {
        let end = self.blocks.end_of(bytes.end.saturating_sub(1));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = end.saturating_sub(bytes.start);
        if length > 0
            && let Err(error) = sys::retry(|| fs::fallocate(&self.file, flags, bytes.start, length))
        {
            tracing::error!(%error, "what a failed write left in a partial copy could not be taken away");
        }
    }

    /// Brings what was written to the disk.
    pub(crate) fn sync(&self, data_only: bool) -> Result<()> {
        let sync = || match data_only {
            true => fs::fdatasync(&self.file),
            false => fs::fsync(&self.file),
        };
        sys::retry(sync).doing("sync file")
    }

    /// The next stretch at or after `at` and before `end` that is no hole.
    fn data_from(&self, mut at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        let limit = self.limit();
        while at < end {
            let (place, to) = self.blocks.piece(at, end, limit);
            let found = match place {
                Place::Upper => sys::data_from(&self.file, at, to)?,
                Place::Below => self.below.data_from(at, to)?,
                Place::Zeros => None,
            };
            if found.is_some() {
                return Ok(found);
            }
            at = to;
        }
        Ok(None)
    }

    /// Finds the next data or hole: `whence` is `SEEK_DATA` or `SEEK_HOLE`.
    pub(crate) fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        let size = self.size_bytes();
        if offset >= size {
            return Err(Errno::NXIO).doing("look for data or hole");
        }
        let mut at = offset;
        loop {
            let data = self
                .data_from(at, size)
                .map_err(|error| from_io("look for data or hole", &error))?;
            match (whence, data) {
                (libc::SEEK_DATA, Some(data)) => return Ok(data.start),
                (libc::SEEK_DATA, None) => return Err(Errno::NXIO).doing("look for data or hole"),
                (libc::SEEK_HOLE, Some(data)) if data.start == at && data.end < size => at = data.end,
                (libc::SEEK_HOLE, Some(data)) if data.start == at => return Ok(size),
                (libc::SEEK_HOLE, _) => return Ok(at),
                _ => return Err(Error::Invalid("only data and holes are looked for")),
            }
        }
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What a write answers: an error only when nothing was written.
pub(crate) fn answered((written, error): (usize, Option<Errno>)) -> Result<usize> {
    match error {
        Some(error) if written == 0 => Err(error).doing("write file"),
        _ => Ok(written),
    }
}

/// What was not read is zeros.
fn zero_past(buffer: &mut [u8], read: usize) {
    if let Some(rest) = buffer.get_mut(read..) {
        rest.fill(0);
    }
}
