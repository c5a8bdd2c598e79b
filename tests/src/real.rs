//! Runs the same steps on a mounted tree by system calls.

use crate::ops::{Access, Op, Outcome, RelPath, RenameFlag, StatView, XattrFlag};
use crate::posix;
use crate::snapshot::Kind;
use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A mounted tree and the descriptors held in it.
#[derive(Debug)]
pub struct RealTree {
    root: PathBuf,
    held: BTreeMap<u8, (File, Access)>,
}

impl RealTree {
    /// The tree at `root`.
    #[must_use]
    pub fn new(root: &Path) -> RealTree {
        RealTree {
            root: root.to_owned(),
            held: BTreeMap::new(),
        }
    }

    /// Closes every held descriptor, as before an unmount.
    pub fn close_all(&mut self) {
        self.held.clear();
    }

    /// Whether the file system has `O_TMPFILE`.
    #[must_use]
    pub fn has_tmpfile(&self) -> bool {
        posix::open(&self.root, libc::O_TMPFILE | libc::O_RDWR, 0o600).is_ok()
    }

    /// Runs one step; `Remount` is the caller's.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match self.run(op) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Errno(posix::errno(&error)),
        }
    }

    fn at(&self, path: &RelPath) -> PathBuf {
        path.under(&self.root)
    }

    /// A file that can be opened without waiting: never a FIFO or a device.
    fn openable(&self, path: &RelPath) -> io::Result<PathBuf> {
        let at = self.at(path);
        match Kind::of(at.metadata()?.file_type()) {
            Kind::File | Kind::Dir => Ok(at),
            _ => Err(io::Error::from_raw_os_error(libc::ENXIO)),
        }
    }

    fn writable(&self, path: &RelPath) -> io::Result<File> {
        posix::open(&self.openable(path)?, libc::O_WRONLY, 0)
    }

    fn run(&mut self, op: &Op) -> io::Result<Outcome> {
        match op {
            Op::Create {
                path,
                data,
                exclusive,
            } => self.create(path, data, *exclusive)?,
            Op::WriteAt { path, offset, data } => self.writable(path)?.write_all_at(data, *offset)?,
            Op::Append { path, data } => posix::append(&self.openable(path)?, data)?,
            Op::Truncate { path, len } => posix::truncate(&self.openable(path)?, *len)?,
            Op::Punch { path, offset, len } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.writable(path)?, flags, *offset, *len)?;
            }
            Op::CopyRange { from, to, len } => self.copy_range(from, to, *len)?,
            Op::Mkdir { path, mode } => posix::mkdir(&self.at(path), *mode)?,
            Op::Rmdir { path } => std::fs::remove_dir(self.at(path))?,
            Op::Unlink { path } => nix::unistd::unlink(&self.at(path))?,
            Op::Rename { from, to, flag } => {
                let flags = match flag {
                    RenameFlag::Plain => RenameFlags::empty(),
                    RenameFlag::NoReplace => RenameFlags::NOREPLACE,
                    RenameFlag::Exchange => RenameFlags::EXCHANGE,
                };
                posix::rename(&self.at(from), &self.at(to), flags)?;
            }
            Op::Link { from, to } => posix::link(&self.at(from), &self.at(to))?,
            Op::Symlink { target, path } => posix::symlink(OsStr::from_bytes(target), &self.at(path))?,
            Op::Mkfifo { path } => posix::mkfifo(&self.at(path))?,
            Op::Mknod { path } => posix::mknod_char(&self.at(path), 1, 3)?,
            Op::Chmod { path, mode } => posix::chmod(&self.at(path), *mode)?,
            Op::Chown { path, uid, gid } => posix::lchown(&self.at(path), *uid, *gid)?,
            Op::SetTimes { path, secs, nanos } => posix::set_times(&self.at(path), *secs, *nanos)?,
            Op::SetXattr {
                path,
                name,
                value,
                flag,
            } => {
                let flags = match flag {
                    XattrFlag::Any => XattrFlags::empty(),
                    XattrFlag::Create => XattrFlags::CREATE,
                    XattrFlag::Replace => XattrFlags::REPLACE,
                };
                posix::set_xattr(&self.at(path), name, value, flags)?;
            }
            Op::RemoveXattr { path, name } => posix::remove_xattr(&self.at(path), name)?,
            Op::TmpfileLink { path, data } => self.tmpfile_link(path, data)?,
            Op::Read { .. } | Op::Stat { .. } | Op::List { .. } | Op::Readlink { .. } => {
                return self.look(op);
            }
            Op::Hold { .. }
            | Op::HeldWrite { .. }
            | Op::HeldRead { .. }
            | Op::HeldTruncate { .. }
            | Op::HeldChmod { .. }
            | Op::HeldClose { .. } => return self.use_held(op),
            Op::DropCaches => {
                // A remount that changes nothing shrinks the name cache of this mount alone.
                let (none, flags) = (None::<&str>, nix::mount::MsFlags::MS_REMOUNT);
                nix::mount::mount(none, &self.root, none, flags, none)?;
            }
            Op::Remount => self.close_all(),
        }
        Ok(Outcome::Done)
    }

    fn create(&self, path: &RelPath, data: &[u8], exclusive: bool) -> io::Result<()> {
        if let Err(error) = self.openable(path)
            && error.raw_os_error() == Some(libc::ENXIO)
        {
            return Err(error);
        }
        let mode = if exclusive { libc::O_EXCL } else { libc::O_TRUNC };
        let file = posix::open(&self.at(path), libc::O_WRONLY | libc::O_CREAT | mode, 0o644)?;
        file.write_all_at(data, 0)
    }

    fn copy_range(&self, from: &RelPath, to: &RelPath, len: u64) -> io::Result<()> {
        let is_dir = || io::Error::from_raw_os_error(libc::EISDIR);
        let source = self.openable(from)?;
        if source.is_dir() {
            return Err(is_dir());
        }
        let target = self.openable(to)?;
        if target.is_dir() {
            return Err(is_dir());
        }
        let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
        if id(&source)? == id(&target)? {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let source = File::open(source)?;
        let target = posix::open(&target, libc::O_WRONLY, 0)?;
        let (mut at_source, mut at_target) = (0, 0);
        while at_source < len {
            let left = usize::try_from(len - at_source).expect("short");
            if rustix::fs::copy_file_range(
                &source,
                Some(&mut at_source),
                &target,
                Some(&mut at_target),
                left,
            )? == 0
            {
                break;
            }
        }
        Ok(())
    }

    fn tmpfile_link(&self, path: &RelPath, data: &[u8]) -> io::Result<()> {
        let directory = path.parent().map_or(self.root.clone(), |parent| self.at(&parent));
        let file = posix::open(&directory, libc::O_TMPFILE | libc::O_RDWR, 0o644)?;
        file.write_all_at(data, 0)?;
        let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
        Ok(rustix::fs::linkat(
            rustix::fs::CWD,
            descriptor,
            rustix::fs::CWD,
            self.at(path),
            flags,
        )?)
    }

    fn look(&self, op: &Op) -> io::Result<Outcome> {
        match op {
            Op::Read { path } => Ok(Outcome::Bytes(std::fs::read(self.openable(path)?)?)),
            Op::List { path } => Ok(Outcome::Names(
                posix::names(&self.at(path))?.into_iter().collect(),
            )),
            Op::Readlink { path } => Ok(Outcome::Bytes(
                std::fs::read_link(self.at(path))?.as_os_str().as_bytes().to_vec(),
            )),
            Op::Stat { path } => {
                let meta = self.at(path).symlink_metadata()?;
                let kind = Kind::of(meta.file_type());
                let is_dir = kind == Kind::Dir;
                Ok(Outcome::Stat(StatView {
                    kind,
                    mode: meta.mode() & 0o7777,
                    uid: meta.uid(),
                    gid: meta.gid(),
                    size_bytes: if is_dir { 0 } else { meta.size() },
                    nlink: if is_dir { 1 } else { meta.nlink() },
                }))
            }
            _ => unreachable!("the caller chose"),
        }
    }

    fn use_held(&mut self, op: &Op) -> io::Result<Outcome> {
        let bad = || io::Error::from_raw_os_error(libc::EBADF);
        match op {
            Op::Hold { slot, path, access } => {
                self.held.remove(slot);
                let flags = match access {
                    Access::Read => libc::O_RDONLY,
                    Access::Write => libc::O_WRONLY,
                    Access::ReadWrite => libc::O_RDWR,
                };
                let file = posix::open(&self.openable(path)?, flags, 0)?;
                self.held.insert(*slot, (file, *access));
            }
            Op::HeldClose { slot } => {
                self.held.remove(slot);
            }
            Op::HeldWrite { slot, offset, data } => {
                self.held
                    .get(slot)
                    .ok_or_else(bad)?
                    .0
                    .write_all_at(data, *offset)?;
            }
            Op::HeldRead { slot } => {
                let (file, _) = self.held.get(slot).ok_or_else(bad)?;
                return Ok(Outcome::Bytes(posix::read_all_at_start(file)?));
            }
            Op::HeldTruncate { slot, len } => self.held.get(slot).ok_or_else(bad)?.0.set_len(*len)?,
            Op::HeldChmod { slot, mode } => {
                let permissions = std::fs::Permissions::from_mode(*mode);
                self.held
                    .get(slot)
                    .ok_or_else(bad)?
                    .0
                    .set_permissions(permissions)?;
            }
            _ => unreachable!("the caller chose"),
        }
        Ok(Outcome::Done)
    }
}
