//! Contents of files on their way into a layer: hashed, and larger ones staged as objects.
//!
//! ```text
//! up to PACK_BYTES_MAX ──► bytes in memory, for the pack
//! up to 1 MiB ───────────► memory ──► known? linked : written
//! larger ────────────────► temporary file, hashed on the way ──► known? linked : renamed
//! ```
//!
//! A staged object is STAGING/objects/HEX: a new file, or a further link to the object that the store has already, so
//! that nobody can delete it before it is published again. A content is named by the SHA-256 of all its bytes, holes
//! included; holes stay holes on disk.
//!
//! [`Contents`] has no state but its folders: several threads may use one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use ufs::repository::{Repository, hex};

use super::LayerError;
use super::pieces::{Pieces, Sink, Sparse, copy_to, hash_file, write_pieces};
use crate::archive::hashed::HashedRead;
use crate::error::StoreError;

/// Largest content that goes to the pack; larger ones become objects.
pub const PACK_BYTES_MAX: u64 = 8 << 10;
/// Largest content that is read whole before it is known whether it has to be written.
const MEMORY_BYTES_MAX: u64 = 1 << 20;
/// Size of the buffer through which larger ones flow.
const BUFFER_BYTES: usize = 256 << 10;

/// A content that was hashed, and staged when it is an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// For the pack.
    Small {
        /// Its SHA-256.
        digest: ufs::index::Sha256,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// A staged object.
    Object {
        /// Its SHA-256.
        digest: ufs::index::Sha256,
        /// Its size, holes included.
        size_bytes: u64,
    },
}

impl Taken {
    /// The size of the file, holes included.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Small { bytes, .. } => bytes.len() as u64,
            Self::Object { size_bytes, .. } => *size_bytes,
        }
    }
}

/// A content that was copied and hashed, but not staged; its copy goes away with it. Two are equal when their contents
/// are.
#[derive(Debug)]
pub struct Unstaged {
    copied: Copied,
    digest: ufs::index::Sha256,
}

impl Unstaged {
    /// The size of the file, holes included.
    pub fn size_bytes(&self) -> u64 {
        self.copied.size_bytes
    }
}

impl PartialEq for Unstaged {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.size_bytes()) == (other.digest, other.size_bytes())
    }
}

/// A content that was copied, but neither hashed nor staged; its copy goes away with it.
#[derive(Debug)]
pub struct Copied {
    bytes: Bytes,
    size_bytes: u64,
}

/// Where a copy is.
#[derive(Debug)]
enum Bytes {
    /// For the pack.
    Small(Vec<u8>),
    /// A file without a name yet.
    Object(Unnamed),
}

/// A file that is deleted unless it is given a name. It has none to delete any more when the path is empty.
#[derive(Debug)]
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty()
            && let Err(error) = fs::remove_file(&self.0)
        {
            tracing::debug!("left for the end of the work: {}: {error}", self.0.display());
        }
    }
}

impl Copied {
    /// The size of the file, holes included.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// All bytes of it, holes included, through `buffer` where they are in a file.
    pub fn read(&self, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> Result<(), StoreError> {
        let path = match &self.bytes {
            Bytes::Small(bytes) => {
                take(bytes);
                return Ok(());
            }
            Bytes::Object(unnamed) => &unnamed.0,
        };
        let failed = || StoreError::io("read", path);
        let file = File::open(path).map_err(failed())?;
        let mut left = self.size_bytes;
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let at = self.size_bytes - left;
            file.read_exact_at(&mut buffer[..wanted], at).map_err(failed())?;
            take(&buffer[..wanted]);
            left -= wanted as u64;
        }
        Ok(())
    }
}

/// Where contents go.
#[derive(Debug, Clone)]
pub struct Contents {
    staged: PathBuf,
    repository: Repository,
    counter: Arc<AtomicU64>,
    /// Whether the file system shares no blocks between files.
    cannot_reflink: Arc<AtomicBool>,
}

impl Contents {
    /// Stages objects in the existing folder `staged`; objects that `repository` has are linked.
    pub fn new(staged: PathBuf, repository: Repository) -> Self {
        Self {
            staged,
            repository,
            counter: Arc::default(),
            cannot_reflink: Arc::default(),
        }
    }

