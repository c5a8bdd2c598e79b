//! The part of a member in which files are read, written, mapped and replaced beside their bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::status::Status;
use super::{Dice, Member};
use crate::posix;
use crate::sys::Mapping;

const FILES: usize = 6;
/// Above and below the size from which lower files are passed through.
const BORN_BYTES_MAX: usize = 200_000;
const BYTES_MAX: usize = 300_000;
const CHUNK_BYTES_MAX: usize = 9_000;

/// Files and what must be in them.
pub(super) struct Files {
    root: PathBuf,
    contents: Vec<Option<Vec<u8>>>,
    /// For the names of new files.
    serial: usize,
}

fn born_with(seed: u64, index: usize, number: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed, ((index as u64) << 8) + number as u64 + (1 << 30));
    let len = dice.below(BORN_BYTES_MAX);
    dice.bytes(len)
}

fn name(index: usize) -> String {
    format!("f{index}")
}

/// Writes the files of member `index` into a layer.
pub(super) fn fill(lower: &Path, seed: u64, index: usize) {
    let own = lower.join(name(index));
    std::fs::create_dir(&own).expect("make a directory in a layer");
    for number in 0..FILES {
        std::fs::write(own.join(number.to_string()), born_with(seed, index, number))
            .expect("write a layer's file");
    }
}

impl Files {
    pub(super) fn new(member: &Member) -> Files {
        let contents = (0..FILES).map(|number| Some(born_with(member.seed, member.index, number)));
        Files {
            root: member.mount.join(name(member.index)),
            contents: contents.collect(),
            serial: 0,
        }
    }

    fn at(&self, number: usize) -> PathBuf {
        self.root.join(number.to_string())
    }

    /// One operation on one file.
    pub(super) fn step(&mut self, dice: &mut Dice, status: &mut Status) -> Result<(), String> {
        let number = dice.below(FILES);
        let Some(content) = self.contents[number].take() else {
            return self.create(number, dice, status);
        };
        let kind = dice.below(14);
        let what = [
            "read",
            "read",
            "map",
            "write",
            "write",
            "write by map",
            "truncate",
            "append",
            "replace",
            "rename",
            "unlink",
            "write beside a reader",
            "sync",
            "stat",
        ][kind];
        status.begin(format!("files {what} {number} of {} bytes", content.len()));
        let path = self.at(number);
        let done = match what {
            "map" => map(&path, &content).map(|()| Some(content)),
            "write" => write(&path, content, dice).map(Some),
            "write by map" => write_by_map(&path, content, dice).map(Some),
            "truncate" => truncate(&path, content, dice).map(Some),
            "append" => append(&path, content, dice).map(Some),
            "replace" => self.replace(&path, dice).map(Some),
            "rename" => self.rename(number, content, dice),
            "unlink" => std::fs::remove_file(&path).map(|()| None),
            "write beside a reader" => beside_a_reader(&path, content, dice).map(Some),
            "sync" => File::open(&path)
                .and_then(|file| file.sync_data())
                .map(|()| Some(content)),
            "stat" => stat(&path, &content).map(|()| Some(content)),
            _ => read(&path, &content, dice).map(|()| Some(content)),
        };
        self.contents[number] = done.map_err(|error| format!("{what} {}: {error}", path.display()))?;
        Ok(())
    }

    fn create(&mut self, number: usize, dice: &mut Dice, status: &mut Status) -> Result<(), String> {
        status.begin(format!("files create {number}"));
        let path = self.at(number);
        let len = dice.below(CHUNK_BYTES_MAX);
        let content = dice.bytes(len);
        let made = posix::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o644)
            .and_then(|file| file.write_all_at(&content, 0));
        made.map_err(|error| format!("create {}: {error}", path.display()))?;
        self.contents[number] = Some(content);
        Ok(())
    }

    fn replace(&mut self, path: &Path, dice: &mut Dice) -> io::Result<Vec<u8>> {
        self.serial += 1;
        let new = self.root.join(format!("new{}", self.serial));
        let len = dice.below(CHUNK_BYTES_MAX);
        let content = dice.bytes(len);
        std::fs::write(&new, &content)?;
        std::fs::rename(&new, path)?;
        Ok(content)
    }

    fn rename(&mut self, number: usize, content: Vec<u8>, dice: &mut Dice) -> io::Result<Option<Vec<u8>>> {
        let to = dice.below(FILES);
        std::fs::rename(self.at(number), self.at(to))?;
        if to == number {
            return Ok(Some(content));
        }
        self.contents[to] = Some(content);
        Ok(None)
    }

    /// Compares all files.
    pub(super) fn check_all(&self, status: &mut Status) -> Result<(), String> {
        status.begin("files compare");
        for (number, content) in self.contents.iter().enumerate() {
            let path = self.at(number);
            let seen = match std::fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                seen => Some(seen.map_err(|error| format!("{}: {error}", path.display()))?),
            };
            match (content, &seen) {
                (None, None) => {}
                (Some(content), Some(seen)) => {
                    same(content, seen, 0).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                _ => {
                    return Err(format!("{} is there: {}", path.display(), seen.is_some()));
                }
            }
        }
        Ok(())
    }
}

