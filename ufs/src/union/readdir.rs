//! Listing a merged directory.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use rustix::fs::OFlags;

use super::Union;
use super::inode::Inode;
use crate::attr::FileType;
use crate::error::{Doing, Result};
use crate::layer::whiteout;
use crate::sys;

/// An entry of a merged directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Its type.
    pub file_type: FileType,
}

/// Collects names from the top down: the first layer that knows a name decides.
#[derive(Default)]
struct Merge {
    entries: Vec<DirEntry>,
    decided: HashSet<OsString>,
}

impl Merge {
    fn take(&mut self, name: OsString, file_type: Option<FileType>) {
        if self.decided.contains(&name) {
            return;
        }
        self.decided.insert(name.clone());
        if let Some(file_type) = file_type {
            self.entries.push(DirEntry { name, file_type });
        }
    }
}

impl Union {
    /// All visible entries, each name once, in the order in which the layers list them, the upper first.
    pub(crate) fn entries(&self, dir: &Inode) -> Result<Vec<DirEntry>> {
        let mut merge = Merge::default();
        for (name, file_type) in self.upper_entries(dir)? {
            merge.take(name, file_type);
        }
        for place in dir.lowers().iter() {
            for entry in self.layers[place.layer].read_dir(&place.node)? {
                merge.take(entry.name, entry.file_type);
            }
        }
        Ok(merge.entries)
    }

    /// What the upper lists: `None` for a whiteout.
    fn upper_entries(&self, dir: &Inode) -> Result<Vec<(OsString, Option<FileType>)>> {
        let (Some(upper), Some(fd)) = (&self.upper, self.upper_dir(dir)?) else {
            return Ok(Vec::new());
        };
        let open = sys::open_at(&fd, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY);
        let raw = sys::list(open.doing("open directory of upper")?).doing("list directory of upper")?;
        let mut entries = Vec::with_capacity(raw.len());
        for entry in raw {
            let may_be_mark = match entry.file_type {
                Some(FileType::CharDevice) | None => true,
                Some(FileType::Regular) => entry.name == whiteout::OPAQUE_NAME,
                Some(_) => false,
            };
            let file_type = match entry.file_type {
                Some(file_type) if !may_be_mark => Some(file_type),
                _ => match sys::stat_at(&fd, &entry.name) {
                    Ok(attr) if upper.is_mark(&fd, &entry.name, &attr)? => None,
                    Ok(attr) => Some(attr.file_type()),
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(error).doing("read attributes in upper"),
                },
            };
            entries.push((entry.name, file_type));
        }
        Ok(entries)
    }

    /// The names of whiteouts in the upper directory, which an emptied directory may still hold.
    pub(crate) fn upper_whiteouts(&self, dir: &Inode) -> Result<Vec<OsString>> {
        let entries = self.upper_entries(dir)?;
        Ok(entries
            .into_iter()
            .filter(|(_, file_type)| file_type.is_none())
            .map(|(name, _)| name)
            .collect())
    }
}
