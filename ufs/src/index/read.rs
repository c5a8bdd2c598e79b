//! Reading an index where it lies.
//!
//! Invariants of what is handed out, whatever bytes the file holds:
//! - every number that an answer holds is one of this index, so that a walk needs no checks of its own;
//! - a directory's number is larger than its parent's, and it is found under one name only: walks end;
//! - names are what a directory may hold.
//!
//! Failure: [`IndexError`], from every call. A mapped file that is cut short while it is in use gives
//! [`IndexError::Gone`]; bytes that were borrowed before that may read as zeros, which [`Index::is_gone`] tells.

mod check;
mod data;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::path::Path;

use super::format::{
    ContentRecord, EntryRecord, Header, InodeRecord, NONE, OPAQUE, Section, Storage, is_name, prefix,
    type_code, type_of, u32_at, u64_at,
};
use super::{ContentId, EntryId, Found, IndexError, Inode, InodeId, Kind, NO_ORIGIN, Piece, Place, Sha256};
use crate::attr::{FileType, Time};
use data::Data;

type Result<T> = std::result::Result<T, IndexError>;

/// An open index. Any number of threads may read it.
#[derive(Debug)]
pub struct Index {
    data: Data,
    header: Header,
    layers: Vec<Sha256>,
}

impl Index {
    /// Opens and maps a file. Costs the same whatever its size: the sums of what it holds are compared when it is read.
    ///
    /// # Errors
    /// When the file cannot be read, or header or table of sums are damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(Data::open(path)?)
    }

    /// An index in memory.
    ///
    /// # Errors
    /// When header or table of sums are damaged.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Data::from_bytes(bytes)?)
    }

    fn new((data, header): (Data, Header)) -> Result<Self> {
        let digests = data.bytes(Section::Layers, 0, data.count(Section::Layers))?;
        let (digests, _) = digests.as_chunks::<32>();
        let layers = digests.to_vec();
        data.answer(Ok(()))?;
        Ok(Self { data, header, layers })
    }

    /// What it describes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    /// The layers it was made from, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Sha256] {
        &self.layers
    }

    /// Number of files; their numbers are those below it.
    #[must_use]
    pub fn inode_count(&self) -> u32 {
        self.count(Section::Inodes)
    }

    /// Number of directories; they have the first numbers.
    #[must_use]
    pub fn directory_count(&self) -> u32 {
        self.header.directories
    }

    /// Number of names, whiteouts and the root's included; their numbers are those below it.
    #[must_use]
    pub fn entry_count(&self) -> u32 {
        self.count(Section::Entries)
    }

    /// Number of contents; their numbers are those below it.
    #[must_use]
    pub fn content_count(&self) -> u32 {
        self.count(Section::Contents)
    }

    /// Sections with numbers of 32 bits are known to be that short.
    fn count(&self, section: Section) -> u32 {
        u32::try_from(self.data.count(section)).unwrap_or(NONE)
    }

    /// Whether the file was cut short, or its medium failed, while it was in use. Borrowed bytes that were looked at
    /// only now may be zeros then.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.data.gone()
    }

    /// Attributes of a file.
    ///
    /// # Errors
    /// When there is no such file, or its record is damaged.
    pub fn inode(&self, inode: InodeId) -> Result<Inode> {
        self.data.answer(self.read_inode(inode))
    }

    fn read_inode(&self, inode: InodeId) -> Result<Inode> {
        if inode.0 >= self.inode_count() {
            return Err(self.data.no_such("file", inode.0));
        }
        let record = InodeRecord::decode(self.data.record(Section::Inodes, inode.0.into())?);
        self.sound_inode(inode, &record)
            .ok_or_else(|| self.data.damaged("file record"))
    }

    /// The record's meaning, when everything in it can be.
    fn sound_inode(&self, inode: InodeId, record: &InodeRecord) -> Option<Inode> {
        let file_type = type_of(record.mode >> 12)?;
        let is_dir = file_type == FileType::Directory;
        let opaque = record.flags == OPAQUE;
        let device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let sized = matches!(file_type, FileType::Regular | FileType::Symlink);
        let origin_fits = match self.kind() {
            Kind::Layer => record.origin == inode.0,
            Kind::Chain | Kind::Run => true,
        };
        let part_fits = match file_type {
            FileType::Directory => {
                let starts_after = record.first > record.entry && (record.entry == 0) == (inode.0 == 0);
                let end = u64::from(record.first) + u64::from(record.count);
                starts_after && end <= u64::from(self.entry_count())
            }
            FileType::Regular => record.first == NONE || record.first < self.content_count(),
            FileType::Symlink => record.count > 0 && u64::from(record.count) == record.size,
            _ => true,
        };
        let sound = is_dir == (inode.0 < self.header.directories)
            && record.nlink > 0
            && record.nanos < 1_000_000_000
            && (usize::from(record.layer) < self.layers.len() || record.origin == NO_ORIGIN)
            && (record.flags == 0 || opaque && is_dir && self.kind() != Kind::Chain)
            && origin_fits
            && record.entry < self.entry_count()
            && record.parent < self.header.directories
            && (!is_dir || record.parent < inode.0.max(1))
            && (device || sized || record.size == 0)
            && part_fits;
        sound.then_some(Inode {
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            nlink: record.nlink,
            size_bytes: if device { 0 } else { record.size },
            rdev: if device { record.size } else { 0 },
            mtime: Time {
                secs: record.secs,
                nanos: record.nanos,
            },
            layer: record.layer,
            origin: record.origin,
            entry: EntryId(record.entry),
            parent: InodeId(record.parent),
            opaque,
            xattrs: record.xattrs,
            first: record.first,
            count: record.count,
        })
    }

    /// First entry and number of entries of a directory.
    fn range(&self, dir: InodeId) -> Result<(u32, u32)> {
        if dir.0 >= self.header.directories {
            return Err(self.data.no_such("directory", dir.0));
        }
        let inode = self.read_inode(dir)?;
        Ok((inode.first, inode.count))
    }

    fn entry_record(&self, entry: u32) -> Result<EntryRecord> {
        Ok(EntryRecord::decode(
            self.data.record(Section::Entries, entry.into())?,
        ))
    }

    fn name(&self, record: &EntryRecord) -> Result<&[u8]> {
        self.data
            .bytes(Section::Names, record.name.into(), record.name_bytes.into())
    }

    /// What an entry of the directory `parent` leads to.
    fn found(&self, entry: u32, record: &EntryRecord, parent: Option<InodeId>) -> Result<Found> {
        let found = |inode, file_type| Found {
            entry: EntryId(entry),
            inode,
            file_type,
        };
        if record.inode == NONE {
            let sound = record.file_type == type_code(FileType::CharDevice)
                && self.kind() != Kind::Chain
                && entry != 0;
            return if sound {
                Ok(found(None, FileType::CharDevice))
            } else {
                Err(self.data.damaged("whiteout"))
            };
        }
        let broken = || self.data.damaged("entry record");
        let file_type = type_of(record.file_type.into()).ok_or_else(broken)?;
        let is_dir = record.inode < self.header.directories;
        if record.inode >= self.inode_count() || (file_type == FileType::Directory) != is_dir {
            return Err(broken());
        }
        if is_dir {
            // it knows its only name, and its parent has a smaller number
            let inode = self.read_inode(InodeId(record.inode))?;
            if inode.entry.0 != entry || parent.is_some_and(|parent| inode.parent != parent) {
                return Err(broken());
            }
        }
        Ok(found(Some(InodeId(record.inode)), file_type))
    }

    /// Looks for a name in a directory.
    ///
    /// # Errors
    /// When `dir` is no directory, or something on the way is damaged. A missing name is `None`.
    pub fn lookup(&self, dir: InodeId, name: &[u8]) -> Result<Option<Found>> {
        self.data.answer(self.search(dir, name))
    }

    fn search(&self, dir: InodeId, name: &[u8]) -> Result<Option<Found>> {
        let (first, count) = self.range(dir)?;
        let (mut low, mut high) = (first, first + count);
        let wanted = prefix(name);
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.entry_record(middle)?;
            let order = match record.prefix.cmp(&wanted) {
                Ordering::Equal => self.name(&record)?.cmp(name),
                order => order,
            };
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return self.found(middle, &record, Some(dir)).map(Some),
            }
        }
        Ok(None)
    }

    /// Looks for a path from the root, without leading slash; symbolic links are not followed. A whiteout on the way is
    /// the answer for all that lies below it.
    ///
    /// # Errors
    /// When something on the way is damaged. A missing path is `None`.
    pub fn find(&self, path: &[u8]) -> Result<Option<Found>> {
        let mut found = self.entry(EntryId(0))?.1;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let dir = match (found.inode, found.file_type) {
                (Some(dir), FileType::Directory) => dir,
                (None, _) => return Ok(Some(found)),
                _ => return Ok(None),
            };
            let Some(next) = self.lookup(dir, name)? else {
                return Ok(None);
            };
            found = next;
        }
        Ok(Some(found))
    }

    /// The names of a directory, sorted, whiteouts included.
    ///
    /// # Errors
    /// When `dir` is no directory, or its record is damaged.
    pub fn entries(&self, dir: InodeId) -> Result<Entries<'_>> {
        let (first, count) = self.data.answer(self.range(dir))?;
        Ok(Entries {
            index: self,
            dir,
            next: first,
            end: first + count,
        })
    }

    /// The names of a directory that come after one of them.
    ///
    /// # Errors
    /// When `dir` is no directory, or its record is damaged.
    pub fn entries_after(&self, dir: InodeId, entry: EntryId) -> Result<Entries<'_>> {
        let mut entries = self.entries(dir)?;
        entries.next = entries.next.max(entry.0.saturating_add(1)).min(entries.end);
        Ok(entries)
    }

    /// A name and what it leads to.
    ///
    /// # Errors
    /// When there is no such entry, or its record is damaged.
    pub fn entry(&self, entry: EntryId) -> Result<(&[u8], Found)> {
        self.data.answer(self.read_entry(entry.0, None))
    }

    fn read_entry(&self, entry: u32, parent: Option<InodeId>) -> Result<(&[u8], Found)> {
        if entry >= self.entry_count() {
            return Err(self.data.no_such("entry", entry));
        }
        let record = self.entry_record(entry)?;
        let found = self.found(entry, &record, parent)?;
        let name = self.name(&record)?;
        let sound = if entry == 0 {
            name.is_empty() && found.inode == Some(InodeId::ROOT)
        } else {
            is_name(name) && found.inode != Some(InodeId::ROOT)
        };
        if sound {
            Ok((name, found))
        } else {
            Err(self.data.damaged("name"))
        }
    }

    /// An entry that is known to be in a directory.
    pub(super) fn entry_in(&self, dir: InodeId, entry: u32) -> Result<(&[u8], Found)> {
        self.data.answer(self.read_entry(entry, Some(dir)))
    }

    /// The name of an entry that was read before.
    pub(super) fn entry_name(&self, entry: EntryId) -> Result<&[u8]> {
        let record = self.entry_record(entry.0)?;
        self.data.answer(self.name(&record))
    }

    /// The error for something that does not fit.
    pub(super) fn broken(&self, what: &'static str) -> IndexError {
        self.data.damaged(what)
    }

    /// The directory that a name is in. The root's own name is in the root.
    ///
    /// # Errors
    /// When there is no such entry, or a directory's record is damaged.
    pub fn parent(&self, entry: EntryId) -> Result<InodeId> {
        self.data.answer(self.read_parent(entry.0))
    }

    fn read_parent(&self, entry: u32) -> Result<InodeId> {
        if entry >= self.entry_count() {
            return Err(self.data.no_such("entry", entry));
        }
        // the last directory whose entries start at this one or before
        let (mut low, mut high) = (0, self.header.directories);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.range(InodeId(middle))?.0 <= entry {
                low = middle;
            } else {
                high = middle;
            }
        }
        let (first, count) = self.range(InodeId(low))?;
        let inside = (first..first + count).contains(&entry);
        if inside || entry == 0 {
            Ok(InodeId(low))
        } else {
            Err(self.data.damaged("entry in no directory"))
        }
    }

    /// The path of a name from the root, without leading slash; empty for the root.
    ///
    /// # Errors
    /// When there is no such entry, or something on the way is damaged.
    pub fn path(&self, entry: EntryId) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut entry = entry;
        let mut dir = self.parent(entry)?;
        while entry.0 != 0 {
            names.push(self.entry(entry)?.0);
            // ends: a directory's number is larger than its parent's
            let inode = self.inode(dir)?;
            (entry, dir) = (inode.entry, inode.parent);
        }
        names.reverse();
        let path = names.join(&b'/');
        self.data.answer(Ok(path))
    }

    /// The file that has this number in its layer's own index, when it is visible here.
    ///
    /// # Errors
    /// When a record on the way is damaged.
    pub fn by_origin(&self, layer: u16, origin: u32) -> Result<Option<InodeId>> {
        self.data.answer(self.search_origin((layer, origin)))
    }

    fn search_origin(&self, wanted: (u16, u32)) -> Result<Option<InodeId>> {
        if self.kind() == Kind::Layer {
            let known = wanted.0 == 0 && wanted.1 < self.inode_count();
            return Ok(known.then_some(InodeId(wanted.1)));
        }
        let (mut low, mut high) = (0, self.data.count(Section::Origins));
        while low < high {
            let middle = low + (high - low) / 2;
            let id = self.origin_at(middle)?;
            let inode = self.read_inode(id)?;
            match (inode.layer, inode.origin).cmp(&wanted) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some(id)),
            }
        }
        Ok(None)
    }

    fn origin_at(&self, at: u64) -> Result<InodeId> {
        let id = u32::from_le_bytes(*self.data.record(Section::Origins, at)?);
        if id < self.inode_count() {
            Ok(InodeId(id))
        } else {
            Err(self.data.damaged("table of origins"))
        }
    }

    /// All names of a file.
    ///
    /// # Errors
    /// When there is no such file, or a record is damaged.
    pub fn links(&self, inode: InodeId) -> Result<Vec<EntryId>> {
        self.data.answer(self.read_links(inode))
    }

    fn read_links(&self, inode: InodeId) -> Result<Vec<EntryId>> {
        let attributes = self.read_inode(inode)?;
        if attributes.is_dir() || attributes.nlink == 1 {
            return Ok(vec![attributes.entry]);
        }
        let end = self.data.count(Section::Links);
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.link_at(middle)?.0 < inode {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut names = Vec::new();
        while low < end {
            let (of, entry) = self.link_at(low)?;
            if of != inode {
                break;
            }
            names.push(entry);
            low += 1;
        }
        if names.len() as u64 == u64::from(attributes.nlink) {
            Ok(names)
        } else {
            Err(self.data.damaged("table of links"))
        }
    }

    fn link_at(&self, at: u64) -> Result<(InodeId, EntryId)> {
        let record: &[u8; 8] = self.data.record(Section::Links, at)?;
        let (inode, entry) = (u32_at(record, 0), u32_at(record, 4));
        if inode < self.inode_count() && entry < self.entry_count() {
            Ok((InodeId(inode), EntryId(entry)))
        } else {
            Err(self.data.damaged("table of links"))
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When the file is none, or its record is damaged.
    pub fn link_target(&self, inode: InodeId) -> Result<&[u8]> {
        self.data.answer(self.read_target(inode))
    }

    fn read_target(&self, inode: InodeId) -> Result<&[u8]> {
        let attributes = self.read_inode(inode)?;
        if attributes.file_type() != FileType::Symlink {
            return Err(self.data.no_such("symbolic link", inode.0));
        }
        let target = self
            .data
            .bytes(Section::Names, attributes.first.into(), attributes.count.into())?;
        if target.contains(&0) {
            return Err(self.data.damaged("target of a link"));
        }
        Ok(target)
    }

    /// One extended attribute of a file; `None` when it has none of this name.
    ///
    /// # Errors
    /// When there is no such file, or its attributes are damaged.
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Option<&[u8]>> {
        self.data.answer(self.search_xattr(inode, name))
    }

    fn search_xattr(&self, inode: InodeId, name: &[u8]) -> Result<Option<&[u8]>> {
        for attribute in self.set(self.read_inode(inode)?.xattrs)? {
            let (key, value) = attribute.map_err(|_| self.data.damaged("extended attributes"))?;
            if key == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// All extended attributes of a file, sorted by name.
    ///
    /// # Errors
    /// When there is no such file, or its attributes are damaged.
    pub fn xattrs(&self, inode: InodeId) -> Result<Vec<(&[u8], &[u8])>> {
        self.data.answer(self.read_xattrs(inode))
    }

    fn read_xattrs(&self, inode: InodeId) -> Result<Vec<(&[u8], &[u8])>> {
        self.set(self.read_inode(inode)?.xattrs)?
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| self.data.damaged("extended attributes"))
    }

    /// The bytes of an attribute set.
    fn set_bytes(&self, set: u32) -> Result<&[u8]> {
        if set == NONE {
            return Ok(&[]);
        }
        let starts = self.data.bytes(Section::SetStarts, set.into(), 2)?;
        let Some(starts) = starts.first_chunk::<8>() else {
            return Err(self.data.damaged("extended attributes"));
        };
        let (start, end) = (u32_at(starts, 0), u32_at(starts, 4));
        let length = end
            .checked_sub(start)
            .ok_or_else(|| self.data.damaged("extended attributes"))?;
        self.data.bytes(Section::SetBytes, start.into(), length.into())
    }

    /// The bytes of a file's attribute set.
    pub(super) fn set_of(&self, inode: InodeId) -> Result<&[u8]> {
        self.read_xattrs(inode)?; // sound
        self.data.answer(self.set_bytes(self.read_inode(inode)?.xattrs))
    }

    /// Number of attribute sets.
    pub(super) fn set_count(&self) -> u32 {
        self.count(Section::SetStarts).saturating_sub(1)
    }

    fn set(&self, set: u32) -> Result<Attributes<'_>> {
        self.set_bytes(set).map(Attributes)
    }

    /// Where the content of a regular file lies.
    ///
    /// # Errors
    /// When the file is none, or a record is damaged.
    pub fn place(&self, inode: InodeId) -> Result<Place<'_>> {
        match self.content_of(inode)? {
            None => Ok(Place::Empty),
            Some(content) => Ok(self.content(content)?.0),
        }
    }

    /// The content of a regular file; `None` when it is empty or one hole.
    ///
    /// # Errors
    /// When the file is none, or its record is damaged.
    pub fn content_of(&self, inode: InodeId) -> Result<Option<ContentId>> {
        let attributes = self.inode(inode)?;
        if attributes.file_type() != FileType::Regular {
            return Err(self.data.no_such("regular file", inode.0));
        }
        Ok((attributes.first != NONE).then_some(ContentId(attributes.first)))
    }

    /// Where a content lies, and its size.
    ///
    /// # Errors
    /// When there is no such content, or its record is damaged.
    pub fn content(&self, content: ContentId) -> Result<(Place<'_>, u64)> {
        self.data.answer(self.read_content(content))
    }

    fn content_record(&self, content: ContentId) -> Result<(ContentRecord, &Sha256)> {
        if content.0 >= self.content_count() {
            return Err(self.data.no_such("content", content.0));
        }
        let broken = || self.data.damaged("content record");
        let bytes: &[u8; 64] = self.data.record(Section::Contents, content.0.into())?;
        let record = ContentRecord::decode(bytes).ok_or_else(broken)?;
        if usize::from(record.layer) >= self.layers.len() || record.offset.checked_add(record.size).is_none()
        {
            return Err(broken());
        }
        Ok((record, bytes.first_chunk().ok_or_else(broken)?))
    }

    fn read_content(&self, content: ContentId) -> Result<(Place<'_>, u64)> {
        let (record, digest) = self.content_record(content)?;
        let place = match record.storage {
            Storage::Pack => Place::Pack {
                layer: record.layer,
                offset: record.offset,
                sum: record.sum,
                digest,
            },
            Storage::Object => Place::Object { digest },
            Storage::Stream => Place::Stream {
                layer: record.layer,
                pieces: self.pieces(&record)?,
            },
        };
        Ok((place, record.size))
    }

    fn pieces(&self, record: &ContentRecord) -> Result<Pieces<'_>> {
        let bytes = self.data.bytes(Section::Pieces, record.offset, record.sum)?;
        let pieces = Pieces(bytes.as_chunks().0);
        let mut end = 0;
        for piece in pieces {
            let next = piece.at.checked_add(piece.length);
            let source = piece.from.checked_add(piece.length);
            match (next, source) {
                (Some(next), Some(_)) if piece.at >= end && piece.length > 0 && next <= record.size => {
                    end = next;
                }
                _ => return Err(self.data.damaged("stretches of a content")),
            }
        }
        Ok(pieces)
    }

    /// Whether a content that is an object of this digest is named here.
    ///
    /// # Errors
    /// When the table of objects is damaged.
    pub fn has_object(&self, digest: &Sha256) -> Result<bool> {
        let (mut low, mut high) = (0, self.data.count(Section::Objects));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.object_at(middle)?.cmp(digest) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return self.data.answer(Ok(true)),
            }
        }
        self.data.answer(Ok(false))
    }

    fn object_at(&self, at: u64) -> Result<&Sha256> {
        self.data.record(Section::Objects, at)
    }

    /// The digests of all contents that are objects, sorted, each once.
    #[must_use]
    pub fn objects(&self) -> Objects<'_> {
        Objects {
            index: self,
            next: 0,
            end: self.data.count(Section::Objects),
        }
    }
}

