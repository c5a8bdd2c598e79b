//! A layer that is as slow as a test wants: a small read-only FUSE file system that lives in this process, where reads of
//! chosen bytes wait at a gate.
//!
//! ```text
//! hold(file, bytes) ──► Held ── wait_for(n): n reads stand at the gate ── dropped: they are answered, all at once
//! ```
//! No thread of the layer waits: a read that is held is an answer that is kept back, and everything else is answered
//! meanwhile. Each read of a program or of the kernel comes as it was made, since nothing of a content is cached.
//!
//! A gate opens with its [`Held`], so also when a test fails; a watchdog opens those that stand too long. When the process
//! dies, the kernel ends what waits for it.

use crate::scratch::enter_private_namespace;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
    Session, SessionACL,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How long a test waits for what must come; it fails then.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Longer than a test may hold reads; after it they are all answered.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(100);

/// A file or a directory; its number is its place in the tree, from 1 on.
#[derive(Debug)]
enum Node {
    Directory(BTreeMap<OsString, u64>),
    File(Vec<u8>),
}

/// Reads of these bytes of a file wait.
#[derive(Debug)]
struct Gate {
    id: u64,
    file: u64,
    bytes: Range<u64>,
    /// Those that wait, each with the piece that it asks for.
    held: Vec<(Range<u64>, ReplyData)>,
}

#[derive(Debug, Default)]
struct Gates {
    closed: Vec<Gate>,
    next: u64,
    /// The watchdog has come: nothing is held any more.
    given_up: bool,
}

#[derive(Debug)]
struct Tree {
    nodes: Vec<Node>,
    gates: Mutex<Gates>,
    arrived: Condvar,
}

