//! Disks that remember: files of a small FUSE file system that live in this process, for loop devices to be put on.
//! What a loop device is told to write and to flush is recorded in the order in which it comes (the loop driver hands
//! a flush on as fsync(2), drivers/block/loop.c), so that the disk can be made again as it was after a power loss.
//!
//! The server only touches its own memory: nothing it does waits for a file system that lies on its disks.

use crate::scratch::enter_private_namespace;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session,
    SessionACL, WriteFlags,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

/// What is kept and lost as a whole when the power goes: no file system asks for larger units.
pub const BLOCK_BYTES: usize = 4096;

/// The first disk's inode; 1 is the directory.
const FIRST_INODE: u64 = 2;

type Block = Arc<[u8; BLOCK_BYTES]>;

/// The content of a disk; copies share blocks.
#[derive(Clone, Debug)]
pub struct Image {
    size_bytes: u64,
    blocks: HashMap<u64, Block>,
}

impl Image {
    /// A disk full of zeros.
    #[must_use]
    pub fn new(size_bytes: u64) -> Image {
        Image {
            size_bytes,
            blocks: HashMap::new(),
        }
    }

    /// Changes bytes.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut data = data;
        let mut offset = offset;
        while !data.is_empty() {
            let (number, within) = place(offset);
            let count = data.len().min(BLOCK_BYTES - within);
            let block = self
                .blocks
                .entry(number)
                .or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(block)[within..within + count].copy_from_slice(&data[..count]);
            data = &data[count..];
            offset += count as u64;
        }
    }

    fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let end = (offset + size as u64).min(self.size_bytes);
        let mut read = Vec::with_capacity(size);
        let mut offset = offset;
        while offset < end {
            let (number, within) = place(offset);
            let count = usize::try_from(end - offset)
                .map_or(BLOCK_BYTES - within, |left| left.min(BLOCK_BYTES - within));
            match self.blocks.get(&number) {
                Some(block) => read.extend(&block[within..within + count]),
                None => read.resize(read.len() + count, 0),
            }
            offset += count as u64;
        }
        read
    }
}

fn place(offset: u64) -> (u64, usize) {
    let within = offset % BLOCK_BYTES as u64;
    (
        offset / BLOCK_BYTES as u64,
        usize::try_from(within).expect("within a block"),
    )
}

/// What a disk was told.
#[derive(Clone, Debug)]
pub enum Record {
    /// To write these bytes there.
    Write(u64, Vec<u8>),
    /// To bring to safety all that it was told before.
    Flush,
}

#[derive(Debug)]
struct Disk {
    image: Image,
    /// What came since recording began.
    log: Option<Vec<Record>>,
}

#[derive(Clone, Debug, Default)]
struct Server(Arc<Mutex<Vec<Disk>>>);

impl Server {
    fn disks(&self) -> MutexGuard<'_, Vec<Disk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Disks of this process, under a mount point of their own.
#[derive(Debug)]
pub struct Disks {
    server: Server,
    serving: Option<JoinHandle<()>>,
    holder: tempfile::TempDir,
}

impl Disks {
    /// No disks yet.
    pub fn new() -> io::Result<Disks> {
        enter_private_namespace();
        let holder = tempfile::Builder::new().prefix("shale-tests-disks-").tempdir()?;
        let device = OwnedFd::from(File::options().read(true).write(true).open("/dev/fuse")?);
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(
            Some("disks"),
            holder.path(),
            Some("fuse.shale-tests"),
            flags,
            Some(options.as_str()),
        )?;
        let server = Server::default();
        let session = Session::from_fd(server.clone(), device, SessionACL::All, Config::default())?;
        let serving = std::thread::Builder::new()
            .name("disks".to_owned())
            .spawn(move || {
                if let Err(error) = session.run() {
                    eprintln!("the disks are gone: {error}");
                }
            })?;
        Ok(Disks {
            server,
            serving: Some(serving),
            holder,
        })
    }

    /// One more disk, with this content; its number.
    #[must_use]
    pub fn add(&self, image: Image) -> usize {
        let mut disks = self.server.disks();
        disks.push(Disk { image, log: None });
        disks.len() - 1
    }

    /// The file that is the disk.
    #[must_use]
    pub fn path(&self, number: usize) -> PathBuf {
        self.holder.path().join(number.to_string())
    }

    /// Records from now on what a disk is told. Its content before.
    #[must_use]
    pub fn record(&self, number: usize) -> Image {
        let disk = &mut self.server.disks()[number];
        disk.log = Some(Vec::new());
        disk.image.clone()
    }

    /// How much has been recorded.
    #[must_use]
    pub fn recorded(&self, number: usize) -> usize {
        self.server.disks()[number].log.as_ref().map_or(0, Vec::len)
    }

    /// Ends the recording.
    #[must_use]
    pub fn take_log(&self, number: usize) -> Vec<Record> {
        self.server.disks()[number].log.take().unwrap_or_default()
    }

    /// Frees what a disk holds that nobody will use again.
    pub fn clear(&self, number: usize) {
        self.server.disks()[number].image.blocks.clear();
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let _ = umount2(self.holder.path(), MntFlags::MNT_DETACH);
        let Some(serving) = self.serving.take() else {
            return;
        };
        // With a file system of a failed test still on a disk, the server lives on until the process ends.
        if !std::thread::panicking() {
            let _ = serving.join();
        }
    }
}

const FOREVER: Duration = Duration::from_secs(1_000_000);

fn attr(number: u64, size_bytes: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: size_bytes,
        blocks: size_bytes / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if number == 1 {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if number == 1 { 0o700 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn index(number: INodeNo) -> usize {
    usize::try_from(number.0.saturating_sub(FIRST_INODE)).expect("few disks")
}

impl Filesystem for Server {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse::<usize>().ok());
        match number.and_then(|number| Some((number, self.disks().get(number)?.image.size_bytes))) {
            Some((number, size)) => {
                reply.entry(&FOREVER, &attr(FIRST_INODE + number as u64, size), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let size = match number {
            INodeNo::ROOT => Some(0),
            file => self.disks().get(index(file)).map(|disk| disk.image.size_bytes),
        };
        match size {
            Some(size) => reply.attr(&FOREVER, &attr(number.0, size)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // No page cache in between: a write is told when it is made.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.disks()[index(number)].image.read(offset, size as usize);
        reply.data(&read);
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let disk = &mut self.disks()[index(number)];
        disk.image.write(offset, data);
        if let Some(log) = &mut disk.log {
            log.push(Record::Write(offset, data.to_vec()));
        }
        reply.written(u32::try_from(data.len()).expect("a request is small"));
    }

    fn fsync(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(log) = &mut self.disks()[index(number)].log {
            log.push(Record::Flush);
        }
        reply.ok();
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
