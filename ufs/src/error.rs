//! What can go wrong, and the one place where it becomes an errno.
//!
//! Operations return [`Error`], which keeps what was being done; the FUSE adapter calls [`Error::errno`].
//! Set-up (mounting, options, opening layers) returns [`SetupError`], whose texts are read by people.

use std::path::PathBuf;

pub use rustix::io::Errno;

/// The result of a file system operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file system operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not there.
    #[error("no such entry")]
    NotFound,
    /// The name is taken.
    #[error("entry exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// A directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The file is being run as a program.
    #[error("text file busy")]
    Running,
    /// There is no upper layer to write to.
    #[error("read-only file system")]
    ReadOnly,
    /// The node is bound to contents that are no longer the file's; looking the name up again finds the right one.
    #[error("node is stale")]
    Stale,
    /// The kernel named a node that is not known.
    #[error("unknown node {0}")]
    UnknownNode(u64),
    /// The kernel named a handle that is not open.
    #[error("unknown handle {0}")]
    UnknownHandle(u64),
    /// The extended attribute is not set.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The caller may not do this.
    #[error("not permitted: {0}")]
    Denied(&'static str),
    /// The arguments make no sense.
    #[error("invalid: {0}")]
    Invalid(&'static str),
    /// This file system does not do this.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// A directory whose place below cannot be expressed by a redirect.
    #[error("a directory whose lower parts lie at different paths cannot be renamed")]
    SplitRename,
    /// A layer holds something that no overlay would have written.
    #[error("damaged layer: {0}")]
    Damaged(&'static str),
    /// A system call on a layer failed.
    #[error("{doing}: {source}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl Error {
    /// The number that a program sees.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Error::NotFound => Errno::NOENT,
            Error::Exists => Errno::EXIST,
            Error::NotDirectory => Errno::NOTDIR,
            Error::IsDirectory => Errno::ISDIR,
            Error::NotEmpty => Errno::NOTEMPTY,
            Error::Running => Errno::TXTBSY,
            Error::ReadOnly => Errno::ROFS,
            // ESTALE makes the kernel look the name up once more, instead of failing the program.
            Error::Stale | Error::UnknownNode(_) => Errno::STALE,
            Error::UnknownHandle(_) => Errno::BADF,
            Error::NoAttribute => Errno::NODATA,
            Error::Denied(_) => Errno::PERM,
            Error::Invalid(_) => Errno::INVAL,
            Error::Unsupported(_) => Errno::OPNOTSUPP,
            // mv(1) answers EXDEV by copying, which is right here.
            Error::SplitRename => Errno::XDEV,
            Error::Damaged(_) => Errno::IO,
            Error::Os { source, .. } => *source,
        }
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the errno into an [`Error`] that names the step; ENOENT and EEXIST become their own variants.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, Errno> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| match source {
            Errno::NOENT => Error::NotFound,
            Errno::EXIST => Error::Exists,
            source => Error::Os { doing, source },
        })
    }
}

