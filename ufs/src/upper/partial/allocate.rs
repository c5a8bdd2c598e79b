//! Reserving and freeing space of a partial copy (`fallocate(2)`).
//!
//! Where the content below counts, a hole in the upper means *not there*: instead of making one, zeros are written, and
//! before space is reserved the blocks are filled from below, for reserved blocks may be told as data or as a hole.
//! Past the limit the upper's file system does what was asked.

use rustix::fs::{self, FallocateFlags};
use rustix::io::Errno;

use super::merged::from_io;
use super::{Partial, answered, index};
use crate::error::{Doing, Result};
use crate::sys;

/// What is written at a time.
const CHUNK_BYTES: u64 = 1 << 20;

impl Partial {
    /// As `fallocate(2)`.
    pub(crate) fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> Result<()> {
        const KNOWN: FallocateFlags = FallocateFlags::KEEP_SIZE
            .union(FallocateFlags::PUNCH_HOLE)
            .union(FallocateFlags::ZERO_RANGE);
        if !KNOWN.contains(mode) {
            return Err(Errno::OPNOTSUPP).doing("reserve space");
        }
        let end = offset
            .checked_add(length)
            .filter(|end| length > 0 && i64::try_from(*end).is_ok());
        let end = end.ok_or(Errno::INVAL).doing("reserve space")?;
        self.note_change();
        let _filling = self.filling.lock();
        let makes_zeros = mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
        let to = end.min(self.below_end()).min(self.size_bytes());
        if makes_zeros {
            self.fill_edge(offset)?;
            self.fill_edge(to)?;
        } else {
            self.fill_between(offset, to)?;
        }
        let _alone = self.length.write();
        let result = self.allocate_alone(mode, offset, end);
        self.note_size()?;
        result
    }

    /// How far the content below counts, in whole blocks.
    fn below_end(&self) -> u64 {
        match self.limit().min(self.size_bytes()) {
            0 => 0,
            counts => self.blocks.end_of(counts - 1),
        }
    }

    /// With the blocks there that hold the content below.
    fn allocate_alone(&self, mode: FallocateFlags, offset: u64, end: u64) -> Result<()> {
        let size = self.size_bytes();
        let makes_zeros = mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
        let mut from = offset;
        let below_end = self.below_end();
        if makes_zeros && offset < below_end {
            self.write_zeros(offset, end.min(below_end).min(size))?;
            from = end.min(below_end);
        }
        if end > size && !mode.contains(FallocateFlags::KEEP_SIZE) {
            self.prepare_growth()?;
            if from >= end {
                return sys::retry(|| fs::ftruncate(&self.file, end)).doing("set length");
            }
        }
        if from >= end {
            return Ok(());
        }
        sys::retry(|| fs::fallocate(&self.file, mode, from, end - from)).doing("reserve space")
    }

    /// Writes zeros where there are none yet. Within the length; with `filling` held.
    fn write_zeros(&self, offset: u64, end: u64) -> Result<()> {
        let zeros = vec![0; index(CHUNK_BYTES.min(end.saturating_sub(offset)))];
        let mut at = offset;
        while at < end {
            let to = end.min(at + zeros.len() as u64);
            let data = self
                .data_from(at, to)
                .map_err(|error| from_io("make a hole", &error))?;
            at = match data {
                Some(_) => at + answered(self.write_blocks(&zeros[..index(to - at)], at))? as u64,
                None => to,
            };
        }
        Ok(())
    }

    /// Fills the absent blocks that hold these bytes. With `filling` held, and not `length`: who asks for attributes does
    /// not wait for what is read from below.
    fn fill_between(&self, offset: u64, end: u64) -> Result<()> {
        let mut buffer = Vec::new();
        let mut at = self.blocks.start_of(offset);
        while let Some(absent) = self.blocks.absent(at, end, self.limit()) {
            let to = absent.end.min(absent.start + CHUNK_BYTES);
            buffer.resize(index(to - absent.start), 0);
            self.read_below(&mut buffer, absent.start)?;
            self.put_keeping_time(&mut buffer, absent.start)?;
            at = to;
        }
        Ok(())
    }

    /// Fills the block in the middle of which a change begins or ends. With `filling` held, and not `length`.
    pub(super) fn fill_edge(&self, at: u64) -> Result<()> {
        if self.blocks.start_of(at) == at {
            return Ok(());
        }
        self.fill_between(at, self.size_bytes().min(at + 1))
    }
}
