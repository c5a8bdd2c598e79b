//! How much of everything: the options of a run that its result depends on.

use std::path::PathBuf;

use serde::Serialize;

/// Sub-directories of a directory of the tree.
const TREE_FAN_OUT: usize = 10;
/// Small files in a directory of the tree.
const FILES_PER_DIR: usize = 10;

/// How much of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, clap::Args)]
#[command(next_help_heading = "Sizes")]
pub struct Sizes {
    /// Small files in the tree, ten in a directory
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = at_least_one)]
    pub files: usize,
    /// Length of the large file: 1G, 256M, …
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = bytes)]
    pub size: u64,
    /// How much is written before the fsync
    #[arg(long, value_name = "BYTES", default_value = "512M", value_parser = bytes)]
    pub write_size: u64,
    /// Files to create, to remove and to rename
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = at_least_one)]
    pub create: usize,
    /// Small files to copy up, at most as many as the tree has
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_least_one)]
    pub copy_up: usize,
    /// Programs to execute
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = at_least_one)]
    pub exec: usize,
    /// Random reads or writes of 4 KiB
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = at_least_one)]
    pub random: usize,
    /// C files to compile
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_one)]
    pub sources: usize,
    /// Names to look up in a stack of layers; as many missing ones come on top
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one)]
    pub names: usize,
    /// Inodes for the memory of the server
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = at_least_one)]
    pub inodes: usize,
    /// Length of the file that several mounts read
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = bytes)]
    pub shared_size: u64,
    /// Files in the package that is installed
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = at_least_one)]
    pub package: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of bytes, with K, M or G for the powers of 1024; at least one block of 4 KiB.
fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a number of bytes, with K, M or G".to_owned())?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes >= 4096 => Ok(bytes),
        Some(_) => Err("must be at least 4K".to_owned()),
        None => Err("too large".to_owned()),
    }
}

impl Sizes {
    /// Directories that hold the tree's files.
    #[must_use]
    pub fn tree_dirs(&self) -> usize {
        self.files.div_ceil(FILES_PER_DIR)
    }

    /// Everything in the tree, directories included, its root not.
    #[must_use]
    pub fn tree_entries(&self) -> usize {
        self.files + self.tree_dirs() + self.tree_dirs().div_ceil(TREE_FAN_OUT)
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
    pub fn tree_file(number: usize) -> PathBuf {
        Self::tree_dir(number / FILES_PER_DIR).join(format!("f{:03}", number % FILES_PER_DIR))
    }

    /// The files that are copied up.
    pub fn copied_files(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.copy_up.min(self.files)).map(Self::tree_file)
    }
}

/// One mebibyte.
pub const MIB: usize = 1024 * 1024;

/// Bytes as people say them: `1 GiB`, `512 MiB`.
#[must_use]
pub fn spoken(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Sizes with which everything is over in a moment.
    pub(crate) fn tiny() -> Sizes {
        Sizes {
            files: 24,
            size: 1 << 20,
            write_size: 1 << 20,
            create: 3,
            copy_up: 3,
            exec: 2,
            random: 10,
            sources: 2,
            names: 7,
            inodes: 40,
            shared_size: 1 << 20,
            package: 2,
        }
    }

    #[test]
    fn bytes_are_read_and_spoken() {
        for (text, number, words) in [
            ("4096", 4096, "4 KiB"),
            ("512M", 512 << 20, "512 MiB"),
            ("1g", 1 << 30, "1 GiB"),
            ("4097", 4097, "4097 bytes"),
        ] {
            assert_eq!(bytes(text), Ok(number));
            assert_eq!(spoken(number), words);
        }
        for wrong in ["", "M", "1T", "-1", "4095", "99999999999G"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
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
