//! What waits for the end of the archive: hard links whose target came later, deletion markers, directories' attributes.
//!
//! Only now it is known which names the layer has itself, and nothing will change a directory's time any more.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sys::stat::{Mode, SFlag, fchmod, futimens, mknodat};
use nix::sys::time::TimeSpec;
use xattr::FileExt;

use super::tree::{Tree, file_type};
use super::{Attributes, UnpackError, Unpacker, entry_error, failed, shown, time};
use crate::layer::path::split;

impl Unpacker {
    /// Makes what was kept for the end.
    pub(super) fn finish(&mut self) -> Result<(), UnpackError> {
        self.finish_links()?;
        for hidden in std::mem::take(&mut self.whiteouts) {
            self.finish_whiteout(&hidden)?;
        }
        for path in std::mem::take(&mut self.opaques) {
            match self.tree.enter(&path) {
                Ok(fd) => self.set_opaque(&fd, &path)?,
                Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => {} // a file hides everything anyway
                Err(error) => return Err(failed("make", &path)(error)),
            }
        }
        // children before their parents: setting attributes does not change the parent's time, but a mode might lock
        let mut directories = std::mem::take(&mut self.directories);
        while let Some((path, attributes)) = directories.pop_last() {
            self.finish_directory(&path, &attributes)?;
        }
        Ok(())
    }

    /// Makes the links that waited, until no more can be made: one may be the target of another.
    fn finish_links(&mut self) -> Result<(), UnpackError> {
        while !self.links.is_empty() {
            let waiting = std::mem::take(&mut self.links);
            let before = waiting.len();
            for (path, target) in waiting {
                let (parent, name) = split(&path);
                let parent = self
                    .tree
                    .enter(parent)
                    .map_err(failed("make the directory of", &path))?;
                if !self.try_link(&parent, name, &path, &target)? {
                    self.links.insert(path, target);
                }
            }
            if self.links.len() == before
                && let Some((path, target)) = self.links.first_key_value()
            {
                let problem = format!(
                    "is a hard link to {:?}, which is not in the archive",
                    shown(target)
                );
                return Err(entry_error(path, problem));
            }
        }
        Ok(())
    }

    fn finish_whiteout(&mut self, hidden: &[u8]) -> Result<(), UnpackError> {
        let (parent, name) = split(hidden);
        let parent = match self.tree.enter(parent) {
            Ok(parent) => parent,
            Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(()), // hidden by a file
            Err(error) => return Err(failed("make the directory of", hidden)(error)),
        };
        match Tree::stat(&parent, name).map_err(failed("look at", hidden))? {
            None => mknodat(
                &*parent,
                name,
                SFlag::S_IFCHR,
                Mode::empty(),
                ufs::layer::whiteout::DEVICE,
            )
            .map_err(failed("write the whiteout of", hidden)),
            Some(stat) if file_type(&stat) == SFlag::S_IFDIR => {
                let fd = self.tree.directory(hidden).map_err(failed("open", hidden))?;
                self.set_opaque(&fd, hidden)
            }
            Some(_) => Ok(()),
        }
    }

    fn set_opaque(&self, directory: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
        let file = File::from(directory.try_clone().map_err(failed("open", path))?);
        file.set_xattr(self.opaque_name, b"y")
            .map_err(failed("mark as opaque", path))
    }

    fn finish_directory(&mut self, path: &[u8], attributes: &Attributes) -> Result<(), UnpackError> {
        let fd = match self.tree.directory(path) {
            Ok(fd) => fd,
            // a later member took its place
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(failed("open", path)(error)),
        };
        self.chown(&fd, OsStr::new("."), attributes, path)?;
        fchmod(&fd, Mode::from_bits_truncate(attributes.mode)).map_err(failed("set the mode of", path))?;
        let file = File::from(fd);
        self.set_xattrs(attributes, path, |name, value| file.set_xattr(name, value))?;
        futimens(&file, &TimeSpec::UTIME_OMIT, &time(attributes.mtime))
            .map_err(failed("set the time of", path))
    }
}
