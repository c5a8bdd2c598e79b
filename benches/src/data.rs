//! The lower layers: made from nothing but their sizes, so that every run reads the same bytes.
//!
//! ```text
//! tree/d000/s0/f000 …   many small files, 100 bytes to 8 KiB, most of them short
//! large/file            one large file
//! programs/sh, libc…    a program and the C library it loads
//! flat/d/f0000 …        names in one layer …
//! deep/00 … 63/d/…      … and the same names spread over many
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{BenchError, Doing, Result};

/// Sub-directories of a directory of the tree.
const TREE_FAN_OUT: usize = 10;

/// How much of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, clap::Args)]
pub struct Sizes {
    /// Directories with files in the tree
    #[arg(long, default_value_t = 300, value_parser = at_least_one)]
    pub dirs: usize,
    /// Small files in each of them
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pub files_per_dir: usize,
    /// MiB of the large file
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub large_mib: usize,
    /// MiB of the file that is written
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub write_mib: usize,
    /// Files to create and to remove
    #[arg(long, default_value_t = 2000, value_parser = at_least_one)]
    pub create: usize,
    /// Small files to copy up, at most as many as the tree has
    #[arg(long, default_value_t = 500, value_parser = at_least_one)]
    pub copy_up: usize,
    /// Programs to execute
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    pub exec: usize,
    /// Layers of the deep stack (overlayfs takes no more than fit into 4 KiB of options)
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub layers: usize,
    /// Names to look up in the deep stack; as many missing ones come on top
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    pub names: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

impl Sizes {
    /// Small files in the tree.
    #[must_use]
    pub fn tree_files(&self) -> usize {
        self.dirs * self.files_per_dir
    }

    /// Everything in the tree, directories included, its root not.
    #[must_use]
    pub fn tree_entries(&self) -> usize {
        self.tree_files() + self.dirs + self.dirs.div_ceil(TREE_FAN_OUT)
    }

    /// Path of a directory in the tree.
    #[must_use]
    pub fn tree_dir(number: usize) -> PathBuf {
        PathBuf::from(format!(
            "d{:03}/s{}",
            number / TREE_FAN_OUT,
            number % TREE_FAN_OUT
        ))
    }

    /// Path of a small file in the tree, counted through all directories.
    #[must_use]
    pub fn tree_file(&self, number: usize) -> PathBuf {
        Self::tree_dir(number / self.files_per_dir).join(format!("f{:03}", number % self.files_per_dir))
    }

    /// The files that are copied up.
    pub fn copied_files(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.copy_up.min(self.tree_files())).map(|number| self.tree_file(number))
    }

    /// Bytes that the base needs: what lies there, one copy of the large file, what is written, and room.
    #[must_use]
    pub fn base_bytes(&self) -> u64 {
        let mib = 2 * self.large_mib + 2 * self.write_mib + 256;
        let files = 4 * (self.tree_files() + self.create + 2 * self.names) + 64 * self.layers;
        (mib as u64 * MIB as u64) + files as u64 * 8192
    }
}

/// One mebibyte.
pub const MIB: usize = 1024 * 1024;

/// A set of lower layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// Many small files.
    Tree,
    /// One large file.
    Large,
    /// A program and its library.
    Programs,
    /// Names in one layer.
    Flat,
    /// The same names in many layers.
    Deep,
}

/// The layers on the base.
#[derive(Debug)]
pub struct Data {
    root: PathBuf,
    layers: usize,
}

impl Data {
    /// Writes all layers below `root`, which must not exist.
    ///
    /// # Errors
    /// When a file cannot be written, or the machine has no shell to copy.
    pub fn make(root: &Path, sizes: &Sizes) -> Result<Self> {
        let data = Self {
            root: root.to_path_buf(),
            layers: sizes.layers,
        };
        fs::create_dir(root).doing("make", root)?;
        data.make_tree(sizes)?;
        data.make_large(sizes)?;
        data.make_programs()?;
        data.make_names(sizes)?;
        Ok(data)
    }

    /// The directories of a stack, top first.
    #[must_use]
    pub fn lowers(&self, stack: Stack) -> Vec<PathBuf> {
        match stack {
            Stack::Tree => vec![self.root.join("tree")],
            Stack::Large => vec![self.root.join("large")],
            Stack::Programs => vec![self.root.join("programs")],
            Stack::Flat => vec![self.root.join("flat")],
            // Short paths: all of them together must fit into one page of mount options.
            Stack::Deep => (0..self.layers).map(|layer| self.deep_layer(layer)).collect(),
        }
    }

    fn deep_layer(&self, layer: usize) -> PathBuf {
        self.root.join(format!("deep/{layer:02}"))
    }

    fn make_tree(&self, sizes: &Sizes) -> Result<()> {
        let tree = self.root.join("tree");
        for number in 0..sizes.dirs {
            let dir = tree.join(Sizes::tree_dir(number));
            fs::create_dir_all(&dir).doing("make", &dir)?;
        }
        for number in 0..sizes.tree_files() {
            let path = tree.join(sizes.tree_file(number));
            let content = content(number as u64, small_size(number as u64));
            fs::write(&path, content).doing("write", &path)?;
        }
        Ok(())
    }

