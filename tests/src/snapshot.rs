//! What a tree looks like, and what differs between two of them in words a person can read.
//!
//! Names are raw bytes. Inode numbers are not kept: they become *link groups* (the first path, in byte
//! order, of the same inode), which can be compared across file systems.

use crate::posix;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The kinds of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// The kind of a file type as the standard library gives it.
    #[must_use]
    pub fn of(file_type: std::fs::FileType) -> Kind {
        match () {
            () if file_type.is_dir() => Kind::Dir,
            () if file_type.is_symlink() => Kind::Symlink,
            () if file_type.is_fifo() => Kind::Fifo,
            () if file_type.is_socket() => Kind::Socket,
            () if file_type.is_char_device() => Kind::CharDevice,
            () if file_type.is_block_device() => Kind::BlockDevice,
            () => Kind::File,
        }
    }
}

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permissions, with the set-id and sticky bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size in bytes; 0 for directories, whose size means nothing.
    pub size_bytes: u64,
    /// Content, or the target of a symbolic link.
    pub content: Content,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Links; 1 for directories, which each file system counts its own way.
    pub nlink: u64,
    /// The first path of the same inode.
    pub link_group: Vec<u8>,
    /// Device number of a device.
    pub rdev: u64,
    /// Modification time; `None` when not to be compared.
    pub mtime: Option<(i64, i64)>,
    /// Change time; only in digests of layers.
    pub ctime: Option<(i64, i64)>,
}

/// Longer contents are kept as their hash.
const BYTES_KEPT_MAX: usize = 4096;
/// Files are read in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes, or for long ones their hash.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// All of them.
    Bytes(Vec<u8>),
    /// A hash of many.
    Hash(u64),
}

impl Content {
    /// Keeps `bytes`, or their hash when they are many.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Content {
        if bytes.len() <= BYTES_KEPT_MAX {
            return Content::Bytes(bytes);
        }
        let mut hasher = DefaultHasher::new();
        for chunk in bytes.chunks(CHUNK_BYTES) {
            hasher.write(chunk);
        }
        Content::Hash(hasher.finish())
    }

    /// The same of a file, however large, and its length.
    fn of_file(path: &Path) -> io::Result<(Content, u64)> {
        let mut file = File::open(path)?;
        let mut chunk = Vec::new();
        file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.len() < CHUNK_BYTES {
            let len = chunk.len() as u64;
            return Ok((Content::new(chunk), len));
        }
        let (mut hasher, mut len) = (DefaultHasher::new(), 0);
        while !chunk.is_empty() {
            hasher.write(&chunk);
            len += chunk.len() as u64;
            chunk.clear();
            file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        }
        Ok((Content::Hash(hasher.finish()), len))
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Bytes(bytes) if bytes.len() <= 64 => write!(f, "\"{}\"", bytes.escape_ascii()),
            Content::Bytes(bytes) => {
                write!(f, "{} bytes \"{}…\"", bytes.len(), bytes[..48].escape_ascii())
            }
            Content::Hash(hash) => write!(f, "hash {hash:016x}"),
        }
    }
}

/// A whole tree, by path relative to its root (the root itself is the empty path).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every file by its path.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

impl Snapshot {
    /// The tree at `root`, with modification times.
    pub fn of(root: &Path) -> io::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut groups = BTreeMap::new();
        snapshot.walk(root, Vec::new(), false, &mut groups)?;
        Ok(snapshot)
    }

    /// Everything about a layer that must never change, change times included.
    pub fn digest(root: &Path) -> io::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut groups = BTreeMap::new();
        snapshot.walk(root, Vec::new(), true, &mut groups)?;
        Ok(snapshot)
    }

    /// Forgets modification times.
    #[must_use]
    pub fn without_times(mut self) -> Snapshot {
        for entry in self.entries.values_mut() {
            entry.mtime = None;
        }
        self
    }

    fn walk(
        &mut self,
        path: &Path,
        name: Vec<u8>,
        is_digest: bool,
        groups: &mut BTreeMap<(u64, u64), Vec<u8>>,
    ) -> io::Result<()> {
        let within = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let meta = path.symlink_metadata().map_err(within)?;
        let kind = Kind::of(meta.file_type());
        let (content, read) = match kind {
            Kind::File => Content::of_file(path).map_err(within)?,
            Kind::Symlink => {
                let target = std::fs::read_link(path).map_err(within)?;
                (Content::new(target.as_os_str().as_bytes().to_vec()), 0)
            }
            _ => (Content::new(Vec::new()), 0),
        };
        if kind == Kind::File && read != meta.size() {
            let size = meta.size();
            return Err(io::Error::other(format!(
                "{}: {read} bytes read, size {size}",
                path.display()
            )));
        }
        let mut xattrs = BTreeMap::new();
        for xattr in posix::list_xattrs(path).map_err(within)? {
            let value = posix::get_xattr(path, &xattr).map_err(within)?;
            xattrs.insert(xattr.as_bytes().to_vec(), value);
        }
        let group = groups
            .entry((meta.dev(), meta.ino()))
            .or_insert_with(|| name.clone());
        let entry = Entry {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            size_bytes: if kind == Kind::Dir { 0 } else { meta.size() },
            content,
            xattrs,
            nlink: if kind == Kind::Dir && !is_digest {
                1
            } else {
                meta.nlink()
            },
            link_group: group.clone(),
            rdev: meta.rdev(),
            mtime: Some((meta.mtime(), meta.mtime_nsec())),
            ctime: is_digest.then(|| (meta.ctime(), meta.ctime_nsec())),
        };
        self.entries.insert(name.clone(), entry);
        if kind != Kind::Dir {
            return Ok(());
        }
        let mut children = posix::names(path).map_err(within)?;
        children.sort();
        if let Some(twice) = children.windows(2).find(|pair| pair[0] == pair[1]) {
            let twice = twice[0].escape_ascii();
            return Err(io::Error::other(format!(
                "{}: \"{twice}\" is listed twice",
                path.display()
            )));
        }
        for child in children {
            let mut child_name = name.clone();
            if !child_name.is_empty() {
                child_name.push(b'/');
            }
            child_name.extend(&child);
            self.walk(
                &path.join(OsStr::from_bytes(&child)),
                child_name,
                is_digest,
                groups,
            )?;
        }
        Ok(())
    }

    /// What differs, a line each; empty when equal. Times that either side does not know are not compared.
    #[must_use]
    pub fn diff(&self, other: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, mine) in &self.entries {
            let shown = path.escape_ascii();
            match other.entries.get(path) {
                None => lines.push(format!("- /{shown} ({:?})", mine.kind)),
                Some(theirs) => {
                    for (field, left, right) in mine.differences(theirs) {
                        lines.push(format!("! /{shown} {field}: {left} -> {right}"));
                    }
                }
            }
        }
        for (path, theirs) in &other.entries {
            if !self.entries.contains_key(path) {
                lines.push(format!("+ /{} ({:?})", path.escape_ascii(), theirs.kind));
            }
        }
        lines
    }

    /// Fails with the differences when the trees are not the same.
    #[track_caller]
    pub fn assert_same(&self, other: &Snapshot, what: &str) {
        let lines = self.diff(other);
        assert!(lines.is_empty(), "{what}:\n  {}", lines.join("\n  "));
    }
}

