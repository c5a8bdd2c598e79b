//! The files of a directory that holds an OCI layout or an unpacked Docker archive.
//!
//! Its documents name its files, and whoever made them may name `/root/backup.tar`, `../../secret`, or a symbolic link
//! to one of these. Every path is therefore resolved by the kernel, which refuses what leaves the directory (`openat2`,
//! RESOLVE_BENEATH). Links that stay inside are followed. Nothing but regular files is opened, and a pipe is not waited
//! for.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::error::ImageError;
use crate::layer::path::clean;

/// The kernel asks for another attempt when something was renamed while it followed a `..`.
const RESOLVE_ATTEMPTS_MAX: usize = 10_000;

/// A directory as a capability: nothing outside it can be opened through it.
#[derive(Debug)]
pub(crate) struct Directory {
    root: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory; `path` may lead anywhere, as the caller named it.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| ImageError::Io {
            action: "open",
            what: path.display().to_string(),
            source: errno.into(),
        })?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// Opens a regular file by the path that a document gives; `None` when it is not there.
    pub(crate) fn file(&self, named: &str) -> Result<Option<File>, ImageError> {
        let within = self.within(named)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let mut opened = Err(Errno::EAGAIN);
        for _ in 0..RESOLVE_ATTEMPTS_MAX {
            opened = openat2(&self.root, within.as_str(), how);
            match opened {
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                _ => break,
            }
        }
        let shown = || self.path.join(&within).display().to_string();
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(Errno::EXDEV) => return Err(self.outside(named)),
            // a socket
            Err(Errno::ENXIO) => return Err(ImageError::Invalid(format!("{} is no regular file", shown()))),
            Err(errno) => return Err(ImageError::io("open", shown())(errno.into())),
        };
        let metadata = file.metadata().map_err(ImageError::io("look at", shown()))?;
        if !metadata.is_file() {
            return Err(ImageError::Invalid(format!("{} is no regular file", shown())));
        }
        Ok(Some(file))
    }

    /// The path of such a file. What is opened by it later must be compared with what [`Directory::file`] opened.
    pub(crate) fn path(&self, named: &str) -> Result<PathBuf, ImageError> {
        Ok(self.path.join(self.within(named)?))
    }

    fn within(&self, named: &str) -> Result<String, ImageError> {
        clean(named.as_bytes())
            .and_then(|path| String::from_utf8(path).ok())
            .filter(|path| !path.is_empty())
            .ok_or_else(|| self.outside(named))
    }

    fn outside(&self, named: &str) -> ImageError {
        ImageError::Invalid(format!(
            "{named:?} leads outside the directory {}: copy the file into it",
            self.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_inside_are_opened_and_none_outside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("layout");
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::write(root.join("blobs/sha256/a"), "content").unwrap();
        symlink("blobs/sha256/a", root.join("link")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink(&secret, root.join("away")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/proc/self/fd/0", root.join("magic")).unwrap();
        let directory = Directory::open(&root).unwrap();
        for path in [
            "blobs/sha256/a",
            "./blobs//sha256/x/../a",
            "/blobs/sha256/a",
            "link",
        ] {
            let mut text = String::new();
            directory
                .file(path)
                .unwrap()
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "content", "{path}");
        }
        let absolute = secret.to_str().unwrap();
        for path in ["nothing", "blobs/sha256/a/b", absolute] {
            assert!(directory.file(path).unwrap().is_none(), "{path}");
        }
        for path in [
            "../secret",
            "blobs/../../secret",
            "out",
            "away",
            "up/secret",
            "magic",
            "",
            ".",
        ] {
            let error = directory.file(path).unwrap_err().to_string();
            assert!(error.contains("leads outside"), "{path}: {error}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), Mode::S_IRWXU).unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        for path in ["pipe", "dir"] {
            let error = directory.file(path).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{path}: {error}");
        }
    }
}
