//! Renaming.
//!
//! The source is brought to the upper first (a file without its content, a directory without its entries), so that
//! one `renameat2` in the upper does the whole work. A directory that has parts below takes a redirect with it, which
//! is written before the move: at its old place it leads to where the parts are anyway.
//!
//! ```text
//! at the source      nothing below: plain rename           something below: RENAME_WHITEOUT
//! at the target      free, or a file: replaced by rename   whiteout and a directory arrives: RENAME_EXCHANGE
//!                    emptied directory: cleared first      entry below: the arriving directory becomes opaque
//! ```

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::Fs;
use super::remove::HeldNode;
use crate::error::{Doing, Error, Result};
use crate::layer::marks::Redirect;
use crate::sys;
use crate::union::inode::Inode;
use crate::union::resolve;
use crate::upper::Upper;
use crate::upper::copy_up::Depth;

/// How to rename, as `renameat2(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameFlags {
    /// Replace what has the new name.
    Replace,
    /// Fail when the new name is taken.
    NoReplace,
    /// Exchange the two.
    Exchange,
}

/// A name in a directory of the merged tree, with the directory's place in the upper.
struct Spot<'a> {
    parent: &'a Arc<Inode>,
    dir: Arc<OwnedFd>,
    name: &'a OsStr,
    /// A layer below shows something under this name, or would without the upper.
    below: bool,
    /// The upper has a whiteout under this name.
    whiteout: bool,
}

impl Fs {
    /// Renames `name` in `parent` to `new_name` in `new_parent`.
    ///
    /// # Errors
    /// As `rename(2)`; never EXDEV for a directory, unless its parts below lie at different paths.
    pub fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        let parent = &self.dir_node(parent)?.inode;
        let new_parent = &self.dir_node(new_parent)?.inode;
        let upper = self.union.writable()?;
        let source = self.held(parent, name)?;
        let target = match self.held(new_parent, new_name) {
            Ok(target) => Some(target),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        check(
            &source.node().inode,
            target.as_ref().map(|target| &target.node().inode),
            flags,
        )?;
        if target
            .as_ref()
            .is_some_and(|target| Arc::ptr_eq(&target.node().inode, &source.node().inode))
        {
            return Ok(());
        }
        self.prepare_parent(parent)?;
        self.prepare_parent(new_parent)?;
        self.prepare_source(upper, &source.node().inode)?;
        if let Some(target) = &target {
            self.prepare_target(upper, target, flags)?;
        }
        let _copying = target.as_ref().map(|target| target.node().inode.copying.lock());
        let _alone = lock_both(parent, new_parent);
        let from = self.spot(upper, parent, name)?;
        let to = self.spot(upper, new_parent, new_name)?;
        match (flags, &target) {
            (RenameFlags::Exchange, Some(target)) => self.exchange(upper, &source, target, &from, &to),
            (RenameFlags::Exchange, None) => Err(Error::NotFound),
            (_, target) => self.replace(upper, &source, target.as_ref(), &from, &to),
        }
    }

