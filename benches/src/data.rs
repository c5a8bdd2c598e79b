//! The lower layers: made from nothing but their sizes, so that every run reads the same bytes, and from a root file
//! system where one is given. A stack is made when a workload first asks for it.
//!
//! ```text
//! tree/d000/s0/f000 …     many small files, 100 bytes to 8 KiB, most of them short
//! real/…                  the root file system that was given
//! sized/1048576/file      one large file of that length
//! programs/sh, libc…      a program and the C library it loads
//! deep/127/000 … 126/d/…  names spread over that many layers
//! sources/*.c, *.h        something to compile
//! inodes/d000/f000 …      empty files
//! ```

mod content;
mod make;
mod sizes;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use content::content;
pub(crate) use content::split_mix;
pub(crate) use make::pipe;
pub use sizes::{MIB, Sizes, spoken};

use crate::error::{BenchError, Doing, Result};
use crate::interrupt;

/// A set of lower layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stack {
    /// Many small files.
    Tree,
    /// The root file system that was given; the tree without one.
    Real,
    /// One large file, as long as the sizes say.
    Large,
    /// One large file of so many bytes.
    Sized(u64),
    /// One file that several mounts read.
    Shared,
    /// A program and its library.
    Programs,
    /// Names in so many layers.
    Deep(usize),
    /// C files.
    Sources,
    /// Very many empty files.
    Inodes,
}

/// What a walk of a layer finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Everything, directories included, the root not.
    pub entries: usize,
    /// Regular files.
    pub files: usize,
    /// Regular files that are small and not empty, relative to the root.
    pub small: Vec<PathBuf>,
}

/// The layers on the base.
#[derive(Debug)]
pub struct Data {
    root: PathBuf,
    sizes: Sizes,
    rootfs: Option<PathBuf>,
    made: BTreeSet<Stack>,
    tree: Tree,
}

/// Files up to this length are small.
const SMALL_BYTES: u64 = 64 * 1024;

impl Data {
    /// Nothing yet, below `root`, which must not exist. `rootfs` is a directory, or a tar archive that `tar` reads.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(root: &Path, sizes: &Sizes, rootfs: Option<PathBuf>) -> Result<Self> {
        fs::create_dir(root).doing("make", root)?;
        Ok(Self {
            root: root.to_path_buf(),
            sizes: sizes.clone(),
            rootfs,
            made: BTreeSet::new(),
            tree: Tree::default(),
        })
    }

    /// Makes what a stack needs, once.
    ///
    /// # Errors
    /// When a file cannot be written, the machine has no shell to copy, or the root file system cannot be read.
    pub fn make(&mut self, stack: Stack) -> Result<()> {
        let stack = self.resolved(stack);
        if self.made.contains(&stack) {
            return Ok(());
        }
        match stack {
            Stack::Tree => make::tree(&self.root.join("tree"), &self.sizes)?,
            Stack::Real => make::real(&self.root.join("real"), self.rootfs.as_deref())?,
            Stack::Sized(length) => make::large(&self.lowers(stack)[0], length)?,
            Stack::Programs => make::programs(&self.root.join("programs"))?,
            Stack::Deep(_) => make::names(&self.lowers(stack), self.sizes.names)?,
            Stack::Sources => make::sources(&self.root.join("sources"), self.sizes.sources)?,
            Stack::Inodes => make::inodes(&self.root.join("inodes"), self.sizes.inodes)?,
            // never after `resolved`
            Stack::Large | Stack::Shared => {}
        }
        self.made.insert(stack);
        Ok(())
    }

    /// The stack that really lies on the disk.
    fn resolved(&self, stack: Stack) -> Stack {
        match stack {
            Stack::Real if self.rootfs.is_none() => Stack::Tree,
            Stack::Large => Stack::Sized(self.sizes.size),
            Stack::Shared => Stack::Sized(self.sizes.shared_size),
            stack => stack,
        }
    }

    /// The directories of a stack, top first.
    #[must_use]
    pub fn lowers(&self, stack: Stack) -> Vec<PathBuf> {
        let name = match self.resolved(stack) {
            Stack::Tree => "tree".to_owned(),
            Stack::Real => "real".to_owned(),
            Stack::Programs => "programs".to_owned(),
            Stack::Sources => "sources".to_owned(),
            Stack::Inodes => "inodes".to_owned(),
            Stack::Sized(length) => format!("sized/{length}"),
            Stack::Deep(layers) => {
                let dir = self.root.join(format!("deep/{layers}"));
                return (0..layers).map(|layer| dir.join(format!("{layer:03}"))).collect();
            }
            Stack::Large | Stack::Shared => String::new(),
        };
        vec![self.root.join(name)]
    }

    /// A name of its own for what lies on the disk for a stack.
    #[must_use]
    pub fn key(&self, stack: Stack) -> String {
        let dir = &self.lowers(stack)[0];
        let name = dir.strip_prefix(&self.root).unwrap_or(dir);
        name.to_string_lossy().replace('/', "-")
    }

    /// Learns what is in the tree that the next workload walks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look_at(&mut self, stack: Stack) -> Result<()> {
        let mut tree = Tree::default();
        if matches!(stack, Stack::Tree | Stack::Real | Stack::Inodes) {
            let root = self.lowers(stack).swap_remove(0);
            look(&root, Path::new(""), &mut tree)?;
        }
        self.tree = tree;
        Ok(())
    }

    /// What is in the tree of the present workload.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Where workloads keep what must not lie in a mount.
    #[must_use]
    pub fn outside(&self) -> &Path {
        &self.root
    }
}

