//! Open files: contents, holes, syncing.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Fs;
use super::attr::{drop_set_id, drop_set_id_of};
use crate::attr::FileType;
use crate::error::{Doing, Error, Result};
use crate::io_mode::{Side, Wish};
use crate::journal::Record;
use crate::layer::Content;
use crate::stream::ReadAt;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::sys::{self, SetTime};
use crate::union::inode::{Inode, Node};
use crate::upper::Upper;
use crate::upper::copy_up::Depth;
use crate::upper::partial::{Partial, answered};

/// The kernel's `FMODE_EXEC` (include/linux/fs.h): `execve(2)` adds it to the flags of its open, and FUSE hands it on.
const TO_RUN: OFlags = OFlags::from_bits_retain(0x20);

/// All that is open, by handle. 0 is none: the kernel names it where nothing was opened.
#[derive(Debug, Default)]
pub struct Handles {
    files: RwLock<HashMap<u64, Arc<FileHandle>>>,
    next: AtomicU64,
}

impl Handles {
    fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn len(&self) -> usize {
        self.files.read().len()
    }

    /// Gives no handle up to this one.
    pub(super) fn skip_to(&self, handle: u64) {
        self.next.store(handle, Ordering::Relaxed);
    }

    fn file(&self, handle: u64) -> Result<Arc<FileHandle>> {
        self.files
            .read()
            .get(&handle)
            .cloned()
            .ok_or(Error::UnknownHandle(handle))
    }
}

/// An open regular file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    node: Arc<Node>,
    pub(super) mode: Mode,
    /// Where its bytes are, and the version of the content that this is.
    current: Mutex<(u32, Data)>,
}

impl FileHandle {
    pub(super) fn new(node: &Arc<Node>, mode: Mode, version: u32, data: Data) -> Self {
        Self {
            node: Arc::clone(node),
            mode,
            current: Mutex::new((version, data)),
        }
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if self.mode.runs {
            self.node.inode.running.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A file as the kernel names it when it reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFile {
    /// By what [`Fs::open_file`] answered.
    Handle(u64),
    /// By its node: it was not opened.
    Node(u64),
}

/// Where an open file's bytes are.
#[derive(Clone)]
pub(super) enum Data {
    /// In a file of their own.
    File(Arc<OwnedFd>),
    /// Somewhere in a layer.
    Source(Arc<dyn ReadAt>),
    /// Some in the upper, some below.
    Partial(Arc<Partial>),
}

impl std::fmt::Debug for Data {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::File(_) => "File",
            Self::Source(_) => "Source",
            Self::Partial(_) => "Partial",
        })
    }
}

impl Data {
    /// The file of a writer.
    fn into_file(self) -> Result<Arc<OwnedFd>> {
        match self {
            Self::File(file) => Ok(file),
            Self::Source(_) | Self::Partial(_) => Err(Error::Damaged("a writer has no file of its own")),
        }
    }
}

impl From<Content> for Data {
    fn from(content: Content) -> Self {
        match content {
            Content::File(file) => Self::File(Arc::new(file)),
            Content::Source(source) => Self::Source(source),
            Content::Merged(merged) => Self::Source(Arc::new(merged)),
        }
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) write: bool,
    /// Opened by `execve(2)`: open as long as the program runs.
    pub(crate) runs: bool,
}

impl Mode {
    /// Of a file just made.
    pub(super) fn of_new() -> Self {
        Self {
            write: true,
            runs: false,
        }
    }
}

/// A file just opened.
#[derive(Debug)]
pub struct Opened {
    /// For reading, writing and, at last, [`Fs::close`].
    pub handle: u64,
    /// The descriptor behind it, for a backing, if its bytes are in a file of their own.
    pub file: Option<Arc<OwnedFd>>,
    /// Which file that is, and what is wanted of it, for the choice of the I/O mode.
    pub wish: Wish,
}

