//! Work in progress: a directory in ROOT/tmp that lives as long as its owner.
//!
//! ```text
//! make + flock ──► blobs and layers are written inside ──► publish renames them ──► removed
//!      │ owner killed: the kernel drops its lock
//!      └──► the next command that opens the store finds it unlocked and deletes it
//! ```
//!
//! Making one takes ROOT/lock shared, deleting abandoned ones takes it exclusive: nothing is deleted between the
//! moment its directory appears and the moment it is locked.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ufs::repository::Repository;

use super::Store;
use crate::digest::{Digest, Hashing};
use crate::error::StoreError;
use crate::layer::contents::Contents;

/// The folder of staged objects.
const OBJECTS: &str = "objects";
/// So much is written before it is synced in the background, when nobody knows how much there will be.
const SYNC_AHEAD_BYTES: u64 = 128 << 20;
/// Less is not worth a sync of its own.
const SYNC_AHEAD_BYTES_MIN: u64 = 16 << 20;

/// A locked temporary directory.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    contents: Contents,
    /// Opened before anything is written, so that it is told of every error of writing back.
    lock: File,
    /// What must not be deleted while this work lasts, by their locks.
    pub(super) pins: Mutex<Vec<File>>,
    counter: AtomicU64,
    ahead: SyncAhead,
    /// Whether nothing is published out of it after the next time.
    last: AtomicBool,
    /// Whether the empty directory is to be left behind, for the next command to find.
    trace: AtomicBool,
}

/// A blob that was written whole but has no name in the store yet.
#[derive(Debug, Clone)]
pub struct StagedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A layer that was written whole but has no name in the store yet.
#[derive(Debug, Clone)]
pub struct StagedLayer {
    /// The digest of its tar stream.
    pub diff_id: Digest,
    /// Sum of the sizes of its regular files.
    pub size_bytes: u64,
    /// The directory that holds index, pack and recipe.
    pub path: PathBuf,
}

/// A blob being written.
pub struct BlobWriter {
    out: Hashing<BufWriter<File>>,
    path: PathBuf,
}

impl Staging {
    /// Makes a directory below `root`/tmp and locks it.
    pub(super) fn new(root: &Path, purpose: &str) -> Result<Self, StoreError> {
        let _guard = lock_shared(root)?;
        let tmp = root.join("tmp");
        let folder = tempfile::Builder::new()
            .prefix(&format!("{purpose}."))
            .tempdir_in(&tmp);
        let path = folder
            .map_err(StoreError::io("create a directory in", &tmp))?
            .keep();
        let lock = File::open(&path).map_err(StoreError::io("open", &path))?;
        lock.lock().map_err(StoreError::io("lock", &path))?;
        Ok(Self {
            contents: Contents::new(path.join(OBJECTS), Repository::at(root)),
            path,
            lock,
            pins: Mutex::default(),
            counter: AtomicU64::new(0),
            ahead: SyncAhead {
                step_bytes: AtomicU64::new(SYNC_AHEAD_BYTES),
                unsynced_bytes: AtomicU64::new(0),
                busy: Arc::default(),
                failed: Arc::default(),
            },
            last: AtomicBool::new(false),
            trace: AtomicBool::new(false),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether something could not be written, which only [`Staging::sync_all`] tells of.
    pub(super) fn sync_has_failed(&self) -> bool {
        self.ahead.failed.load(Ordering::Relaxed) || self.ahead.busy.load(Ordering::Acquire)
    }

    /// Writes the whole file system to disk, and tells of what could not be written since this work began.
    pub(super) fn sync_all(&self) -> Result<(), StoreError> {
        nix::unistd::syncfs(&self.lock).map_err(|error| StoreError::io("sync", &self.path)(error.into()))
    }

    /// So much will be written: it is synced in thirds.
    pub fn expect(&self, bytes: u64) {
        let step_bytes = (bytes / 3).clamp(SYNC_AHEAD_BYTES_MIN, SYNC_AHEAD_BYTES);
        self.ahead.step_bytes.store(step_bytes, Ordering::Relaxed);
    }

    /// So much more was written: from time to time that is brought to disk while work goes on, so that the sync at the
    /// end has little left to wait for.
    pub fn written(&self, bytes: u64) {
        self.ahead.written(bytes, &self.path);
    }

    fn next_path(&self, kind: &str) -> PathBuf {
        self.path
            .join(format!("{kind}.{}", self.counter.fetch_add(1, Ordering::Relaxed)))
    }

    /// Starts a blob.
    pub fn new_blob(&self) -> Result<BlobWriter, StoreError> {
        let path = self.next_path("blob");
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        Ok(BlobWriter {
            out: Hashing::new(BufWriter::with_capacity(256 << 10, file)),
            path,
        })
    }

    /// Writes a small blob at once.
    pub fn add_blob(&self, bytes: &[u8]) -> Result<StagedBlob, StoreError> {
        let mut blob = self.new_blob()?;
        blob.write_all(bytes)
            .map_err(StoreError::io("write", &blob.path))?;
        blob.finish()
    }

    /// Writes a small blob, and to the disk at once: for work that publishes nothing else.
    pub fn add_synced_blob(&self, bytes: &[u8]) -> Result<StagedBlob, StoreError> {
        let blob = self.add_blob(bytes)?;
        File::open(&blob.path)
            .and_then(|file| file.sync_all())
            .map_err(StoreError::io("sync", &blob.path))?;
        Ok(blob)
    }

    /// Makes an empty directory for a layer and gives it.
    pub fn new_layer(&self) -> Result<PathBuf, StoreError> {
        let path = self.next_path("layer");
        fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(path)
    }

    /// Where contents are staged as objects: one place for all layers of this work.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        let path = self.objects();
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", &path)(error));
            }
            _ => {}
        }
        Ok(self.contents.clone())
    }

