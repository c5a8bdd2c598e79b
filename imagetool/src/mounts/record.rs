//! What `shale mount` mounted: a small file per mount, believed only as far as the kernel confirms it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{MountError, Pins};
use crate::container::ProcessIdentity;

/// Each attempt fails only when another command looks for leftovers at that very moment.
const SCRATCH_ATTEMPTS_MAX: usize = 100;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Where.
    #[serde(with = "any_path")]
    pub target: PathBuf,
    /// What, in the words of the caller.
    pub source: String,
    /// Whether it can be written to.
    pub writable: bool,
    /// The server.
    pub server: ProcessIdentity,
    /// What was made for it, to be deleted with it: its log, and the upper directory if nobody named one.
    #[serde(default, with = "any_path::optional")]
    pub scratch: Option<PathBuf>,
    /// The image that is shown.
    #[serde(default)]
    pub image: Option<String>,
    /// The named directory of changes.
    #[serde(default, with = "any_path::optional")]
    pub upper: Option<PathBuf>,
}

/// Paths in JSON: a text, or a list of bytes where the path is none.
mod any_path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes(Vec<u8>),
    }

    impl Written {
        fn new(path: &Path) -> Self {
            match path.to_str() {
                Some(text) => Self::Text(text.to_owned()),
                None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
            }
        }

        fn path(self) -> PathBuf {
            match self {
                Self::Text(text) => text.into(),
                Self::Bytes(bytes) => OsString::from_vec(bytes).into(),
            }
        }
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        Written::new(path).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Written::deserialize(from).map(Written::path)
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, PathBuf, Serialize, Serializer, Written};

        pub(in super::super) fn serialize<S: Serializer>(
            path: &Option<PathBuf>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            path.as_deref().map(Written::new).serialize(to)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<PathBuf>, D::Error> {
            Option::<Written>::deserialize(from).map(|path| path.map(Written::path))
        }
    }
}

