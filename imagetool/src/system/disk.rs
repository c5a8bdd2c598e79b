//! Bytes on disk: what a file really takes, holes and block sizes included.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The unit of `st_blocks`, whatever the file system's blocks are.
const STAT_BLOCK_BYTES: u64 = 512;

/// What one file takes.
pub fn of_metadata(metadata: &Metadata) -> u64 {
    metadata.blocks() * STAT_BLOCK_BYTES
}

/// What the file of this path takes; 0 when it is not there.
pub fn of_file(path: &Path) -> io::Result<u64> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(of_metadata(&metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// What a tree takes, a file with several names counted once, other file systems mounted in it left out. What disappears
/// meanwhile counts nothing.
pub fn of_tree(path: &Path) -> io::Result<u64> {
    let root = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut walk = Walk {
        device: root.dev(),
        seen: HashSet::new(),
        bytes: 0,
    };
    walk.add(path, &root)?;
    Ok(walk.bytes)
}

struct Walk {
    device: u64,
    /// Files with further names.
    seen: HashSet<u64>,
    bytes: u64,
}

impl Walk {
    fn add(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        if metadata.dev() != self.device {
            return Ok(());
        }
        if !metadata.is_dir() {
            if metadata.nlink() == 1 || self.seen.insert(metadata.ino()) {
                self.bytes += of_metadata(metadata);
            }
            return Ok(());
        }
        self.bytes += of_metadata(metadata);
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => self.add(&entry.path(), &metadata)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_cost_nothing_and_links_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let alone = of_tree(folder.path()).unwrap();
        let sparse = fs::File::create(folder.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        assert_eq!(of_tree(folder.path()).unwrap(), alone);
        fs::write(folder.path().join("full"), vec![1; 100_000]).unwrap();
        let one = of_tree(folder.path()).unwrap();
        assert!(one >= alone + 100_000);
        fs::hard_link(folder.path().join("full"), folder.path().join("again")).unwrap();
        assert_eq!(of_tree(folder.path()).unwrap(), one);
        assert_eq!(of_tree(&folder.path().join("gone")).unwrap(), 0);
        assert_eq!(of_file(&folder.path().join("gone")).unwrap(), 0);
    }
}
