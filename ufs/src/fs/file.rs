//! Open files: contents, holes, syncing.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{self, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Fs;
use crate::attr::FileType;
use crate::error::{Doing, Error, Result};
use crate::io_mode::{Side, Wish};
use crate::sys::{self, SetTime};
use crate::union::inode::{Inode, Node};
use crate::upper::copy_up::Depth;

/// All that is open, by handle.
#[derive(Debug, Default)]
pub struct Handles {
    files: RwLock<HashMap<u64, Arc<FileHandle>>>,
    next: AtomicU64,
}

impl Handles {
    fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
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
    write: bool,
    /// The descriptor, and the version of the content it belongs to.
    current: Mutex<(u32, Arc<OwnedFd>)>,
}

/// A file just opened.
#[derive(Debug)]
pub struct Opened {
    /// For reading, writing and, at last, [`Fs::close`].
    pub handle: u64,
    /// The descriptor behind it, for a backing.
    pub file: Arc<OwnedFd>,
    /// Which file that is, and what is wanted of it, for the choice of the I/O mode.
    pub wish: Wish,
}

impl Fs {
    /// Opens a regular file. `flags` are those of `open(2)`.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for writing without an upper, and what the layers answer.
    pub fn open_file(&self, node: u64, flags: OFlags) -> Result<Opened> {
        let node = self.union.nodes.get(node)?;
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
        if write {
            self.union
                .copy_up(inode, if truncate { Depth::Emptied } else { Depth::Content })?;
        }
        let version = inode.content_version.load(Ordering::Acquire);
        let (file, side) = self.open_content(inode, write)?;
        if truncate {
            sys::retry(|| fs::ftruncate(&file, 0)).doing("empty file")?;
            sys::set_times(&file, SetTime::Keep, SetTime::Now).doing("set times")?;
        }
        let attr = sys::stat_fd(&file).doing("read attributes of open file")?;
        let shared_below = side == Side::Lower && attr.nlink > 1;
        let opened = self.register(&node, write, version, file);
        let wish = Wish {
            side,
            write,
            size_bytes: attr.size_bytes,
            can_pass: !shared_below,
        };
        Ok(Opened { wish, ..opened })
    }

    /// Makes a handle of a file that was just made.
    ///
    /// # Errors
    /// When the node is unknown.
    pub fn open_new(&self, node: u64, file: OwnedFd) -> Result<Opened> {
        let node = self.union.nodes.get(node)?;
        let version = node.inode.content_version.load(Ordering::Acquire);
        Ok(self.register(&node, true, version, file))
    }

    fn register(&self, node: &Arc<Node>, write: bool, version: u32, file: OwnedFd) -> Opened {
        let file = Arc::new(file);
        let handle = self.handles.fresh();
        let open = FileHandle {
            node: Arc::clone(node),
            write,
            current: Mutex::new((version, Arc::clone(&file))),
        };
        self.handles.files.write().insert(handle, Arc::new(open));
        let wish = Wish {
            side: Side::Upper,
            write,
            size_bytes: 0,
            can_pass: true,
        };
        Opened { handle, file, wish }
    }

    /// Opens what holds the content now. A file that a writer copies up meanwhile is opened anew.
    fn open_content(&self, inode: &Inode, write: bool) -> Result<(OwnedFd, Side)> {
        loop {
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
                return Ok((opened?, Side::Upper));
            }
            match self.union.content_of(inode) {
                Ok(file) => return Ok((file, Side::Lower)),
                Err(_) if inode.in_upper() && !inode.state.read().metadata_only => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptor of a handle, on the content as it is now.
    fn current(&self, handle: &FileHandle) -> Result<Arc<OwnedFd>> {
        let inode = &handle.node.inode;
        let version = inode.content_version.load(Ordering::Acquire);
        let mut current = handle.current.lock();
        if current.0 != version {
            let (file, _) = self.open_content(inode, handle.write)?;
            *current = (version, Arc::new(file));
        }
        Ok(Arc::clone(&current.1))
    }

    /// The node that a handle was opened on.
    pub(crate) fn node_of(&self, handle: u64) -> Result<Arc<Node>> {
        Ok(Arc::clone(&self.handles.file(handle)?.node))
    }

    /// Reads into `buffer`; fewer bytes than it holds only at the end of the file.
    ///
    /// # Errors
    /// What the layer's file system answers.
    pub fn read(&self, handle: u64, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let file = self.current(self.handles.file(handle)?.as_ref())?;
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            match sys::retry(|| rustix::io::pread(file.as_fd(), &mut buffer[filled..], at))
                .doing("read file")?
            {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// Writes all of `data`, or as much as fits: an error only when nothing was written.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn write(&self, handle: u64, data: &[u8], offset: u64) -> Result<usize> {
        let file = self.writable_file(handle)?;
        let mut written = 0;
        while written < data.len() {
            let at = offset + written as u64;
            match sys::retry(|| rustix::io::pwrite(file.as_fd(), &data[written..], at)) {
                Ok(count) => written += count,
                Err(_) if written > 0 => break,
                Err(error) => return Err(error).doing("write file"),
            }
        }
        Ok(written)
    }

    fn writable_file(&self, handle: u64) -> Result<Arc<OwnedFd>> {
        let handle_ref = self.handles.file(handle)?;
        if !handle_ref.write {
            return Err(Error::UnknownHandle(handle));
        }
        self.current(&handle_ref)
    }

    /// Brings what was written to the disk, unless the mount is volatile.
    ///
    /// # Errors
    /// What the upper's file system answers.
    pub fn sync(&self, handle: u64, data_only: bool) -> Result<()> {
        let handle = self.handles.file(handle)?;
        if self
            .union
            .upper
            .as_ref()
            .is_none_or(|upper| upper.options.volatile)
            || !handle.node.inode.in_upper()
        {
            return Ok(());
        }
        let file = self.current(&handle)?;
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
    pub fn allocate(&self, handle: u64, mode: u32, offset: u64, length: u64) -> Result<()> {
        let file = self.writable_file(handle)?;
        let flags = FallocateFlags::from_bits_retain(mode);
        sys::retry(|| fs::fallocate(&file, flags, offset, length)).doing("reserve space")
    }

    /// Finds the next data or hole: `whence` is `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// ENXIO past the end, as `lseek(2)`.
    pub fn seek(&self, handle: u64, offset: u64, whence: i32) -> Result<u64> {
        let file = self.current(self.handles.file(handle)?.as_ref())?;
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
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Result<usize> {
        let source = self.current(self.handles.file(from.0)?.as_ref())?;
        let target = self.writable_file(to.0)?;
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
        let handle = self.handles.files.write().remove(&handle)?;
        Some(Arc::clone(&handle.node))
    }
}
