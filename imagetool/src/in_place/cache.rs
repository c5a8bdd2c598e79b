//! The folder of what archives were found to hold.
//!
//! ```text
//! ROOT/archives/HEX/summary   the images of an archive file and where their layers lie
//!                   stream    how to find a place in a compressed file or layer
//!                   index     names and attributes of a layer or of the layers of an image, merged
//!                   digest    the diff id of a layer; empty when nobody knows it
//!              .stream-PID-N  a stream that is being made; rubbish once its writer was killed
//! ```
//!
//! Everything here can be made again from the archive, so that nothing is synced: what a crash tore is noticed by its
//! checksums and made again. Whoever makes or uses what is kept under a key holds a shared lock on its folder, a mount's
//! server inherits it, and only a folder that nobody holds is deleted. A folder's time of last change is when it was
//! used last.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256 as Hasher};
use ufs::index::{Index, Sha256};
use ufs::repository::Repository;

use super::InPlaceError;
use crate::digest::Digest;

/// Part of every key: another version of the files has other keys.
const VERSION: &[u8] = b"shale archive 1\n";
/// What is kept of archives that nobody has mounted.
pub const KEPT_BYTES_MAX: u64 = 2 << 30;

/// The folder, and what is held of it.
#[derive(Debug)]
pub struct Cache {
    repository: Repository,
    held: Mutex<BTreeMap<Sha256, File>>,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many archives, layers and merged indexes.
    pub count: usize,
    /// Their size on disk.
    pub bytes: u64,
}

impl Cache {
    /// Opens the folder below a store's root.
    pub fn open(root: &Path) -> Result<Self, InPlaceError> {
        make_folder(&root.join("archives"))?;
        Ok(Self {
            repository: Repository::at(root),
            held: Mutex::default(),
        })
    }

    /// What is held: as long as one of these is open, in whichever process, nothing of it is deleted.
    pub fn into_pins(self) -> Vec<File> {
        let held = self.held.into_inner();
        let held = held.unwrap_or_else(std::sync::PoisonError::into_inner);
        held.into_values().collect()
    }

    /// Makes the folder of a key, when it is not there, and holds it. To be called before anything in it is used.
    pub(super) fn hold(&self, key: &Sha256) -> Result<(), InPlaceError> {
        let mut held = self
            .held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if held.contains_key(key) {
            return Ok(());
        }
        let path = self.repository.archive(key);
        let failed = |source| InPlaceError::io("lock", &path)(source);
        loop {
            make_folder(&path)?;
            let folder = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // deleted again
                opened => opened.map_err(failed)?,
            };
            folder.lock_shared().map_err(failed)?;
            let own = folder.metadata().map_err(failed)?;
            if path.metadata().is_ok_and(|there| there.ino() == own.ino()) {
                let now = FileTimes::new().set_modified(SystemTime::now());
                folder.set_times(now).map_err(failed)?;
                held.insert(*key, folder);
                return Ok(());
            }
        }
    }

    /// The repository that the folder belongs to.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The path of an index.
    pub fn index(&self, key: &Sha256) -> PathBuf {
        self.repository.archive(key).join("index")
    }

    /// Whether an index is there and whole as far as its header tells.
    pub(super) fn has_index(&self, key: &Sha256) -> bool {
        Index::open(&self.index(key)).is_ok()
    }

    /// Whether a stream is there.
    pub(super) fn has_stream(&self, key: &Sha256) -> bool {
        self.repository.archive(key).join("stream").is_file()
    }

    /// Writes an index; it gets its name when it is whole.
    pub(super) fn write_index(
        &self,
        key: &Sha256,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), InPlaceError> {
        self.write(key, "index", write)
    }

    /// Writes a file of the folder of a key; it gets its name when it is whole.
    pub(super) fn write(
        &self,
        key: &Sha256,
        name: &str,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), InPlaceError> {
        self.hold(key)?;
        let folder = self.repository.archive(key);
        let path = folder.join(name);
        let failed = |source| InPlaceError::io("write", &path)(source);
        let unfinished = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
        let mut out = BufWriter::with_capacity(256 << 10, unfinished.as_file());
        write(&mut out).and_then(|()| out.flush()).map_err(failed)?;
        drop(out);
        unfinished.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads a file of the folder of a key; `None` when it is not there or cannot be read.
    pub(super) fn read(&self, key: &Sha256, name: &str) -> Option<Vec<u8>> {
        fs::read(self.repository.archive(key).join(name)).ok()
    }

    /// Forgets what is kept under a key.
    pub(super) fn delete(&self, key: &Sha256) {
        for name in ["summary", "stream", "index", "digest"] {
            let _ = fs::remove_file(self.repository.archive(key).join(name));
        }
    }
}

fn make_folder(path: &Path) -> Result<(), InPlaceError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(InPlaceError::io("create", path)(error))
        }
        _ => Ok(()),
    }
}

