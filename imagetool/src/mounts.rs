//! Mounting unions of layers with `shale-ufs`, and the records of what `shale mount` mounted.
//!
//! ```text
//! lowers, upper ──► Union ──options──► shale-ufs -f -o … TARGET     one server process per mount
//!                                         │ pid, start time
//!                                         ▼
//! RUN/mounts/ID.json    what `shale mount` lists and `shale umount` ends
//! ```
//!
//! The server stays in the foreground as a child, so that its process is known: a mount in a private namespace would
//! otherwise keep its own server, and the server its namespace, alive for ever after the caller was killed.
//! Records describe processes, so they lie in the run-time directory and are checked, never believed.

pub mod layers;
mod pins;
mod record;
mod server;
pub mod shown;
pub mod source;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ufs::Lower;

pub use self::pins::Pins;
pub use self::record::{MountRecord, Records};
pub use self::server::{Server, unmount};

/// A failure to mount or unmount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount program is not there.
    #[error("{0} is neither beside shale nor in PATH: install it there")]
    NoProgram(&'static str),
    /// The device cannot be opened.
    #[error("/dev/fuse cannot be opened ({0}): {advice}", advice = fuse_advice(.0))]
    NoFuse(io::Error),
    /// The mount program gave up.
    #[error("{program} could not mount {}: {reason}", target.display())]
    Refused {
        /// Which program.
        program: String,
        /// Where.
        target: PathBuf,
        /// What it said.
        reason: String,
    },
    /// It neither mounted nor gave up.
    #[error("{program} did not mount {} within {seconds} s", target.display())]
    Late {
        /// Which program.
        program: String,
        /// Where.
        target: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// The target is in use.
    #[error("{} is busy: end what uses it (`fuser -vm` shows it), or detach it with --lazy", .0.display())]
    Busy(PathBuf),
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl MountError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> MountError + 'a {
        move |source| MountError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

fn fuse_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run `chmod 666 /dev/fuse` as root, or run shale as root",
        _ => "load the module with `modprobe fuse` as root, or pass the device into this container",
    }
}

/// Layers to be shown as one tree.
#[derive(Debug, Clone, Default)]
pub struct Union {
    /// Read-only layers, top first. All indexes are of one repository.
    pub lowers: Vec<Lower>,
    /// The writable directory and its work directory, if any.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Copy large files up block by block. For an upper that nobody reads but through ufs.
    pub partial: bool,
    /// Show owners that the user namespace cannot name as root.
    pub squash_overflow: bool,
    /// Let users beside the one who mounts see the tree.
    pub allow_other: bool,
    /// Let no program run as its owner: what comes from elsewhere is shown to users who could call it.
    pub no_suid: bool,
}

impl Union {
    /// The value of `-o`: overlayfs' options, its escapes included.
    pub fn options(&self) -> OsString {
        let mut text = b"lowerdir=".to_vec();
        for (index, lower) in self.lowers.iter().enumerate() {
            if index > 0 {
                text.push(b':');
            }
            match lower {
                Lower::Directory(path) => text.extend(escape(path)),
                Lower::Index { path, repository } => {
                    text.push(b'@');
                    text.extend(escape(path.strip_prefix(repository).unwrap_or(path)));
                }
            }
        }
        let repository = self.lowers.iter().find_map(|lower| match lower {
            Lower::Index { repository, .. } => Some(repository),
            Lower::Directory(_) => None,
        });
        if let Some(repository) = repository {
            text.extend(b",repository=");
            text.extend(escape(repository));
        }
        if let Some((upper, work)) = &self.upper {
            text.extend(b",upperdir=");
            text.extend(escape(upper));
            text.extend(b",workdir=");
            text.extend(escape(work));
        }
        for (option, wanted) in [
            ("partial", self.partial && self.upper.is_some()),
            ("squash_overflow", self.squash_overflow),
            ("allow_other", self.allow_other),
            ("nosuid", self.no_suid),
        ] {
            if wanted {
                text.push(b',');
                text.extend(option.as_bytes());
            }
        }
        OsString::from_vec(text)
    }
}

/// A path in an option list: `\`, `:` and `,` have a meaning there.
fn escape(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// Finds one of our programs: by the developers' variable, beside the running one, in PATH.
pub fn find_program(name: &'static str, variable: &str) -> Result<PathBuf, MountError> {
    if let Some(path) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(name)));
    beside
        .filter(|path| path.is_file())
        .or_else(|| crate::rootless::in_path(name))
        .ok_or(MountError::NoProgram(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn union(lowers: &[&str], upper: Option<(&str, &str)>) -> Union {
        Union {
            lowers: lowers.iter().map(|path| Lower::Directory(path.into())).collect(),
            upper: upper.map(|(upper, work)| (upper.into(), work.into())),
            ..Union::default()
        }
    }

    #[test]
    fn options_are_written_as_overlayfs_reads_them() {
        assert_eq!(union(&["/a"], None).options(), "lowerdir=/a");
        let writable = union(&["/b", "/a"], Some(("/u", "/w")));
        assert_eq!(writable.options(), "lowerdir=/b:/a,upperdir=/u,workdir=/w");
        let partial = Union {
            partial: true,
            ..union(&["/a"], Some(("/u", "/w")))
        };
        assert_eq!(partial.options(), "lowerdir=/a,upperdir=/u,workdir=/w,partial");
        let all = Union {
            partial: true,
            squash_overflow: true,
            allow_other: true,
            no_suid: true,
            ..union(&["/a"], None)
        };
        assert_eq!(all.options(), "lowerdir=/a,squash_overflow,allow_other,nosuid");
    }

    #[test]
    fn indexes_are_named_within_their_repository() {
        let index = Lower::Index {
            path: "/r:1/chains/x".into(),
            repository: "/r:1".into(),
        };
        let union = Union {
            lowers: vec![Lower::Directory("/init".into()), index],
            ..Union::default()
        };
        assert_eq!(union.options(), "lowerdir=/init:@chains/x,repository=/r\\:1");
    }

    #[test]
    fn odd_names_are_escaped() {
        let odd = union(&["/a:b", "/c,d"], Some(("/e\\f", "/ü")));
        assert_eq!(
            odd.options(),
            "lowerdir=/a\\:b:/c\\,d,upperdir=/e\\\\f,workdir=/ü"
        );
    }
}
