//! Bytes become requests: mostly of the right shape, about files that are there, with values that are not.

use super::super::REQUEST_BYTES_MAX;

/// `struct fuse_in_header` and `struct fuse_out_header` of the kernel's include/uapi/linux/fuse.h.
const IN_HEADER_BYTES: usize = 40;
const OUT_HEADER_BYTES: usize = 16;
/// `struct fuse_entry_out`.
const ENTRY_BYTES: usize = 128;

/// `struct fuse_write_in`, `struct fuse_ioctl_in`, and `struct fuse_setxattr_in` in its short form.
const WRITE_BYTES: usize = 40;
const IOCTL_BYTES: usize = 32;
const SETXATTR_BYTES: usize = 8;

/// The opcodes with a shape of their own here (`enum fuse_opcode`).
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const REMOVEXATTR: u32 = 24;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
    pub(super) const LSEEK: u32 = 46;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
    pub(super) const LAST: u32 = 53;
}

const SHAPED: [u32; 34] = [
    op::LOOKUP,
    op::LOOKUP,
    op::LOOKUP,
    op::FORGET,
    op::GETATTR,
    op::SETATTR,
    op::READLINK,
    op::SYMLINK,
    op::MKNOD,
    op::MKDIR,
    op::UNLINK,
    op::RMDIR,
    op::RENAME,
    op::LINK,
    op::OPEN,
    op::OPEN,
    op::READ,
    op::WRITE,
    op::STATFS,
    op::RELEASE,
    op::FSYNC,
    op::SETXATTR,
    op::GETXATTR,
    op::LISTXATTR,
    op::REMOVEXATTR,
    op::OPENDIR,
    op::READDIR,
    op::FSYNCDIR,
    op::CREATE,
    op::FALLOCATE,
    op::READDIRPLUS,
    op::RENAME2,
    op::LSEEK,
    op::COPY_FILE_RANGE,
];

/// Names of the tree, names that lead out of it, and names that no file can have.
const NAMES: [&[u8]; 34] = [
    b"a",
    b"big",
    b"dir",
    b"b",
    b"sub",
    b"c",
    b"link",
    b"absolute",
    b"pipe",
    b"gone",
    b"new",
    b"other",
    b"empty",
    b"",
    b".",
    b"..",
    b"/",
    b"../outside",
    b"../../outside/secret",
    b"dir/b",
    b"dir/../../outside/secret",
    b"/etc",
    b"link/secret",
    b"absolute/secret",
    b".wh.a",
    b".wh..wh..opq",
    b"#0",
    b"#1",
    b"work",
    b"\xff\xfe",
    b"a\n",
    b"~",
    b"./a",
    b"a/",
];

const XATTRS: [&[u8]; 16] = [
    b"user.a",
    b"user.overlay.opaque",
    b"user.overlay.redirect",
    b"user.overlay.metacopy",
    b"user.overlay.overlay.x",
    b"user.overlay.",
    b"user.fuseoverlayfs.opaque",
    b"trusted.overlay.opaque",
    b"trusted.overlay.overlay.opaque",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"security.capability",
    b"user.shale.layer",
    b"user.shale.counters",
    b"",
    b"user.overlay.shale.ino",
];

const VALUES: [&[u8]; 8] = [
    b"",
    b"y",
    b"x",
    b"/../outside",
    b"..",
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff",
    b"/dir",
    b"\x02\0\0\0",
];

const LENGTHS: [usize; 6] = [255, 256, 1024, 4096, 65_536, 70_000];

/// A request as sent, and what kind it is.
pub(super) struct Request {
    opcode: u32,
    /// It names what no file can be called.
    impossible: bool,
    pub(super) bytes: Vec<u8>,
}

/// An answer of the server.
pub(super) struct Reply {
    pub(super) unique: u64,
    error: i32,
    /// What stands first: a node or a handle.
    first: Option<u64>,
    /// What stands after an entry: a handle.
    after_entry: Option<u64>,
}

impl Reply {
    /// `None` for what the kernel would refuse (`fuse_dev_do_write` in fs/fuse/dev.c).
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<OUT_HEADER_BYTES>()?;
        let [length, error, low, high] = std::array::from_fn(|word| {
            let mut four = [0; 4];
            four.copy_from_slice(&header[4 * word..4 * word + 4]);
            u32::from_ne_bytes(four)
        });
        let error = error.cast_signed();
        let fits = length as usize == bytes.len() && (-511..=0).contains(&error);
        let body = &bytes[OUT_HEADER_BYTES..];
        let number = |at: usize| {
            let bytes = body.get(at..at + 8)?;
            bytes.try_into().ok().map(u64::from_ne_bytes)
        };
        (fits && (error == 0 || body.is_empty())).then_some(Self {
            unique: u64::from(low) | u64::from(high) << 32,
            error,
            first: number(0),
            after_entry: number(ENTRY_BYTES),
        })
    }
}

