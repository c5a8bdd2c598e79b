//! Layers on their way from a registry: `ROOT/downloads/HEX`, as far as they came, so that the next try goes on there.
//!
//! ```text
//! made + flock ──► appended to ──► whole, linked into a staging directory ──► image published ──► deleted
//!                      │ owner killed, connection lost
//!                      └──► stays; the next pull reads it, verifies it on the way, and goes on
//! ```
//!
//! The owner holds the lock until its image is published, so that whoever waits for it finds the layer. Who needs several
//! takes their locks in the order of their digests, or two would wait for each other for ever. What is in a file counts
//! for nothing until its digest was verified: it is not synced.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{StagedBlob, Staging, Store};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::system::disk;

/// Nobody goes on with a download that is older.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A layer that is being downloaded, by this process alone.
#[derive(Debug)]
pub struct Download {
    file: File,
    path: PathBuf,
    length_bytes: u64,
}

impl Store {
    fn downloads_path(&self) -> PathBuf {
        self.root().join("downloads")
    }

    /// Takes over the download of a blob, as far as it came. `None` while another process has it.
    pub fn take_download(&self, digest: &Digest) -> Result<Option<Download>, StoreError> {
        let path = self.downloads_path().join(digest.hex());
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(StoreError::io("create", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            let own = file.metadata().map_err(StoreError::io("look at", &path))?;
            // one that was published, by somebody who was killed then: what is a blob now must not change any more
            if own.nlink() > 1 {
                fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
                continue;
            }
            // the one who had it may have deleted it meanwhile
            if is_at(&file, &path) {
                return Ok(Some(Download {
                    file,
                    path,
                    length_bytes: own.len(),
                }));
            }
        }
    }

    /// Deletes downloads that nobody has gone on with for a week. Where that fails, the next pull tries again.
    pub fn prune_old_downloads(&self) {
        if let Err(error) = self.prune_downloads(AGE_MAX) {
            tracing::warn!("old downloads are left: {error}");
        }
    }

    /// Deletes downloads that nobody works on and nobody has touched for so long; gives the bytes on disk that this made
    /// free.
    pub fn prune_downloads(&self, older_than: Duration) -> Result<u64, StoreError> {
        let folder = self.downloads_path();
        let mut freed_bytes = 0;
        let is_old = |path: &Path| {
            let touched = path.symlink_metadata().and_then(|metadata| metadata.modified());
            touched.is_ok_and(|time| {
                SystemTime::now()
                    .duration_since(time)
                    .is_ok_and(|age| age >= older_than)
            })
        };
        for entry in fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let path = entry.map_err(StoreError::io("read", &folder))?.path();
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_err() || !is_old(&path) || !is_at(&file, &path) {
                continue;
            }
            freed_bytes += disk::of_file(&path).map_err(StoreError::io("look at", &path))?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("delete", &path)(error));
                }
                _ => {}
            }
        }
        Ok(freed_bytes)
    }
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let same = file.metadata().and_then(|own| {
        let there = path.symlink_metadata()?;
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    });
    same.unwrap_or(false)
}

impl Download {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far it came.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Forgets what came.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .map_err(StoreError::io("truncate", &self.path))?;
        self.length_bytes = 0;
        Ok(())
    }

    /// Reads what came from its beginning, until [`Download::write_all`] is called.
    pub fn rewind(&mut self) -> Result<(), StoreError> {
        self.file
            .seek(SeekFrom::Start(0))
            .map(drop)
            .map_err(StoreError::io("read", &self.path))
    }

    /// Adds what came further. Everything that came before must have been read.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self
            .file
            .seek(SeekFrom::Start(self.length_bytes))
            .and_then(|_| self.file.write_all(bytes));
        if let Err(error) = written {
            // a part of the bytes may be there
            let _ = self.file.set_len(self.length_bytes);
            return Err(error);
        }
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the whole download, whose digest was verified, a blob of a staging directory.
    pub fn stage(&self, staging: &Staging, digest: &Digest) -> Result<StagedBlob, StoreError> {
        staging.link_file(&self.path, digest, self.length_bytes)
    }

    /// Deletes it: it was published, or is worth nothing.
    pub fn remove(self) -> Result<(), StoreError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("delete", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_the_next_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let digest = Digest::of(b"abcdef");
        let mut first = store.take_download(&digest).unwrap().unwrap();
        first.write_all(b"abc").unwrap();
        assert!(store.take_download(&digest).unwrap().is_none());
        assert_eq!(store.prune_downloads(Duration::ZERO).unwrap(), 0);
        drop(first);
        let mut second = store.take_download(&digest).unwrap().unwrap();
        assert_eq!(second.length_bytes(), 3);
        second.rewind().unwrap();
        let mut read = String::new();
        second.read_to_string(&mut read).unwrap();
        second.write_all(b"def").unwrap();
        let staging = store.stage("pull").unwrap();
        let blob = second.stage(&staging, &digest).unwrap();
        assert_eq!((read.as_str(), blob.size_bytes), ("abc", 6));
        assert_eq!(fs::read(&blob.path).unwrap(), b"abcdef");
        second.remove().unwrap();
        assert_eq!(store.take_download(&digest).unwrap().unwrap().length_bytes(), 0);
    }

    #[test]
    fn what_was_published_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let digest = Digest::of(b"abc");
        let mut download = store.take_download(&digest).unwrap().unwrap();
        download.write_all(b"abc").unwrap();
        let staging = store.stage("pull").unwrap();
        let blob = download.stage(&staging, &digest).unwrap();
        drop(download); // killed before it could delete it
        let mut again = store.take_download(&digest).unwrap().unwrap();
        assert_eq!(again.length_bytes(), 0);
        again.write_all(b"other").unwrap();
        again.restart().unwrap();
        assert_eq!(fs::read(&blob.path).unwrap(), b"abc");
    }

    #[test]
    fn what_nobody_wants_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut download = store.take_download(&Digest::of(b"a")).unwrap().unwrap();
        download.write_all(&[1; 10_000]).unwrap();
        drop(download);
        assert_eq!(store.prune_downloads(AGE_MAX).unwrap(), 0);
        assert!(store.prune_downloads(Duration::ZERO).unwrap() >= 10_000);
        assert_eq!(fs::read_dir(store.downloads_path()).unwrap().count(), 0);
    }
}
