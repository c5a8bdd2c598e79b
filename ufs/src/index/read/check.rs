//! Looking at everything: all checksums, and that the file is exactly what the writer would have written.
//!
//! The writer's output is canonical (numbers in the order of first names, names in the order of entries, tables sorted),
//! so most invariants are checked by counting along.

use super::Index;
use crate::attr::FileType;
use crate::index::format::{EntryRecord, InodeRecord, NONE, Section, is_name, prefix, u32_at};
use crate::index::{ContentId, IndexError, InodeId, Kind, NO_ORIGIN, Place, Sha256};

type Result<T> = std::result::Result<T, IndexError>;

/// Where the next record of each kind has to be.
struct Expected {
    entry: u32,
    directory: u32,
    other: u32,
    name: u64,
    /// Names of each file; for directories, directories in it.
    names: Vec<u32>,
}

impl Index {
    /// Verifies every checksum and every invariant.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        self.data.answer(self.check_all())
    }

    fn check_all(&self) -> Result<()> {
        self.data.verify_all()?;
        let mut expected = Expected {
            entry: 1,
            directory: 1,
            other: self.header.directories,
            name: 0,
            names: vec![0; self.inode_count() as usize],
        };
        let (name, _) = self.read_entry(0, None)?;
        self.is(name.is_empty(), "name of the root")?;
        self.check_entry_record(0, &mut expected.name)?;
        for dir in 0..self.header.directories {
            self.check_directory(InodeId(dir), &mut expected)?;
        }
        let all = expected.entry == self.entry_count()
            && expected.directory == self.header.directories
            && expected.other == self.inode_count();
        self.is(all, "something is in no directory")?;
        self.check_inodes(&mut expected)?;
        self.check_sets()?;
        self.check_contents()?;
        self.check_origins()?;
        self.check_links()
    }

    fn is(&self, sound: bool, what: &'static str) -> Result<()> {
        if sound {
            Ok(())
        } else {
            Err(self.data.damaged(what))
        }
    }

    /// An entry's record is as it is written, and its name comes next.
    fn check_entry_record(&self, entry: u32, name: &mut u64) -> Result<EntryRecord> {
        let bytes = self.data.record(Section::Entries, entry.into())?;
        let record = EntryRecord::decode(bytes);
        let text = self.name(&record)?;
        let sound =
            record.encode() == *bytes && u64::from(record.name) == *name && record.prefix == prefix(text);
        *name += u64::from(record.name_bytes);
        self.is(sound, "entry record")?;
        Ok(record)
    }

    fn check_directory(&self, dir: InodeId, expected: &mut Expected) -> Result<()> {
        let (first, count) = self.range(dir)?;
        self.is(first == expected.entry, "entries of a directory")?;
        let mut before: &[u8] = b"";
        for entry in first..first + count {
            let (name, found) = self.read_entry(entry, Some(dir))?;
            self.is(is_name(name) && name > before, "order of names")?;
            before = name;
            self.check_entry_record(entry, &mut expected.name)?;
            let Some(InodeId(inode)) = found.inode else {
                continue;
            };
            if found.file_type == FileType::Directory {
                self.is(inode == expected.directory, "order of directories")?;
                expected.directory += 1;
                expected.names[dir.0 as usize] += 1;
                continue;
            }
            let attributes = self.read_inode(InodeId(inode))?;
            self.is(attributes.file_type() == found.file_type, "type of an entry")?;
            if expected.names[inode as usize] == 0 {
                let first = (attributes.entry.0, attributes.parent) == (entry, dir);
                let next = inode == expected.other && first;
                self.is(next, "order of files")?;
                expected.other += 1;
            }
            expected.names[inode as usize] += 1;
        }
        expected.entry += count;
        Ok(())
    }

    fn check_inodes(&self, expected: &mut Expected) -> Result<()> {
        for (number, names) in (0..).zip(&expected.names) {
            let id = InodeId(number);
            let bytes = self.data.record(Section::Inodes, number.into())?;
            let record = InodeRecord::decode(bytes);
            self.is(record.encode() == *bytes, "file record")?;
            let inode = self.read_inode(id)?;
            let nlink = if inode.is_dir() { 2 + names } else { *names };
            self.is(inode.nlink == nlink, "number of links")?;
            let set_fits = inode.xattrs == NONE || inode.xattrs < self.set_count();
            self.is(set_fits, "extended attributes of a file")?;
            let sound = match inode.file_type() {
                FileType::Directory => true,
                FileType::Regular => {
                    let size = match inode.first {
                        NONE => inode.size_bytes,
                        content => self.content_record(ContentId(content))?.0.size,
                    };
                    inode.count == 0 && size == inode.size_bytes
                }
                FileType::Symlink => {
                    self.read_target(id)?;
                    let start = expected.name;
                    expected.name += u64::from(inode.count);
                    u64::from(inode.first) == start
                }
                _ => (inode.first, inode.count) == (0, 0),
            };
            self.is(sound, "file record")?;
        }
        self.is(
            expected.name == self.data.count(Section::Names),
            "length of the names",
        )
    }

    fn check_sets(&self) -> Result<()> {
        let starts = self.data.count(Section::SetStarts);
        let bytes = self.data.count(Section::SetBytes);
        if starts == 0 {
            return self.is(bytes == 0, "attribute sets");
        }
        let start_of = |at: u64| -> Result<u32> {
            let record: &[u8; 4] = self.data.record(Section::SetStarts, at)?;
            Ok(u32_at(record, 0))
        };
        let ends = start_of(0)? == 0 && u64::from(start_of(starts - 1)?) == bytes && starts > 1;
        self.is(ends, "attribute sets")?;
        for set in 0..self.set_count() {
            let mut before: &[u8] = b"";
            for attribute in self.set(set)? {
                let sound = attribute.is_ok_and(|(name, _)| {
                    let ascending = name > before;
                    before = name;
                    ascending
                });
                self.is(sound, "attribute sets")?;
            }
            self.is(!before.is_empty(), "attribute sets")?;
        }
        Ok(())
    }

    fn check_contents(&self) -> Result<()> {
        let mut objects: Vec<&Sha256> = Vec::new();
        let mut piece = 0;
        for content in 0..self.content_count() {
            let bytes: &[u8; 64] = self.data.record(Section::Contents, content.into())?;
            let (record, _) = self.content_record(ContentId(content))?;
            self.is(record.encode() == *bytes, "content record")?;
            let (place, _) = self.read_content(ContentId(content))?;
            let sound = match place {
                Place::Empty => false,
                Place::Pack { .. } => true,
                Place::Object { digest } => {
                    objects.push(digest);
                    (record.layer, record.offset, record.sum) == (0, 0, 0)
                }
                Place::Stream { .. } => {
                    let first = piece;
                    piece += record.sum;
                    record.offset == first && record.digest == [0; 32]
                }
            };
            self.is(sound, "content record")?;
        }
        self.is(
            piece == self.data.count(Section::Pieces),
            "stretches of no content",
        )?;
        objects.sort_unstable();
        objects.dedup();
        let mut listed = 0;
        for digest in objects {
            self.is(self.object_at(listed)? == digest, "table of objects")?;
            listed += 1;
        }
        self.is(listed == self.data.count(Section::Objects), "table of objects")
    }

    fn check_origins(&self) -> Result<()> {
        if self.kind() == Kind::Layer {
            return Ok(()); // the header says that the table is empty
        }
        let mut before = None;
        for at in 0..self.data.count(Section::Origins) {
            let inode = self.read_inode(self.origin_at(at)?)?;
            let origin = (inode.layer, inode.origin);
            let ascending = before.is_none_or(|before| before < origin);
            self.is(ascending && origin.1 != NO_ORIGIN, "table of origins")?;
            before = Some(origin);
        }
        let mut with_origin = 0;
        for inode in 0..self.inode_count() {
            with_origin += u64::from(self.read_inode(InodeId(inode))?.origin != NO_ORIGIN);
        }
        self.is(
            with_origin == self.data.count(Section::Origins),
            "table of origins",
        )
    }

    fn check_links(&self) -> Result<()> {
        let mut before = None;
        for at in 0..self.data.count(Section::Links) {
            let link = self.link_at(at)?;
            let leads_there = self.entry_record(link.1.0)?.inode == link.0.0;
            let ascending = before.is_none_or(|before| before < link);
            self.is(leads_there && ascending, "table of links")?;
            before = Some(link);
        }
        let mut links = 0;
        for inode in self.header.directories..self.inode_count() {
            let nlink = self.read_inode(InodeId(inode))?.nlink;
            links += if nlink > 1 { u64::from(nlink) } else { 0 };
        }
        self.is(links == self.data.count(Section::Links), "table of links")
    }
}