impl MountRecord {
    /// The row of `shale mount` as `--format` sees it.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "ID": self.id,
            "Mountpoint": self.target.display().to_string(),
            "Mode": if self.writable { "rw" } else { "ro" },
            "Source": self.source,
            "ImageID": self.image.clone().unwrap_or_default(),
            "UpperDir": self.upper.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "Pid": self.server.pid,
        })
    }
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records below the run-time directory; made when they are not there.
    pub fn open(run: &Path) -> Result<Self, MountError> {
        let folder = run.join("mounts");
        fs::create_dir_all(&folder).map_err(MountError::io("create", &folder))?;
        Ok(Self { folder })
    }

    /// Where the record of this id is.
    pub fn path_of(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Adds a record; whole or not at all.
    pub fn add(&self, record: &MountRecord) -> Result<(), MountError> {
        let path = self.path_of(&record.id);
        let unfinished = self.folder.join(format!(".{}", record.id));
        let text = serde_json::to_vec(record)
            .map_err(io::Error::other)
            .map_err(MountError::io("write", &path))?;
        fs::write(&unfinished, text).map_err(MountError::io("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(MountError::io("rename", &unfinished))
    }

    /// Makes the scratch directory of a mount. It is deleted when it has no record and nobody holds the pin.
    pub fn scratch(&self, id: &str, pins: &mut Pins) -> Result<PathBuf, MountError> {
        let path = self.folder.join(id);
        for _ in 1..SCRATCH_ATTEMPTS_MAX {
            fs::create_dir(&path).map_err(MountError::io("create", &path))?;
            match pins.add(&path) {
                // another command swept it before it was locked
                Err(MountError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                added => return added.map(|()| path),
            }
        }
        fs::create_dir(&path).map_err(MountError::io("create", &path))?;
        pins.add(&path).map(|()| path)
    }

    /// Deletes the scratch directories of mounts that were never finished.
    fn sweep(&self, known: &[MountRecord]) {
        for path in fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            let has_record = known.iter().any(|record| record.scratch.as_ref() == Some(&path));
            if has_record || !path.is_dir() {
                continue;
            }
            // a record that was written since holds the lock by its server
            let Ok(folder) = fs::File::open(&path) else {
                continue;
            };
            if folder.try_lock().is_ok() {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }

    /// The mounts that live. What is left of dead ones (a server that was killed) is detached and forgotten.
    pub fn living(&self) -> Result<Vec<MountRecord>, MountError> {
        let mut living = Vec::new();
        let all = self.all()?;
        self.sweep(&all);
        for record in all {
            // An ending one may be gone from its mount already, and not yet from the list of processes.
            if record.server.is_ending() {
                self.forget(&record);
            } else {
                living.push(record);
            }
        }
        living.sort_by(|one, other| one.target.cmp(&other.target));
        Ok(living)
    }

    /// Detaches what is left of a mount and deletes its record and scratch directory.
    pub fn forget(&self, record: &MountRecord) {
        // A dead server's mount answers "not connected", or "aborted" when the server still held the connection as
        // we asked (statfs is never answered from a cache); anything that answers otherwise is somebody else's.
        let dead = nix::sys::statfs::statfs(&record.target)
            .is_err_and(|errno| matches!(errno, Errno::ENOTCONN | Errno::ECONNABORTED));
        if dead && let Err(error) = super::unmount(&record.target, true) {
            tracing::warn!("clean up after {}: {error}", record.id);
        }
        self.remove(record);
    }

    /// Deletes the record and the scratch directory of a mount that has ended.
    pub fn remove(&self, record: &MountRecord) {
        if let Some(scratch) = &record.scratch
            && let Err(error) = fs::remove_dir_all(scratch)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("delete {}: {error}", scratch.display());
        }
        let _ = fs::remove_file(self.path_of(&record.id));
    }

    /// All records, of dead mounts as well.
    pub fn all(&self) -> Result<Vec<MountRecord>, MountError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(MountError::io("read", &self.folder))? {
            let path = entry.map_err(MountError::io("read", &self.folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // A record that vanishes meanwhile was another command's to remove.
            let Ok(text) = fs::read(&path) else { continue };
            match serde_json::from_slice(&text) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!("{} is no record of a mount, delete it: {error}", path.display());
                }
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, server: ProcessIdentity) -> MountRecord {
        let target = PathBuf::from("/nowhere/at/all");
        MountRecord {
            id: id.to_owned(),
            target,
            source: "x".to_owned(),
            writable: false,
            server,
            scratch: None,
            image: None,
            upper: None,
        }
    }

    #[test]
    fn dead_mounts_are_forgotten_with_their_scratch() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let own = ProcessIdentity::own().unwrap();
        let scratch = folder.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let dead = ProcessIdentity {
            start_ticks: own.start_ticks + 1,
            ..own.clone()
        };
        records.add(&record("a", own)).unwrap();
        records
            .add(&MountRecord {
                scratch: Some(scratch.clone()),
                ..record("b", dead)
            })
            .unwrap();
        let living: Vec<_> = records
            .living()
            .unwrap()
            .into_iter()
            .map(|record| record.id)
            .collect();
        assert_eq!(living, ["a"]);
        assert!(!scratch.exists());
        assert_eq!(records.all().unwrap().len(), 1);
    }

    #[test]
    fn the_scratch_of_a_mount_that_was_never_finished_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let mut pins = Pins::none();
        let scratch = records.scratch("a", &mut pins).unwrap();
        fs::write(scratch.join("ufs.log"), "").unwrap();
        records.living().unwrap();
        assert!(scratch.exists(), "somebody works with it");
        drop(pins);
        while scratch.exists() {
            // another test that forks at the wrong moment holds it for an instant
            records.living().unwrap();
        }
    }

    #[test]
    fn a_scratch_that_is_swept_before_it_is_locked_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    records.sweep(&[]);
                }
            });
            let made: Vec<_> = (0..3000)
                .map(|number| records.scratch(&number.to_string(), &mut Pins::none()))
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            made
        });
        let failed: Vec<_> = made.into_iter().filter_map(Result::err).collect();
        assert!(
            failed.is_empty(),
            "{} failed, the first: {:?}",
            failed.len(),
            failed.first()
        );
    }

    #[test]
    fn paths_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        for name in [&b"/m\xff"[..], b"/m"] {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(name));
            let record = MountRecord {
                target: path.clone(),
                upper: Some(path),
                ..record("a", ProcessIdentity::own().unwrap())
            };
            records.add(&record).unwrap();
            assert_eq!(records.living().unwrap(), [record]);
        }
        let text = fs::read_to_string(records.path_of("a")).unwrap();
        assert!(text.contains(r#""target":"/m""#), "{text}");
    }

    #[test]
    fn a_torn_record_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        fs::write(folder.path().join("mounts/x.json"), "{").unwrap();
        assert_eq!(records.living().unwrap(), []);
    }
}
