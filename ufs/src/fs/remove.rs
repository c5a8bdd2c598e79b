//! Removing names.
//!
//! What only the upper has is removed from it. What a lower layer shows gets a whiteout in its place, by one rename
//! or link, so that after a crash the name is either still there or gone.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::Fs;
use super::link::move_over;
use crate::error::{Doing, Error, Result};
use crate::sys::{self, SetTime, XattrOf};
use crate::union::inode::{Inode, Node};
use crate::upper::Upper;
use crate::upper::copy_up::Depth;

impl Fs {
    /// Removes a name that is no directory.
    ///
    /// # Errors
    /// [`Error::IsDirectory`], [`Error::NotFound`], and what the upper's file system answers.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.dir_node(parent)?;
        self.remove(&parent.inode, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::NotEmpty`], [`Error::NotFound`], and what the upper's file system answers.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.dir_node(parent)?;
        self.remove(&parent.inode, name, true)
    }

    fn remove(&self, parent: &Arc<Inode>, name: &OsStr, want_dir: bool) -> Result<()> {
        let upper = self.union.writable()?;
        self.prepare_parent(parent)?;
        let target = self.held(parent, name)?;
        let inode = &target.node().inode;
        match (inode.is_dir(), want_dir) {
            (true, false) => return Err(Error::IsDirectory),
            (false, true) => return Err(Error::NotDirectory),
            _ => {}
        }
        if !inode.in_upper() && !want_dir && self.union.stored_attr(inode)?.nlink > 1 {
            // The other names must show one less: they go on as a copy.
            self.union.copy_up(inode, Depth::Metadata)?;
        }
        // While data moves, others in the directory must not wait: the file's own lock comes first.
        let _copying = inode.copying.lock();
        let _alone = parent.change_entries();
        if !inode.is_called(parent, name) {
            return Err(Error::NotFound);
        }
        let _emptied = want_dir.then(|| inode.change_entries());
        if want_dir && !self.union.entries(inode)?.is_empty() {
            return Err(Error::NotEmpty);
        }
        let dir = upper.dir_of(parent)?;
        let below = self.union.resolve_lower(&parent.lowers(), name)?.is_some();
        let orphaned = self.orphan(upper, inode)?;
        let result = self.take_away(upper, inode, &dir, name, below);
        self.note_removal(inode, parent, name, orphaned, result)
    }

    /// Takes the name out of the upper, or hides what lies below it.
    fn take_away(
        &self,
        upper: &Upper,
        inode: &Inode,
        dir: &OwnedFd,
        name: &OsStr,
        below: bool,
    ) -> Result<()> {
        match (inode.in_upper(), below) {
            (false, _) => upper.link_whiteout(dir, name),
            (true, false) => remove_from_upper(upper, inode, dir, name),
            (true, true) if inode.is_dir() => {
                let whiteout = upper.prepared_whiteout()?;
                let exchanged = fs::renameat_with(upper.work(), &whiteout, dir, name, RenameFlags::EXCHANGE);
                upper.discard(&whiteout);
                exchanged.doing("put whiteout in place of directory")
            }
            (true, true) => move_over(upper, &upper.prepared_whiteout()?, dir, name),
        }
    }

    /// Before the last known name of a file goes: keeps the file reachable for those who have it open.
    pub(super) fn orphan(&self, upper: &Upper, inode: &Inode) -> Result<bool> {
        let last = {
            let state = inode.state.read();
            state.upper.is_some() && state.links.len() <= 1
        };
        if last {
            let named = upper.name(inode)?;
            inode.state.write().orphan = Some(Arc::clone(&named));
            self.let_go_of_partial(inode);
            if self.may_be_open(inode) {
                self.union.nodes.journal.keep_open(inode.ino, &named);
            }
        }
        Ok(last)
    }

    /// Notes that a name is gone, or that it is still there after all.
    pub(super) fn note_removal(
        &self,
        inode: &Arc<Inode>,
        parent: &Arc<Inode>,
        name: &OsStr,
        orphaned: bool,
        result: Result<()>,
    ) -> Result<()> {
        if result.is_err() {
            if orphaned {
                inode.state.write().orphan = None;
                self.union.nodes.journal.let_go(inode.ino);
            }
            return result;
        }
        let named = self.union.nodes.remove_link(inode, parent, name);
        if let Some(upper) = &self.union.upper {
            if inode.is_dir() {
                inode.state.write().removed = !named;
                upper.close_dir(inode);
            } else {
                upper.let_go_if_deleted(inode);
            }
        }
        Ok(())
    }

    /// Finds a name whose file is about to change, and holds its node until the guard goes.
    pub(super) fn held(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<HeldNode<'_>> {
        let found = self.find(parent, name)?;
        let node = self.union.adopt(parent, name, found)?;
        Ok(self.keep_held(node))
    }

    /// Keeps a node that was just held until the guard goes.
    pub(super) fn keep_held(&self, node: Arc<Node>) -> HeldNode<'_> {
        self.union.nodes.keep(&node.inode);
        HeldNode { fs: self, node }
    }

    /// Clears the whiteouts that an empty merged directory still has in the upper, by exchanging it for an empty
    /// opaque one that looks like it, so that something can be renamed onto it. Answers where the old one is now, in
    /// the work directory.
    pub(super) fn clear_emptied(
        &self,
        upper: &Upper,
        inode: &Inode,
        dir: &OwnedFd,
        name: &OsStr,
    ) -> Result<Option<OsString>> {
        if self.union.upper_whiteouts(inode)?.is_empty() {
            return Ok(None);
        }
        let empty: OsString = upper.fresh_name();
        let made = self
            .make_like(upper, &*upper.dir_of(inode)?, &empty)
            .and_then(|()| {
                fs::renameat_with(upper.work(), &empty, dir, name, RenameFlags::EXCHANGE)
                    .doing("exchange emptied directory")
            });
        if made.is_err() {
            upper.discard(&empty);
        }
        made.map(|()| Some(empty))
    }

    /// Makes an opaque directory in the work directory that has all that can be seen of `old`, but no entries.
    fn make_like(&self, upper: &Upper, old: &OwnedFd, name: &OsStr) -> Result<()> {
        let doing = "make empty directory";
        let attr = sys::stat_fd(old).doing("read attributes of directory")?;
        fs::mkdirat(upper.work(), name, rustix::fs::Mode::from_raw_mode(0o700)).doing(doing)?;
        let named = sys::name_at(upper.work(), name).doing(doing)?;
        sys::chown(&named, Some(attr.uid), Some(attr.gid)).doing(doing)?;
        sys::chmod(&named, attr.permissions()).doing(doing)?;
        let number = upper.space.name("shale.ino");
        for xattr in sys::xattr_names(XattrOf::Fd(old.as_fd())).doing(doing)? {
            if xattr != number && upper.space.to_shown(&xattr).is_none() {
                continue;
            }
            if let Some(value) = sys::xattr(XattrOf::Fd(old.as_fd()), &xattr).doing(doing)? {
                sys::set_xattr(&named, &xattr, &value, XattrFlags::empty()).doing(doing)?;
            }
        }
        upper.set_mark(&named, "opaque", b"y")?;
        sys::set_times(&named, SetTime::At(attr.atime), SetTime::At(attr.mtime)).doing(doing)
    }
}

fn remove_from_upper(upper: &Upper, inode: &Inode, dir: &OwnedFd, name: &OsStr) -> Result<()> {
    if !inode.is_dir() {
        return fs::unlinkat(dir, name, AtFlags::empty()).doing("remove file");
    }
    match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // Whiteouts are left in it: it leaves the tree by one rename and is cleared outside.
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            let aside = upper.fresh_name();
            fs::renameat_with(dir, name, upper.work(), &aside, RenameFlags::NOREPLACE)
                .doing("move directory out of the tree")?;
            upper.discard(&aside);
            Ok(())
        }
        removed => removed.doing("remove directory"),
    }
}

/// A node held for the length of an operation.
pub(super) struct HeldNode<'a> {
    fs: &'a Fs,
    node: Arc<Node>,
}

impl HeldNode<'_> {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for HeldNode<'_> {
    fn drop(&mut self) {
        self.fs.union.nodes.forget(self.node.id, 1);
    }
}