impl Fs {
    /// Opens a regular file. `flags` are those of `open(2)`. `keeps_set_id`: that an emptied file keeps its set-id
    /// bits, since the caller has the right to leave them (CAP_FSETID in capabilities(7)); the kernel looks after every
    /// other way to change a file, but leaves this one to whoever empties files in `open`.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for writing without an upper, [`Error::Running`] for emptying a program that runs, and what
    /// the layers answer.
    pub fn open_file(&self, node: u64, flags: OFlags, keeps_set_id: bool) -> Result<Opened> {
        let node = self.union.node(node)?;
        let inode = &node.inode;
        if inode.file_type != FileType::Regular {
            return Err(if inode.is_dir() {
                Error::IsDirectory
            } else {
                Error::Invalid("not a regular file")
            });
        }
        let access = flags & OFlags::ACCMODE;
        let truncate = flags.contains(OFlags::TRUNC);
        let write = access != OFlags::RDONLY || truncate;
        // A writer is refused by the kernel before it asks; who only empties the file is refused after we have done it
        // (do_open in fs/namei.c).
        if truncate && access == OFlags::RDONLY && inode.running.load(Ordering::Acquire) > 0 {
            return Err(Error::Running);
        }
        if write {
            self.union
                .copy_up(inode, if truncate { Depth::Emptied } else { Depth::Content })?;
        }
        let version = inode.content_version.load(Ordering::Acquire);
        let (data, side) = self.open_content(inode, write)?;
        let (size_bytes, can_pass) = match &data {
            Data::File(file) => {
                let mut attr = sys::stat_fd(file).doing("read attributes of open file")?;
                if truncate {
                    if !keeps_set_id {
                        drop_set_id(file, &attr)?;
                    }
                    empty(file, attr.size_bytes)?;
                    attr.size_bytes = 0;
                }
                (
                    attr.size_bytes,
                    side == Side::Upper || self.has_one_name_below(inode)?,
                )
            }
            Data::Source(source) => (source.size_bytes(), false),
            Data::Partial(partial) => (partial.size_bytes(), false),
        };
        let mode = Mode {
            write,
            runs: flags.contains(TO_RUN),
        };
        let opened = self.register(&node, mode, version, data);
        let wish = Wish {
            side,
            write,
            size_bytes,
            can_pass,
        };
        Ok(Opened { wish, ..opened })
    }

    /// Whether the lower file that holds the content is shown under one name only.
    fn has_one_name_below(&self, inode: &Inode) -> Result<bool> {
        let lowers = inode.lowers();
        let Some(content) = lowers.last() else {
            return Ok(true);
        };
        Ok(self.union.layers[content.layer].attr(&content.node)?.nlink <= 1)
    }

    /// Makes a handle of a file that was just made.
    ///
    /// # Errors
    /// When the node is unknown.
    pub fn open_new(&self, node: u64, file: OwnedFd) -> Result<Opened> {
        let node = self.union.node(node)?;
        let version = node.inode.content_version.load(Ordering::Acquire);
        Ok(self.register(&node, Mode::of_new(), version, Content::File(file).into()))
    }

    fn register(&self, node: &Arc<Node>, mode: Mode, version: u32, data: Data) -> Opened {
        let write = mode.write;
        let file = match &data {
            Data::File(file) => Some(Arc::clone(file)),
            Data::Source(_) | Data::Partial(_) => None,
        };
        let handle = self.handles.fresh();
        self.insert(handle, node, mode, version, data);
        let wish = Wish {
            side: Side::Upper,
            write,
            size_bytes: 0,
            can_pass: true,
        };
        Opened { handle, file, wish }
    }

    fn insert(&self, handle: u64, node: &Arc<Node>, mode: Mode, version: u32, data: Data) {
        let inode = &node.inode;
        if mode.runs {
            inode.running.fetch_add(1, Ordering::AcqRel);
        }
        // Counted before the look: a removal counts after it has made an orphan.
        inode.open_count.fetch_add(1, Ordering::SeqCst);
        self.keep_orphan(inode);
        let open = FileHandle::new(node, mode, version, data);
        self.handles.files.write().insert(handle, Arc::new(open));
    }

    /// Has a deleted file that is open outlive this server.
    pub(super) fn keep_orphan(&self, inode: &Inode) {
        let journal = &self.union.nodes.journal;
        if journal.is_kept()
            && let Some(orphan) = inode.state.read().orphan.clone()
        {
            journal.keep_open(inode.ino, &orphan);
        }
    }

    /// Notes what a file was opened for, before the kernel hears of the handle.
    pub(crate) fn note_open(&self, handle: u64, request: u64) {
        let journal = &self.union.nodes.journal;
        if journal.is_kept()
            && let Ok(open) = self.handles.file(handle)
        {
            journal.note(&Record::Open {
                handle,
                node: open.node.id,
                mode: open.mode,
                request,
            });
        }
    }

    /// Opens under the same handle what an earlier server had open.
    pub(super) fn open_again(&self, handle: u64, node: &Arc<Node>, mode: Mode) -> Result<()> {
        let version = node.inode.content_version.load(Ordering::Acquire);
        let (data, _) = self.open_content(&node.inode, mode.write)?;
        self.insert(handle, node, mode, version, data);
        Ok(())
    }

