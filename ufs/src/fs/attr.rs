//! Changing attributes.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::Fs;
use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result};
use crate::sys::{self, SetTime};
use crate::union::inode::Inode;
use crate::upper::copy_up::Depth;

/// What to change about a file; `None` leaves it.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner, as shown.
    pub uid: Option<u32>,
    /// Group, as shown.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size_bytes: Option<u64>,
    /// With the length: the set-id bits go, as nobody else looks after them.
    pub drops_set_id: bool,
    /// Time of last access.
    pub atime: SetTime,
    /// Time of last modification.
    pub mtime: SetTime,
}

impl Default for Change {
    fn default() -> Self {
        Self {
            mode: None,
            uid: None,
            gid: None,
            size_bytes: None,
            drops_set_id: false,
            atime: SetTime::Keep,
            mtime: SetTime::Keep,
        }
    }
}

impl Change {
    fn is_empty(&self) -> bool {
        let Self {
            mode,
            uid,
            gid,
            size_bytes,
            drops_set_id: _,
            atime,
            mtime,
        } = self;
        mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && size_bytes.is_none()
            && (*atime, *mtime) == (SetTime::Keep, SetTime::Keep)
    }
}

impl Fs {
    /// Changes attributes of a node, its length included. Answers the attributes after the change.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] without an upper, and what the upper's file system answers.
    pub fn change(&self, node: u64, change: &Change) -> Result<Attr> {
        let node = self.union.node(node)?;
        if !change.is_empty() {
            self.apply(&node.inode, &node, change)?;
        }
        let stored = self.union.stored_attr(&node.inode)?;
        Ok(self.entry(&node, stored).attr)
    }

    fn apply(
        &self,
        inode: &Inode,
        node: &std::sync::Arc<crate::union::inode::Node>,
        change: &Change,
    ) -> Result<()> {
        let depth = match change.size_bytes {
            None => Depth::Metadata,
            Some(_) if inode.is_dir() => return Err(Error::IsDirectory),
            // To open a device or a pipe would be to use it.
            Some(_) if inode.file_type != FileType::Regular => {
                return Err(Error::Invalid("only regular files have a length to set"));
            }
            Some(0) => Depth::Emptied,
            Some(_) => Depth::Content,
        };
        self.union.copy_up(&node.inode, depth)?;
        let upper = self.union.writable()?;
        let named = upper.name(inode)?;
        if change.uid.is_some() || change.gid.is_some() {
            self.chown(&named, change)?;
        }
        if let Some(mode) = change.mode {
            sys::chmod(&named, mode).doing("set permissions")?;
        }
        if let Some(size_bytes) = change.size_bytes {
            let partial = self.union.partial_of(&node.inode)?;
            let file = sys::reopen(&named, OFlags::WRONLY).doing("open to set length")?;
            if let Some(partial) = partial {
                partial.set_size(size_bytes)?;
            } else if size_bytes == 0 {
                let before = sys::stat_fd(&file).doing("read attributes of open file")?;
                super::file::empty(&file, before.size_bytes)?;
            } else {
                sys::retry(|| rustix::fs::ftruncate(&file, size_bytes)).doing("set length")?;
            }
            if change.drops_set_id {
                drop_set_id_of(&file)?;
            }
        }
        if (change.atime, change.mtime) != (SetTime::Keep, SetTime::Keep) {
            self.union
                .while_still(inode, || sys::set_times(&named, change.atime, change.mtime))
                .doing("set times")?;
        }
        Ok(())
    }

    fn chown(&self, named: &OwnedFd, change: &Change) -> Result<()> {
        if !self.ids.keeps_owners() {
            return Ok(());
        }
        let unmapped = Error::Invalid("owner is not mapped");
        let uid = match change.uid {
            Some(uid) => Some(self.ids.stored_uid(uid).ok_or(unmapped)?),
            None => None,
        };
        let gid = match change.gid {
            Some(gid) => Some(
                self.ids
                    .stored_gid(gid)
                    .ok_or(Error::Invalid("group is not mapped"))?,
            ),
            None => None,
        };
        sys::chown(named, uid, gid).doing("set owner")
    }
}

/// Takes the set-id bits from a file whose content was changed by somebody without the right to leave them (CAP_FSETID in
/// capabilities(7)). Answers whether there were any.
pub(super) fn drop_set_id_of(file: &OwnedFd) -> Result<bool> {
    drop_set_id(
        file,
        &sys::stat_fd(file).doing("read attributes of changed file")?,
    )
}

/// As [`drop_set_id_of`], of a file that has these attributes.
pub(super) fn drop_set_id(file: &OwnedFd, attr: &Attr) -> Result<bool> {
    let kept = attr.permissions_of_changed();
    if kept == attr.permissions() {
        return Ok(false);
    }
    sys::chmod(file, kept).doing("drop set-id bits")?;
    Ok(true)
}