/// Why a mount could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A directory that was named cannot be opened.
    #[error("cannot open {role} {}: {source}{}", path.display(), hint(*source))]
    Open {
        /// What the directory is for: `lowerdir`, `upperdir`, `workdir`, `mountpoint`.
        role: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The work directory is on another file system than the upper directory.
    #[error(
        "workdir {} and upperdir {} are on different mounts: put the workdir beside the upperdir",
        work.display(),
        upper.display()
    )]
    WorkElsewhere {
        /// The work directory.
        work: PathBuf,
        /// The upper directory.
        upper: PathBuf,
    },
    /// Another mount uses the work directory.
    #[error("workdir {} is in use by another mount: unmount that one, or name another workdir and upperdir", .0.display())]
    WorkBusy(PathBuf),
    /// The work directory holds files that no mount program made.
    #[error("workdir {} holds {entry:?}, which no mount program made: name an empty directory", path.display())]
    WorkForeign {
        /// The work directory.
        path: PathBuf,
        /// A name found in it.
        entry: String,
    },
    /// The upper directory is one of the lowers, or lies in one, or the other way round.
    #[error("upperdir {} and workdir {} may not lie within each other", upper.display(), work.display())]
    Overlap {
        /// The upper directory.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// The upper's file system cannot hold what an upper needs.
    #[error("upperdir {} cannot hold {what}: {source}; use a directory on ext4, xfs, btrfs or tmpfs", path.display())]
    UpperUnfit {
        /// The upper directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// No layers at all.
    #[error("no lowerdir given: pass -o lowerdir=DIR[:DIR...]")]
    NoLayers,
    /// An upper without a work directory, or the other way round.
    #[error("upperdir and workdir go together: pass both, or neither for a read-only mount")]
    HalfUpper,
    /// An option's value cannot be read.
    #[error("option {name}: {why}")]
    Option {
        /// The option.
        name: String,
        /// What is wrong with its value.
        why: String,
    },
    /// The FUSE device cannot be opened.
    #[error("cannot open /dev/fuse: {source}; {}", device_hint(*source))]
    Device {
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel refused the mount.
    #[error("cannot mount on {}: {source}{}", path.display(), mount_hint(*source))]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The mount point already carries a FUSE mount whose server is gone.
    #[error("mountpoint {} carries a mount whose server is gone: run `umount -l {}` first", .0.display(), .0.display())]
    DeadMount(PathBuf),
    /// Something else in the set-up of the session.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index of a layer cannot be opened.
    #[error(transparent)]
    Index {
        /// Which, and why.
        source: crate::index::IndexError,
    },
    /// Reading the layers failed.
    #[error("{doing}: {source}")]
    Fs {
        /// What was being done.
        doing: &'static str,
        /// The operation's error.
        source: Error,
    },
}

fn hint(source: Errno) -> &'static str {
    match source {
        Errno::NOENT => " (create it first)",
        Errno::NOTDIR => " (it must be a directory)",
        Errno::ACCESS | Errno::PERM => " (check its permissions)",
        _ => "",
    }
}

fn device_hint(source: Errno) -> &'static str {
    match source {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            "load the kernel module with `modprobe fuse`, or pass --device /dev/fuse to the container this runs in"
        }
        Errno::ACCESS | Errno::PERM => {
            "ask the administrator for `chmod 0666 /dev/fuse`, as most distributions ship it"
        }
        _ => "check that the kernel has FUSE",
    }
}

fn mount_hint(source: Errno) -> &'static str {
    match source {
        Errno::PERM | Errno::ACCESS => " (mount as root, inside a user namespace, or install fusermount3)",
        Errno::BUSY => " (it is in use; unmount what is there first)",
        Errno::NOTDIR => " (the mount point must be a directory)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_call_failures_keep_their_number_and_say_what_failed() {
        let failed: Result<()> = Err(Errno::NOSPC).doing("copy up data");
        let error = failed.unwrap_err();
        assert_eq!(error.errno(), Errno::NOSPC);
        assert!(error.to_string().starts_with("copy up data: "), "{error}");
    }

    #[test]
    fn missing_and_taken_names_are_their_own_errors() {
        let missing: Result<()> = Err(Errno::NOENT).doing("look up");
        assert!(matches!(missing, Err(Error::NotFound)));
        let taken: Result<()> = Err(Errno::EXIST).doing("create");
        assert!(matches!(taken, Err(Error::Exists)));
    }

    #[test]
    fn set_up_errors_say_what_to_do() {
        let error = SetupError::Open {
            role: "lowerdir",
            path: "/none".into(),
            source: Errno::NOENT,
        };
        assert_eq!(
            error.to_string(),
            "cannot open lowerdir /none: No such file or directory (os error 2) (create it first)"
        );
        assert!(
            SetupError::Device { source: Errno::NOENT }
                .to_string()
                .contains("modprobe fuse")
        );
    }
}
