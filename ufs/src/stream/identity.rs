//! Which file an archive is, and whether it is still the same.
//!
//! A file's content is the same as long as device, inode, size and both times are: whoever writes changes `mtime`,
//! whoever sets `mtime` back changes `ctime`. Two things blur that:
//!
//! - Times have the grain of the kernel's clock tick on older kernels, so a change within the tick of the previous one
//!   is not seen. [`Identity::settled`] therefore waits until the last change lies a tick back: every later one shows.
//! - `ctime` also changes when the file gets another name, loses one, or other rights. A mounted archive that is
//!   renamed or removed has to stay readable. So a change of `ctime` alone passes when one of those explains it
//!   (`Known::accepts`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Longer than any clock tick (4 or 10 ms).
const TICK: Duration = Duration::from_millis(20);

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of its content, in seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Last change of its attributes, in seconds and nanoseconds.
    pub ctime: (i64, u32),
}

impl Identity {
    /// The identity of a file with those attributes.
    #[must_use]
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
            ctime: (metadata.ctime(), metadata.ctime_nsec() as u32),
        }
    }

    /// The identity of an open file, taken when no later change can carry the same times.
    pub fn settled(file: &File) -> io::Result<Self> {
        let mut identity = Self::of(&file.metadata()?);
        // a file that is written all the time never settles: then its change is noticed later
        for _ in 0..3 {
            let Some(left) = identity.unsettled_for() else {
                break;
            };
            std::thread::sleep(left);
            identity = Self::of(&file.metadata()?);
        }
        Ok(identity)
    }

    /// How long the last change lies less than a tick back; `None` when it is over, or lies in the future, where
    /// waiting would not help.
    fn unsettled_for(&self) -> Option<Duration> {
        let (seconds, nanos) = self.ctime;
        let changed = SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(seconds).ok()?, nanos);
        let age = SystemTime::now().duration_since(changed).ok()?;
        TICK.checked_sub(age).filter(|left| !left.is_zero())
    }

    /// What differs, in words; `None` when nothing does.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Option<String> {
        if (self.dev, self.ino) != (now.dev, now.ino) {
            Some("another file has its name".to_owned())
        } else if self.size != now.size {
            Some(format!("it had {} bytes, now {}", self.size, now.size))
        } else if self.mtime != now.mtime {
            Some("its content was written to (mtime)".to_owned())
        } else if self.ctime != now.ctime {
            Some("its content or attributes were changed (ctime)".to_owned())
        } else {
            None
        }
    }
}

/// What is known of an open archive: its identity and what may explain another `ctime`.
#[derive(Debug)]
pub(crate) struct Known {
    identity: Identity,
    rights: (u64, u32, u32, u32),
    name: Option<PathBuf>,
}

impl Known {
    pub(crate) fn of(file: &File, identity: Identity) -> io::Result<Self> {
        Ok(Self {
            identity,
            rights: rights(&file.metadata()?),
            name: name_of(file),
        })
    }

    /// Whether the file is still the one that is known; the error says what differs.
    pub(crate) fn accepts(&mut self, file: &File, metadata: &std::fs::Metadata) -> Result<(), String> {
        let now = Identity::of(metadata);
        let Some(difference) = self.identity.difference(&now) else {
            return Ok(());
        };
        let ctime_apart = Identity {
            ctime: self.identity.ctime,
            ..now
        };
        if ctime_apart != self.identity {
            return Err(difference);
        }
        let (rights, name) = (rights(metadata), name_of(file));
        if rights == self.rights && name == self.name {
            return Err(difference);
        }
        (self.identity, self.rights, self.name) = (now, rights, name);
        Ok(())
    }
}

fn rights(metadata: &std::fs::Metadata) -> (u64, u32, u32, u32) {
    (metadata.nlink(), metadata.mode(), metadata.uid(), metadata.gid())
}

/// The present name of an open file, which the kernel knows through renames.
fn name_of(file: &File) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}
