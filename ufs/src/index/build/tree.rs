//! The files of a layer, as its members come in.

use hashbrown::HashTable;
use twox_hash::XxHash3_64;

use super::contents::Contents;
use super::{Meta, PATH_BYTES_MAX, RESERVED_XATTRS, Stored, entry_error, is_device, shown, split};
use crate::attr::FileType;
use crate::index::format::{NONE, is_name, type_bits, type_of};
use crate::index::sets::{self, Sets};
use crate::index::{BuildError, ContentId, Sha256};

/// The root directory's node.
pub(super) const ROOT: u32 = 0;

/// The files of a layer, as its members come in. Paths are relative, clean and without leading slash; the empty one is
/// the root. What a path names is made or replaced; missing directories on the way are made.
#[derive(Debug)]
pub struct Tree {
    /// Names. The first is the root's; dead ones stay.
    pub(super) nodes: Vec<Node>,
    /// Files. A file that lost its last name stays.
    pub(super) files: Vec<File>,
    /// Bytes of names and of links' targets.
    pub(super) bytes: Vec<u8>,
    /// Distinct owners and modes.
    pub(super) owners: Vec<Owner>,
    pub(super) sets: Sets,
    pub(super) contents: Contents,
    pub(super) waiting: Waiting,
    /// Nodes by parent and name.
    by_name: HashTable<u32>,
    by_owner: HashTable<u32>,
    seed: u64,
    /// The directory used last: members of one directory usually follow each other.
    pub(super) last: Option<(Vec<u8>, u32)>,
    dropped_xattrs: u64,
}

/// What is looked at when all members have come.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Paths and targets of hard links whose target was not there.
    pub(super) links: Vec<WaitingLink>,
    pub(super) whiteouts: Vec<Box<[u8]>>,
    pub(super) opaques: Vec<Box<[u8]>>,
}

/// Path and target of a hard link.
pub(super) type WaitingLink = (Box<[u8]>, Box<[u8]>);

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// The node of the directory.
    pub(super) parent: u32,
    /// Where the name starts in the bytes.
    pub(super) name: u32,
    /// The file; the number of the link that waits.
    pub(super) file: u32,
    pub(super) name_bytes: u8,
    pub(super) state: State,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A name of a file.
    File,
    /// A hard link whose target was not there when it came.
    Waiting,
    /// A whiteout.
    Whiteout,
    /// Replaced.
    Dead,
}

/// A file.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    /// Size, or device number.
    pub(super) size: u64,
    pub(super) secs: i64,
    pub(super) nanos: u32,
    pub(super) owner: u32,
    /// Regular: the content. Directory: 1 when opaque. Link: where its target starts.
    pub(super) part: u32,
    /// Number of names, counted at the end.
    pub(super) nlink: u32,
}

