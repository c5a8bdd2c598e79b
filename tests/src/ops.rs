//! The operations of the random tests and what they answer: shared by the model and the real trees.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// A path below the root of the tree: raw names, never empty, no `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(pub Vec<Vec<u8>>);

impl RelPath {
    /// From text with slashes.
    #[must_use]
    pub fn new(text: &str) -> RelPath {
        RelPath(text.split('/').map(|name| name.as_bytes().to_vec()).collect())
    }

    /// The bytes with slashes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }

    /// As a path below `root`.
    #[must_use]
    pub fn under(&self, root: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        root.join(std::ffi::OsStr::from_bytes(&self.bytes()))
    }

    /// The directory it lies in; `None` for a name in the root.
    #[must_use]
    pub fn parent(&self) -> Option<RelPath> {
        let (_, parent) = self.0.split_last()?;
        (!parent.is_empty()).then(|| RelPath(parent.to_vec()))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p(\"{}\")", self.bytes().escape_ascii())
    }
}

/// Short for [`RelPath::new`], so that a shrunk failure can be pasted as a test.
#[must_use]
pub fn p(text: &str) -> RelPath {
    RelPath::new(text)
}

/// How a held descriptor was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

/// The flag of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RenameFlag {
    Plain,
    NoReplace,
    Exchange,
}

/// The flag of a setxattr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum XattrFlag {
    Any,
    Create,
    Replace,
}

/// One step. The fields are the arguments of the system call it is named after.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    /// `open(O_CREAT | O_TRUNC | O_WRONLY)` (with `O_EXCL`), then write.
    Create {
        path: RelPath,
        data: Vec<u8>,
        exclusive: bool,
    },
    WriteAt {
        path: RelPath,
        offset: u64,
        data: Vec<u8>,
    },
    Append {
        path: RelPath,
        data: Vec<u8>,
    },
    Truncate {
        path: RelPath,
        len: u64,
    },
    Mkdir {
        path: RelPath,
        mode: u32,
    },
    Rmdir {
        path: RelPath,
    },
    Unlink {
        path: RelPath,
    },
    Rename {
        from: RelPath,
        to: RelPath,
        flag: RenameFlag,
    },
    Link {
        from: RelPath,
        to: RelPath,
    },
    Symlink {
        target: Vec<u8>,
        path: RelPath,
    },
    Mkfifo {
        path: RelPath,
    },
    /// A character device 1:3.
    Mknod {
        path: RelPath,
    },
    Chmod {
        path: RelPath,
        mode: u32,
    },
    /// Of the link itself.
    Chown {
        path: RelPath,
        uid: u32,
        gid: u32,
    },
    /// Of the link itself.
    SetTimes {
        path: RelPath,
        secs: i64,
        nanos: u32,
    },
    SetXattr {
        path: RelPath,
        name: String,
        value: Vec<u8>,
        flag: XattrFlag,
    },
    RemoveXattr {
        path: RelPath,
        name: String,
    },
    Read {
        path: RelPath,
    },
    /// `lstat`.
    Stat {
        path: RelPath,
    },
    List {
        path: RelPath,
    },
    Readlink {
        path: RelPath,
    },
    Hold {
        slot: u8,
        path: RelPath,
        access: Access,
    },
    HeldWrite {
        slot: u8,
        offset: u64,
        data: Vec<u8>,
    },
    HeldRead {
        slot: u8,
    },
    HeldTruncate {
        slot: u8,
        len: u64,
    },
    HeldChmod {
        slot: u8,
        mode: u32,
    },
    HeldClose {
        slot: u8,
    },
    /// `fallocate(PUNCH_HOLE | KEEP_SIZE)`.
    Punch {
        path: RelPath,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: RelPath,
        to: RelPath,
        len: u64,
    },
    /// `O_TMPFILE` in the directory, a write, then `linkat` to the name.
    TmpfileLink {
        path: RelPath,
        data: Vec<u8>,
    },
    /// Makes the kernel forget the names that nobody uses.
    DropCaches,
    /// Closes what is held, unmounts, mounts.
    Remount,
}

/// What a step answered.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    Done,
    Errno(i32),
    Bytes(Vec<u8>),
    Names(BTreeSet<Vec<u8>>),
    Stat(StatView),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done => write!(f, "ok"),
            Outcome::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Outcome::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Outcome::Names(names) => {
                let shown: Vec<String> = names.iter().map(|name| name.escape_ascii().to_string()).collect();
                write!(f, "[{}]", shown.join(" "))
            }
            Outcome::Stat(stat) => write!(f, "{stat:?}"),
        }
    }
}

/// The attributes that the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StatView {
    pub kind: crate::snapshot::Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: u64,
    pub nlink: u64,
}