    /// Opens what holds the content now. A file that a writer copies up meanwhile is opened anew.
    pub(super) fn open_content(&self, inode: &Arc<Inode>, write: bool) -> Result<(Data, Side)> {
        loop {
            if let Some(partial) = self.open_partial(inode, write)? {
                return Ok((partial, Side::Upper));
            }
            let (in_upper, metadata_only) = {
                let state = inode.state.read();
                (state.upper.is_some(), state.metadata_only)
            };
            if let Some(upper) = &self.union.upper
                && in_upper
                && !metadata_only
            {
                let flags = if write { OFlags::RDWR } else { OFlags::RDONLY };
                let opened = match upper.open_file(inode, flags) {
                    // Not readable for this server, but perhaps writable (rootless).
                    Err(Error::Os {
                        source: Errno::ACCESS,
                        ..
                    }) if write => upper.open_file(inode, OFlags::WRONLY),
                    opened => opened,
                };
                return Ok((Content::File(opened?).into(), Side::Upper));
            }
            match self.union.content_of(inode) {
                Ok(content) => return Ok((content.into(), Side::Lower)),
                Err(_) if inode.in_upper() && !inode.state.read().metadata_only => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a partial copy; `None` when the file is none.
    fn open_partial(&self, inode: &Arc<Inode>, write: bool) -> Result<Option<Data>> {
        match self.union.partial_of(inode) {
            Ok(partial) => Ok(partial.map(Data::Partial)),
            // Not writable for this server, but perhaps readable: rootless, read-only by now, or made immutable.
            Err(error) if !write && matches!(error.errno(), Errno::ACCESS | Errno::ROFS | Errno::PERM) => {
                let merged = self.union.read_partial(inode)?;
                Ok(Some(Content::Merged(merged).into()))
            }
            Err(error) => Err(error),
        }
    }

    /// Where a handle's bytes are now.
    fn current(&self, handle: &FileHandle) -> Result<Data> {
        let inode = &handle.node.inode;
        let version = inode.content_version.load(Ordering::Acquire);
        let mut current = handle.current.lock();
        if current.0 != version {
            let (data, _) = self.open_content(inode, handle.mode.write)?;
            *current = (version, data);
        }
        Ok(current.1.clone())
    }

    fn opened(&self, file: OpenFile, write: bool) -> Result<Arc<FileHandle>> {
        match file {
            OpenFile::Handle(handle) => {
                let open = self.handles.file(handle)?;
                if write && !open.mode.write {
                    return Err(Error::UnknownHandle(handle));
                }
                Ok(open)
            }
            OpenFile::Node(node) => self.open_by_node(node, write),
        }
    }

    /// The node that a handle was opened on.
    pub(crate) fn node_of(&self, handle: u64) -> Result<Arc<Node>> {
        Ok(Arc::clone(&self.handles.file(handle)?.node))
    }

    /// Reads into `buffer`; fewer bytes than it holds only at the end of the file.
    ///
    /// # Errors
    /// What the layer's file system answers.
    pub fn read(&self, file: OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let file = match self.current(&*self.opened(file, false)?)? {
            Data::File(file) => file,
            Data::Source(source) => return read_source(source.as_ref(), buffer, offset),
            Data::Partial(partial) => return partial.read(buffer, offset),
        };
        sys::read_fully(file.as_fd(), buffer, offset).doing("read file")
    }

    /// Writes all of `data`, or as much as fits: an error only when nothing was written.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn write(&self, file: OpenFile, data: &[u8], offset: u64) -> Result<usize> {
        let file = match self.current(&*self.opened(file, true)?)? {
            Data::Partial(partial) => return partial.write(data, offset),
            other => other.into_file()?,
        };
        answered(sys::write_fully(&file, data, offset))
    }

    /// Takes the set-id bits from a file that is about to be written to by somebody who must not leave them. Answers whether
    /// there were any.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn drop_set_id(&self, file: OpenFile) -> Result<bool> {
        match self.current(&*self.opened(file, true)?)? {
            Data::File(file) => drop_set_id_of(&file),
            Data::Partial(partial) => drop_set_id_of(partial.file()),
            Data::Source(_) => Ok(false),
        }
    }

    /// Brings what was written to the disk, unless the mount is volatile.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn sync(&self, file: OpenFile, data_only: bool) -> Result<()> {
        let handle = self.opened(file, false)?;
        let inode = &handle.node.inode;
        let upper = match &self.union.upper {
            Some(upper) if !upper.options.volatile && inode.in_upper() => upper,
            _ => return Ok(()),
        };
        let has_no_data = {
            let state = inode.state.read();
            state.metadata_only && !state.partial
        };
        if has_no_data {
            // The handle reads the content below; what can have changed is the copy.
            return if data_only {
                Ok(())
            } else {
                sync_metadata(upper, inode)
            };
        }
        let file = match self.current(&handle)? {
            Data::File(file) => file,
            Data::Source(_) => return Ok(()),
            Data::Partial(partial) => return partial.sync(data_only),
        };
        let sync = || {
            if data_only {
                fs::fdatasync(&file)
            } else {
                fs::fsync(&file)
            }
        };
        sys::retry(sync).doing("sync file")
    }

