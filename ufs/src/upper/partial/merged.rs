//! A partial copy as everybody reads it who is not the server of its upper: a commit, a snapshot, a mount of which the
//! upper is one layer.
//!
//! Nothing is shared with the server but the file itself: which blocks are there is asked of the file system for each
//! read (`SEEK_DATA`), and how much of the content below counts is read from the mark. Size first, then the mark, then
//! the blocks: the reverse of the order in which the server changes them, so that a file that grows anew after it was
//! cut never shows what it was cut of.
//!
//! The file is locked shared (`flock`) as long as it is open here, and the server seals nothing meanwhile: who compares
//! times to take a file at one moment is not disturbed by that.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FlockOperation};
use rustix::io::Errno;

use super::mark::{self, Mark};
use super::{index, zero_past};
use crate::attr::Attr;
use crate::error::{Doing, Error, Result};
use crate::layer::Content;
use crate::layer::marks::MarkSpace;
use crate::stream::ReadAt;
use crate::sys::{self, XattrOf};

/// The content of a partial copy.
#[derive(Debug)]
pub struct Merged {
    file: OwnedFd,
    below: Box<Content>,
    space: MarkSpace,
}

impl AsFd for Merged {
    /// The copy itself, for its attributes. What can be read here is not the content.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Merged {
    /// `file` is open for reading.
    pub(crate) fn new(file: OwnedFd, below: Content, space: MarkSpace) -> Result<Self> {
        // Without locks it is only that a commit may have to read twice.
        let _ = sys::retry(|| fs::flock(&file, FlockOperation::LockShared));
        let merged = Self {
            file,
            below: Box::new(below),
            space,
        };
        merged.look()?;
        Ok(merged)
    }

    /// The length, and how much of the content below counts.
    fn look(&self) -> Result<(u64, u64)> {
        let Attr { size_bytes, ino, .. } =
            sys::stat_fd(&self.file).doing("read attributes of partial copy")?;
        let name = self.space.name(mark::NAME);
        let value = sys::xattr(XattrOf::Fd(self.file.as_fd()), &name).doing("read mark of partial copy")?;
        // Without the mark it was sealed meanwhile.
        let limit = value.map_or(Ok(0), |value| Mark::parse(&value, ino).map(|mark| mark.limit))?;
        Ok((size_bytes, limit))
    }

    /// The next stretch at or after `at` and before `end` that is in one place, and whether that is the copy.
    fn piece(&self, at: u64, end: u64, limit: u64) -> io::Result<(bool, u64)> {
        if at >= limit {
            return Ok((true, end));
        }
        let data = sys::data_from(&self.file, at, end)?;
        Ok(match data {
            Some(data) if data.start == at => (true, data.end),
            Some(data) => (false, data.start.min(limit)),
            None => (false, end.min(limit)),
        })
    }

    /// Reads at `offset`; fewer bytes than fit only at the end.
    ///
    /// # Errors
    /// What the files answer.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (size_bytes, limit) = self.look().map_err(into_io)?;
        let end = size_bytes.min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let (in_copy, to) = self.piece(at, end, limit)?;
            let part = &mut buffer[index(at - offset)..index(to - offset)];
            if in_copy {
                let read = sys::read_fully(&self.file, part, at)?;
                if read < part.len() {
                    at += read as u64;
                    break;
                }
            } else {
                let read = self.below.read_at(part, at)?;
                zero_past(part, read);
            }
            at = to;
        }
        Ok(index(at.saturating_sub(offset)))
    }

    /// The next stretch at or after `at` and before `end` that is no hole.
    ///
    /// # Errors
    /// What the files answer.
    pub fn data_from(&self, mut at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        let (size_bytes, limit) = self.look().map_err(into_io)?;
        let end = end.min(size_bytes);
        while at < end {
            let (in_copy, to) = self.piece(at, end, limit)?;
            let found = match in_copy {
                true => sys::data_from(&self.file, at, to)?,
                false => self.below.data_from(at, to)?,
            };
            if found.is_some() {
                return Ok(found);
            }
            at = to;
        }
        Ok(None)
    }
}

impl ReadAt for Merged {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Merged::read_at(self, buffer, offset)
    }

    fn size_bytes(&self) -> u64 {
        sys::stat_fd(&self.file).map_or(0, |attr| attr.size_bytes)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Os { source, .. } => source.into(),
        error => io::Error::other(error),
    }
}

/// As [`into_io`] the other way round.
pub(super) fn from_io(doing: &'static str, error: &io::Error) -> Error {
    Error::Os {
        doing,
        source: Errno::from_io_error(error).unwrap_or(Errno::IO),
    }
}