fn same(expected: &[u8], seen: &[u8], offset: usize) -> io::Result<()> {
    if expected == seen {
        return Ok(());
    }
    let at = expected
        .iter()
        .zip(seen)
        .position(|(one, other)| one != other)
        .unwrap_or(expected.len().min(seen.len()));
    Err(io::Error::other(format!(
        "WRONG DATA at {}: expected {} bytes, got {}; there {:?} and {:?}",
        offset + at,
        expected.len(),
        seen.len(),
        expected.get(at),
        seen.get(at)
    )))
}

/// A piece of `len` bytes: its start and length.
fn piece(len: usize, dice: &mut Dice) -> (usize, usize) {
    let offset = dice.below(len + 1);
    (offset, dice.below(CHUNK_BYTES_MAX).min(len - offset))
}

fn read(path: &Path, content: &[u8], dice: &mut Dice) -> io::Result<()> {
    let (offset, len) = piece(content.len(), dice);
    let mut seen = vec![0; len];
    File::open(path)?.read_exact_at(&mut seen, offset as u64)?;
    same(&content[offset..offset + len], &seen, offset)
}

fn stat(path: &Path, content: &[u8]) -> io::Result<()> {
    let len = path.metadata()?.len();
    if len == content.len() as u64 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "expected a size of {}, got {len}",
        content.len()
    )))
}

fn map(path: &Path, content: &[u8]) -> io::Result<()> {
    if content.is_empty() {
        return Ok(());
    }
    let mapping = Mapping::shared(File::open(path)?, content.len(), false)?;
    same(content, &mapping.read(), 0)
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn write(path: &Path, mut content: Vec<u8>, dice: &mut Dice) -> io::Result<Vec<u8>> {
    let offset = dice.below(BYTES_MAX.min(content.len() + CHUNK_BYTES_MAX));
    let len = 1 + dice.below(CHUNK_BYTES_MAX);
    let bytes = dice.bytes(len);
    posix::write_at(path, offset as u64, &bytes)?;
    put(&mut content, offset, &bytes);
    Ok(content)
}

fn write_by_map(path: &Path, mut content: Vec<u8>, dice: &mut Dice) -> io::Result<Vec<u8>> {
    if content.is_empty() {
        return Ok(content);
    }
    let file = posix::open(path, libc::O_RDWR, 0)?;
    let mut mapping = Mapping::shared(&file, content.len(), true)?;
    drop(file);
    let (offset, len) = piece(content.len(), dice);
    let bytes = dice.bytes(len);
    mapping.write(offset, &bytes);
    put(&mut content, offset, &bytes);
    Ok(content)
}

fn truncate(path: &Path, mut content: Vec<u8>, dice: &mut Dice) -> io::Result<Vec<u8>> {
    let len = dice.below(BYTES_MAX);
    posix::truncate(path, len as u64)?;
    content.resize(len, 0);
    Ok(content)
}

fn append(path: &Path, mut content: Vec<u8>, dice: &mut Dice) -> io::Result<Vec<u8>> {
    if content.len() > BYTES_MAX {
        return Ok(content);
    }
    let len = dice.below(CHUNK_BYTES_MAX);
    let bytes = dice.bytes(len);
    posix::append(path, &bytes)?;
    content.extend(bytes);
    Ok(content)
}

/// A reader that opened the file before it was copied up may see the old content, one that opens it later must not
/// (overlayfs.rst, "Non-standard behavior").
fn beside_a_reader(path: &Path, content: Vec<u8>, dice: &mut Dice) -> io::Result<Vec<u8>> {
    let reader = File::open(path)?;
    let old = content.clone();
    let new = write(path, content, dice)?;
    let seen = posix::read_all_at_start(&reader)?;
    if seen != old {
        same(&new, &seen, 0)?;
    }
    same(&new, &std::fs::read(path)?, 0)?;
    Ok(new)
}