impl Entry {
    fn differences(&self, other: &Entry) -> Vec<(&'static str, String, String)> {
        let mut found = Vec::new();
        let mut check = |field, left: String, right: String| {
            if left != right {
                found.push((field, left, right));
            }
        };
        check("type", format!("{:?}", self.kind), format!("{:?}", other.kind));
        check("mode", format!("{:o}", self.mode), format!("{:o}", other.mode));
        check("owner", format!("{:?}", self.owner), format!("{:?}", other.owner));
        check("size", self.size_bytes.to_string(), other.size_bytes.to_string());
        check(
            "content",
            format!("{:?}", self.content),
            format!("{:?}", other.content),
        );
        check("xattrs", show_xattrs(&self.xattrs), show_xattrs(&other.xattrs));
        check("nlink", self.nlink.to_string(), other.nlink.to_string());
        let group = |entry: &Entry| entry.link_group.escape_ascii().to_string();
        check("linked with", group(self), group(other));
        check("rdev", self.rdev.to_string(), other.rdev.to_string());
        if self.mtime.is_some() && other.mtime.is_some() {
            check("mtime", format!("{:?}", self.mtime), format!("{:?}", other.mtime));
        }
        if self.ctime.is_some() && other.ctime.is_some() {
            check("ctime", format!("{:?}", self.ctime), format!("{:?}", other.ctime));
        }
        found
    }
}

fn show_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let shown: Vec<String> = xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    format!("[{}]", shown.join(" "))
}

/// Compares directories that nobody may change with what they were, when it goes.
#[derive(Debug)]
pub struct Untouched(Vec<(PathBuf, Snapshot)>);

impl Untouched {
    /// Takes down what these layers are.
    #[must_use]
    pub fn watch(layers: &[PathBuf]) -> Untouched {
        let digest = |layer: &PathBuf| Snapshot::digest(layer).expect("digest a layer");
        Untouched(
            layers
                .iter()
                .map(|layer| (layer.clone(), digest(layer)))
                .collect(),
        )
    }

    /// Fails when a layer is not what it was.
    pub fn check(&self, context: &str) {
        for (layer, before) in &self.0 {
            let after = Snapshot::digest(layer).expect("digest a layer");
            before.assert_same(
                &after,
                &format!("{context}: the lower layer {} changed", layer.display()),
            );
        }
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check("at the end");
        }
    }
}

/// Checks that what a listing says of each name (type and inode number) is what `lstat` says of it.
pub fn check_listing(root: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(listing) = std::fs::read_dir(&directory) else {
            wrong.push(format!("{}: cannot be listed", directory.display()));
            continue;
        };
        for entry in listing.flatten() {
            let path = entry.path();
            let Ok(meta) = path.symlink_metadata() else {
                wrong.push(format!("{}: listed but not there", path.display()));
                continue;
            };
            // The standard library asks again by itself when the type is unknown, which is allowed.
            let listed = entry.file_type().map(Kind::of).ok();
            if listed != Some(Kind::of(meta.file_type())) {
                wrong.push(format!(
                    "{}: listed as {listed:?}, is {:?}",
                    path.display(),
                    meta.file_type()
                ));
            }
            if entry.ino() != meta.ino() {
                wrong.push(format!(
                    "{}: listed with inode {}, has {}",
                    path.display(),
                    entry.ino(),
                    meta.ino()
                ));
            }
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    wrong
}
