//! Paths inside the root file system, resolved to descriptors.
//!
//! The kernel resolves: `..` and absolute links stay inside (`RESOLVE_IN_ROOT`), links of `/proc` that lead
//! anywhere are refused (`RESOLVE_NO_MAGICLINKS`). What is missing on the way is made one name at a time, each in
//! a directory that was opened without following any link, so that nobody can slip one in between.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::Rootfs;
use crate::error::{Context, Error, Result};

/// As the kernel: more links than this are a loop.
const MAX_LINKS: usize = 40;

/// What is made at the end of a path when nothing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
}

impl Rootfs {
    /// Opens a path inside, following links inside.
    pub(super) fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_with(path, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    /// Opens a path inside and refuses to follow any link.
    pub(super) fn open_no_links(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_with(path, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    fn open_with(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(resolve | ResolveFlag::RESOLVE_IN_ROOT);
        // EAGAIN: something was renamed meanwhile and the kernel cannot be sure; try again, but not forever.
        for _ in 0..64 {
            match openat2(self.root.as_fd(), path, how) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Opens a path inside, and makes what is missing of it.
    pub(super) fn open_or_make(&self, path: &Path, missing: Missing) -> Result<OwnedFd> {
        match self.open(path) {
            Ok(fd) => Ok(fd),
            Err(Errno::ENOENT) => self.make(path, missing),
            Err(errno) => Err(errno).context(|| format!("open {} in the root file system", path.display())),
        }
    }

    /// Opens the directory that holds `path`, made if missing, and gives the last name.
    pub(super) fn open_parent(&self, path: &Path) -> Result<(OwnedFd, OsString)> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid(format!("{} has no name", path.display())))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.open_or_make(parent, Missing::Directory)?, name.to_owned()))
    }

    /// Walks the path name by name. `walked` never holds a link, and is opened as such at each step.
    fn make(&self, path: &Path, missing: Missing) -> Result<OwnedFd> {
        let describe = || format!("make {} in the root file system", path.display());
        let mut left: VecDeque<OsString> = components(path);
        let mut walked = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                walked.pop();
                continue;
            }
            let next = walked.join(&name);
            let found = self.open_with(
                &next,
                OFlag::O_PATH | OFlag::O_NOFOLLOW,
                ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
            match found {
                Ok(fd) if is_link(&fd)? => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP).context(describe);
                    }
                    let target = PathBuf::from(readlinkat(&fd, "").context(describe)?);
                    if target.is_absolute() {
                        walked = PathBuf::from("/");
                    }
                    for component in components(&target).into_iter().rev() {
                        left.push_front(component);
                    }
                    continue;
                }
                Ok(_) => {}
                Err(Errno::ENOENT) => {
                    let kind = if left.is_empty() {
                        missing
                    } else {
                        Missing::Directory
                    };
                    self.make_one(&walked, &name, kind).context(describe)?;
                }
                Err(errno) => return Err(errno).context(describe),
            }
            walked = next;
        }
        self.open_no_links(&walked).context(describe)
    }

    fn make_one(&self, parent: &Path, name: &OsStr, missing: Missing) -> nix::Result<()> {
        let parent = self.open_with(
            parent,
            OFlag::O_PATH | OFlag::O_DIRECTORY,
            ResolveFlag::RESOLVE_NO_SYMLINKS,
        )?;
        let made = match missing {
            Missing::Directory => mkdirat(&parent, name, Mode::from_bits_truncate(0o755)),
            Missing::File => {
                let flags =
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o755)).map(drop)
            }
        };
        match made {
            Err(Errno::EEXIST) => Ok(()),
            result => result,
        }
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// The type of what a descriptor refers to.
pub(super) fn file_type(fd: &OwnedFd) -> nix::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT)
}

fn is_link(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(file_type(fd)? == SFlag::S_IFLNK)
}