impl Tree {
    fn new<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Tree {
        let mut nodes = vec![Node::Directory(BTreeMap::new())];
        for (path, content) in files {
            let mut directory = 0;
            let mut names = path.split('/').peekable();
            while let Some(name) = names.next() {
                let fresh = nodes.len();
                let Node::Directory(entries) = &mut nodes[directory] else {
                    panic!("{path}: a file is no directory");
                };
                let number = *entries.entry(name.into()).or_insert(fresh as u64 + 1);
                directory = usize::try_from(number - 1).expect("few files");
                if directory == fresh {
                    nodes.push(match names.peek() {
                        Some(_) => Node::Directory(BTreeMap::new()),
                        None => Node::File(content.clone()),
                    });
                }
            }
        }
        Tree {
            nodes,
            gates: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    fn child(&self, number: u64, name: &OsStr) -> Option<u64> {
        match self.node(number)? {
            Node::Directory(entries) => entries.get(name).copied(),
            Node::File(_) => None,
        }
    }

    fn find(&self, path: &str) -> u64 {
        path.split('/').fold(INodeNo::ROOT.0, |number, name| {
            let found = self.child(number, OsStr::new(name));
            found.unwrap_or_else(|| panic!("{path} is not in the layer"))
        })
    }

    fn attr(&self, number: u64) -> Option<FileAttr> {
        let (kind, perm, nlink, size) = match self.node(number)? {
            Node::Directory(_) => (FileType::Directory, 0o755, 2, 0),
            Node::File(content) => (FileType::RegularFile, 0o644, 1, content.len() as u64),
        };
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn content(&self, number: u64, bytes: &Range<u64>) -> Option<&[u8]> {
        let Node::File(content) = self.node(number)? else {
            return None;
        };
        let place = |at: u64| usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
        Some(&content[place(bytes.start)..place(bytes.end)])
    }

    fn answer(&self, file: u64, bytes: &Range<u64>, reply: ReplyData) {
        match self.content(file, bytes) {
            Some(content) => reply.data(content),
            None => reply.error(Errno::EISDIR),
        }
    }

    fn open(&self, gate: Gate) {
        for (bytes, reply) in gate.held {
            self.answer(gate.file, &bytes, reply);
        }
    }

    fn give_up(&self) {
        let closed = {
            let mut gates = self.gates();
            gates.given_up = true;
            std::mem::take(&mut gates.closed)
        };
        for gate in closed {
            eprintln!("a gate stood too long and is opened");
            self.open(gate);
        }
    }
}

/// A mounted layer of which reads can be held.
#[derive(Debug)]
pub struct SlowLayer {
    tree: Arc<Tree>,
    serving: Option<JoinHandle<()>>,
    holder: tempfile::TempDir,
    _watchdog: mpsc::Sender<()>,
}

impl SlowLayer {
    /// A layer of these files, each with its path, and their directories.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> io::Result<SlowLayer> {
        enter_private_namespace();
        let holder = tempfile::Builder::new().prefix("shale-tests-slow-").tempdir()?;
        let device = OwnedFd::from(File::options().read(true).write(true).open("/dev/fuse")?);
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(
            Some("slow"),
            holder.path(),
            Some("fuse.shale-tests"),
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
            Some(options.as_str()),
        )?;
        let tree = Arc::new(Tree::new(files));
        let session = Session::from_fd(
            Server(Arc::clone(&tree)),
            device,
            SessionACL::All,
            Config::default(),
        )?;
        let serving = std::thread::Builder::new()
            .name("slow layer".to_owned())
            .spawn(move || {
                if let Err(error) = session.run() {
                    eprintln!("the slow layer is gone: {error}");
                }
            })?;
        let (watchdog, ended) = mpsc::channel::<()>();
        let watched = Arc::clone(&tree);
        std::thread::spawn(move || {
            if ended.recv_timeout(WATCHDOG_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
                watched.give_up();
            }
        });
        Ok(SlowLayer {
            tree,
            serving: Some(serving),
            holder,
            _watchdog: watchdog,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.holder.path()
    }

    /// From now on reads that ask for any of these bytes of a file wait.
    #[must_use]
    pub fn hold(&self, path: &str, bytes: Range<u64>) -> Held {
        let file = self.tree.find(path);
        let mut gates = self.tree.gates();
        let id = gates.next;
        gates.next += 1;
        gates.closed.push(Gate {
            id,
            file,
            bytes,
            held: Vec::new(),
        });
        Held {
            tree: Arc::clone(&self.tree),
            path: path.to_owned(),
            id,
        }
    }
}

impl Drop for SlowLayer {
    fn drop(&mut self) {
        self.tree.give_up();
        let _ = umount2(self.holder.path(), MntFlags::MNT_DETACH);
        let Some(serving) = self.serving.take() else {
            return;
        };
        // With a server of a failed test still on the layer, it lives on until the process ends.
        if !std::thread::panicking() {
            let _ = serving.join();
        }
    }
}

/// A closed gate. Dropping it opens it.
#[derive(Debug)]
pub struct Held {
    tree: Arc<Tree>,
    path: String,
    id: u64,
}

impl Held {
    /// How many reads stand at the gate.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count_in(&self.tree.gates())
    }

    /// Waits until that many reads stand at the gate.
    pub fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        let mut gates = self.tree.gates();
        while self.count_in(&gates) < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(gates);
                panic!("{}: {count} reads have not come within {DEADLINE:?}", self.path);
            }
            let waited = self.tree.arrived.wait_timeout(gates, left);
            gates = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn count_in(&self, gates: &Gates) -> usize {
        let gate = gates.closed.iter().find(|gate| gate.id == self.id);
        gate.map_or(0, |gate| gate.held.len())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let gate = {
            let mut gates = self.tree.gates();
            let place = gates.closed.iter().position(|gate| gate.id == self.id);
            place.map(|place| gates.closed.remove(place))
        };
        if let Some(gate) = gate {
            self.tree.open(gate);
        }
    }
}

const FOREVER: Duration = Duration::from_secs(1_000_000);

#[derive(Debug)]
struct Server(Arc<Tree>);

impl Filesystem for Server {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let child = self.0.child(parent.0, name);
        match child.and_then(|number| self.0.attr(number)) {
            Some(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attr(number.0) {
            Some(attr) => reply.attr(&FOREVER, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
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
        let bytes = offset..offset + u64::from(size);
        let mut gates = self.0.gates();
        let gate = gates.closed.iter_mut().find(|gate| {
            gate.file == number.0 && gate.bytes.start < bytes.end && bytes.start < gate.bytes.end
        });
        if let Some(gate) = gate {
            gate.held.push((bytes, reply));
            return self.0.arrived.notify_all();
        }
        drop(gates);
        self.0.answer(number.0, &bytes, reply);
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(Node::Directory(entries)) = self.0.node(number.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        for (place, (name, child)) in entries
            .iter()
            .enumerate()
            .skip(usize::try_from(offset).unwrap_or(0))
        {
            let kind = self
                .0
                .attr(*child)
                .map_or(FileType::RegularFile, |attr| attr.kind);
            if reply.add(INodeNo(*child), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _request: &Request, _number: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _request: &Request, _number: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 {
            reply.size(0);
        } else {
            reply.data(&[]);
        }
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
