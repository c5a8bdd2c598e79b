//! Reading and making files inside a container's root file system from the outside.
//!
//! The tree is hostile: any name may be a symbolic link to anywhere, and any file may be a pipe that never answers.
//! Every path is resolved by the kernel with the tree as its root (`openat2`, RESOLVE_IN_ROOT), never as a string.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Files larger than this are no passwd file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Each attempt fails only when somebody renames or mounts at that very moment.
const RESOLVE_ATTEMPTS_MAX: usize = 10_000;

/// A root file system as a capability.
pub(super) struct Root(OwnedFd);

impl Root {
    /// Opens the tree at `path`, which is ours.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// The content of a regular file; empty when there is none, or when what is there is something else.
    pub(super) fn read_or_empty(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        if let Some(file) = self.regular(path)? {
            file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        }
        Ok(content)
    }

    /// Opens a regular file to be read; `None` when there is none, or when what is there is something else.
    pub(super) fn regular(&self, path: impl AsRef<Path>) -> io::Result<Option<File>> {
        // O_PATH first: to open a device for reading is an action of its own.
        let found = match self.resolve(path.as_ref(), OFlag::O_PATH) {
            Ok(found) => File::from(found),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if !found.metadata()?.is_file() {
            return Ok(None);
        }
        let same = format!("/proc/self/fd/{}", found.as_raw_fd());
        File::open(same).map(Some)
    }

    /// Makes a directory and its parents, where they are missing.
    pub(super) fn make_directories(&self, path: &str) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut parent = self.resolve(Path::new("/"), flags)?;
        let mut so_far = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            so_far.push('/');
            so_far.push_str(name);
            // From the root each time: a `..` in a link must end at this root.
            parent = match self.resolve(so_far.as_ref(), flags) {
                Err(Errno::ENOENT) => {
                    mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
                    self.resolve(so_far.as_ref(), flags)?
                }
                other => other?,
            };
        }
        Ok(())
    }

    /// Resolves a path below the root. The kernel answers EAGAIN when anything on the machine was renamed or mounted
    /// while it followed a `..`: that says nothing about the path, so that it is asked again.
    fn resolve(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        for _ in 0..RESOLVE_ATTEMPTS_MAX {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree beside a secret that must not be reached.
    fn tree() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        fs::create_dir_all(folder.path().join("root/etc")).unwrap();
        let root = Root::open(&folder.path().join("root")).unwrap();
        (folder, root)
    }

    #[test]
    fn ordinary_files_are_read() {
        let (folder, root) = tree();
        fs::write(folder.path().join("root/etc/passwd"), "root").unwrap();
        symlink("../etc/passwd", folder.path().join("root/etc/link")).unwrap();
        symlink("/etc/passwd", folder.path().join("root/etc/absolute")).unwrap();
        for path in ["/etc/passwd", "/etc/link", "/etc/absolute"] {
            assert_eq!(root.read_or_empty(path).unwrap(), b"root", "{path}");
        }
        assert_eq!(root.read_or_empty("/nothing").unwrap(), b"");
    }

    #[test]
    fn nothing_outside_is_read() {
        let (folder, root) = tree();
        let etc = folder.path().join("root/etc");
        symlink("../../secret", etc.join("up")).unwrap();
        symlink(folder.path().join("secret"), etc.join("absolute")).unwrap();
        symlink("/proc/self/cwd", etc.join("magic")).unwrap();
        symlink("loop", etc.join("loop")).unwrap();
        symlink("/", folder.path().join("root/slash")).unwrap();
        fs::create_dir(etc.join("directory")).unwrap();
        for name in ["up", "absolute", "magic", "loop", "directory"] {
            assert_eq!(
                root.read_or_empty(&format!("/etc/{name}")).unwrap(),
                b"",
                "{name}"
            );
        }
        assert_eq!(root.read_or_empty("/slash/../../secret").unwrap(), b"");
    }

    #[test]
    fn a_pipe_does_not_hold_us() {
        let (folder, root) = tree();
        nix::unistd::mkfifo(&folder.path().join("root/etc/passwd"), Mode::S_IRWXU).unwrap();
        assert_eq!(root.read_or_empty("/etc/passwd").unwrap(), b"");
        assert!(root.regular("/etc/passwd").unwrap().is_none());
    }

    #[test]
    fn directories_are_made_inside() {
        let (folder, root) = tree();
        root.make_directories("/a/b/c").unwrap();
        root.make_directories("/a/b/c").unwrap();
        root.make_directories("/").unwrap();
        assert!(folder.path().join("root/a/b/c").is_dir());
        symlink("../..", folder.path().join("root/out")).unwrap();
        root.make_directories("/out/made").unwrap();
        assert!(folder.path().join("root/made").is_dir());
        assert!(!folder.path().join("made").exists());
        symlink("/nowhere", folder.path().join("root/dangling")).unwrap();
        assert!(root.make_directories("/dangling/x").is_err());
        fs::write(folder.path().join("root/file"), "").unwrap();
        assert!(root.make_directories("/file/x").is_err());
    }
}