    fn spot<'a>(&self, upper: &Upper, parent: &'a Arc<Inode>, name: &'a OsStr) -> Result<Spot<'a>> {
        let dir = upper.dir_of(parent)?;
        let below = self.union.resolve_lower(&parent.lowers(), name)?.is_some();
        let whiteout = match sys::stat_at(&dir, name) {
            Ok(attr) => upper.is_mark(&dir, name, &attr)?,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error).doing("look up in upper"),
        };
        Ok(Spot {
            parent,
            dir,
            name,
            below,
            whiteout,
        })
    }

    /// Brings the source to the upper; a directory with parts below notes where they are.
    fn prepare_source(&self, upper: &Upper, inode: &Arc<Inode>) -> Result<()> {
        self.union.copy_up(inode, Depth::Metadata)?;
        if !inode.is_dir() {
            return Ok(());
        }
        let lowers = inode.lowers();
        let Some(top) = lowers.first() else { return Ok(()) };
        let path = self.union.layers[top.layer].path(&top.node)?;
        let found = resolve::by_path(&self.union.layers, &path)?;
        let same = found.len() == lowers.len()
            && found
                .iter()
                .zip(lowers.iter())
                .all(|((a, _), b)| a.layer == b.layer && a.node == b.node);
        if !same {
            return Err(Error::SplitRename);
        }
        let dir = upper.dir_of(inode)?;
        upper.set_mark(&dir, "redirect", &Redirect::absolute_value(&path))
    }

    fn prepare_target(&self, upper: &Upper, target: &HeldNode<'_>, flags: RenameFlags) -> Result<()> {
        let inode = &target.node().inode;
        if flags == RenameFlags::Exchange {
            return self.prepare_source(upper, inode);
        }
        if inode.is_dir() && !self.union.entries(inode)?.is_empty() {
            return Err(Error::NotEmpty);
        }
        if !inode.is_dir() && !inode.in_upper() && self.union.stored_attr(inode)?.nlink > 1 {
            self.union.copy_up(inode, Depth::Metadata)?;
        }
        Ok(())
    }

    fn replace(
        &self,
        upper: &Upper,
        source: &HeldNode<'_>,
        target: Option<&HeldNode<'_>>,
        from: &Spot<'_>,
        to: &Spot<'_>,
    ) -> Result<()> {
        let moved = &source.node().inode;
        let replaced = target.map(|target| &target.node().inode);
        self.hide_below(upper, moved, to)?;
        note_arrival(upper, moved, to)?;
        let orphaned = match replaced {
            Some(replaced) => self.orphan(upper, replaced)?,
            None => false,
        };
        // Both names lead to the file while it moves: somebody who resolves it meanwhile must find it.
        self.union.nodes.add_name(moved, to.parent, to.name);
        let result = match replaced {
            Some(replaced) if moved.is_dir() && replaced.in_upper() => {
                self.move_onto_emptied(upper, replaced, from, to)
            }
            _ if moved.is_dir() && to.whiteout => swap_with_whiteout(upper, from, to),
            _ => move_file(upper, from, to),
        };
        let left = if result.is_ok() { from } else { to };
        self.union.nodes.remove_link(moved, left.parent, left.name);
        match replaced {
            Some(replaced) => self.note_removal(replaced, to.parent, to.name, orphaned, result),
            None => result,
        }
    }

    /// Moves a directory onto an empty one, which is cleared of whiteouts for it, and is what it was when that fails.
    fn move_onto_emptied(
        &self,
        upper: &Upper,
        replaced: &Inode,
        from: &Spot<'_>,
        to: &Spot<'_>,
    ) -> Result<()> {
        let cleared = self.clear_emptied(upper, replaced, &to.dir, to.name)?;
        let result = move_file(upper, from, to);
        let Some(old) = cleared else { return result };
        if result.is_err() {
            let flags = fs::RenameFlags::EXCHANGE;
            if let Err(error) = fs::renameat_with(upper.work(), &old, &*to.dir, to.name, flags) {
                tracing::warn!(name = %to.name.display(), %error, "a directory lost its number");
            }
        }
        upper.discard(&old);
        result
    }

    fn exchange(
        &self,
        upper: &Upper,
        source: &HeldNode<'_>,
        target: &HeldNode<'_>,
        from: &Spot<'_>,
        to: &Spot<'_>,
    ) -> Result<()> {
        let (one, other) = (&source.node().inode, &target.node().inode);
        self.hide_below(upper, one, to)?;
        self.hide_below(upper, other, from)?;
        note_arrival(upper, one, to)?;
        note_arrival(upper, other, from)?;
        self.union.nodes.add_name(one, to.parent, to.name);
        self.union.nodes.add_name(other, from.parent, from.name);
        let result = fs::renameat_with(
            &*from.dir,
            from.name,
            &*to.dir,
            to.name,
            fs::RenameFlags::EXCHANGE,
        )
        .doing("exchange names");
        let (old, new) = if result.is_ok() { (from, to) } else { (to, from) };
        self.union.nodes.remove_link(one, old.parent, old.name);
        self.union.nodes.remove_link(other, new.parent, new.name);
        result
    }

    /// A directory of the upper alone must not merge with what lies below its new name.
    fn hide_below(&self, upper: &Upper, moved: &Inode, to: &Spot<'_>) -> Result<()> {
        if moved.is_dir() && moved.lowers().is_empty() && (to.below || to.whiteout) {
            upper.set_mark(&*upper.dir_of(moved)?, "opaque", b"y")?;
        }
        Ok(())
    }
}

