//! The other names of a lower file that is copied up.
//!
//! They are linked to the copy while it is still in the work directory: when the copy gets the name it was asked for,
//! the others are there already. A crash before that leaves names on a copy with the same content. Its name in the
//! work directory tells so, and the next mount takes those names back, so that the lower file shows again under all.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, OFlags};
use rustix::io::Errno;

use super::Upper;
use super::copy_up::{Depth, keeping_times};
use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result};
use crate::layer::LayerNode;
use crate::sys;
use crate::union::inode::{Inode, Link};
use crate::union::{LowerRef, Union};

/// A name given to a copy: the directory in the upper, and the name.
pub(super) type Given = (Arc<OwnedFd>, OsString);

/// Takes names back that were given to a copy that did not come to be.
pub(super) fn undo(given: &[Given]) {
    for (dir, name) in given {
        if let Err(error) = fs::unlinkat(&**dir, name, AtFlags::empty()) {
            tracing::warn!(name = %name.display(), %error, "a hard link of a failed copy stays");
        }
    }
}

/// What begins the name, in the work directory, of a copy that gets other names before its own.
const STAGED_PREFIX: &str = "links";

/// A name in the work directory for a copy of a file with several names. It loses this name when it gets the one it
/// was asked for: as long as it is there, its other names count for nothing.
pub(super) fn staged_name(upper: &Upper) -> OsString {
    let mut name = OsString::from(STAGED_PREFIX);
    name.push(upper.fresh_name());
    name
}

/// Takes back the names of copies that did not come to be because the server died: `work` is the work directory as
/// it was left. Nobody can have written to such a copy, as nobody was told of it.
pub(super) fn take_back_unfinished(root: &OwnedFd, work: &OwnedFd) -> Result<()> {
    let doing = "look for copies that did not come to be";
    let left = match sys::open_at(work, OsStr::new("work"), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(left) => left,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
        Err(error) => return Err(error).doing(doing),
    };
    let mut unfinished = HashMap::new();
    for entry in sys::list(&left).doing(doing)? {
        if entry.name.as_bytes().starts_with(STAGED_PREFIX.as_bytes()) {
            let attr = sys::stat_at(&left, &entry.name).doing(doing)?;
            if !attr.is_dir() && attr.nlink > 1 {
                unfinished.insert((attr.dev, attr.ino), attr.nlink - 1);
            }
        }
    }
    take_back_in(root, &mut unfinished)
}

/// Removes the names of these files, by device and number, from a tree; stops when all are found.
fn take_back_in(dir: &OwnedFd, unfinished: &mut HashMap<(u64, u64), u32>) -> Result<()> {
    let doing = "take back names of a copy that did not come to be";
    if unfinished.is_empty() {
        return Ok(());
    }
    for entry in sys::list(dir).doing(doing)? {
        let attr = sys::stat_at(dir, &entry.name).doing(doing)?;
        if attr.is_dir() {
            match sys::open_at(dir, &entry.name, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(child) => take_back_in(&child, unfinished)?,
                Err(error) => tracing::warn!(name = %entry.name.display(), %error, "{doing}"),
            }
            continue;
        }
        let Some(names) = unfinished.get_mut(&(attr.dev, attr.ino)) else {
            continue;
        };
        *names -= 1;
        if *names == 0 {
            unfinished.remove(&(attr.dev, attr.ino));
        }
        keeping_times(dir, || {
            fs::unlinkat(dir, &entry.name, AtFlags::empty()).doing(doing)
        })?;
    }
    Ok(())
}

