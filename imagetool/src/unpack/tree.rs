//! The directory a layer is unpacked into, reached by descriptors only.
//!
//! Every path is resolved by the kernel with the layer's directory as its root (`openat2`, `RESOLVE_IN_ROOT`): a
//! symbolic link of the layer that stands on the way is followed as it would be inside a container, and can lead
//! nowhere else. The last component is never followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::layer::path::split;

/// Permissions of a directory that no entry describes, as Docker gives it.
const IMPLIED_MODE: u32 = 0o755;

/// An open layer directory.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// The directory used last: members of one directory usually follow each other.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

/// What [`Tree::remove`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removed {
    Nothing,
    File,
    Directory,
}

impl Tree {
    /// Opens the directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self {
            root: Rc::new(root),
            last: None,
        })
    }

    /// Opens an existing directory; a link as its last component is not followed.
    pub(super) fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_in_root(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)
    }

    /// Opens the directory that entries of `path` go into, following links inside the layer; makes what is missing.
    pub(super) fn enter(&mut self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.open_in_root(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(path)?,
            outcome => outcome?,
        };
        let fd = Rc::new(fd);
        self.last = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// Makes a missing directory and, before it, its missing parents. Iterative: a hostile path may be very deep.
    fn make(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut prefix = Vec::new();
        let mut fd = self.root.try_clone()?;
        for component in path.split(|byte| *byte == b'/') {
            if !prefix.is_empty() {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(component);
            fd = match self.open_in_root(&prefix, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = OsStr::from_bytes(component);
                    match mkdirat(&fd, name, Mode::from_bits_truncate(IMPLIED_MODE)) {
                        Err(Errno::EEXIST) => {
                            let text = "a symbolic link on the way points to nothing in this archive";
                            return Err(io::Error::new(io::ErrorKind::NotFound, text));
                        }
                        outcome => outcome?,
                    }
                    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let made = openat(&fd, name, flags, Mode::empty())?;
                    nix::sys::stat::fchmod(&made, Mode::from_bits_truncate(IMPLIED_MODE))?;
                    made
                }
                outcome => outcome?,
            };
        }
        Ok(fd)
    }

    fn open_in_root(&self, path: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            match openat2(&*self.root, OsStr::from_bytes(path), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                outcome => return outcome.map_err(io::Error::from),
            }
        }
    }

    /// The attributes of a name, itself when it is a link; `None` when it is not there.
    pub(super) fn stat(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<FileStat>> {
        match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a name and everything below it.
    pub(super) fn remove(&mut self, parent: &OwnedFd, name: &OsStr) -> io::Result<Removed> {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                self.last = None; // the way to it may have led through this name
                Ok(Removed::File)
            }
            Err(Errno::ENOENT) => Ok(Removed::Nothing),
            Err(Errno::EISDIR | Errno::EPERM) => {
                self.last = None;
                // the standard library removes trees by descriptors and follows no link
                std::fs::remove_dir_all(path_at(parent, name))?;
                Ok(Removed::Directory)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A path for calls that have no form with a descriptor. The last component stays unfollowed only in calls that do
/// not follow it.
pub(super) fn path_at(parent: &OwnedFd, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)
}

/// The type bits of a mode.
pub(super) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT)
}

/// Creates a regular file that must not exist yet.
pub(super) fn create_file(parent: &OwnedFd, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

/// Looks up the entry that a hard link names: its directory, when that exists, and its name in there.
pub(super) fn link_source<'a>(tree: &Tree, target: &'a [u8]) -> io::Result<Option<(OwnedFd, &'a OsStr)>> {
    let (parent, name) = split(target);
    match tree.open_in_root(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(fd) => Ok(Tree::stat(&fd, name)?.map(|_| (fd, name))),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}