/// A request with its header.
pub(super) fn request(opcode: u32, unique: u64, node: u64, owner: (u32, u32), body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(IN_HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(IN_HEADER_BYTES + body.len());
    for word in [length, opcode] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    for number in [unique, node] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    for word in [owner.0, owner.1, 1, 0] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// `struct fuse_init_in` of a kernel that offers everything.
pub(super) fn init_body() -> Vec<u8> {
    let mut body = Vec::new();
    for word in [7u32, 44, 1 << 17, u32::MAX, u32::MAX] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body.resize(64, 0);
    body
}

/// Reads requests off the input.
pub(super) struct Script<'a> {
    input: &'a [u8],
    nodes: Vec<u64>,
    handles: Vec<u64>,
    /// The request that is being made names what no file can be called.
    impossible: bool,
}

impl<'a> Script<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            nodes: vec![1],
            handles: vec![0],
            impossible: false,
        }
    }

    /// The next request; `None` at the end of the input.
    pub(super) fn next(&mut self, unique: u64) -> Option<Request> {
        if self.input.is_empty() {
            return None;
        }
        self.impossible = false;
        let kind = self.byte();
        let node = self.node();
        let owner = match self.byte() % 4 {
            0 => (u32::from(self.byte()), 1000),
            1 => (u32::MAX, u32::MAX),
            _ => (0, 0),
        };
        let (opcode, mut body) = match SHAPED.get(usize::from(kind)) {
            Some(&opcode) => (opcode, self.shaped(opcode)),
            None if !kind.is_multiple_of(4) => {
                let opcode = SHAPED[usize::from(kind) % SHAPED.len()];
                (opcode, self.shaped(opcode))
            }
            None => {
                let opcode = u32::from(self.byte()) % (op::LAST + 3);
                let length = usize::from(self.byte());
                (opcode, self.bytes(length))
            }
        };
        let opcode = if opcode == op::DESTROY {
            op::GETATTR
        } else {
            opcode
        };
        keep_sendable(opcode, &mut body);
        let bytes = request(opcode, unique, node, owner, &body);
        Some(Request {
            opcode,
            impossible: self.impossible,
            bytes,
        })
    }

    /// Remembers nodes and handles that an answer names.
    ///
    /// # Panics
    /// When a name that no file can have was taken.
    pub(super) fn learn(&mut self, request: &Request, reply: &Reply) {
        if reply.error != 0 {
            return;
        }
        assert!(
            !request.impossible,
            "{:?} was taken for a name",
            request.bytes.escape_ascii()
        );
        match request.opcode {
            op::LOOKUP | op::MKNOD | op::MKDIR | op::SYMLINK | op::LINK => self.nodes.extend(reply.first),
            op::OPEN => self.handles.extend(reply.first),
            op::CREATE => {
                self.nodes.extend(reply.first);
                self.handles.extend(reply.after_entry);
            }
            _ => {}
        }
    }

    /// The body that a request of this kind has.
    fn shaped(&mut self, opcode: u32) -> Vec<u8> {
        match opcode {
            op::LOOKUP | op::UNLINK | op::RMDIR => self.named(),
            op::FORGET => self.small().to_ne_bytes().to_vec(),
            op::SYMLINK => {
                let name = self.named();
                let impossible = self.impossible;
                // a target may be anything
                let target = self.named();
                self.impossible = impossible;
                [name, target].concat()
            }
            op::MKNOD => {
                let (mode, rdev, umask) = (self.mode(), self.word(), self.word());
                [words(&[mode, rdev, umask, 0]), self.named()].concat()
            }
            op::MKDIR | op::CREATE => {
                let words = match opcode {
                    op::MKDIR => words(&[self.mode(), self.word()]),
                    _ => words(&[self.word(), self.mode(), self.word(), 0]),
                };
                [words, self.named()].concat()
            }
            op::RENAME | op::RENAME2 => {
                let target = self.node().to_ne_bytes().to_vec();
                let flags = match opcode {
                    op::RENAME2 => words(&[u32::from(self.byte() % 8), 0]),
                    _ => Vec::new(),
                };
                [target, flags, self.named(), self.named()].concat()
            }
            op::LINK => [self.node().to_ne_bytes().to_vec(), self.named()].concat(),
            op::OPEN | op::OPENDIR => words(&[self.open_flags(), 0]),
            op::WRITE => {
                let (handle, offset) = (self.handle(), self.offset());
                let length = usize::from(self.byte()) * 16;
                let head = [handle, offset].map(u64::to_ne_bytes).concat();
                let rest = [words(&[length as u32, 0]), vec![0; 16], self.bytes(length)].concat();
                [head, rest].concat()
            }
            op::READ | op::READDIR | op::READDIRPLUS => {
                let head = [self.handle(), self.offset()].map(u64::to_ne_bytes).concat();
                let size = [0, 1, 24, 200, 4096, 65_536, 100_000, u32::MAX][usize::from(self.byte() % 8)];
                [head, words(&[size, 0]), vec![0; 16]].concat()
            }
            op::SETXATTR => {
                let (name, value) = (self.xattr(), self.value());
                let flags = u32::from(self.byte() % 5);
                [words(&[value.len() as u32, flags]), name, value].concat()
            }
            op::GETXATTR => {
                let size = [0, 1, 255, u32::MAX][usize::from(self.byte() % 4)];
                [words(&[size, 0]), self.xattr()].concat()
            }
            op::REMOVEXATTR => self.xattr(),
            op::SETATTR => {
                let valid = self.word();
                let size = self.offset();
                let mut body = [words(&[valid, 0]), self.handle().to_ne_bytes().to_vec()].concat();
                body.extend_from_slice(&size.to_ne_bytes());
                body.extend(self.bytes(64));
                body
            }
            op::FALLOCATE => {
                let head = [self.handle(), self.offset(), self.offset()]
                    .map(u64::to_ne_bytes)
                    .concat();
                [head, words(&[u32::from(self.byte()), 0])].concat()
            }
            op::LSEEK => {
                let head = [self.handle(), self.offset()].map(u64::to_ne_bytes).concat();
                [head, words(&[u32::from(self.byte() % 8), 0])].concat()
            }
            op::COPY_FILE_RANGE => {
                let from = [self.handle(), self.offset(), self.node()];
                let to = [self.handle(), self.offset(), self.offset(), 0];
                from.iter()
                    .chain(&to)
                    .flat_map(|number| number.to_ne_bytes())
                    .collect()
            }
            _ => {
                let mut body = self.handle().to_ne_bytes().to_vec();
                body.resize(64, 0);
                body
            }
        }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.input.split_first() else {
            return 0;
        };
        self.input = rest;
        *first
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.input.split_at(count.min(self.input.len()));
        self.input = rest;
        let mut taken = taken.to_vec();
        taken.resize(count, 0);
        taken
    }

    fn word(&mut self) -> u32 {
        u32::from_ne_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn small(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            small => u64::from(small % 8),
        }
    }

    fn node(&mut self) -> u64 {
        let choice = self.byte();
        match choice % 16 {
            0 => 0,
            1 => u64::MAX,
            // numbers of a layer, and of second nodes
            2 => (1 << 48) + u64::from(self.byte()),
            3 => (u64::from(self.byte()) << 48) ^ u64::from(self.word()),
            4 => (3 << 61) + u64::from(self.byte() % 8),
            5 => (1 << 62) + u64::from(self.byte() % 8),
            6 | 7 => 1,
            _ => {
                let which = usize::from(self.byte());
                self.nodes[which % self.nodes.len()]
            }
        }
    }

    fn handle(&mut self) -> u64 {
        match self.byte() {
            0 => u64::MAX,
            choice => self.handles[usize::from(choice) % self.handles.len()],
        }
    }

    fn offset(&mut self) -> u64 {
        match self.byte() % 16 {
            0 => u64::MAX,
            1 => 1 << 63,
            2 => (1 << 63) - 1,
            3 => u64::from(u32::MAX) + u64::from(self.byte()),
            4 => u64::MAX - u64::from(self.byte()),
            5 => u64::from(self.word()),
            _ => u64::from(self.byte()) * 1000,
        }
    }

    fn mode(&mut self) -> u32 {
        let kinds = [
            0o100_000, 0o040_000, 0o120_000, 0o020_000, 0o060_000, 0o010_000, 0o140_000, 0, 0o170_000,
        ];
        kinds[usize::from(self.byte()) % kinds.len()] | u32::from(self.byte()) << 4
    }

    fn open_flags(&mut self) -> u32 {
        let choice = self.byte();
        if choice > 128 {
            return self.word();
        }
        let truncate = if choice & 4 == 0 {
            0
        } else {
            libc::O_TRUNC.cast_unsigned()
        };
        u32::from(choice & 3) | truncate
    }

    /// A name and its end.
    fn named(&mut self) -> Vec<u8> {
        let choice = usize::from(self.byte());
        let mut name = match choice {
            250.. => vec![b'n'; LENGTHS[choice % LENGTHS.len()]],
            240..250 => {
                let length = usize::from(self.byte() % 32);
                self.bytes(length)
            }
            _ => NAMES[choice % NAMES.len()].to_vec(),
        };
        let meant = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let impossible = matches!(meant, b"" | b"." | b"..") || meant.contains(&b'/');
        // what follows a name that is cut off or has no end is read as something else
        let whole = choice != 240 && meant.len() == name.len();
        self.impossible |= impossible && whole;
        if choice != 240 {
            name.push(0);
        }
        name
    }

    fn xattr(&mut self) -> Vec<u8> {
        let choice = usize::from(self.byte());
        let mut name = match choice {
            250.. => [&b"user."[..], &vec![b'n'; LENGTHS[choice % LENGTHS.len()]]].concat(),
            240..250 => {
                let length = usize::from(self.byte() % 32);
                self.bytes(length)
            }
            _ => XATTRS[choice % XATTRS.len()].to_vec(),
        };
        name.push(0);
        name
    }

    fn value(&mut self) -> Vec<u8> {
        let choice = usize::from(self.byte());
        match choice {
            250.. => vec![b'v'; LENGTHS[choice % LENGTHS.len()]],
            200..250 => {
                let length = usize::from(self.byte() % 64);
                self.bytes(length)
            }
            _ => VALUES[choice % VALUES.len()].to_vec(),
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Takes out what the kernel cannot send, and what would fill the disk: see the module above.
fn keep_sendable(opcode: u32, body: &mut [u8]) {
    let lengths: &[usize] = match opcode {
        op::SETATTR => &[16],
        op::WRITE => &[8],
        op::FALLOCATE => &[8, 16],
        op::COPY_FILE_RANGE => &[32, 40],
        _ => &[],
    };
    for &at in lengths {
        // more than the largest file, or little
        change(body, at, |length| {
            if length > i64::MAX as u64 {
                length
            } else {
                length % (1 << 20)
            }
        });
    }
    match opcode {
        op::SETATTR => {
            for at in [32, 40, 48] {
                change(body, at, |seconds| if seconds == 1 << 63 { 1 } else { seconds });
            }
            for at in [56, 60, 64] {
                change_word(body, at, |nanos| nanos % 1_000_000_000);
            }
        }
        op::WRITE if body.len() >= WRITE_BYTES => {
            let length = (body.len() - WRITE_BYTES) as u32;
            change_word(body, 16, |_| length);
        }
        op::IOCTL if body.len() >= IOCTL_BYTES => {
            let length = (body.len() - IOCTL_BYTES) as u32;
            change_word(body, 24, |_| length);
        }
        op::SETXATTR if body.len() >= SETXATTR_BYTES => {
            let name = body[SETXATTR_BYTES..].iter().position(|&byte| byte == 0);
            let length = name.map_or(0, |name| body.len() - SETXATTR_BYTES - name - 1) as u32;
            change_word(body, 0, |_| length);
        }
        op::READDIR | op::READDIRPLUS => change_word(body, 16, |size| size.min(REQUEST_BYTES_MAX)),
        op::BATCH_FORGET => change_word(body, 0, |count| count % 64),
        _ => {}
    }
}

fn change(body: &mut [u8], at: usize, change: impl FnOnce(u64) -> u64) {
    if let Some(bytes) = body.get_mut(at..at + 8)
        && let Ok(number) = <[u8; 8]>::try_from(&*bytes)
    {
        bytes.copy_from_slice(&change(u64::from_ne_bytes(number)).to_ne_bytes());
    }
}

fn change_word(body: &mut [u8], at: usize, change: impl FnOnce(u32) -> u32) {
    if let Some(bytes) = body.get_mut(at..at + 4)
        && let Ok(word) = <[u8; 4]>::try_from(&*bytes)
    {
        bytes.copy_from_slice(&change(u32::from_ne_bytes(word)).to_ne_bytes());
    }
}