impl Union {
    /// Gives the copy `staged` in the work directory every visible name of the lower file but `asked`.
    pub(super) fn link_other_names(
        &self,
        upper: &Upper,
        staged: &OsStr,
        from: &LowerRef,
        attr: &Attr,
        asked: &Link,
        metadata_only: bool,
    ) -> Result<Vec<Given>> {
        let mut given = Vec::new();
        for place in self.layers[from.layer].hard_links(&from.node, attr)? {
            if place == from.node {
                continue;
            }
            match self.link_name(upper, staged, from.layer, &place, asked, metadata_only) {
                Ok(made) => given.extend(made),
                Err(error) => {
                    undo(&given);
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    fn link_name(
        &self,
        upper: &Upper,
        staged: &OsStr,
        layer: usize,
        place: &LayerNode,
        asked: &Link,
        metadata_only: bool,
    ) -> Result<Option<Given>> {
        let mut held = Held {
            union: self,
            ids: Vec::new(),
        };
        let path = self.layers[layer].path(place)?;
        let Some((parent, name)) = self.shown_at(layer, place, path.as_bytes(), &mut held)? else {
            return Ok(None);
        };
        if Arc::ptr_eq(&parent, &asked.parent) && *name == *asked.name {
            return Ok(None);
        }
        self.copy_up(&parent, Depth::Metadata)?;
        let dir = upper.dir_of(&parent)?;
        if metadata_only {
            upper.note_impure(&parent, &dir)?;
        }
        let linked = keeping_times(&dir, || {
            fs::linkat(upper.work(), staged, &*dir, name, AtFlags::empty()).doing("link copy")
        });
        match linked {
            Ok(()) => Ok(Some((dir, name.to_os_string()))),
            // Something else has the name in the upper: then the lower file is not visible there.
            Err(Error::Exists) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a place of a layer shows in the merged tree, if it does: under its own path, or in a directory that was
    /// moved.
    fn shown_at<'a>(
        &self,
        layer: usize,
        place: &LayerNode,
        path: &'a [u8],
        held: &mut Held<'_>,
    ) -> Result<Option<(Arc<Inode>, &'a OsStr)>> {
        let shown = self.shown_below(&self.root, layer, place, path, held)?;
        if shown.is_some() {
            return Ok(shown);
        }
        let mut pending = vec![Arc::clone(&self.root)];
        while let Some(dir) = pending.pop() {
            for entry in self.entries(&dir)? {
                if entry.file_type != FileType::Directory {
                    continue;
                }
                // Only what is in the upper can have been moved.
                let found = self
                    .resolve(&dir, &entry.name)?
                    .filter(|found| found.upper.is_some());
                let Some(found) = found else { continue };
                let node = self.adopt(&dir, &entry.name, found)?;
                held.ids.push(node.id);
                if let Some(rest) = self.rest_within(&node.inode.lowers(), layer, path)? {
                    let shown = self.shown_below(&node.inode, layer, place, rest, held)?;
                    if shown.is_some() {
                        return Ok(shown);
                    }
                }
                pending.push(Arc::clone(&node.inode));
            }
        }
        Ok(None)
    }

    /// What is left of `path` below one of these directories, if it lies in one of them.
    fn rest_within<'a>(&self, dirs: &[LowerRef], layer: usize, path: &'a [u8]) -> Result<Option<&'a [u8]>> {
        for part in dirs.iter().filter(|part| part.layer == layer) {
            let dir = self.layers[layer].path(&part.node)?;
            let rest = path.strip_prefix(dir.as_bytes());
            let rest = rest.and_then(|rest| rest.strip_prefix(b"/"));
            if rest.is_some() && !dir.is_empty() {
                return Ok(rest);
            }
        }
        Ok(None)
    }

    /// Follows `path` down from `dir`, and tells whether the place shows there.
    fn shown_below<'a>(
        &self,
        dir: &Arc<Inode>,
        layer: usize,
        place: &LayerNode,
        path: &'a [u8],
        held: &mut Held<'_>,
    ) -> Result<Option<(Arc<Inode>, &'a OsStr)>> {
        let mut parent = Arc::clone(dir);
        let mut names = path.split(|&byte| byte == b'/').map(OsStr::from_bytes).peekable();
        while let Some(name) = names.next() {
            let Some(found) = self.resolve(&parent, name)? else {
                return Ok(None);
            };
            if names.peek().is_none() {
                let same = found
                    .lowers
                    .first()
                    .is_some_and(|top| top.layer == layer && top.node == *place);
                return Ok((same && found.upper.is_none()).then_some((parent, name)));
            }
            if !found.attr.is_dir() {
                return Ok(None);
            }
            let node = self.adopt(&parent, name, found)?;
            parent = Arc::clone(&node.inode);
            held.ids.push(node.id);
        }
        Ok(None)
    }
}

/// Nodes that are held as the kernel would hold them, while they are worked on.
struct Held<'a> {
    union: &'a Union,
    ids: Vec<u64>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            self.union.nodes.forget(*id, 1);
        }
    }
}
