//! Bringing a lower file into the upper, so that it can be changed.
//!
//! The copy is prepared in the work directory and renamed into place, so that after a crash the name is either the
//! lower file or the whole copy. One thread copies a file, others that want the same file wait for it; nothing else
//! waits, since no other lock is held while data moves.
//!
//! ```text
//! lower only ──Metadata──► metadata-only copy ──Content──► whole copy
//!     └───────────────────────Content──────────────────────────┘
//! ```
//!
//! Where that is asked for, a large file becomes a *partial* copy instead of a whole one (see [`super::partial`]).
//!
//! A lower file with several names gets all its visible names in the upper at once, so that they stay one file for
//! us and for everybody who reads the upper.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::partial::mark::{self, Mark};
use super::partial::{Found, Partial, SHARED_MIN_BYTES};
use super::{Upper, links};
use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result};
use crate::layer::Content;
use crate::layer::marks::{self, Redirect};
use crate::stream::ReadAt;
use crate::sys::{self, SetTime};
use crate::union::inode::{Inode, Link};
use crate::union::lowers::Lowers;
use crate::union::{LowerRef, Union, resolve};

/// How much of a file is needed in the upper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Attributes may change; the content may stay below.
    Metadata,
    /// The content may change too.
    Content,
    /// The content is about to be cut to nothing: no data needs to be copied.
    Emptied,
}

/// Bytes moved by one call where blocks cannot be shared.
const COPY_CHUNK_BYTES: usize = 4 << 20;

/// Bytes read at a time from what is no file of its own.
const SOURCE_CHUNK_BYTES: usize = 256 << 10;

impl Union {
    /// Makes sure that `inode` is in the upper, to the given depth.
    pub(crate) fn copy_up(&self, inode: &Arc<Inode>, depth: Depth) -> Result<()> {
        let upper = self.writable()?;
        if is_done(upper, inode, depth) {
            return Ok(());
        }
        // Before the copy can be met by its name: there must be one inode for both.
        self.nodes.keep(inode);
        let _copying = inode.copying.lock();
        if is_done(upper, inode, depth) {
            return Ok(());
        }
        if inode.in_upper() {
            return self.fill_in(upper, inode, depth);
        }
        // Removal takes the same lock, so that the name stays the file's until the copy is in its place.
        let link = inode.state.read().links.first().cloned();
        if let Some(link) = &link {
            self.copy_up(&link.parent, Depth::Metadata)?;
        }
        self.promote(upper, inode, link.as_ref(), depth)
    }