fn check(source: &Inode, target: Option<&Arc<Inode>>, flags: RenameFlags) -> Result<()> {
    match (flags, target) {
        (RenameFlags::NoReplace, Some(_)) => Err(Error::Exists),
        (RenameFlags::Replace, Some(target)) => match (source.is_dir(), target.is_dir()) {
            (true, false) => Err(Error::NotDirectory),
            (false, true) => Err(Error::IsDirectory),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Locks two directories alone, in the order of their numbers.
fn lock_both<'a>(
    one: &'a Arc<Inode>,
    other: &'a Arc<Inode>,
) -> (
    crate::sync::RwLockWriteGuard<'a, ()>,
    Option<crate::sync::RwLockWriteGuard<'a, ()>>,
) {
    if Arc::ptr_eq(one, other) {
        return (one.change_entries(), None);
    }
    let (first, second) = if one.ino <= other.ino {
        (one, other)
    } else {
        (other, one)
    };
    (first.change_entries(), Some(second.change_entries()))
}

/// The usual move: what has the new name is replaced, and a whiteout stays behind where a layer below needs one.
fn move_file(upper: &Upper, from: &Spot<'_>, to: &Spot<'_>) -> Result<()> {
    let flags = if from.below {
        fs::RenameFlags::WHITEOUT
    } else {
        fs::RenameFlags::empty()
    };
    match fs::renameat_with(&*from.dir, from.name, &*to.dir, to.name, flags) {
        // The upper's file system does not leave whiteouts behind, or this user may not make one that way.
        Err(Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP) if from.below => {
            fs::renameat_with(&*from.dir, from.name, &*to.dir, to.name, fs::RenameFlags::empty())
                .doing("rename")?;
            upper.link_whiteout(&from.dir, from.name)
        }
        moved => moved.doing("rename"),
    }
}

/// What has parts below shows their numbers, which the kernel's overlayfs must be told to look for.
fn note_arrival(upper: &Upper, moved: &Inode, to: &Spot<'_>) -> Result<()> {
    let state = moved.state.read();
    let shows_lower_number = state.metadata_only || moved.is_dir() && !state.lowers.is_empty();
    drop(state);
    if shows_lower_number {
        upper.note_impure(to.parent, &*to.dir)
    } else {
        Ok(())
    }
}

/// A directory cannot replace a whiteout: the two change places, and the whiteout stays only where it is needed.
fn swap_with_whiteout(upper: &Upper, from: &Spot<'_>, to: &Spot<'_>) -> Result<()> {
    if from.parent.lowers().is_empty() {
        upper.note_whiteouts(&*from.dir)?;
    }
    fs::renameat_with(
        &*from.dir,
        from.name,
        &*to.dir,
        to.name,
        fs::RenameFlags::EXCHANGE,
    )
    .doing("rename")?;
    if from.below {
        return Ok(());
    }
    // It hides nothing any more: the rename stands, whatever becomes of it.
    if let Err(error) = fs::unlinkat(&*from.dir, from.name, AtFlags::empty()) {
        tracing::warn!(%error, "a whiteout that hides nothing stays");
    }
    Ok(())
}
