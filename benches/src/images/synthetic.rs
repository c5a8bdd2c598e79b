//! Archives that are made while they are read: many small files, or a few large ones. Always the same bytes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::archive::{Hashed, Layer};
use crate::data::{content, split_mix};
use crate::error::{Doing, Result};

/// An image of many small files: `d0000/f0000` and so on, 100 to 4,000 bytes each.
#[derive(Debug, Clone, Copy)]
pub struct SmallFiles {
    /// Directories.
    pub dirs: u64,
    /// Files in each.
    pub files_per_dir: u64,
}

impl SmallFiles {
    /// Path of a file, counted through all directories.
    #[must_use]
    pub fn path(&self, number: u64) -> String {
        format!(
            "d{:04}/f{:04}",
            number / self.files_per_dir,
            number % self.files_per_dir
        )
    }

    /// Everything that a walk meets.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.dirs * (self.files_per_dir + 1)
    }

    /// Writes those of `parts` layers' directories that are in layer `part`, as an archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: impl Write, part: u64, parts: u64) -> io::Result<()> {
        let mut tar = Builder::new(out);
        for dir in (0..self.dirs).filter(|dir| dir % parts == part) {
            tar.append(
                &header(&format!("d{dir:04}/"), EntryType::Directory, 0)?,
                io::empty(),
            )?;
            for file in 0..self.files_per_dir {
                let number = dir * self.files_per_dir + file;
                let bytes = content(number, small_length(number));
                let header = header(&self.path(number), EntryType::Regular, bytes.len() as u64)?;
                tar.append(&header, &*bytes)?;
            }
        }
        tar.into_inner()?.flush()
    }
}

/// 100 to 4,000 bytes.
fn small_length(number: u64) -> usize {
    let mut state = number ^ 0x5eed;
    100 + (split_mix(&mut state) % 3901) as usize
}

fn header(path: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    Ok(header)
}

/// Writes an archive of about `total` bytes: a fifth in one file, two fifths in files of 128 MiB, the rest in files of
/// 4 MiB. No two blocks of 4 KiB are alike.
///
/// # Errors
/// When it cannot be written.
pub fn write_large(out: impl Write, total: u64) -> io::Result<()> {
    const PARTS: [(&str, u64); 2] = [("medium", 128 << 20), ("small", 4 << 20)];
    let mut tar = Builder::new(out);
    let mut blocks = Blocks::new();
    let mut add = |name: String, size: u64| -> io::Result<()> {
        tar.append(
            &header(&name, EntryType::Regular, size)?,
            (&mut blocks).take(size),
        )
    };
    add("large".to_owned(), total / 5)?;
    for (name, size) in PARTS {
        for number in 0..(total * 2 / 5) / size {
            add(format!("{name}-{number:05}"), size)?;
        }
    }
    tar.into_inner()?.flush()
}

/// Writes an archive of one file without a pattern.
///
/// # Errors
/// When it cannot be written.
pub fn write_one(out: impl Write, name: &str, size: u64) -> io::Result<()> {
    let mut tar = Builder::new(out);
    tar.append(&header(name, EntryType::Regular, size)?, Blocks::new().take(size))?;
    tar.into_inner()?.flush()
}

/// Writes a layer of files that no other number has, of 40 kB on average.
///
/// # Errors
/// When it cannot be written.
pub fn added(path: &Path, number: u64, total: u64) -> Result<Layer> {
    let write = || -> io::Result<Layer> {
        let mut hashed = Hashed::new(BufWriter::with_capacity(1 << 16, File::create(path)?));
        let mut tar = Builder::new(&mut hashed);
        let (mut written, mut state) = (0, number);
        while written < total {
            let length = split_mix(&mut state) % 80_000;
            let bytes = content(state, length as usize);
            let name = format!("opt/{number}/{written:08}");
            tar.append(&header(&name, EntryType::Regular, length)?, &*bytes)?;
            written += length;
        }
        tar.into_inner()?;
        let (digest, size) = hashed.finish()?;
        Ok(Layer {
            path: path.to_path_buf(),
            digest,
            size,
        })
    };
    write().doing("write", path)
}

/// Endless blocks, each beginning with its number: cheap to make, and none like another.
struct Blocks {
    block: Vec<u8>,
    number: u64,
    at: usize,
}

impl Blocks {
    const BYTES: usize = 4096;

    fn new() -> Self {
        Self {
            block: content(0, Self::BYTES),
            number: 0,
            at: 0,
        }
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.at == Self::BYTES {
                self.number += 1;
                self.block[..8].copy_from_slice(&self.number.to_le_bytes());
                self.at = 0;
            }
            let part = (buffer.len() - filled).min(Self::BYTES - self.at);
            buffer[filled..filled + part].copy_from_slice(&self.block[self.at..self.at + part]);
            filled += part;
            self.at += part;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_together_hold_each_file_once() {
        let files = SmallFiles {
            dirs: 5,
            files_per_dir: 3,
        };
        let mut paths = Vec::new();
        for part in 0..2 {
            let mut bytes = Vec::new();
            files.write(&mut bytes, part, 2).unwrap();
            for entry in tar::Archive::new(&*bytes).entries().unwrap() {
                let entry = entry.unwrap();
                if entry.header().entry_type().is_file() {
                    assert!((100..=4000).contains(&entry.size()));
                    paths.push(entry.path().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        paths.sort();
        let wanted: Vec<_> = (0..15).map(|number| files.path(number)).collect();
        assert_eq!(paths, wanted);
        assert_eq!(files.entries(), 20);
    }

    #[test]
    fn blocks_differ() {
        let mut bytes = vec![0; 3 * 4096];
        Blocks::new().read_exact(&mut bytes).unwrap();
        assert_ne!(bytes[..4096], bytes[4096..8192]);
        assert_ne!(bytes[4096..8192], bytes[8192..]);
    }

    #[test]
    fn the_large_layer_is_about_as_large_as_asked() {
        let mut bytes = Vec::new();
        write_large(&mut bytes, 32 << 20).unwrap();
        assert!(
            bytes.len() > 16 << 20 && bytes.len() < 33 << 20,
            "{}",
            bytes.len()
        );
    }
}