    /// Copies a file that is only below. Without a name it was deleted, and its copy is for those who have it open.
    fn promote(&self, upper: &Upper, inode: &Arc<Inode>, link: Option<&Link>, depth: Depth) -> Result<()> {
        let lowers = inode.lowers();
        let top = lowers.first().ok_or(Error::Stale)?.clone();
        let attr = self.layers[top.layer].attr(&top.node)?;
        let below = self.left_below(upper, inode, &attr, &lowers, depth)?;
        let name = if link.is_some() && attr.nlink > 1 && !attr.is_dir() {
            links::staged_name(upper)
        } else {
            upper.fresh_name()
        };
        let made = self
            .prepare(upper, inode, &top, &attr, &name, below.as_ref(), depth)
            .and_then(|made| {
                match link {
                    Some(link) => self.put_in_place(upper, &name, link, &top, &attr, below.is_some())?,
                    None => keep_without_name(upper, &name, inode)?,
                }
                Ok(made)
            });
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                upper.discard(&name);
                return Err(error);
            }
        };
        {
            let mut state = inode.state.write();
            state.upper = Some(made.number);
            state.metadata_only = below.is_some();
            state.partial = made.partial.is_some();
            if !inode.is_dir() && below.is_none() {
                state.lowers = Lowers::None;
            }
        }
        self.nodes.note_copied_up(made.number, inode);
        if let Some(partial) = made.partial {
            upper.use_partial(inode, made.number, &Arc::new(partial));
        }
        upper.copies.note();
        inode.content_version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Moves the copy `staged` from the work directory to its name: the moment from which on it counts. Everything
    /// that can fail is done before.
    fn put_in_place(
        &self,
        upper: &Upper,
        staged: &OsStr,
        link: &Link,
        from: &LowerRef,
        attr: &Attr,
        metadata_only: bool,
    ) -> Result<()> {
        let dir = upper.dir_of(&link.parent)?;
        if metadata_only || attr.is_dir() {
            upper.note_impure(&link.parent, &dir)?;
        }
        let others = if attr.nlink > 1 && !attr.is_dir() {
            self.link_other_names(upper, staged, from, attr, link, metadata_only)?
        } else {
            Vec::new()
        };
        let moved = keeping_times(&dir, || {
            fs::renameat_with(upper.work(), staged, &*dir, &*link.name, RenameFlags::NOREPLACE)
                .doing("move copy into upper")
        });
        if moved.is_err() {
            links::undo(&others);
        }
        moved
    }

    /// For a copy without all of the content: how readers of the upper come to the content below. `None`: copy it.
    fn left_below(
        &self,
        upper: &Upper,
        inode: &Inode,
        attr: &Attr,
        lowers: &[LowerRef],
        depth: Depth,
    ) -> Result<Option<Below>> {
        let block_bytes = match depth {
            Depth::Content => self.worth_parts(upper, inode, attr.size_bytes)?,
            Depth::Metadata | Depth::Emptied => None,
        };
        let wanted = (depth == Depth::Metadata || block_bytes.is_some()) && upper.options.metacopy;
        if !wanted || inode.file_type != FileType::Regular || attr.size_bytes == 0 {
            return Ok(None);
        }
        let content = lowers.last().ok_or(Error::Stale)?;
        let top = lowers.first().ok_or(Error::Stale)?;
        let path = self.layers[top.layer].path(&top.node)?;
        // The path must lead to this very file, also where layers above hold something else under it.
        let places = resolve::by_path(&self.layers, &path)?;
        let leads_there = places
            .last()
            .is_some_and(|(place, _)| place.layer == content.layer && place.node == content.node);
        Ok(leads_there.then(|| Below {
            redirect: Redirect::absolute_value(&path),
            block_bytes,
        }))
    }

    /// The size of blocks of a file that is to be copied up block by block.
    fn worth_parts(&self, upper: &Upper, inode: &Inode, size_bytes: u64) -> Result<Option<u64>> {
        let large = upper
            .options
            .partial_min_bytes
            .is_some_and(|min| size_bytes >= min);
        if !large || inode.file_type != FileType::Regular {
            return Ok(None);
        }
        let Some(block_bytes) = upper.partial_block_bytes() else {
            return Ok(None);
        };
        let may_share = size_bytes >= SHARED_MIN_BYTES && upper.can_reflink.load(Ordering::Relaxed);
        let shares = may_share && upper.shares_blocks_with(&self.content_of(inode)?);
        Ok((!shares).then_some(block_bytes))
    }

    /// Makes the copy under `name` in the work directory.
    #[allow(clippy::too_many_arguments)]
    fn prepare(
        &self,
        upper: &Upper,
        inode: &Inode,
        from: &LowerRef,
        attr: &Attr,
        name: &OsStr,
        below: Option<&Below>,
        depth: Depth,
    ) -> Result<Made> {
        let work = upper.work();
        let fd = match inode.file_type {
            FileType::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let file = fs::openat(work, name, flags, Mode::from_raw_mode(0o600)).doing("create copy")?;
                if below.is_some() {
                    fs::ftruncate(&file, attr.size_bytes).doing("set length of copy")?;
                } else if depth != Depth::Emptied {
                    copy_content(upper, &self.content_of(inode)?, &file, attr.size_bytes)?;
                }
                file
            }
            FileType::Directory => {
                fs::mkdirat(work, name, Mode::from_raw_mode(0o700)).doing("create copy of directory")?;
                sys::name_at(work, name).doing("create copy of directory")?
            }
            FileType::Symlink => {
                let target = self.layers[from.layer].read_link(&from.node)?;
                fs::symlinkat(&*target, work, name).doing("create copy of symbolic link")?;
                sys::name_at(work, name).doing("create copy of symbolic link")?
            }
            _ => {
                let kind = fs::FileType::from_raw_mode(attr.mode & libc::S_IFMT);
                fs::mknodat(work, name, kind, Mode::from_raw_mode(0o600), attr.rdev)
                    .doing("create copy of special file")?;
                sys::name_at(work, name).doing("create copy of special file")?
            }
        };
        let mtime = if depth == Depth::Emptied {
            // What loses its content in place of being copied has changed.
            SetTime::Now
        } else {
            SetTime::At(attr.mtime)
        };
        let number = self.dress(upper, inode, from, attr, &fd, below, mtime)?;
        // The rename must not reach the disk before the data does. Metadata is in the journal with it.
        let has_data = inode.file_type == FileType::Regular && below.is_none() && attr.size_bytes > 0;
        if has_data && depth != Depth::Emptied && !upper.options.volatile {
            sys::retry(|| fs::fdatasync(&fd)).doing("sync copy")?;
        }
        let partial = match below.and_then(|below| below.block_bytes) {
            Some(block_bytes) => Some(Partial::fresh(Found {
                file: fd,
                below: self.content_of(inode)?,
                mark: Mark {
                    limit: attr.size_bytes,
                    ino: number,
                },
                mark_name: upper.space.name(mark::NAME),
                block_bytes,
            })),
            None => None,
        };
        Ok(Made { number, partial })
    }

    /// Gives a fresh copy the original's owner, permissions, attributes and times, in the order in which none of
    /// them undoes another: chown drops set-id bits and capabilities, writing attributes changes times. Returns its
    /// number.
    #[allow(clippy::too_many_arguments)]
    fn dress(
        &self,
        upper: &Upper,
        inode: &Inode,
        from: &LowerRef,
        attr: &Attr,
        fd: &OwnedFd,
        below: Option<&Below>,
        mtime: SetTime,
    ) -> Result<u64> {
        let created = sys::stat_fd(fd).doing("read attributes of copy")?;
        if (created.uid, created.gid) != (attr.uid, attr.gid) {
            match sys::chown(fd, Some(attr.uid), Some(attr.gid)) {
                // An owner that this user namespace cannot name: the copy belongs to whoever changes the file.
                Err(Errno::INVAL | Errno::PERM | Errno::OVERFLOW)
                    if upper.space == marks::MarkSpace::User => {}
                result => result.doing("set owner of copy")?,
            }
        }
        if inode.file_type != FileType::Symlink {
            sys::chmod(fd, attr.permissions()).doing("set permissions of copy")?;
        }
        self.copy_xattrs(upper, from, fd)?;
        if inode.file_type != FileType::Symlink {
            // Special files cannot have user.* attributes.
            let can_be_marked = matches!(inode.file_type, FileType::Regular | FileType::Directory);
            if can_be_marked || upper.space == marks::MarkSpace::Trusted {
                upper.set_mark(fd, "shale.ino", &marks::number_value(inode.ino))?;
            }
            if let Some(below) = below {
                upper.set_mark(fd, "redirect", &below.redirect)?;
                upper.set_mark(fd, "metacopy", b"")?;
                if below.block_bytes.is_some() {
                    let mark = Mark {
                        limit: attr.size_bytes,
                        ino: created.ino,
                    };
                    upper.set_mark(fd, mark::NAME, &mark.value())?;
                }
            }
        } else if upper.space == marks::MarkSpace::Trusted {
            upper.set_mark(fd, "shale.ino", &marks::number_value(inode.ino))?;
        }
        sys::set_times(fd, SetTime::At(attr.atime), mtime).doing("set times of copy")?;
        Ok(created.ino)
    }

    fn copy_xattrs(&self, upper: &Upper, from: &LowerRef, fd: &OwnedFd) -> Result<()> {
        let layer = &self.layers[from.layer];
        for name in layer.xattr_names(&from.node)? {
            // Marks say how a layer relates to those below it: the copy gets its own.
            if self.space.to_shown(&name).is_none() {
                continue;
            }
            let Some(value) = layer.xattr(&from.node, &name)? else {
                continue;
            };
            match sys::set_xattr(fd, &name, &value, XattrFlags::empty()) {
                Ok(()) => {}
                // What the caller's rights or the file system cannot hold is left out, as overlayfs does for
                // security labels and rootless mounts.
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL)
                    if upper.space == marks::MarkSpace::User
                        || name.as_encoded_bytes().starts_with(b"security.") => {}
                Err(error) => return Err(error).doing("copy extended attribute"),
            }
        }
        Ok(())
    }

    /// Opens the content of a file that is not whole in the upper.
    pub(crate) fn content_of(&self, inode: &Inode) -> Result<Content> {
        let lowers = inode.lowers();
        if lowers.is_empty() {
            return Err(Error::Damaged("a metadata-only copy has lost its content"));
        }
        resolve::content(&self.layers, &lowers)
    }

    /// Brings the content into a metadata-only copy. Until the mark is removed, the content below counts; from then on
    /// nothing can fail.
    fn fill_in(&self, upper: &Upper, inode: &Arc<Inode>, depth: Depth) -> Result<()> {
        let partial = match self.open_partial(inode) {
            // What cannot be read can be emptied.
            Err(Error::Damaged(_)) if depth == Depth::Emptied => None,
            opened => opened?,
        };
        if let Some(partial) = partial {
            return match depth {
                Depth::Emptied => self.empty_partial(upper, inode, &partial),
                Depth::Metadata | Depth::Content => self.fill_in_partial(upper, inode, &partial),
            };
        }
        let named = upper.name(inode)?;
        let attr = sys::stat_fd(&named).doing("read attributes of copy")?;
        if !inode.state.read().partial && self.worth_parts(upper, inode, attr.size_bytes)?.is_some() {
            make_partial(upper, inode, &named, &attr)?;
            return match self.open_partial(inode)? {
                Some(partial) if depth == Depth::Emptied => self.empty_partial(upper, inode, &partial),
                _ => Ok(()),
            };
        }
        let file = sys::reopen(&named, OFlags::RDWR).doing("open copy")?;
        let put_back_times = || {
            sys::set_times(&named, SetTime::At(attr.atime), SetTime::At(attr.mtime))
                .doing("set times of copy")
        };
        // Also when it is about to be emptied: length and mark cannot go at once, and a copy without length but with
        // the content below, or with its length and no content, is a file that never was.
        let filled = self
            .content_of(inode)
            .and_then(|content| copy_content(upper, &content, &file, attr.size_bytes))
            // Before the sync, which would make the time of the copying last.
            .and_then(|()| put_back_times())
            .and_then(|()| sync_copy(upper, &file))
            .and_then(|()| upper.remove_mark(&file, "metacopy"));
        if let Err(error) = filled {
            // What is shown of the copy is its size and its times.
            if fs::ftruncate(&file, attr.size_bytes).is_err() || put_back_times().is_err() {
                tracing::warn!("a copy that got no content shows another size or time");
            }
            return Err(error);
        }
        // Without that mark the others mean nothing.
        for mark in ["redirect", mark::NAME] {
            if let Err(error) = upper.remove_mark(&file, mark) {
                tracing::warn!(mark, %error, "a mark stays on a copy");
            }
        }
        let mut state = inode.state.write();
        state.metadata_only = false;
        state.partial = false;
        state.lowers = Lowers::None;
        drop(state);
        upper.copies.note();
        inode.content_version.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

fn sync_copy(upper: &Upper, copy: &OwnedFd) -> Result<()> {
    if upper.options.volatile {
        return Ok(());
    }
    sys::retry(|| fs::fdatasync(copy)).doing("sync copy")
}

/// Takes the copy of a deleted file out of the work directory, and keeps it by its descriptor.
fn keep_without_name(upper: &Upper, staged: &OsStr, inode: &Inode) -> Result<()> {
    let named = sys::name_at(upper.work(), staged).doing("open copy of deleted file")?;
    fs::unlinkat(upper.work(), staged, AtFlags::empty()).doing("take name of copy away")?;
    inode.state.write().orphan = Some(Arc::new(named));
    Ok(())
}

fn is_done(upper: &Upper, inode: &Inode, depth: Depth) -> bool {
    let state = inode.state.read();
    let has_content = || match depth {
        Depth::Metadata => true,
        Depth::Content if state.partial => upper.options.partial_min_bytes.is_some(),
        Depth::Content | Depth::Emptied => !state.metadata_only,
    };
    state.upper.is_some() && has_content()
}

/// What a copy says that leaves content below.
struct Below {
    /// Where it is.
    redirect: Vec<u8>,
    /// Only the blocks that are written will be in the copy; so large are they.
    block_bytes: Option<u64>,
}

/// A copy in the work directory.
struct Made {
    number: u64,
    /// What its content is, if only what is written will be in it.
    partial: Option<Partial>,
}

/// From here on a metadata-only copy takes the blocks that are written.
fn make_partial(upper: &Upper, inode: &Inode, named: &OwnedFd, attr: &Attr) -> Result<()> {
    let file = sys::reopen(named, OFlags::RDWR).doing("open copy")?;
    // A copy-up that was cut off may have left data, which would now count.
    if sys::data_from(&file, 0, attr.size_bytes)
        .doing("look for data in copy")?
        .is_some()
    {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        sys::retry(|| fs::fallocate(&file, flags, 0, attr.size_bytes)).doing("clear copy")?;
        sys::set_times(named, SetTime::At(attr.atime), SetTime::At(attr.mtime)).doing("set times of copy")?;
    }
    let mark = Mark {
        limit: attr.size_bytes,
        ino: attr.ino,
    };
    upper.set_mark(&file, mark::NAME, &mark.value())?;
    inode.state.write().partial = true;
    upper.copies.note();
    inode.content_version.fetch_add(1, Ordering::Release);
    Ok(())
}

/// Runs a change of a directory that is none for the user, and puts the directory's times back.
pub(crate) fn keeping_times<T>(dir: &OwnedFd, change: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sys::stat_fd(dir).doing("read times of directory")?;
    let result = change()?;
    // The change stands, whatever becomes of the times.
    if let Err(error) = sys::set_times(dir, SetTime::At(before.atime), SetTime::At(before.mtime)) {
        tracing::warn!(%error, "a directory shows the time of a copy-up");
    }
    Ok(result)
}

fn copy_content(upper: &Upper, from: &Content, to: &OwnedFd, size_bytes: u64) -> Result<()> {
    match from {
        _ if size_bytes == 0 => Ok(()),
        Content::File(from) => copy_file(upper, from, to, size_bytes),
        Content::Source(from) => copy_source(from.as_ref(), to, size_bytes),
        Content::Merged(from) => copy_source(from, to, size_bytes),
    }
}

/// Copies bytes that are not a file of their own.
fn copy_source(from: &dyn ReadAt, to: &OwnedFd, size_bytes: u64) -> Result<()> {
    let mut buffer = vec![0; SOURCE_CHUNK_BYTES.min(usize::try_from(size_bytes).unwrap_or(usize::MAX))];
    let mut offset = 0;
    while offset < size_bytes {
        let read = from.read_at(&mut buffer, offset).map_err(|error| Error::Os {
            doing: "read data to copy",
            source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })?;
        if read == 0 {
            return Err(Error::Damaged("a content is shorter than its file"));
        }
        // What is not a file of its own cannot tell its holes: they are where there is nothing but zeros.
        if buffer[..read].iter().any(|&byte| byte != 0) {
            write_all(to, &buffer[..read], offset)?;
        }
        offset += read as u64;
    }
    fs::ftruncate(to, size_bytes).doing("set length of copy")
}

fn write_all(to: &OwnedFd, data: &[u8], offset: u64) -> Result<()> {
    let mut written = 0;
    while written < data.len() {
        let at = offset + written as u64;
        written += sys::retry(|| rustix::io::pwrite(to.as_fd(), &data[written..], at)).doing("write copy")?;
    }
    Ok(())
}

/// Copies a file, by sharing blocks where the file system can, else extent by extent, holes left out.
fn copy_file(upper: &Upper, from: &OwnedFd, to: &OwnedFd, size_bytes: u64) -> Result<()> {
    if upper.can_reflink.load(Ordering::Relaxed) {
        match fs::ioctl_ficlone(to, from) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY) => {
                upper.can_reflink.store(false, Ordering::Relaxed);
            }
            Err(error) => return Err(error).doing("share blocks with copy"),
        }
    }
    let mut offset = 0;
    while offset < size_bytes {
        let start = match fs::seek(from, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // No knowledge of holes: everything is data.
            Err(Errno::INVAL) => offset,
            Err(error) => return Err(error).doing("look for data to copy"),
        };
        let end = match fs::seek(from, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size_bytes),
            Err(_) => size_bytes,
        };
        copy_range(from, to, start, end)?;
        offset = end.max(start + 1);
    }
    fs::ftruncate(to, size_bytes).doing("set length of copy")
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, mut start: u64, end: u64) -> Result<()> {
    while start < end {
        let want = usize::try_from(end - start).map_or(COPY_CHUNK_BYTES, |left| left.min(COPY_CHUNK_BYTES));
        let (mut read_at, mut write_at) = (start, start);
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            Ok(0) => return Ok(()),
            Ok(copied) => start += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::BADF) => {
                return copy_by_hand(from, to, start, end);
            }
            Err(error) => return Err(error).doing("copy data"),
        }
    }
    Ok(())
}

/// For pairs of file systems between which the kernel does not copy.
fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, mut start: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while start < end {
        let want = usize::try_from(end - start).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = sys::retry(|| rustix::io::pread(from.as_fd(), &mut buffer[..want], start))
            .doing("read data to copy")?;
        if read == 0 {
            return Ok(());
        }
        write_all(to, &buffer[..read], start)?;
        start += read as u64;
    }
    Ok(())
}
