//! Requests that come once more because the server that read them died before it answered.
//!
//! It may have carried them out. Most can be carried out twice; those that cannot would now fail, and their failure
//! says that they were done. That is certain, as the kernel asks to make a name only when it knows that there is none,
//! and to remove one only when there is, holds the directory meanwhile, and no one else changes the tree.

use std::ffi::OsStr;

use fuser::Request;
use rustix::fs::OFlags;

use super::Adapter;
use crate::error::{Error, Result};
use crate::fs::{Entry, Opened, RenameFlags};

/// The bit of a request's number that says that it comes again (`FUSE_UNIQUE_RESEND` of fuse.h).
const AGAIN: u64 = 1 << 63;

pub(super) fn is_again(request: &Request) -> bool {
    u64::from(request.unique()) & AGAIN != 0
}

/// The number of a request, the same when it comes again.
pub(super) fn number(request: &Request) -> u64 {
    u64::from(request.unique()) & !AGAIN
}

/// The answer to a request that takes something away.
pub(super) fn unless_gone_before(request: &Request, result: Result<()>) -> Result<()> {
    match result {
        Err(Error::NotFound | Error::NoAttribute) if is_again(request) => Ok(()),
        result => result,
    }
}

/// The answer to a request that sets what must not be there.
pub(super) fn unless_set_before(request: &Request, result: Result<()>) -> Result<()> {
    match result {
        Err(Error::Exists) if is_again(request) => Ok(()),
        result => result,
    }
}

impl Adapter {
    /// The answer to a request that makes a name.
    pub(super) fn unless_made_before(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        result: Result<Entry>,
    ) -> Result<Entry> {
        match result {
            Err(Error::Exists) if is_again(request) => self.fs.lookup(parent, name),
            result => result,
        }
    }

    /// The same for a file that is to be open as well.
    pub(super) fn unless_created_before(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        result: Result<(Entry, Opened)>,
    ) -> Result<(Entry, Opened)> {
        match result {
            Err(Error::Exists) if is_again(request) => {
                let entry = self.fs.lookup(parent, name)?;
                let opened = self.fs.open_file(entry.node, OFlags::RDWR, true);
                let opened = opened.inspect_err(|_| self.fs.forget(entry.node, 1))?;
                Ok((entry, opened))
            }
            result => result,
        }
    }

    /// Closes what was opened before for the same request.
    pub(super) fn close_unanswered(&self, request: &Request) {
        if is_again(request)
            && let Some(handle) = self.fs.unanswered_open(number(request))
        {
            self.close(handle);
        }
    }

    /// Renames. Names that are exchanged twice are back where they were: what the first led to is written down before.
    pub(super) fn rename_once(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        if flags == RenameFlags::Exchange {
            let before = self.fs.number_of(parent, name)?;
            if self.fs.is_exchanged(number(request), before) {
                return Ok(());
            }
        }
        let renamed = self.fs.rename(parent, name, new_parent, new_name, flags);
        unless_gone_before(request, renamed)
    }
}
