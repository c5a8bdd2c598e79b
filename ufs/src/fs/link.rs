//! Making new names: files, directories, symbolic links, special files, hard links.
//!
//! A new file goes straight to its place where one system call makes it whole. Where it needs more (an owner other
//! than the server's, a whiteout in its place), it is made in the work directory and moved by one rename.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Entry, Fs};
use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result};
use crate::layer::whiteout;
use crate::sys;
use crate::union::inode::{Inode, Node};
use crate::union::{Resolved, check_component};
use crate::upper::Upper;
use crate::upper::copy_up::Depth;

/// What to make.
#[derive(Debug, Clone, Copy)]
pub enum NewNode<'a> {
    /// A regular file, opened for reading and writing.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a OsStr),
    /// A device node, named pipe or socket: its type bits and device number.
    Special {
        /// `S_IFMT` bits.
        kind: u32,
        /// Device number as in [`Attr::rdev`].
        rdev: u64,
    },
}

/// Who makes a file, and with which permissions.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User, as shown in the mount.
    pub uid: u32,
    /// Group, as shown in the mount.
    pub gid: u32,
    /// Permission bits asked for.
    pub mode: u32,
    /// The caller's mask; ignored in a directory with a default ACL (acl(5)).
    pub umask: u32,
}

/// The name of the access control list that new entries of a directory inherit.
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// How a new file is to look, everything decided.
struct Plan {
    uid: u32,
    gid: u32,
    mode: u32,
    /// In a directory with this default ACL.
    default_acl: Option<Vec<u8>>,
}

/// What a new name finds in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Whiteout,
}

impl Fs {
    /// Makes a file of any kind and holds its node. A regular file comes with a descriptor open for both ways.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, and what the upper's file system answers.
    pub fn make(
        &self,
        parent: u64,
        name: &OsStr,
        new: NewNode<'_>,
        owner: Owner,
    ) -> Result<(Entry, Option<OwnedFd>)> {
        let parent = self.dir_node(parent)?;
        let parent = &parent.inode;
        let upper = self.union.writable()?;
        self.prepare_parent(parent)?;
        let _alone = parent.change_entries();
        let dir = upper.dir_of(parent)?;
        let place = self.free_place(parent, &dir, name)?;
        let plan = self.plan(parent, &dir, new, owner)?;
        let made = if place == Place::Free && self.is_made_whole(&plan, new) {
            create(&dir, name, new, plan.mode)?
        } else {
            stage(upper, &dir, name, new, &plan, place)?
        };
        let attr = match &made {
            Some(file) => sys::stat_fd(file),
            None => sys::stat_at(&dir, name),
        };
        let attr = attr.doing("read attributes of new file")?;
        let node = self.adopt_new(parent, name, attr)?;
        Ok((self.entry(&node, attr), made))
    }

    /// Gives the file `node` one more name.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, and what the upper's file system answers.
    pub fn link(&self, node: u64, new_parent: u64, new_name: &OsStr) -> Result<Entry> {
        let node = self.union.node(node)?;
        let parent = self.dir_node(new_parent)?;
        if node.inode.is_dir() {
            return Err(Error::Denied("directories have one name"));
        }
        let upper = self.union.writable()?;
        self.union.copy_up(&node.inode, Depth::Metadata)?;
        self.prepare_parent(&parent.inode)?;
        let _alone = parent.inode.change_entries();
        let dir = upper.dir_of(&parent.inode)?;
        let source = upper.name(&node.inode)?;
        let source = sys::fd_path(std::os::fd::AsFd::as_fd(&*source));
        let link = |dir: &OwnedFd, name: &OsStr| {
            fs::linkat(CWD, &source, dir, name, AtFlags::SYMLINK_FOLLOW).doing("make hard link")
        };
        if node.inode.state.read().metadata_only {
            upper.note_impure(&parent.inode, &*dir)?;
        }
        match self.free_place(&parent.inode, &dir, new_name)? {
            Place::Free => link(&dir, new_name)?,
            Place::Whiteout => {
                let staged = upper.fresh_name();
                link(upper.work(), &staged)?;
                move_over(upper, &staged, &dir, new_name)?;
            }
        }
        self.union.nodes.add_link(&node.inode, &parent.inode, new_name);
        let held = self.union.nodes.hold_known(&node.inode);
        let stored = self.union.stored_attr(&node.inode)?;
        Ok(self.entry(&held, stored))
    }