/// The names of a directory, sorted. After an error it ends.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    index: &'a Index,
    dir: InodeId,
    next: u32,
    end: u32,
}

impl Entries<'_> {
    /// The entry after the last one.
    pub(super) fn end_entry(&self) -> u32 {
        self.end
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a [u8], Found)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let entry = self.next;
        self.next += 1;
        let found = self
            .index
            .data
            .answer(self.index.read_entry(entry, Some(self.dir)));
        if found.is_err() {
            self.next = self.end;
        }
        Some(found)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.saturating_sub(self.next) as usize;
        (left.min(1), Some(left))
    }
}

/// The digests of objects, sorted. After an error it ends.
#[derive(Debug, Clone)]
pub struct Objects<'a> {
    index: &'a Index,
    next: u64,
    end: u64,
}

impl<'a> Iterator for Objects<'a> {
    type Item = Result<&'a Sha256>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let digest = self.index.data.answer(self.index.object_at(self.next));
        self.next = if digest.is_err() { self.end } else { self.next + 1 };
        Some(digest)
    }
}

/// The stretches of a content, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces<'a>(&'a [[u8; 24]]);

impl Pieces<'_> {
    /// The stretch that holds the byte `at` of the file or, when that lies in a hole, the next one after it. Iterating
    /// goes on from there.
    #[must_use]
    pub fn from(self, at: u64) -> Self {
        let skip = self
            .0
            .partition_point(|piece| u64_at(piece, 0).saturating_add(u64_at(piece, 16)) <= at);
        Self(&self.0[skip..])
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let (piece, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(Piece {
            at: u64_at(piece, 0),
            from: u64_at(piece, 8),
            length: u64_at(piece, 16),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl ExactSizeIterator for Pieces<'_> {}

/// The attributes of a set, in their order.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = std::result::Result<(&'a [u8], &'a [u8]), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let read = || {
            let (lengths, rest) = bytes.split_first_chunk::<6>()?;
            let name = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
            let value = usize::try_from(u32_at(lengths, 2)).ok()?;
            let (name, rest) = rest.split_at_checked(name)?;
            let (value, rest) = rest.split_at_checked(value)?;
            (!name.is_empty() && !name.contains(&0)).then_some(((name, value), rest))
        };
        let Some((attribute, rest)) = read() else {
            return Some(Err(()));
        };
        self.0 = rest;
        Some(Ok(attribute))
    }
}
