//! A stream file in the making: a temporary file that is renamed when it is whole, or goes away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::file::failed;
use super::table::{HEADER_BYTES, Table};
use super::{STREAM_FILE, StreamError};
use crate::index::Sha256;
use crate::repository::Repository;

/// What the names of unfinished stream files begin with. They lie beside the directories of the archives; one whose
/// writer was killed is rubbish for [`sweep`].
pub const DRAFT_PREFIX: &str = ".stream-";

/// An unfinished stream file that is younger than this is never rubbish.
const YOUNG: Duration = Duration::from_secs(60);

/// Tells the drafts of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// An unfinished stream file: room for the header, then data.
pub(crate) struct Draft {
    repository: Repository,
    path: PathBuf,
    file: io::BufWriter<File>,
    /// Where the next byte of data goes.
    end: u64,
    published: bool,
}

impl Draft {
    pub(crate) fn new(repository: &Repository) -> Result<Self, StreamError> {
        let folder = repository.root().join("archives");
        make_dir(&folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes of several PID namespaces may have the same number, and share the repository.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.as_nanos());
        let path = folder.join(format!("{DRAFT_PREFIX}{}-{number}-{nanos:x}", std::process::id()));
        let create = || -> io::Result<_> {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&path)?;
            // while it is locked, it is no rubbish
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let mut file = io::BufWriter::with_capacity(256 << 10, file);
            file.write_all(&[0; HEADER_BYTES as usize])?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Self {
                repository: repository.clone(),
                path,
                file,
                end: HEADER_BYTES,
                published: false,
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    let _ = fs::remove_file(&path);
                }
                Err(failed(&path, "creating a stream file", error))
            }
        }
    }

    /// Appends data; gives where it lies.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<u64, StreamError> {
        let at = self.end;
        self.file
            .write_all(bytes)
            .map_err(|error| failed(&self.path, "writing a stream file", error))?;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    /// Where the data ends so far.
    pub(crate) fn data_end(&self) -> u64 {
        self.end
    }

    /// Writes header and tables and gives the file its name: whole and synced, or not at all.
    pub(crate) fn publish(mut self, key: &Sha256, table: &Table) -> Result<(), StreamError> {
        let (header, tables) = table.write();
        let write = |file: &mut io::BufWriter<File>| {
            file.write_all(&tables)?;
            file.flush()?;
            file.get_ref().write_all_at(&header, 0)?;
            file.get_ref().sync_all()
        };
        write(&mut self.file).map_err(|error| failed(&self.path, "writing a stream file", error))?;
        let folder = self.repository.archive(key);
        make_dir(&folder)?;
        let target = folder.join(STREAM_FILE);
        fs::rename(&self.path, &target).map_err(|error| failed(&target, "naming a stream file", error))?;
        self.published = true;
        // the directories are not synced: a name that a crash takes back is a pass that is made again
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // nobody reads it; what cannot be removed now is removed with the other rubbish
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes unfinished stream files whose writers were killed; gives how many. One that was made less than a minute ago
/// is left alone, since its writer may be about to lock it.
pub fn sweep(repository: &Repository) -> io::Result<u64> {
    let folder = repository.root().join("archives");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        outcome => outcome?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().as_bytes().starts_with(DRAFT_PREFIX.as_bytes()) {
            continue;
        }
        // another sweep may be faster
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age < YOUNG || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        removed += u64::from(fs::remove_file(entry.path()).is_ok());
    }
    Ok(removed)
}

fn make_dir(folder: &Path) -> Result<(), StreamError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| failed(folder, "creating a directory", error))
}