/// Deletes streams that were never finished, and what nobody holds, the longest unused first, until at most `keep_bytes`
/// of it are left. What cannot be deleted is passed over with a warning.
pub fn prune(root: &Path, keep_bytes: u64) -> Result<Pruned, InPlaceError> {
    let archives = root.join("archives");
    if let Err(error) = ufs::stream::sweep(&Repository::at(root)) {
        tracing::warn!("delete unfinished streams in {}: {error}", archives.display());
    }
    let entries = match fs::read_dir(&archives) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pruned::default()),
        entries => entries.map_err(InPlaceError::io("read", &archives))?,
    };
    let mut unused = Vec::new();
    for entry in entries.flatten() {
        // a file is a stream that somebody makes at the moment
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        // what is held, and what another command deletes meanwhile, is passed over
        let Ok(folder) = File::open(&path) else { continue };
        if folder.try_lock().is_err() {
            continue;
        }
        let used_at = folder.metadata().and_then(|metadata| metadata.modified());
        let bytes = size_of(&path);
        unused.push((used_at.unwrap_or(SystemTime::UNIX_EPOCH), bytes, path, folder));
    }
    unused.sort_by_key(|(used_at, ..)| *used_at);
    let mut left: u64 = unused.iter().map(|(_, bytes, ..)| bytes).sum();
    let mut pruned = Pruned::default();
    for (_, bytes, path, folder) in unused {
        if left <= keep_bytes {
            break;
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!("delete {}: {error}", path.display());
            continue;
        }
        drop(folder);
        left -= bytes;
        pruned.count += 1;
        pruned.bytes += bytes;
    }
    Ok(pruned)
}

/// What the files of a folder take on disk.
fn size_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| Some(file.metadata().ok()?.blocks() * 512))
        .sum()
}

/// The key of a file as it is now.
pub(super) fn file_key(path: &Path, metadata: &fs::Metadata) -> Sha256 {
    let mut hasher = Hasher::new_with_prefix(VERSION);
    hasher.update(b"file\n");
    hasher.update(path.as_os_str().as_bytes());
    hasher.update([0]);
    for number in [metadata.dev(), metadata.ino(), metadata.size()] {
        hasher.update(number.to_le_bytes());
    }
    for number in [
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ] {
        hasher.update(number.to_le_bytes());
    }
    hasher.finalize().into()
}

/// The key of a layer: where it lies and what it must be.
pub(super) fn layer_key(
    base: &Sha256,
    at: u64,
    length: u64,
    diff_id: Option<&Digest>,
    blob: Option<&Digest>,
) -> Sha256 {
    let mut hasher = Hasher::new_with_prefix(VERSION);
    hasher.update(b"layer\n");
    hasher.update(base);
    hasher.update(at.to_le_bytes());
    hasher.update(length.to_le_bytes());
    for digest in [diff_id, blob] {
        hasher.update(digest.map_or([0; 32], |digest| *digest.as_bytes()));
    }
    hasher.finalize().into()
}

/// The key of layers merged, bottom first.
pub(super) fn chain_key<'a>(layers: impl Iterator<Item = &'a Sha256>) -> Sha256 {
    let mut hasher = Hasher::new_with_prefix(VERSION);
    hasher.update(b"chain\n");
    for layer in layers {
        hasher.update(layer);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(cache: &Cache, key: u8, size: usize) {
        cache
            .write(&[key; 32], "stream", |out| out.write_all(&vec![1; size]))
            .unwrap();
    }

    fn age(root: &Path, key: u8, seconds: u64) {
        let folder = File::open(Repository::at(root).archive(&[key; 32])).unwrap();
        let time = SystemTime::now() - std::time::Duration::from_secs(seconds);
        folder.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_used_stays() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        for key in 1..=4 {
            write(&cache, key, 8192);
            age(root.path(), key, 1000 - u64::from(key));
        }
        drop(cache);
        let cache = Cache::open(root.path()).unwrap();
        cache.hold(&[1; 32]).unwrap();
        age(root.path(), 1, 2000);
        let pruned = prune(root.path(), 16384).unwrap();
        assert_eq!(
            pruned,
            Pruned {
                count: 1,
                bytes: 8192
            }
        );
        let there = |key: u8| Repository::at(root.path()).archive(&[key; 32]).exists();
        assert_eq!([1, 2, 3, 4].map(there), [true, false, true, true]);
        let pins = cache.into_pins();
        prune(root.path(), 0).unwrap();
        assert_eq!([1, 2, 3, 4].map(there), [true, false, false, false]);
        drop(pins);
        prune(root.path(), 0).unwrap();
        assert!(!there(1));
    }

    #[test]
    fn streams_that_were_never_finished_are_deleted_and_hinder_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        write(&cache, 1, 8192);
        drop(cache);
        let draft = |name: &str| root.path().join("archives").join(format!(".stream-{name}"));
        for name in ["1-old", "2-held", "3-young"] {
            fs::write(draft(name), "part").unwrap();
        }
        for name in ["1-old", "2-held"] {
            let hour_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
            let file = File::options().write(true).open(draft(name)).unwrap();
            file.set_times(FileTimes::new().set_modified(hour_ago)).unwrap();
        }
        let held = File::open(draft("2-held")).unwrap();
        held.lock().unwrap();
        assert_eq!(prune(root.path(), 0).unwrap().count, 1);
        let left = ["1-old", "2-held", "3-young"].map(|name| draft(name).exists());
        assert_eq!(left, [false, true, true]);
        assert!(!Repository::at(root.path()).archive(&[1; 32]).exists());
    }

    #[test]
    fn a_file_that_changed_has_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "1").unwrap();
        let key = || file_key(&path, &path.metadata().unwrap());
        let before = key();
        assert_eq!(before, key());
        fs::write(&path, "22").unwrap();
        assert_ne!(before, key());
    }

    #[test]
    fn a_write_that_fails_leaves_no_name() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let failed = cache.write_index(&[7; 32], |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(failed.is_err());
        let folder = Repository::at(root.path()).archive(&[7; 32]);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}