    /// Makes sure that a directory that is about to change is in the upper and still part of the tree.
    pub(super) fn prepare_parent(&self, parent: &Arc<Inode>) -> Result<()> {
        if parent.state.read().removed {
            return Err(Error::NotFound);
        }
        self.union.copy_up(parent, Depth::Metadata)
    }

    fn free_place(&self, parent: &Inode, dir: &OwnedFd, name: &OsStr) -> Result<Place> {
        check_component(name)?;
        match sys::stat_at(dir, name) {
            Ok(attr) if self.union.writable()?.is_mark(dir, name, &attr)? => return Ok(Place::Whiteout),
            Ok(_) => return Err(Error::Exists),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).doing("look up in upper"),
        }
        match self.union.resolve_lower(&parent.lowers(), name)? {
            Some(_) => Err(Error::Exists),
            None => Ok(Place::Free),
        }
    }

    fn plan(&self, parent: &Inode, dir: &OwnedFd, new: NewNode<'_>, owner: Owner) -> Result<Plan> {
        let above = sys::stat_fd(dir).doing("read attributes of directory")?;
        let uid = self.ids.stored_uid(owner.uid).ok_or(Error::Os {
            doing: "map owner",
            source: Errno::OVERFLOW,
        })?;
        let mut gid = self.ids.stored_gid(owner.gid).ok_or(Error::Os {
            doing: "map group",
            source: Errno::OVERFLOW,
        })?;
        let mut mode = owner.mode & 0o7777;
        // A set-group-id directory hands down its group, and to directories the bit as well.
        if above.mode & libc::S_ISGID != 0 {
            gid = above.gid;
            if matches!(new, NewNode::Directory) {
                mode |= libc::S_ISGID;
            }
        }
        let default_acl = self.default_acl(parent)?;
        if default_acl.is_none() {
            mode &= !owner.umask;
        }
        Ok(Plan {
            uid,
            gid,
            mode,
            default_acl,
        })
    }

    fn default_acl(&self, dir: &Inode) -> Result<Option<Vec<u8>>> {
        if dir.default_acl.load(Ordering::Relaxed) == 1 {
            return Ok(None);
        }
        let acl = self.union.stored_xattr(dir, OsStr::new(DEFAULT_ACL))?;
        dir.default_acl
            .store(if acl.is_some() { 2 } else { 1 }, Ordering::Relaxed);
        Ok(acl)
    }

    /// Whether one system call in the upper directory makes the file as planned.
    fn is_made_whole(&self, plan: &Plan, new: NewNode<'_>) -> bool {
        let own = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let device =
            matches!(new, NewNode::Special { kind, .. } if kind == libc::S_IFCHR || kind == libc::S_IFBLK);
        !self.ids.keeps_owners() || (own == (plan.uid, plan.gid) && !device)
    }

    /// The node of a file just made in the upper.
    fn adopt_new(&self, parent: &Arc<Inode>, name: &OsStr, attr: Attr) -> Result<Arc<Node>> {
        let mut ino = self.union.numbers.of_upper(attr.dev, attr.ino);
        if self.union.nodes.earlier.is_held(ino) {
            ino = self.union.numbers.renumber(attr.dev, attr.ino);
        }
        let made = Resolved {
            attr,
            upper: Some(attr.ino),
            metadata_only: false,
            partial: false,
            lowers: Vec::new(),
            ino,
            copies: 0,
        };
        self.union.adopt(parent, name, made)
    }
}

/// Makes the file with one system call.
fn create(dir: &OwnedFd, name: &OsStr, new: NewNode<'_>, mode: u32) -> Result<Option<OwnedFd>> {
    let mode = Mode::from_raw_mode(mode);
    match new {
        NewNode::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return sys::retry(|| fs::openat(dir, name, flags, mode))
                .doing("create file")
                .map(Some);
        }
        NewNode::Directory => fs::mkdirat(dir, name, mode).doing("create directory")?,
        NewNode::Symlink(target) => fs::symlinkat(target, dir, name).doing("create symbolic link")?,
        NewNode::Special { kind, rdev } => {
            let kind = fs::FileType::from_raw_mode(kind);
            if kind == fs::FileType::CharacterDevice && rdev == whiteout::DEVICE {
                // In the upper it would be a whiteout.
                return Err(Error::Denied("character device 0:0 marks a deletion"));
            }
            fs::mknodat(dir, name, kind, mode, rdev).doing("create special file")?;
        }
    }
    Ok(None)
}

