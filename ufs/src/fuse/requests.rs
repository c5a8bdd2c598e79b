//! Every request of the kernel, decoded, carried out by [`Fs`](crate::fs::Fs), and answered.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    CopyFileRangeFlags, FileHandle, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::again::{unless_gone_before, unless_set_before};
use super::ahead::SMALL_BYTES_MAX;
use super::convert::{absent, clamp, errno, file_attr, fuser_type, open_file, owner, set_time};
use super::{Adapter, REQUEST_BYTES_MAX, answer, reply_xattr};
use crate::attr::FileType;
use crate::error::Error;
use crate::fs::{Change, NewNode, RenameFlags};

thread_local! {
    /// Each server thread reads into one buffer that it keeps.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(parent.0, name) {
            // An entry without a node tells the kernel to remember the absence.
            Err(Error::NotFound) => reply.entry(&self.ttl(), &absent(), Generation(0)),
            result => self.reply_entry(result, reply),
        }
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        self.fs.forget(node.0, count);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attr(node.0) {
            Ok(attr) => reply.attr(&self.ttl(), &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size_bytes: size,
            drops_set_id: size.is_some() && self.looks_after_set_id(request),
            atime: set_time(atime),
            mtime: set_time(mtime),
        };
        match self.fs.change(node.0, &change) {
            Ok(attr) => reply.attr(&self.ttl(), &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.fs.read_link(node.0) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let new = match FileType::from_mode(mode) {
            FileType::Regular => NewNode::File,
            _ => NewNode::Special {
                kind: mode & libc::S_IFMT,
                rdev: u64::from(rdev),
            },
        };
        self.make(request, (parent, name), new, owner(request, mode, umask), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(
            request,
            (parent, name),
            NewNode::Directory,
            owner(request, mode, umask),
            reply,
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.fs.unlink(parent.0, name);
        self.dir_changed(parent);
        answer(unless_gone_before(request, removed), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.fs.rmdir(parent.0, name);
        self.dir_changed(parent);
        answer(unless_gone_before(request, removed), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.make(
            request,
            (parent, name),
            NewNode::Symlink(target.as_os_str()),
            owner(request, 0o777, 0),
            reply,
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = match flags.bits() {
            0 => RenameFlags::Replace,
            libc::RENAME_NOREPLACE => RenameFlags::NoReplace,
            libc::RENAME_EXCHANGE => RenameFlags::Exchange,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let renamed = self.rename_once(request, (parent.0, name), (new_parent.0, new_name), flags);
        self.dir_changed(parent);
        if new_parent != parent {
            self.dir_changed(new_parent);
        }
        answer(renamed, reply);
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.fs.link(node.0, new_parent.0, new_name);
        self.dir_changed(new_parent);
        let linked = self.unless_made_before(request, (new_parent.0, new_name), linked);
        self.reply_entry(linked, reply);
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer_open(request, node, flags, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.answer_create(request, (parent, name), owner(request, mode, umask), reply);
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            // More is never asked for: it was negotiated.
            let size = size.min(REQUEST_BYTES_MAX) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let buffer = &mut buffer[..size];
            let read = match &self.ahead {
                None => self.fs.read(open_file(node, handle), buffer, offset),
                Some(ahead) => {
                    let read = self.fs.read_node(node.0, buffer, offset);
                    if offset == 0 && read.as_ref().is_ok_and(|read| *read <= SMALL_BYTES_MAX) {
                        ahead.note(node.0);
                    }
                    read
                }
            };
            match read {
                Ok(read) => reply.data(&buffer[..read]),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = open_file(node, handle);
        if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
            && let Err(error) = self.drop_set_id(node, file)
        {
            return reply.error(errno(&error));
        }
        match self.fs.write(file, data, offset) {
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.close(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Nothing was written to a file that was never opened.
        if self.ahead.is_some() {
            return reply.ok();
        }
        answer(self.fs.sync(open_file(node, handle), datasync), reply);
    }

    /// Directories are listed without a handle. A kernel that can do without asks only once, and then keeps what it
    /// read; which of several programs may bring it is decided by the positions (see `fs::dir`).
    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.can_skip_opendir {
            return reply.error(fuser::Errno::ENOSYS);
        }
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut is_empty = true;
        let listed = self.fs.read_dir(node.0, offset, |name, next, ino, file_type| {
            let taken = !reply.add(INodeNo(ino), next, fuser_type(file_type), name);
            is_empty &= !taken;
            taken
        });
        match listed {
            Ok(end) => self.after(node, is_empty.then_some(end), || reply.ok()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let known = self.ttl();
        let mut is_empty = true;
        let listed = self.fs.read_dir_plus(node.0, offset, |name, next, entry| {
            let ttl = if entry.is_unreadable() {
                Duration::ZERO
            } else {
                known
            };
            let full = reply.add(
                INodeNo(entry.node),
                next,
                name,
                &ttl,
                &file_attr(&entry.attr),
                Generation(0),
            );
            is_empty &= full;
            !full
        });
        match listed {
            Ok(end) => self.after(node, is_empty.then_some(end), || reply.ok()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(self.fs.sync_dir(node.0), reply);
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.fs.space() {
            Ok(space) => reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_available,
                space.files,
                space.files_free,
                clamp(space.block_bytes),
                clamp(space.name_bytes_max),
                clamp(space.fragment_bytes),
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        answer(
            unless_set_before(
                request,
                self.fs.set_xattr(node.0, name, value, flags.cast_unsigned()),
            ),
            reply,
        );
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(self.fs.xattr(node.0, name), size, reply);
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.fs.xattr_names(node.0).map(|names| {
            let mut joined = Vec::new();
            for name in names {
                joined.extend_from_slice(name.as_encoded_bytes());
                joined.push(0);
            }
            joined
        });
        reply_xattr(names, size, reply);
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(
            unless_gone_before(request, self.fs.remove_xattr(node.0, name)),
            reply,
        );
    }

    /// No file here has anything to wait for.
    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _notifier: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    /// What is written reaches the upper at once: there is nothing to do at close.
    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = open_file(node, handle);
        let allocated = self
            .drop_set_id_for(request, node, file)
            .and_then(|()| self.fs.allocate(file, mode.cast_unsigned(), offset, length));
        answer(allocated, reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // The kernel then takes all of a file for data: there are no holes, or it has data that nobody else knows of.
        if self.ahead.is_some() || self.keeps_writes {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let found = u64::try_from(offset)
            .map_err(|_| Error::Invalid("negative offset"))
            .and_then(|offset| self.fs.seek(open_file(node, handle), offset, whence));
        match found {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        node_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        node_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = (open_file(node_in, handle_in), offset_in);
        let to = (open_file(node_out, handle_out), offset_out);
        let copied = self
            .drop_set_id_for(request, node_out, to.0)
            .and_then(|()| self.fs.copy_range(from, to, length));
        match copied {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }
}
