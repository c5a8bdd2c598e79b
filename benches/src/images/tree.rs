//! What is done to trees: walked, read, asked for names.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::data::split_mix;
use crate::error::{BenchError, Doing, Result};

/// Largest file that counts as small.
pub const SMALL_BYTES_MAX: u64 = 16 * 1024;

/// What cp and cat read at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// Lists everything below a directory and asks for the attributes of all of it; gives the number of entries.
///
/// # Errors
/// When something cannot be listed.
pub fn walk(dir: &Path) -> Result<u64> {
    let mut count = 0;
    visit(dir, &mut |_, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

fn visit(dir: &Path, each: &mut impl FnMut(&fs::DirEntry, &fs::Metadata) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir).doing("list", dir)? {
        let entry = entry.doing("list", dir)?;
        // Relative to the open directory, without following links.
        let metadata = entry.metadata().doing("stat an entry of", dir)?;
        each(&entry, &metadata)?;
        if metadata.is_dir() {
            visit(&entry.path(), each)?;
        }
    }
    Ok(())
}

/// Paths below a tree, sorted: of the regular files with content that are no larger than this.
///
/// # Errors
/// When something cannot be listed.
pub fn files(root: &Path, sizes: std::ops::RangeInclusive<u64>) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    visit(root, &mut |entry, metadata| {
        if metadata.is_file() && sizes.contains(&metadata.len()) {
            let path = entry.path();
            let path = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            found.push((path, metadata.len()));
        }
        Ok(())
    })?;
    found.sort();
    Ok(found)
}

/// Puts things into an order without a pattern, always the same one for a seed.
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        let other = split_mix(&mut state) % (last as u64 + 1);
        items.swap(last, other as usize);
    }
}

/// Opens, reads and closes files; their lengths must be as listed.
///
/// # Errors
/// When a file cannot be read, or has another length.
pub fn read_files(root: &Path, files: &[(PathBuf, u64)]) -> Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    for (path, length) in files {
        let path = root.join(path);
        buffer.clear();
        let mut file = File::open(&path).doing("open", &path)?;
        file.read_to_end(&mut buffer).doing("read", &path)?;
        expect_length(&path, buffer.len(), *length)?;
    }
    Ok(())
}

/// Goes through a tree as `grep -r` does: lists each directory and reads its small files whole, in the order in which
/// they are listed. Gives the number of files.
///
/// # Errors
/// When something cannot be listed or read.
pub fn read_small(root: &Path) -> Result<u64> {
    let (mut buffer, mut count) = (Vec::with_capacity(CHUNK_BYTES), 0);
    visit(root, &mut |entry, metadata| {
        if !metadata.is_file() || !(1..=SMALL_BYTES_MAX).contains(&metadata.len()) {
            return Ok(());
        }
        count += 1;
        let path = entry.path();
        buffer.clear();
        let mut file = File::open(&path).doing("open", &path)?;
        let length = file.read_to_end(&mut buffer).doing("read", &path)?;
        expect_length(&path, length, metadata.len())
    })?;
    Ok(count)
}

fn expect_length(path: &Path, length: usize, expected: u64) -> Result<()> {
    if length as u64 == expected {
        return Ok(());
    }
    let path = path.display();
    Err(BenchError::Wrong(format!(
        "{path} has {length} bytes instead of {expected}"
    )))
}

/// Reads a file from its beginning to its end; gives its length.
///
/// # Errors
/// When it cannot be read.
pub fn read_through(path: &Path) -> Result<u64> {
    let mut file = File::open(path).doing("open", path)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        match file.read(&mut buffer).doing("read", path)? {
            0 => return Ok(total),
            read => total += read as u64,
        }
    }
}

/// Reads one block of each file at an offset; gives the seconds that each took, the opening included.
///
/// # Errors
/// When a read fails or is short.
pub fn read_blocks(root: &Path, places: &[(PathBuf, u64)], block: usize) -> Result<Vec<f64>> {
    let mut buffer = vec![0; block];
    let mut times = Vec::with_capacity(places.len());
    for (path, offset) in places {
        let path = root.join(path);
        let started = Instant::now();
        let file = File::open(&path).doing("open", &path)?;
        file.read_exact_at(&mut buffer, *offset).doing("read", &path)?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Reads one block of each file at an offset after it was opened and read once; gives the seconds of the second read.
///
/// # Errors
/// When a read fails or is short.
pub fn reread_open(root: &Path, places: &[(PathBuf, u64)], block: usize) -> Result<Vec<f64>> {
    let mut buffer = vec![0; block];
    let mut times = Vec::with_capacity(places.len());
    for (path, offset) in places {
        let path = root.join(path);
        let file = File::open(&path).doing("open", &path)?;
        file.read_exact_at(&mut buffer, *offset).doing("read", &path)?;
        let started = Instant::now();
        file.read_exact_at(&mut buffer, *offset).doing("read", &path)?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Asks for names that exist, and beside each for one that does not.
///
/// # Errors
/// When a name is not as it should be.
pub fn look_up(root: &Path, existing: &[PathBuf]) -> Result<()> {
    for (number, path) in existing.iter().enumerate() {
        let path = root.join(path);
        fs::symlink_metadata(&path).doing("stat", &path)?;
        let absent = path.with_file_name(format!("absent-{number}"));
        match fs::symlink_metadata(&absent) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing("stat", &absent),
            Ok(_) => return Err(BenchError::Wrong(format!("{} exists", absent.display()))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_walked_listed_read_and_asked() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("d")).unwrap();
        for (name, length) in [("d/a", 10), ("d/b", 5000), ("empty", 0), ("c", 20_000)] {
            fs::write(root.join(name), vec![1; length]).unwrap();
        }
        std::os::unix::fs::symlink("c", root.join("link")).unwrap();
        assert_eq!(walk(root).unwrap(), 6);
        let small = files(root, 1..=SMALL_BYTES_MAX).unwrap();
        assert_eq!(small, [("d/a".into(), 10), ("d/b".into(), 5000)]);
        read_files(root, &small).unwrap();
        assert!(read_files(root, &[("d/a".into(), 11)]).is_err());
        assert_eq!(read_through(&root.join("c")).unwrap(), 20_000);
        assert_eq!(read_blocks(root, &[("d/b".into(), 900)], 4096).unwrap().len(), 1);
        assert!(read_blocks(root, &[("d/b".into(), 905)], 4096).is_err());
        look_up(root, &["d/a".into(), "c".into()]).unwrap();
        assert!(look_up(root, &["x".into()]).is_err());
    }

    #[test]
    fn shuffling_keeps_everything() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&mut items, 1);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