/// Mode with type, owner, group, attribute set.
pub(super) type Owner = [u32; 4];

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree that holds an empty root directory.
    #[must_use]
    pub fn new() -> Self {
        // random, so that no archive can be made whose names all collide
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let mut tree = Self {
            nodes: vec![Node {
                parent: ROOT,
                name: 0,
                file: 0,
                name_bytes: 0,
                state: State::File,
            }],
            files: Vec::new(),
            bytes: Vec::new(),
            owners: Vec::new(),
            sets: Sets::new(seed),
            contents: Contents::default(),
            waiting: Waiting::default(),
            by_name: HashTable::new(),
            by_owner: HashTable::new(),
            seed,
            last: None,
            dropped_xattrs: 0,
        };
        tree.owners
            .push([type_bits(FileType::Directory) | 0o755, 0, 0, NONE]);
        tree.files.push(File {
            size: 0,
            secs: 0,
            nanos: 0,
            owner: 0,
            part: 0,
            nlink: 0,
        });
        tree
    }

    /// Takes note of a content. The same digest again gives the same number.
    pub fn add_content(&mut self, stored: Stored, size_bytes: u64) -> ContentId {
        self.contents.add(stored, size_bytes)
    }

    /// The content with this digest, when it was added.
    #[must_use]
    pub fn known(&self, digest: &Sha256) -> Option<ContentId> {
        self.contents.known(digest)
    }

    /// How many attributes were dropped because an overlay would take them for its own.
    #[must_use]
    pub fn dropped_xattrs(&self) -> u64 {
        self.dropped_xattrs
    }

    /// Makes a directory, or describes one that is there.
    ///
    /// # Errors
    /// When the path cannot be, or leads below something that is no directory.
    pub fn directory(&mut self, path: &[u8], meta: Meta) -> Result<(), BuildError> {
        let file = self.describe(path, meta, FileType::Directory)?;
        let node = if path.is_empty() {
            ROOT
        } else {
            let (parent, name) = self.enter_parent(path)?;
            match self.child(parent, name) {
                Some(node) if self.is_dir(node) => node,
                _ => return self.make(path, parent, name, file).map(|_| ()),
            }
        };
        let there = &mut self.files[self.nodes[node as usize].file as usize];
        *there = File {
            part: there.part,
            ..file
        };
        Ok(())
    }

    /// Makes a regular file. Without content it is empty or one hole.
    ///
    /// # Errors
    /// When the path cannot be, or leads below something that is no directory, or the content has another size.
    pub fn file(
        &mut self,
        path: &[u8],
        meta: Meta,
        size_bytes: u64,
        content: Option<ContentId>,
    ) -> Result<(), BuildError> {
        if let Some(content) = content
            && content.0 != NONE
            && self.contents.size(content) != Some(size_bytes)
        {
            return Err(entry_error(path, "has another size than its content"));
        }
        let mut file = self.describe(path, meta, FileType::Regular)?;
        file.size = size_bytes;
        file.part = content.map_or(NONE, |content| content.0);
        self.put(path, file)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// When the path or the target cannot be, or the path leads below something that is no directory.
    pub fn symlink(&mut self, path: &[u8], meta: Meta, target: &[u8]) -> Result<(), BuildError> {
        let problem = match target.len() {
            0 => Some("is a symbolic link to nothing"),
            1..=PATH_BYTES_MAX if !target.contains(&0) => None,
            1..=PATH_BYTES_MAX => Some("is a symbolic link whose target holds a zero byte"),
            _ => Some("is a symbolic link with too long a target"),
        };
        if let Some(problem) = problem {
            return Err(entry_error(path, problem));
        }
        let mut file = self.describe(path, meta, FileType::Symlink)?;
        file.size = target.len() as u64;
        file.part = self.keep(target)?;
        self.put(path, file)
    }

    /// Makes a device, a pipe or a socket. A character device 0:0 is a whiteout.
    ///
    /// # Errors
    /// When the path cannot be, or leads below something that is no directory, or the type is none of these.
    pub fn special(
        &mut self,
        path: &[u8],
        meta: Meta,
        file_type: FileType,
        rdev: u64,
    ) -> Result<(), BuildError> {
        if crate::layer::whiteout::is_device(type_bits(file_type), rdev) {
            return self.whiteout(path);
        }
        if matches!(
            file_type,
            FileType::Regular | FileType::Directory | FileType::Symlink
        ) {
            return Err(entry_error(path, "is no special file"));
        }
        let mut file = self.describe(path, meta, file_type)?;
        file.size = if is_device(file_type) { rdev } else { 0 };
        self.put(path, file)
    }

    /// Makes a hard link. Its target may come later.
    ///
    /// # Errors
    /// When one of the paths cannot be, or leads below something that is no directory, or the target is a directory.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), BuildError> {
        check_path(path)?;
        let (parent, name) = self.enter_parent(path)?;
        check_path(target).map_err(|_| {
            entry_error(
                path,
                format!("is a hard link to {:?}, which cannot be", shown(target)),
            )
        })?;
        let found = self.target(path, target)?;
        if found.is_some_and(|node| self.child(parent, name) == Some(node)) {
            return Ok(());
        }
        match found.map(|node| self.nodes[node as usize]) {
            Some(node) if node.state == State::File => {
                self.name_file(path, parent, name, node.file).map(|_| ())
            }
            _ => {
                let number = number(self.waiting.links.len(), "hard links")?;
                self.waiting.links.push((path.into(), target.into()));
                let node = self.replace(path, parent, name)?;
                self.nodes[node as usize].state = State::Waiting;
                self.nodes[node as usize].file = number;
                Ok(())
            }
        }
    }

    /// The node that a hard link leads to, if it is there.
    pub(super) fn target(&self, path: &[u8], target: &[u8]) -> Result<Option<u32>, BuildError> {
        let (dir, name) = split(target);
        let Some(dir) = self
            .look(dir)
            .map_err(|problem| entry_error(path, problem.text()))?
        else {
            return Ok(None);
        };
        let found = if target.is_empty() {
            Some(ROOT)
        } else {
            self.child(dir, name)
        };
        if found.is_some_and(|node| self.is_dir(node)) {
            let problem = format!("is a hard link to the directory {:?}", shown(target));
            return Err(entry_error(path, problem));
        }
        Ok(found)
    }

    /// Takes note that a name is gone from the layers below.
    ///
    /// # Errors
    /// When the path cannot be, or is the root.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), BuildError> {
        if path.is_empty() {
            return Err(entry_error(path, "the root of a layer cannot be removed"));
        }
        check_path(path)?;
        self.waiting.whiteouts.push(path.into());
        Ok(())
    }

    /// Takes note that everything in a directory is gone from the layers below.
    ///
    /// # Errors
    /// When the path cannot be.
    pub fn opaque(&mut self, dir: &[u8]) -> Result<(), BuildError> {
        check_path(dir)?;
        self.waiting.opaques.push(dir.into());
        Ok(())
    }

    /// Turns what a member says into a file.
    fn describe(&mut self, path: &[u8], meta: Meta, file_type: FileType) -> Result<File, BuildError> {
        check_path(path)?;
        if path.is_empty() && file_type != FileType::Directory {
            return Err(entry_error(path, "the root of a layer must be a directory"));
        }
        if meta.uid == u32::MAX || meta.gid == u32::MAX {
            return Err(entry_error(path, "has an owner that is no valid id"));
        }
        if meta.mtime.nanos >= 1_000_000_000 {
            return Err(entry_error(path, "has a time that cannot be"));
        }
        let mode = type_bits(file_type)
            | if file_type == FileType::Symlink {
                0o777
            } else {
                meta.mode & 0o7777
            };
        let set = self.set(path, meta.xattrs)?;
        Ok(File {
            size: 0,
            secs: meta.mtime.secs,
            nanos: meta.mtime.nanos,
            owner: self.owner([mode, meta.uid, meta.gid, set])?,
            part: 0,
            nlink: 0,
        })
    }

    fn set(&mut self, path: &[u8], mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<u32, BuildError> {
        if xattrs.is_empty() {
            return Ok(NONE);
        }
        let before = xattrs.len();
        xattrs.retain(|(name, _)| !RESERVED_XATTRS.iter().any(|reserved| name.starts_with(reserved)));
        self.dropped_xattrs += (before - xattrs.len()) as u64;
        // of two with one name the last one counts; the sort is stable
        xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut set = Vec::new();
        for (at, (name, value)) in xattrs.iter().enumerate() {
            if xattrs.get(at + 1).is_some_and(|next| next.0 == *name) {
                continue;
            }
            sets::put(&mut set, name, value).ok_or_else(|| {
                let problem = format!("has an extended attribute {:?} that cannot be", shown(name));
                entry_error(path, problem)
            })?;
        }
        self.sets
            .add(&set)
            .ok_or(BuildError::TooLarge("extended attributes"))
    }

    pub(super) fn owner(&mut self, owner: Owner) -> Result<u32, BuildError> {
        let hash = |owner: &Owner| {
            let [mode, uid, gid, set] = owner.map(u64::from);
            XxHash3_64::oneshot_with_seed(gid << 32 | set, &(mode << 32 | uid).to_le_bytes())
        };
        let owners = &self.owners;
        if let Some(&found) = self
            .by_owner
            .find(hash(&owner), |&number| owners[number as usize] == owner)
        {
            return Ok(found);
        }
        let new = number(self.owners.len(), "owners")?;
        self.owners.push(owner);
        let owners = &self.owners;
        self.by_owner
            .insert_unique(hash(&owner), new, |&number| hash(&owners[number as usize]));
        Ok(new)
    }

    /// Whether a node is a directory.
    pub(super) fn is_dir(&self, node: u32) -> bool {
        self.type_of(node) == Some(FileType::Directory)
    }

    /// The type of a node's file; `None` for what is no file yet.
    pub(super) fn type_of(&self, node: u32) -> Option<FileType> {
        let node = self.nodes[node as usize];
        if node.state != State::File {
            return None;
        }
        let owner = self.files[node.file as usize].owner;
        type_of(self.owners[owner as usize][0] >> 12)
    }

    /// The name of a node.
    pub(super) fn name(&self, node: &Node) -> &[u8] {
        &self.bytes[node.name as usize..node.name as usize + usize::from(node.name_bytes)]
    }

    /// Puts bytes into the arena.
    fn keep(&mut self, bytes: &[u8]) -> Result<u32, BuildError> {
        let at = number(self.bytes.len(), "bytes of names")?;
        number(self.bytes.len() + bytes.len(), "bytes of names")?;
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        name_hash(self.seed, parent, name)
    }

    /// Looks for a name in a directory.
    pub(super) fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let same = |&number: &u32| {
            let node = &self.nodes[number as usize];
            node.parent == parent && self.name(node) == name
        };
        self.by_name.find(self.hash(parent, name), same).copied()
    }

    /// Makes a file at a path, in the place of what is there.
    fn put(&mut self, path: &[u8], file: File) -> Result<(), BuildError> {
        let (parent, name) = self.enter_parent(path)?;
        self.make(path, parent, name, file).map(|_| ())
    }

    /// Makes a file under a name, in the place of what is there.
    pub(super) fn make(
        &mut self,
        path: &[u8],
        parent: u32,
        name: &[u8],
        file: File,
    ) -> Result<u32, BuildError> {
        let number = number(self.files.len(), "files")?;
        self.files.push(file);
        self.name_file(path, parent, name, number)
    }

    /// Gives a file a name, in the place of what is there.
    fn name_file(&mut self, path: &[u8], parent: u32, name: &[u8], file: u32) -> Result<u32, BuildError> {
        let node = self.replace(path, parent, name)?;
        self.nodes[node as usize].file = file;
        Ok(node)
    }

    /// A new node under a name. An old one and what is below it are dead.
    pub(super) fn replace(&mut self, path: &[u8], parent: u32, name: &[u8]) -> Result<u32, BuildError> {
        if !is_name(name) || name.len() > 255 {
            return Err(entry_error(path, "has a name that cannot be"));
        }
        let hash = self.hash(parent, name);
        let start = if let Some(old) = self.child(parent, name) {
            self.last = None; // the way to it may have led through this name
            if let Ok(found) = self.by_name.find_entry(hash, |&number| number == old) {
                found.remove();
            }
            self.nodes[old as usize].state = State::Dead;
            self.nodes[old as usize].name
        } else {
            self.keep(name)?
        };
        let node = number(self.nodes.len(), "names")?;
        self.nodes.push(Node {
            parent,
            name: start,
            file: NONE,
            name_bytes: u8::try_from(name.len()).unwrap_or(u8::MAX),
            state: State::File,
        });
        let (nodes, bytes, seed) = (&self.nodes, &self.bytes, self.seed);
        self.by_name.insert_unique(hash, node, |&number| {
            let node = &nodes[number as usize];
            let name = &bytes[node.name as usize..node.name as usize + usize::from(node.name_bytes)];
            name_hash(seed, node.parent, name)
        });
        Ok(node)
    }

    /// Drops what only adding needs.
    pub(super) fn seal(&mut self) -> Result<(), BuildError> {
        self.by_name = HashTable::new();
        self.by_owner = HashTable::new();
        self.last = None;
        self.contents.seal()
    }
}

/// The hash of a name in a directory. The parent is multiplied so that its bits reach all of the seed.
fn name_hash(seed: u64, parent: u32, name: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed ^ u64::from(parent).wrapping_mul(0x9e37_79b9_7f4a_7c15), name)
}

/// A length as the number of the next element; the largest number means none, and one more is needed for counting.
pub(super) fn number(length: usize, what: &'static str) -> Result<u32, BuildError> {
    u32::try_from(length)
        .ok()
        .filter(|&number| number < NONE - 1)
        .ok_or(BuildError::TooLarge(what))
}

/// Refuses what is no clean path.
fn check_path(path: &[u8]) -> Result<(), BuildError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(entry_error(&path[..64], "is too long a path"));
    }
    let sound = |name: &[u8]| is_name(name) && name.len() <= 255;
    if path.is_empty() || path.split(|&byte| byte == b'/').all(sound) {
        return Ok(());
    }
    let problem = if path.split(|&byte| byte == b'/').any(|name| name.len() > 255) {
        "has a name of more than 255 bytes"
    } else {
        "is no clean path"
    };
    Err(entry_error(path, problem))
}
