//! What each step does to the model, with the checks in the kernel's order.

use super::{Answer, Body, Held, Model, NodeId, write_into};
use crate::ops::{Access, Op, Outcome, RelPath, RenameFlag, XattrFlag};

impl Model {
    pub(super) fn create(&mut self, path: &RelPath, data: &[u8], exclusive: bool) -> Answer {
        if self.openable(path) == Err(libc::ENXIO) {
            return Err(libc::ENXIO);
        }
        let found = self.walk(path, !exclusive)?;
        let node = match found.node {
            Some(_) if exclusive => return Err(libc::EEXIST),
            Some(node) if self.is_dir(node) => return Err(libc::EISDIR),
            Some(node) => node,
            None => self.make(found.parent, found.name, Body::File(Vec::new()), 0o644),
        };
        *self.content_mut(node) = data.to_vec();
        Ok(Outcome::Done)
    }

    pub(super) fn copy_range(&mut self, from: &RelPath, to: &RelPath, len: u64) -> Answer {
        let source = self.writable(from)?;
        let target = self.writable(to)?;
        if source == target {
            return Err(libc::EINVAL);
        }
        self.forget_time_of_data_copy(target);
        let content = self.content(source)?;
        let len = content.len().min(usize::try_from(len).expect("short"));
        if len > 0 {
            write_into(self.content_mut(target), 0, &content[..len]);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn tmpfile_link(&mut self, path: &RelPath, data: &[u8]) -> Answer {
        if let Some(parent) = path.parent() {
            let node = self.existing(&parent, true)?;
            if !self.is_dir(node) {
                return Err(libc::ENOTDIR);
            }
        }
        let (parent, name) = self.vacant(path)?;
        self.make(parent, name, Body::File(data.to_vec()), 0o644);
        Ok(Outcome::Done)
    }

    pub(super) fn remove(&mut self, path: &RelPath, is_rmdir: bool) -> Answer {
        let found = self.walk(path, false)?;
        let node = found.node.ok_or(libc::ENOENT)?;
        match (&self.nodes[node].body, is_rmdir) {
            (Body::Dir(_), false) => return Err(libc::EISDIR),
            (Body::Dir(children), true) if !children.is_empty() => return Err(libc::ENOTEMPTY),
            (Body::Dir(_), true) | (_, false) => {}
            (_, true) => return Err(libc::ENOTDIR),
        }
        self.edit_dir(found.parent).remove(&found.name);
        self.nodes[node].nlink -= 1;
        Ok(Outcome::Done)
    }

    /// The checks in the kernel's order (`do_renameat2`, `vfs_rename`).
    pub(super) fn rename(&mut self, from: &RelPath, to: &RelPath, flag: RenameFlag) -> Answer {
        let old = self.walk(from, false)?;
        let new = self.walk(to, false)?;
        let source = old.node.ok_or(libc::ENOENT)?;
        match flag {
            RenameFlag::NoReplace if new.node.is_some() => return Err(libc::EEXIST),
            RenameFlag::Exchange if new.node.is_none() => return Err(libc::ENOENT),
            _ => {}
        }
        if self.is_dir(source) && self.contains(source, new.parent) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = new.node
            && self.is_dir(target)
            && self.contains(target, old.parent)
        {
            return Err(if flag == RenameFlag::Exchange {
                libc::EINVAL
            } else {
                libc::ENOTEMPTY
            });
        }
        if new.node == Some(source) {
            return Ok(Outcome::Done);
        }
        if flag == RenameFlag::Exchange {
            let target = new.node.expect("checked above");
            self.edit_dir(old.parent).insert(old.name, target);
            self.edit_dir(new.parent).insert(new.name, source);
            return Ok(Outcome::Done);
        }
        if let Some(target) = new.node {
            match (&self.nodes[target].body, self.is_dir(source)) {
                (Body::Dir(children), true) if !children.is_empty() => {
                    // Overlayfs copies the source up before it finds out, which touches its parent.
                    self.nodes[old.parent].mtime = None;
                    return Err(libc::ENOTEMPTY);
                }
                (Body::Dir(_), true) => {}
                (Body::Dir(_), false) => return Err(libc::EISDIR),
                (_, true) => return Err(libc::ENOTDIR),
                (_, false) => {}
            }
            self.nodes[target].nlink -= 1;
        }
        self.edit_dir(old.parent).remove(&old.name);
        self.edit_dir(new.parent).insert(new.name, source);
        Ok(Outcome::Done)
    }

    /// Whether `inner` is `outer` or lies below it.
    fn contains(&self, outer: NodeId, inner: NodeId) -> bool {
        outer == inner
            || match &self.nodes[outer].body {
                Body::Dir(children) => children
                    .values()
                    .any(|child| self.is_dir(*child) && self.contains(*child, inner)),
                _ => false,
            }
    }

    pub(super) fn link(&mut self, from: &RelPath, to: &RelPath) -> Answer {
        let node = self.existing(from, false)?;
        let (parent, name) = self.vacant(to)?;
        if self.is_dir(node) {
            return Err(libc::EPERM);
        }
        self.edit_dir(parent).insert(name, node);
        self.nodes[node].nlink += 1;
        Ok(Outcome::Done)
    }

    pub(super) fn set_attributes(&mut self, op: &Op) -> Answer {
        match op {
            Op::Chmod { path, mode } => {
                let node = self.existing(path, true)?;
                self.nodes[node].mode = *mode;
            }
            Op::Chown { path, uid, gid } => {
                let node = self.existing(path, false)?;
                let is_dir = self.is_dir(node);
                let node = &mut self.nodes[node];
                (node.uid, node.gid) = (*uid, *gid);
                if !is_dir {
                    node.mode &= !0o4000;
                    if node.mode & 0o010 != 0 {
                        node.mode &= !0o2000;
                    }
                }
            }
            Op::SetTimes { path, secs, nanos } => {
                let node = self.existing(path, false)?;
                self.nodes[node].mtime = Some((*secs, i64::from(*nanos)));
            }
            _ => unreachable!("the caller chose"),
        }
        Ok(Outcome::Done)
    }

    /// `user.*` attributes are for files and directories only; `trusted.*` for everything.
    fn xattr_node(&self, path: &RelPath, name: &str) -> Result<NodeId, i32> {
        let node = self.existing(path, false)?;
        let is_plain = matches!(self.nodes[node].body, Body::File(_) | Body::Dir(_));
        if name.starts_with("user.") && !is_plain {
            Err(libc::EPERM)
        } else {
            Ok(node)
        }
    }

    pub(super) fn set_xattr(&mut self, path: &RelPath, name: &str, value: &[u8], flag: XattrFlag) -> Answer {
        let node = self.xattr_node(path, name)?;
        let xattrs = &mut self.nodes[node].xattrs;
        match (flag, xattrs.contains_key(name.as_bytes())) {
            (XattrFlag::Create, true) => return Err(libc::EEXIST),
            (XattrFlag::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        xattrs.insert(name.as_bytes().to_vec(), value.to_vec());
        Ok(Outcome::Done)
    }

    pub(super) fn remove_xattr(&mut self, path: &RelPath, name: &str) -> Answer {
        let node = self.xattr_node(path, name)?;
        match self.nodes[node].xattrs.remove(name.as_bytes()) {
            Some(_) => Ok(Outcome::Done),
            None => Err(libc::ENODATA),
        }
    }

    pub(super) fn hold_or_release(&mut self, op: &Op) -> Answer {
        match op {
            Op::Hold { slot, path, access } => {
                // A slot is given up before it is taken anew, whether or not the new file opens.
                self.held.remove(slot);
                let node = self.openable(path)?;
                if self.is_dir(node) && *access != Access::Read {
                    return Err(libc::EISDIR);
                }
                let may_be_stale = *access == Access::Read && self.nodes[node].from_layer;
                let stale = if may_be_stale {
                    self.content(node).ok()
                } else {
                    None
                };
                if *access != Access::Read {
                    self.forget_time_of_data_copy(node);
                }
                self.held.insert(
                    *slot,
                    Held {
                        node,
                        access: *access,
                        stale,
                    },
                );
            }
            Op::HeldClose { slot } => {
                self.held.remove(slot);
            }
            _ => self.held.clear(),
        }
        Ok(Outcome::Done)
    }

    pub(super) fn use_held(&mut self, op: &Op) -> Answer {
        let (Op::HeldWrite { slot, .. }
        | Op::HeldRead { slot }
        | Op::HeldTruncate { slot, .. }
        | Op::HeldChmod { slot, .. }) = op
        else {
            unreachable!("the caller chose")
        };
        let held = self.held.get(slot).cloned().ok_or(libc::EBADF)?;
        match op {
            Op::HeldRead { .. } if held.access == Access::Write => Err(libc::EBADF),
            Op::HeldRead { .. } => Ok(Outcome::Bytes(self.content(held.node)?)),
            Op::HeldChmod { mode, .. } => {
                self.nodes[held.node].mode = *mode;
                Ok(Outcome::Done)
            }
            Op::HeldWrite { .. } if held.access == Access::Read => Err(libc::EBADF),
            Op::HeldTruncate { .. } if held.access == Access::Read => Err(libc::EINVAL),
            Op::HeldWrite { offset, data, .. } => {
                write_into(self.content_mut(held.node), *offset, data);
                Ok(Outcome::Done)
            }
            Op::HeldTruncate { len, .. } => {
                self.content_mut(held.node)
                    .resize(usize::try_from(*len).expect("short"), 0);
                Ok(Outcome::Done)
            }
            _ => unreachable!("the caller chose"),
        }
    }
}