/// Counts what lies below a directory, in the order of the names.
fn look(root: &Path, relative: &Path, tree: &mut Tree) -> Result<()> {
    interrupt::check()?;
    let dir = root.join(relative);
    let entries: std::io::Result<Vec<_>> = fs::read_dir(&dir).doing("list", &dir)?.collect();
    let mut entries = entries.doing("list", &dir)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let metadata = entry.metadata().doing("stat an entry of", &dir)?;
        tree.entries += 1;
        let path = relative.join(entry.file_name());
        if metadata.is_dir() {
            look(root, &path, tree)?;
        } else if metadata.is_file() {
            tree.files += 1;
            if (1..=SMALL_BYTES).contains(&metadata.len()) {
                tree.small.push(path);
            }
        }
    }
    Ok(())
}

/// A name of a stack of names, and of what is created.
#[must_use]
pub fn name(number: usize) -> String {
    format!("f{number:05}")
}

/// Reads everything below a directory, so that the kernel has it in its caches. Links are not followed, and of what is
/// neither a file nor a directory nothing is read.
///
/// # Errors
/// When something cannot be read.
pub fn read_all(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).doing("read", dir)? {
        let entry = entry.doing("read", dir)?;
        let (path, kind) = (entry.path(), entry.metadata().doing("stat an entry of", dir)?);
        if kind.is_dir() {
            read_all(&path)?;
        } else if kind.is_file() {
            let mut file = File::open(&path).doing("open", &path)?;
            std::io::copy(&mut file, &mut std::io::sink()).doing("read", &path)?;
        }
    }
    Ok(())
}

/// Fails unless a workload did all its work.
pub(crate) fn expect(what: &str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(BenchError::Wrong(format!("{what}: {found} instead of {wanted}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    pub(crate) use sizes::tests::tiny;

    #[test]
    fn layers_hold_what_was_promised() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("l");
        let mut data = Data::new(&root, &tiny(), None).unwrap();
        for stack in [Stack::Real, Stack::Deep(3), Stack::Large, Stack::Inodes] {
            data.make(stack).unwrap();
        }
        data.look_at(Stack::Real).unwrap();
        assert_eq!(data.tree().entries, tiny().tree_entries());
        assert_eq!((data.tree().files, data.tree().small.len()), (24, 24));
        assert_eq!(data.tree().small[1], Sizes::tree_file(1));
        assert_eq!(data.lowers(Stack::Deep(3)).len(), 3);
        let names = |dir: &PathBuf| fs::read_dir(dir.join("d")).unwrap().count();
        assert_eq!(data.lowers(Stack::Deep(3)).iter().map(names).sum::<usize>(), 7);
        let large = data.lowers(Stack::Large)[0].join("file");
        assert_eq!(fs::metadata(large).unwrap().len(), MIB as u64);
        data.look_at(Stack::Inodes).unwrap();
        assert_eq!(data.tree().entries, tiny().inodes);
        read_all(&root).unwrap();
    }

    #[test]
    fn a_given_root_file_system_takes_the_place_of_the_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let given = scratch.path().join("given");
        fs::create_dir_all(given.join("usr/bin")).unwrap();
        fs::write(given.join("usr/bin/x"), "x").unwrap();
        std::os::unix::fs::symlink("usr/bin", given.join("bin")).unwrap();
        let mut data = Data::new(&scratch.path().join("l"), &tiny(), Some(given)).unwrap();
        data.make(Stack::Real).unwrap();
        data.look_at(Stack::Real).unwrap();
        assert_eq!((data.tree().entries, data.tree().files), (4, 1));
        assert_eq!(data.tree().small, [Path::new("usr/bin/x")]);
        assert_eq!(data.key(Stack::Real), "real");
        assert_eq!(data.key(Stack::Large), "sized-1048576");
    }
}