    /// Takes the next bytes of `reader`: a file of `size_bytes`, or of a sparse file the pieces one after another.
    /// `None` when it is empty or one hole.
    pub fn take(
        &self,
        reader: &mut dyn HashedRead,
        size_bytes: u64,
        segments: Option<Pieces<'_>>,
    ) -> Result<Option<Taken>, LayerError> {
        let whole = [(0, size_bytes)];
        let (pieces, is_whole) = (segments.unwrap_or(&whole), segments.is_none());
        if pieces.iter().all(|(_, length)| *length == 0) {
            return Ok(None);
        }
        if size_bytes > MEMORY_BYTES_MAX {
            return self.take_large(reader, size_bytes, pieces, is_whole).map(Some);
        }
        let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
        reader.begin();
        for (offset, length) in pieces {
            let from = usize::try_from(*offset).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(*length).unwrap_or(usize::MAX));
            let part = bytes
                .get_mut(from..to)
                .ok_or_else(|| LayerError::Read(io::ErrorKind::InvalidInput.into()))?;
            reader.read_exact(part).map_err(LayerError::Read)?;
        }
        let read = reader.end();
        let digest = if is_whole {
            read
        } else {
            Sha256::digest(&bytes).into()
        };
        if size_bytes <= PACK_BYTES_MAX {
            return Ok(Some(Taken::Small { digest, bytes }));
        }
        if !self.find(&digest)? {
            let (file, path) = self.create()?;
            write_pieces(&file, &bytes, pieces).map_err(StoreError::io("write", &path))?;
            self.name(&path, &digest)?;
        }
        Ok(Some(Taken::Object { digest, size_bytes }))
    }

    /// Takes a whole file, with its holes, by a reflink where the file system can. `None` when it is empty. The file
    /// must not change meanwhile.
    pub fn take_file(&self, file: &File) -> Result<Option<Taken>, LayerError> {
        let unstaged = self.read_file(file)?;
        Ok(unstaged.map(|unstaged| self.stage(unstaged)).transpose()?)
    }

    /// Copies and hashes a whole file, but stages nothing: for one that may change meanwhile, and then has to be read
    /// again.
    pub fn read_file(&self, file: &impl Sparse) -> Result<Option<Unstaged>, LayerError> {
        let Some((copied, digest)) = self.copy_whole(file, true)? else {
            return Ok(None);
        };
        let digest = match (&copied.bytes, digest) {
            (_, Some(digest)) => digest,
            (Bytes::Small(bytes), None) => Sha256::digest(bytes).into(),
            (Bytes::Object(unnamed), None) => {
                let path = &unnamed.0;
                let clone = File::open(path).map_err(StoreError::io("open", path))?;
                hash_file(&clone, copied.size_bytes).map_err(StoreError::io("read", path))?
            }
        };
        Ok(Some(Unstaged { copied, digest }))
    }

    /// Copies a whole file, for somebody who hashes it later. `None` when it is empty. The file must not change
    /// meanwhile.
    pub fn copy(&self, file: &File) -> Result<Option<Copied>, LayerError> {
        Ok(self.copy_whole(file, false)?.map(|(copied, _)| copied))
    }

    /// Copies a whole file: into memory, by a reflink, or byte by byte, and then hashes it on the way if so asked.
    fn copy_whole(
        &self,
        file: &impl Sparse,
        hash: bool,
    ) -> Result<Option<(Copied, Option<ufs::index::Sha256>)>, LayerError> {
        let size_bytes = file.size_bytes().map_err(LayerError::Read)?;
        if size_bytes <= PACK_BYTES_MAX {
            let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
            file.fill_at(&mut bytes, 0).map_err(LayerError::Read)?;
            let bytes = Bytes::Small(bytes);
            return Ok((size_bytes > 0).then_some((Copied { bytes, size_bytes }, None)));
        }
        let (object, path) = self.create()?;
        let unnamed = Unnamed(path);
        let mut digest = None;
        if !file.file().is_some_and(|file| self.reflink(&object, file)) {
            let mut sink = match hash {
                true => Sink::hashing(&object, &unnamed.0, size_bytes)?,
                false => Sink::new(&object, &unnamed.0, size_bytes)?,
            };
            copy_to(&mut sink, file, size_bytes)?;
            digest = sink.finish(size_bytes)?;
        }
        // of a reflink, the length that the file had then
        let metadata = object.metadata().map_err(StoreError::io("look at", &unnamed.0))?;
        let bytes = Bytes::Object(unnamed);
        let size_bytes = metadata.len();
        Ok(Some((Copied { bytes, size_bytes }, digest)))
    }

    /// Stages what was copied, when its digest is known.
    pub fn name_copied(&self, copied: Copied, digest: ufs::index::Sha256) -> Result<Taken, StoreError> {
        let size_bytes = copied.size_bytes;
        match copied.bytes {
            Bytes::Small(bytes) => Ok(Taken::Small { digest, bytes }),
            Bytes::Object(mut unnamed) => {
                self.name(&unnamed.0, &digest)?;
                unnamed.0.clear();
                Ok(Taken::Object { digest, size_bytes })
            }
        }
    }

    /// Makes `object` share the blocks of `file`; false where the file system cannot. It is not asked again then.
    fn reflink(&self, object: &File, file: &File) -> bool {
        if self.cannot_reflink.load(Ordering::Relaxed) {
            return false;
        }
        let result = rustix::fs::ioctl_ficlone(object, file);
        if matches!(
            result,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::XDEV | rustix::io::Errno::NOTTY)
        ) {
            self.cannot_reflink.store(true, Ordering::Relaxed);
        }
        result.is_ok()
    }

    /// Stages what was read.
    pub fn stage(&self, unstaged: Unstaged) -> Result<Taken, StoreError> {
        self.name_copied(unstaged.copied, unstaged.digest)
    }

    /// Opens a staged object.
    pub fn open_staged(&self, digest: &ufs::index::Sha256) -> Result<File, StoreError> {
        let path = self.staged.join(hex(digest));
        File::open(&path).map_err(StoreError::io("open", &path))
    }

    fn take_large(
        &self,
        reader: &mut dyn HashedRead,
        size_bytes: u64,
        pieces: Pieces<'_>,
        is_whole: bool,
    ) -> Result<Taken, LayerError> {
        let (file, path) = self.create()?;
        // holes are not read, but count in the hash
        let mut sink = match is_whole {
            true => Sink::new(&file, &path, size_bytes)?,
            false => Sink::hashing(&file, &path, size_bytes)?,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        reader.begin();
        for (offset, length) in pieces {
            sink.hole(*offset)?;
            let mut left = *length;
            while left > 0 {
                let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let part = &mut buffer[..wanted];
                reader.read_exact(part).map_err(LayerError::Read)?;
                sink.write(part)?;
                left -= wanted as u64;
            }
        }
        let read = reader.end();
        let digest = sink.finish(size_bytes)?.unwrap_or(read);
        self.name(&path, &digest)?;
        Ok(Taken::Object { digest, size_bytes })
    }

    /// A new file for an object that has no name yet.
    fn create(&self) -> Result<(File, PathBuf), StoreError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.staged.join(format!("new.{}.{number}", std::process::id()));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok((file, path))
    }

    /// Whether an object is staged; one that the store has is linked and is so then.
    fn find(&self, digest: &ufs::index::Sha256) -> Result<bool, StoreError> {
        let staged = self.staged.join(hex(digest));
        match fs::hard_link(self.repository.object(digest), &staged) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            // too many links: a copy takes its place
            Err(_) => Ok(staged.exists()),
        }
    }

    /// Gives a written object its name, or deletes it when it is staged already.
    fn name(&self, path: &Path, digest: &ufs::index::Sha256) -> Result<(), StoreError> {
        if self.find(digest)? {
            return fs::remove_file(path).map_err(StoreError::io("delete", path));
        }
        let staged = self.staged.join(hex(digest));
        fs::rename(path, &staged).map_err(StoreError::io("rename to", &staged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::hashed::Hashed;
    use std::os::unix::fs::MetadataExt;

    fn contents(folder: &Path) -> Contents {
        let staged = folder.join("staged");
        fs::create_dir_all(&staged).unwrap();
        Contents::new(staged, Repository::at(folder.join("root")))
    }

    fn sha(bytes: &[u8]) -> ufs::index::Sha256 {
        Sha256::digest(bytes).into()
    }

    #[test]
    fn contents_go_where_their_size_says() {
        let folder = tempfile::tempdir().unwrap();
        let contents = contents(folder.path());
        let limit = PACK_BYTES_MAX as usize;
        for size in [1, limit, limit + 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let taken = contents
                .take(&mut Hashed::new(bytes.as_slice()), size as u64, None)
                .unwrap();
            let digest = sha(&bytes);
            if size <= limit {
                assert_eq!(taken, Some(Taken::Small { digest, bytes }));
            } else {
                let size_bytes = size as u64;
                assert_eq!(taken, Some(Taken::Object { digest, size_bytes }));
                let staged = fs::read(folder.path().join("staged").join(hex(&digest))).unwrap();
                assert!(staged == bytes, "{size}");
            }
        }
        assert_eq!(
            contents.take(&mut Hashed::new(io::empty()), 0, None).unwrap(),
            None
        );
        assert_eq!(
            contents
                .take(&mut Hashed::new(io::empty()), 1 << 40, Some(&[]))
                .unwrap(),
            None
        );
    }

    #[test]
    fn holes_stay_holes_and_count_as_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let contents = contents(folder.path());
        for size in [10_000u64, 500_000, 64 << 20] {
            let middle = size / 2 / 512 * 512;
            let pieces = [(0, 512), (middle, 3)];
            let stored = [[b'a'; 512].as_slice(), b"end"].concat();
            let mut expanded = vec![0; size as usize];
            expanded[..512].fill(b'a');
            expanded[middle as usize..middle as usize + 3].copy_from_slice(b"end");
            let taken = contents
                .take(&mut Hashed::new(stored.as_slice()), size, Some(&pieces))
                .unwrap();
            let digest = sha(&expanded);
            if size <= PACK_BYTES_MAX {
                assert_eq!(
                    taken,
                    Some(Taken::Small {
                        digest,
                        bytes: expanded
                    })
                );
                continue;
            }
            let size_bytes = size;
            assert_eq!(taken, Some(Taken::Object { digest, size_bytes }));
            let path = folder.path().join("staged").join(hex(&digest));
            assert!(fs::read(&path).unwrap() == expanded);
            let file = File::open(&path).unwrap();
            assert_eq!(hash_file(&file, size).unwrap(), digest);
            assert!(file.metadata().unwrap().blocks() * 512 < 200_000);
            fs::remove_file(&path).unwrap();
            assert_eq!(contents.take_file(&file).unwrap(), taken);
            assert!(fs::metadata(&path).unwrap().blocks() * 512 < 200_000);
        }
    }

    #[test]
    fn what_the_store_has_is_linked() {
        let folder = tempfile::tempdir().unwrap();
        let contents = contents(folder.path());
        for size in [100_000, 2 << 20] {
            let bytes = vec![b'x'; size];
            let digest = sha(&bytes);
            let object = contents.repository.object(&digest);
            fs::create_dir_all(object.parent().unwrap()).unwrap();
            fs::write(&object, &bytes).unwrap();
            contents
                .take(&mut Hashed::new(bytes.as_slice()), size as u64, None)
                .unwrap();
            let staged = folder.path().join("staged").join(hex(&digest));
            let ino = |path: &Path| fs::metadata(path).unwrap().ino();
            assert_eq!(ino(&staged), ino(&object));
            // once more: it is staged already
            contents
                .take(&mut Hashed::new(bytes.as_slice()), size as u64, None)
                .unwrap();
        }
        let names = fs::read_dir(folder.path().join("staged")).unwrap().count();
        assert_eq!(names, 2, "a temporary file was left");
    }

    #[test]
    fn a_short_reader_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let contents = contents(folder.path());
        for size in [10, 100_000, 2 << 20] {
            assert!(
                contents
                    .take(&mut Hashed::new(&b"short"[..]), size, None)
                    .is_err(),
                "{size}"
            );
        }
    }

    #[test]
    fn a_hole_that_nobody_can_hash_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let contents = contents(folder.path());
        let data: &[u8] = b"x";
        let size_bytes = i64::MAX.unsigned_abs();
        let taken = contents.take(&mut Hashed::new(data), size_bytes, Some(&[(0, 1)]));
        assert!(
            matches!(taken, Err(LayerError::Store(StoreError::Io { .. }))),
            "{taken:?}"
        );
    }
}