    fn make_large(&self, sizes: &Sizes) -> Result<()> {
        let dir = self.root.join("large");
        fs::create_dir(&dir).doing("make", &dir)?;
        let path = dir.join("file");
        let mut file = BufWriter::with_capacity(MIB, File::create(&path).doing("make", &path)?);
        for number in 0..sizes.large_mib {
            let part = content(number as u64, MIB);
            file.write_all(&part).doing("write", &path)?;
        }
        file.flush().doing("write", &path)
    }

    fn make_programs(&self) -> Result<()> {
        let dir = self.root.join("programs");
        fs::create_dir(&dir).doing("make", &dir)?;
        let shell = Path::new("/bin/sh");
        fs::copy(shell, dir.join("sh")).doing("copy", shell)?;
        if let Some(library) = c_library() {
            let name = library.file_name().unwrap_or_default();
            fs::copy(&library, dir.join(name)).doing("copy", &library)?;
        }
        Ok(())
    }

    fn make_names(&self, sizes: &Sizes) -> Result<()> {
        let flat = self.root.join("flat/d");
        fs::create_dir_all(&flat).doing("make", &flat)?;
        for layer in 0..sizes.layers {
            let dir = self.deep_layer(layer).join("d");
            fs::create_dir_all(&dir).doing("make", &dir)?;
        }
        for number in 0..sizes.names {
            let name = name(number);
            let deep = self.deep_layer(number % sizes.layers).join("d").join(&name);
            for path in [flat.join(&name), deep] {
                fs::write(&path, b"x").doing("write", &path)?;
            }
        }
        Ok(())
    }
}

/// A name of the flat and the deep stack.
#[must_use]
pub fn name(number: usize) -> String {
    format!("f{number:05}")
}

/// Reads everything below a directory, so that the kernel has it in its caches.
///
/// # Errors
/// When something cannot be read.
pub fn read_all(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).doing("read", dir)? {
        let path = entry.doing("read", dir)?.path();
        if path.is_dir() {
            read_all(&path)?;
        } else {
            let mut file = File::open(&path).doing("open", &path)?;
            std::io::copy(&mut file, &mut std::io::sink()).doing("read", &path)?;
        }
    }
    Ok(())
}

/// Bytes that no file system can squeeze, always the same ones for a seed.
#[must_use]
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&split_mix(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// 100 bytes to 8 KiB, half of them below 2 KiB: about what source trees and `/usr` have.
fn small_size(number: u64) -> usize {
    let mut state = number;
    let part = (split_mix(&mut state) % 1024) as usize;
    100 + part * part * 8092 / (1023 * 1023)
}

/// Steele, Lea and Flood's generator: short, and good enough for content.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The C library that this program has loaded; none when it is linked statically.
fn c_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        let path = Path::new(&line[line.find('/')?..]);
        let name = path.file_name()?.to_str()?;
        name.starts_with("libc.so").then(|| path.to_path_buf())
    });
    path.filter(|path| path.exists())
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

    /// Sizes with which everything is over in a moment.
    pub(crate) fn tiny() -> Sizes {
        Sizes {
            dirs: 12,
            files_per_dir: 2,
            large_mib: 1,
            write_mib: 1,
            create: 3,
            copy_up: 3,
            exec: 2,
            layers: 3,
            names: 7,
        }
    }

    #[test]
    fn content_is_always_the_same() {
        assert_eq!(content(1, 100), content(1, 100));
        assert_ne!(content(1, 100), content(2, 100));
        assert_eq!(content(1, 3), content(1, 100)[..3]);
        // As published for seed 0: a change of the generator makes old runs incomparable.
        assert_eq!(content(0, 8), 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }

    #[test]
    fn small_files_keep_within_their_bounds() {
        let sizes: Vec<usize> = (0..5000).map(small_size).collect();
        assert!(sizes.iter().all(|size| (100..=8192).contains(size)));
        let short = sizes.iter().filter(|&&size| size < 2200).count();
        assert!((2200..2800).contains(&short), "{short}");
    }

    #[test]
    fn the_tree_has_as_many_entries_as_promised() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("l");
        let data = Data::make(&root, &tiny()).unwrap();
        let count = |dir: &Path| {
            let mut pending = vec![dir.to_path_buf()];
            let mut found = 0;
            while let Some(dir) = pending.pop() {
                for entry in fs::read_dir(dir).unwrap() {
                    let entry = entry.unwrap();
                    found += 1;
                    if entry.file_type().unwrap().is_dir() {
                        pending.push(entry.path());
                    }
                }
            }
            found
        };
        assert_eq!(count(&data.lowers(Stack::Tree)[0]), tiny().tree_entries());
        assert_eq!(data.lowers(Stack::Deep).len(), 3);
        let deep: usize = data.lowers(Stack::Deep).iter().map(|dir| count(dir) - 1).sum();
        assert_eq!(deep, 7);
        assert_eq!(fs::metadata(root.join("large/file")).unwrap().len(), MIB as u64);
        read_all(&root).unwrap();
    }

    #[test]
    fn no_more_files_are_copied_up_than_there_are() {
        let sizes = Sizes {
            copy_up: 1000,
            ..tiny()
        };
        assert_eq!(sizes.copied_files().count(), 24);
    }
}