    /// Reserves or frees space, as `fallocate(2)`.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn allocate(&self, file: OpenFile, mode: u32, offset: u64, length: u64) -> Result<()> {
        let flags = FallocateFlags::from_bits_retain(mode);
        let file = match self.current(&*self.opened(file, true)?)? {
            Data::Partial(partial) => return partial.allocate(flags, offset, length),
            other => other.into_file()?,
        };
        sys::retry(|| fs::fallocate(&file, flags, offset, length)).doing("reserve space")
    }

    /// Finds the next data or hole: `whence` is `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// ENXIO past the end, as `lseek(2)`.
    pub fn seek(&self, file: OpenFile, offset: u64, whence: i32) -> Result<u64> {
        let file = match self.current(&*self.opened(file, false)?)? {
            Data::File(file) => file,
            Data::Source(source) => return seek_source(source.size_bytes(), offset, whence),
            Data::Partial(partial) => return partial.seek(offset, whence),
        };
        let from = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Error::Invalid("only data and holes are looked for")),
        };
        fs::seek(&file, from).doing("look for data or hole")
    }

    /// Copies within the server, sharing blocks where the upper's file system can.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn copy_range(&self, from: (OpenFile, u64), to: (OpenFile, u64), length: u64) -> Result<usize> {
        let Data::File(source) = self.current(&*self.opened(from.0, false)?)? else {
            // The kernel then reads and writes by itself.
            return Err(Error::Unsupported("the source is no file of its own"));
        };
        let Data::File(target) = self.current(&*self.opened(to.0, true)?)? else {
            return Err(Error::Unsupported("the target is a partial copy"));
        };
        let length = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(u32::MAX as usize & !4095);
        let (mut read_at, mut write_at) = (from.1, to.1);
        sys::retry(|| fs::copy_file_range(&source, Some(&mut read_at), &target, Some(&mut write_at), length))
            .doing("copy range")
    }

    /// Closes a file.
    pub fn close(&self, handle: u64) {
        drop(self.release(handle));
    }

    /// Closes a file. Answers the node it was opened on.
    pub(crate) fn release(&self, handle: u64) -> Option<Arc<Node>> {
        // The descriptor closes here, with no lock held.
        let open = self.handles.files.write().remove(&handle)?;
        self.union.nodes.journal.note(&Record::Closed { handle });
        open.node.inode.open_count.fetch_sub(1, Ordering::SeqCst);
        Some(Arc::clone(&open.node))
    }
}

/// Brings a metadata-only copy to the disk.
fn sync_metadata(upper: &Upper, inode: &Inode) -> Result<()> {
    match upper.open_file(inode, OFlags::RDONLY) {
        Ok(copy) => sys::retry(|| fs::fsync(&copy)).doing("sync copy"),
        // Not readable for this server (rootless).
        Err(Error::Os {
            source: Errno::ACCESS,
            ..
        }) => sys::retry(|| fs::syncfs(&*upper.root)).doing("sync upper"),
        Err(error) => Err(error),
    }
}

/// Cuts a file of the upper to nothing, for `O_TRUNC` and `truncate(2)`. A copy that was made for this is empty
/// already: nothing can fail any more.
pub(super) fn empty(file: &OwnedFd, size_bytes: u64) -> Result<()> {
    if size_bytes > 0 {
        sys::retry(|| fs::ftruncate(file, 0)).doing("empty file")?;
    }
    // The content is gone, whatever becomes of the times.
    if let Err(error) = sys::set_times(file, SetTime::Keep, SetTime::Now) {
        tracing::warn!(%error, "an emptied file shows its old time");
    }
    Ok(())
}

/// Reads what is found in something larger; short only at the end.
fn read_source(source: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<usize> {
    source.read_at(buffer, offset).map_err(|error| Error::Os {
        doing: "read content",
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })
}

/// What is found in something larger is all data.
fn seek_source(size_bytes: u64, offset: u64, whence: i32) -> Result<u64> {
    match whence {
        libc::SEEK_DATA | libc::SEEK_HOLE if offset >= size_bytes => {
            Err(Errno::NXIO).doing("look for data or hole")
        }
        libc::SEEK_DATA => Ok(offset),
        libc::SEEK_HOLE => Ok(size_bytes),
        _ => Err(Error::Invalid("only data and holes are looked for")),
    }
}