    /// The folder of the staged objects.
    pub(super) fn objects(&self) -> PathBuf {
        self.path.join(OBJECTS)
    }

    /// What is published next is the last: objects are moved into the store, where else they would be linked and this
    /// work would go on keeping them from deletion.
    pub fn hand_over(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Whether objects are moved.
    pub(super) fn hands_over(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    /// Something got its final name and no row will name it: the next command has to look for it, as it does after a
    /// command that was killed.
    pub(super) fn leave_trace(&self) {
        self.trace.store(true, Ordering::Relaxed);
    }

    /// The locks that are held, for somebody else to hold.
    pub(super) fn take_pins(&self) -> Vec<File> {
        std::mem::take(
            &mut self
                .pins
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Stages a blob that the store has, so that nobody can delete it before it is published again. `None` when it is
    /// gone.
    pub fn link_blob(
        &self,
        store: &Store,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<Option<StagedBlob>, StoreError> {
        match self.link_file(&store.blob_path(digest), digest, size_bytes) {
            Ok(blob) => Ok(Some(blob)),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a file of the store's own file system a staged blob. Its digest must have been verified.
    pub(super) fn link_file(
        &self,
        file: &Path,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<StagedBlob, StoreError> {
        let path = self.next_path("blob");
        fs::hard_link(file, &path).map_err(StoreError::io("link to", &path))?;
        Ok(StagedBlob {
            digest: *digest,
            size_bytes,
            path,
        })
    }

    /// Keeps a file or directory from being deleted until this work ends.
    pub(super) fn pin(&self, file: File) {
        self.pins
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(file);
    }
}

/// Syncs a file system in the background while it is written to.
#[derive(Debug)]
struct SyncAhead {
    step_bytes: AtomicU64,
    unsynced_bytes: AtomicU64,
    /// Whether a sync is under way. One is enough.
    busy: Arc<AtomicBool>,
    /// Whether one failed: then files that are opened anew may not tell of it any more.
    failed: Arc<AtomicBool>,
}

impl SyncAhead {
    fn written(&self, bytes: u64, folder: &Path) {
        let unsynced = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsynced < self.step_bytes.load(Ordering::Relaxed) || self.busy.swap(true, Ordering::Acquire) {
            return;
        }
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        let (busy, failed) = (self.busy.clone(), self.failed.clone());
        // A descriptor of its own, so that it takes no error of writing away from the sync that counts.
        let sync = File::open(folder).and_then(|folder| {
            let work = move || {
                if nix::unistd::syncfs(&folder).is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                busy.store(false, Ordering::Release);
            };
            std::thread::Builder::new().spawn(work)
        });
        if let Err(error) = sync {
            tracing::debug!("nothing is synced ahead: {error}"); // and nobody tries again
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.trace.load(Ordering::Relaxed) {
            for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
                let path = entry.path();
                // what stays is deleted with the directory
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!("left for the next command: {}: {error}", self.path.display());
        }
    }
}

impl BlobWriter {
    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the blob. It is not synced: publishing syncs everything that is staged.
    pub fn finish(self) -> Result<StagedBlob, StoreError> {
        let (digest, size_bytes, mut out) = self.out.finish();
        let path = self.path;
        out.flush().map_err(StoreError::io("write", &path))?;
        Ok(StagedBlob {
            digest,
            size_bytes,
            path,
        })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// ROOT/lock for making and publishing; given back when dropped.
pub(super) fn lock_shared(root: &Path) -> Result<File, StoreError> {
    let (file, path) = open_lock(root)?;
    file.lock_shared().map_err(StoreError::io("lock", &path))?;
    Ok(file)
}

/// ROOT/lock for deleting; given back when dropped.
pub(super) fn lock_exclusive(root: &Path) -> Result<File, StoreError> {
    let (file, path) = open_lock(root)?;
    file.lock().map_err(StoreError::io("lock", &path))?;
    Ok(file)
}

fn open_lock(root: &Path) -> Result<(File, PathBuf), StoreError> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    Ok((file.map_err(StoreError::io("open", &path))?, path))
}

/// Deletes the directories in ROOT/tmp whose owner is dead, after `sweep` has deleted what they may have left elsewhere
/// and with ROOT/lock still held exclusively: for as long as one is there, the next command sweeps. Tells whether there
/// was one. Does nothing while another command publishes.
pub(super) fn recover(
    root: &Path,
    sweep: impl FnOnce() -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let tmp = root.join("tmp");
    let entries = || fs::read_dir(&tmp).map_err(StoreError::io("read", &tmp));
    if entries()?.next().is_none() {
        return Ok(false);
    }
    let (guard, _) = open_lock(root)?;
    if guard.try_lock().is_err() {
        return Ok(false);
    }
    let mut dead = Vec::new();
    for entry in entries()? {
        let path = entry.map_err(StoreError::io("read", &tmp))?.path();
        let Ok(lock) = File::open(&path) else { continue };
        if lock.try_lock().is_ok() {
            dead.push((path, lock));
        }
    }
    if dead.is_empty() {
        return Ok(false);
    }
    if let Err(error) = sweep() {
        tracing::warn!("what a killed command left is still there: {error}");
        return Ok(true);
    }
    for (path, _lock) in dead {
        tracing::debug!("deleting what a killed command left: {}", path.display());
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(StoreError::io("delete", &path))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        folder
    }

    #[test]
    fn living_work_survives_recovery_and_dead_work_does_not() {
        let root = root();
        let living = Staging::new(root.path(), "load").unwrap();
        let dead = root.path().join("tmp/load.dead");
        fs::create_dir_all(dead.join("layer.0/diff")).unwrap();
        let failed = || Err(StoreError::NoSuchImage("any error".to_owned()));
        assert!(recover(root.path(), failed).unwrap());
        assert!(dead.exists(), "nothing tells the next command to sweep");
        assert!(recover(root.path(), || Ok(())).unwrap());
        assert!(living.path().is_dir() && !dead.exists());
        assert!(!recover(root.path(), || panic!("swept again")).unwrap());
    }

    #[test]
    fn a_blob_is_named_by_its_content() {
        let root = root();
        let staging = Staging::new(root.path(), "load").unwrap();
        let blob = staging.add_blob(b"abc").unwrap();
        assert_eq!((blob.digest, blob.size_bytes), (Digest::of(b"abc"), 3));
        assert_eq!(fs::read(&blob.path).unwrap(), b"abc");
        drop(staging);
        assert!(!blob.path.exists());
    }
}
