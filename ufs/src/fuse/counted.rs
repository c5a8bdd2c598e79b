//! What is done for every request alike, on its way to the [`Adapter`](super::Adapter): it is counted, timed and
//! traced, and the asker is noted.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::gate::Gate;
use crate::counters::{Operation, Requests};
use crate::fs::asked_by;

/// A file system whose requests are counted.
#[derive(Debug)]
pub(crate) struct Counted<F> {
    inner: F,
    requests: Arc<Requests>,
    gate: Arc<Gate>,
}

impl<F: Filesystem> Counted<F> {
    /// `threads`: how many serve it.
    pub(crate) fn new(inner: F, requests: Arc<Requests>, threads: usize) -> Self {
        Self {
            inner,
            requests,
            gate: Gate::new(threads),
        }
    }
}

/// Methods that count, note and hand on. The span is there when somebody listens at that level, else it costs a comparison.
macro_rules! handed_on {
    ($($method:ident $operation:ident ($($name:ident: $type:ty),*);)*) => {
        $(
            fn $method(&self, request: &Request, $($name: $type),*) {
                let entered = self.gate.enter(request.pid());
                asked_by(request.pid());
                let timed = self.requests.begin(Operation::$operation);
                {
                    let _span = tracing::trace_span!(stringify!($method)).entered();
                    self.inner.$method(request, $($name),*);
                }
                let took = entered.took();
                timed.end(took);
                self.gate.leave(took);
            }
        )*
    };
}

impl<F: Filesystem> Filesystem for Counted<F> {
    fn init(&mut self, request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.inner.init(request, config)
    }

    fn destroy(&mut self) {
        self.inner.destroy();
    }

    /// Many come at once, and nobody waits for them: they do not count as times when nobody reads.
    fn forget(&self, request: &Request, node: INodeNo, count: u64) {
        let _timed = self.requests.begin(Operation::Forget);
        self.inner.forget(request, node, count);
    }

    handed_on! {
        lookup Lookup (parent: INodeNo, name: &OsStr, reply: ReplyEntry);
        getattr GetAttr (node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr);
        setattr SetAttr (node: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>, atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>, ctime: Option<SystemTime>, handle: Option<FileHandle>, crtime: Option<SystemTime>, chgtime: Option<SystemTime>, bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>, reply: ReplyAttr);
        readlink ReadLink (node: INodeNo, reply: ReplyData);
        mknod MkNod (parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry);
        mkdir MkDir (parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
        unlink Unlink (parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
        rmdir RmDir (parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
        symlink Symlink (parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry);
        rename Rename (parent: INodeNo, name: &OsStr, new_parent: INodeNo, new_name: &OsStr, flags: RenameFlags, reply: ReplyEmpty);
        link Link (node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry);
        open Open (node: INodeNo, flags: OpenFlags, reply: ReplyOpen);
        create Create (parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate);
        read Read (node: INodeNo, handle: FileHandle, offset: u64, size: u32, flags: OpenFlags, owner: Option<LockOwner>, reply: ReplyData);
        write Write (node: INodeNo, handle: FileHandle, offset: u64, data: &[u8], write_flags: WriteFlags, flags: OpenFlags, owner: Option<LockOwner>, reply: ReplyWrite);
        flush Flush (node: INodeNo, handle: FileHandle, owner: LockOwner, reply: ReplyEmpty);
        release Release (node: INodeNo, handle: FileHandle, flags: OpenFlags, owner: Option<LockOwner>, flush: bool, reply: ReplyEmpty);
        fsync Fsync (node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty);
        opendir OpenDir (node: INodeNo, flags: OpenFlags, reply: ReplyOpen);
        releasedir ReleaseDir (node: INodeNo, handle: FileHandle, flags: OpenFlags, reply: ReplyEmpty);
        readdir ReadDir (node: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory);
        readdirplus ReadDirPlus (node: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectoryPlus);
        fsyncdir FsyncDir (node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty);
        statfs StatFs (node: INodeNo, reply: ReplyStatfs);
        setxattr SetXattr (node: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32, reply: ReplyEmpty);
        getxattr GetXattr (node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr);
        listxattr ListXattr (node: INodeNo, size: u32, reply: ReplyXattr);
        removexattr RemoveXattr (node: INodeNo, name: &OsStr, reply: ReplyEmpty);
        poll Poll (node: INodeNo, handle: FileHandle, notifier: PollNotifier, events: PollEvents, flags: PollFlags, reply: ReplyPoll);
        ioctl Ioctl (node: INodeNo, handle: FileHandle, flags: IoctlFlags, command: u32, data: &[u8], out_size: u32, reply: ReplyIoctl);
        fallocate Fallocate (node: INodeNo, handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty);
        lseek Lseek (node: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
        copy_file_range CopyFileRange (from: INodeNo, from_handle: FileHandle, from_offset: u64, to: INodeNo, to_handle: FileHandle, to_offset: u64, length: u64, flags: CopyFileRangeFlags, reply: ReplyWrite);
    }
}