/// Makes the file in the work directory, finishes it there, and moves it into place.
fn stage(
    upper: &Upper,
    dir: &OwnedFd,
    name: &OsStr,
    new: NewNode<'_>,
    plan: &Plan,
    place: Place,
) -> Result<Option<OwnedFd>> {
    let nursery = match &plan.default_acl {
        Some(acl) => Some(inheriting_dir(upper, acl)?),
        None => None,
    };
    let staged = upper.fresh_name();
    let within = nursery.as_ref().map_or(upper.work(), |(_, fd)| fd);
    let result = create(within, &staged, new, plan.mode).and_then(|file| {
        finish(upper, within, &staged, new, plan, place)?;
        match place {
            Place::Whiteout => {
                exchange_or_replace(within, &staged, dir, name, matches!(new, NewNode::Directory))?;
            }
            Place::Free => fs::renameat_with(within, &staged, dir, name, fs::RenameFlags::NOREPLACE)
                .doing("move new file into place")?,
        }
        Ok(file)
    });
    if result.is_err() {
        let _ = fs::unlinkat(within, &staged, AtFlags::empty());
        let _ = fs::unlinkat(within, &staged, AtFlags::REMOVEDIR);
    } else if matches!(new, NewNode::Directory) && place == Place::Whiteout {
        let _ = fs::unlinkat(within, &staged, AtFlags::empty());
    }
    if let Some((nursery, _)) = &nursery {
        upper.discard(nursery);
    }
    result
}

/// A directory in the work directory whose entries inherit `acl`.
fn inheriting_dir(upper: &Upper, acl: &[u8]) -> Result<(OsString, OwnedFd)> {
    let name = upper.fresh_name();
    fs::mkdirat(upper.work(), &name, Mode::from_raw_mode(0o700)).doing("prepare inherited ACL")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let fd = sys::open_at(upper.work(), &name, flags).doing("prepare inherited ACL")?;
    sys::set_xattr(&fd, OsStr::new(DEFAULT_ACL), acl, XattrFlags::empty()).doing("prepare inherited ACL")?;
    Ok((name, fd))
}

/// Owner, permissions and marks of a staged file.
fn finish(
    upper: &Upper,
    within: &OwnedFd,
    staged: &OsStr,
    new: NewNode<'_>,
    plan: &Plan,
    place: Place,
) -> Result<()> {
    let named = sys::name_at(within, staged).doing("finish new file")?;
    let made = sys::stat_fd(&named).doing("finish new file")?;
    if (made.uid, made.gid) != (plan.uid, plan.gid) {
        sys::chown(&named, Some(plan.uid), Some(plan.gid)).doing("set owner of new file")?;
        // The change of owner dropped set-id bits.
        if made.file_type() != FileType::Symlink && made.permissions() & 0o6000 != 0 {
            sys::chmod(&named, made.permissions()).doing("set permissions of new file")?;
        }
    }
    if matches!(new, NewNode::Directory) {
        if made.permissions() & libc::S_ISGID != plan.mode & libc::S_ISGID {
            sys::chmod(&named, made.permissions() | plan.mode & libc::S_ISGID)
                .doing("set permissions of new file")?;
        }
        if place == Place::Whiteout {
            upper.set_mark(&named, "opaque", b"y")?;
        }
    }
    Ok(())
}

/// Moves a staged file over a whiteout. A directory cannot replace a file, so the two change places.
fn exchange_or_replace(
    within: &OwnedFd,
    staged: &OsStr,
    dir: &OwnedFd,
    name: &OsStr,
    is_dir: bool,
) -> Result<()> {
    let flags = if is_dir {
        fs::RenameFlags::EXCHANGE
    } else {
        fs::RenameFlags::empty()
    };
    fs::renameat_with(within, staged, dir, name, flags).doing("move new file over whiteout")
}

/// Moves a staged file over whatever has its name, by one rename.
pub(super) fn move_over(upper: &Upper, staged: &OsStr, dir: &OwnedFd, name: &OsStr) -> Result<()> {
    let moved = fs::renameat_with(upper.work(), staged, dir, name, fs::RenameFlags::empty());
    if moved.is_err() {
        upper.discard(staged);
    }
    moved.doing("move into place")
}
