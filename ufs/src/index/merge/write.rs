//! Writing merged layers: the records are read from their sources once more.

use std::borrow::Cow;
use std::io::{self, Write};

use super::plan::{Directory, Entry, Merged, NOWHERE, Name, Other, Source};
use crate::attr::FileType;
use crate::index::emit::{Emitter, Parents};
use crate::index::format::{
    ContentRecord, EntryRecord, InodeRecord, NONE, OPAQUE, SECTIONS, Section, Storage, prefix, type_bits,
    type_code,
};
use crate::index::{ContentId, IndexError, InodeId, NO_ORIGIN, Place};
use crate::layer::whiteout::{OPAQUE_NAME, PREFIX};

/// Permissions of directories and files that no layer holds.
const MADE_UP_DIRECTORY: u32 = 0o755;
const MADE_UP_FILE: u32 = 0o644;

type Result<T> = std::result::Result<T, IndexError>;

impl Merged<'_> {
    /// Writes the index. The writer needs no buffer of its own.
    ///
    /// # Errors
    /// When `out` cannot be written, or one of the sources is damaged.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (origins, links) = (self.origins().map_err(io::Error::other)?, self.links());
        let mut counts = [0; SECTIONS];
        for (section, count) in [
            (Section::Layers, self.layers.len() as u64),
            (Section::Inodes, u64::from(self.inode_count())),
            (Section::Entries, self.entries.len() as u64),
            (Section::Names, self.name_bytes + self.target_bytes),
            (Section::SetStarts, self.sets.start_count()),
            (Section::SetBytes, self.sets.byte_count()),
            (Section::Contents, self.contents.len() as u64),
            (Section::Pieces, self.piece_count),
            (Section::Objects, self.objects.len() as u64),
            (Section::Origins, origins.len() as u64),
            (Section::Links, links.len() as u64),
        ] {
            counts[section as usize] = count;
        }
        let directories = u32::try_from(self.directories.len()).unwrap_or(NONE);
        let mut emitter = Emitter::new(out, self.kind(), directories, counts)?;
        emitter.section(Section::Layers)?;
        emitter.put(self.layers.as_flattened())?;
        self.write_inodes(&mut emitter)?;
        self.write_entries(&mut emitter)?;
        self.write_names(&mut emitter)?;
        emitter.sets(&self.sets)?;
        self.write_contents(&mut emitter)?;
        emitter.section(Section::Objects)?;
        emitter.put(self.objects.as_flattened())?;
        emitter.section(Section::Origins)?;
        for (_, number) in &origins {
            emitter.put(&number.to_le_bytes())?;
        }
        emitter.links(&links)?;
        emitter.finish()
    }

    /// The files by layer and number there: both in one number, and the number here.
    fn origins(&self) -> Result<Vec<(u64, u32)>> {
        let mut origins = Vec::with_capacity(self.directories.len() + self.others.len());
        let directories = self.directories.iter().map(|file| (file.source, file.inode));
        let others = self.others.iter().map(|file| (file.source, file.inode));
        for (number, (source, inode)) in (0..).zip(directories.chain(others)) {
            let (layer, origin) = self.origin(source, inode)?;
            if origin != NO_ORIGIN {
                origins.push((u64::from(layer) << 32 | u64::from(origin), number));
            }
        }
        // made of a few ascending runs, which this sort is good at
        origins.sort();
        Ok(origins)
    }

    /// File and entry of each name of a file that has several, sorted.
    fn links(&self) -> Vec<(u32, u32)> {
        let first = u32::try_from(self.directories.len()).unwrap_or(NONE);
        let mut links: Vec<(u32, u32)> = (0..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.file_type != type_code(FileType::Directory) && entry.number != NONE)
            .filter(|(_, entry)| self.others[entry.number as usize].nlink > 1)
            .map(|(at, entry)| (first + entry.number, at))
            .collect();
        links.sort_unstable();
        links
    }

    /// The record of a source's file, with what does not depend on its place here.
    fn record(&self, source: Source, inode: u32, made_up: u32) -> Result<InodeRecord> {
        if source == NOWHERE || inode == NONE {
            let (layer, origin) = self.origin(source, inode)?;
            return Ok(InodeRecord {
                mode: made_up,
                uid: 0,
                gid: 0,
                nlink: 1,
                size: 0,
                secs: 0,
                nanos: 0,
                layer,
                flags: 0,
                origin,
                entry: 0,
                xattrs: NONE,
                first: 0,
                count: 0,
                parent: 0,
            });
        }
        let inode = self.index(source).inode(InodeId(inode))?;
        let device = matches!(inode.file_type(), FileType::CharDevice | FileType::BlockDevice);
        Ok(InodeRecord {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: 1,
            size: if device { inode.rdev } else { inode.size_bytes },
            secs: inode.mtime.secs,
            nanos: inode.mtime.nanos,
            layer: self.bases[usize::from(source)] + inode.layer,
            flags: 0,
            origin: inode.origin,
            entry: 0,
            xattrs: match inode.xattrs {
                NONE => NONE,
                set => self.set_number(source, set),
            },
            first: inode.first,
            count: inode.count,
            parent: 0,
        })
    }

    fn directory_record(&self, directory: &Directory, first: u32) -> Result<InodeRecord> {
        let made_up = type_bits(FileType::Directory) | MADE_UP_DIRECTORY;
        let record = self.record(directory.source, directory.inode, made_up)?;
        Ok(InodeRecord {
            nlink: 2 + directory.subdirectories,
            flags: if directory.opaque { OPAQUE } else { 0 },
            entry: directory.entry,
            first,
            count: directory.count,
            ..record
        })
    }

    fn other_record(&self, other: &Other, target: &mut u32) -> Result<InodeRecord> {
        let made_up = type_bits(FileType::Regular) | MADE_UP_FILE;
        let mut record = self.record(other.source, other.inode, made_up)?;
        record.nlink = other.nlink;
        record.entry = other.entry;
        match FileType::from_mode(record.mode) {
            FileType::Regular if other.inode == NONE || record.first == NONE => record.first = NONE,
            FileType::Regular => record.first = self.content_number(other.source, ContentId(record.first)),
            FileType::Symlink => {
                record.first = *target;
                *target += record.count;
            }
            _ => (record.first, record.count) = (0, 0),
        }
        Ok(record)
    }

    fn write_inodes<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        emitter.section(Section::Inodes)?;
        let counts = || self.directories.iter().map(|directory| directory.count);
        let (mut first, mut parents) = (1, Parents::new(counts()));
        for directory in &self.directories {
            let mut record = self
                .directory_record(directory, first)
                .map_err(io::Error::other)?;
            record.parent = parents.of(directory.entry);
            first += directory.count;
            emitter.put(&record.encode())?;
        }
        let mut target = u32::try_from(self.name_bytes).unwrap_or(NONE);
        let mut parents = Parents::new(counts());
        for other in &self.others {
            let mut record = self.other_record(other, &mut target).map_err(io::Error::other)?;
            record.parent = parents.of(other.entry);
            emitter.put(&record.encode())?;
        }
        Ok(())
    }

    /// The name of an entry.
    fn name(&self, entry: &Entry) -> Result<Cow<'_, [u8]>> {
        let of = |name| self.index(entry.source).entry_name(name);
        Ok(match entry.name {
            Name::Same(name) => Cow::Borrowed(of(name)?),
            Name::Marker(name) => Cow::Owned([PREFIX, of(name)?].concat()),
            Name::Opaque => Cow::Borrowed(OPAQUE_NAME.as_bytes()),
            Name::Own(NONE) => Cow::Borrowed(b""),
            Name::Own(name) => Cow::Borrowed(&self.own_names[name as usize]),
        })
    }

    fn write_entries<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        emitter.section(Section::Entries)?;
        let directories = u32::try_from(self.directories.len()).unwrap_or(NONE);
        let mut start = 0u32;
        for entry in &self.entries {
            let name = self.name(entry).map_err(io::Error::other)?;
            let record = EntryRecord {
                name: start,
                inode: match entry.number {
                    NONE => NONE,
                    number if entry.file_type == type_code(FileType::Directory) => number,
                    number => directories + number,
                },
                prefix: prefix(&name),
                // checked when the name was read
                name_bytes: u16::try_from(name.len()).unwrap_or(u16::MAX),
                file_type: entry.file_type,
            };
            start = start.wrapping_add(u32::from(record.name_bytes));
            emitter.put(&record.encode())?;
        }
        Ok(())
    }

    fn write_names<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        emitter.section(Section::Names)?;
        for entry in &self.entries {
            emitter.put(&self.name(entry).map_err(io::Error::other)?)?;
        }
        for other in &self.others {
            if self.entries[other.entry as usize].file_type == type_code(FileType::Symlink) {
                let index = self.index(other.source);
                let target = index.link_target(InodeId(other.inode));
                emitter.put(target.map_err(io::Error::other)?)?;
            }
        }
        Ok(())
    }

    fn write_contents<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        emitter.section(Section::Contents)?;
        let mut first_piece = 0;
        for &(source, content) in &self.contents {
            let (place, size) = self.index(source).content(content).map_err(io::Error::other)?;
            let record = self.content_record(source, &place, size, &mut first_piece);
            emitter.put(&record.encode())?;
        }
        emitter.section(Section::Pieces)?;
        for &(source, content) in &self.contents {
            if let (Place::Stream { pieces, .. }, _) =
                self.index(source).content(content).map_err(io::Error::other)?
            {
                for piece in pieces {
                    emitter.piece(&piece)?;
                }
            }
        }
        Ok(())
    }

    fn content_record(
        &self,
        source: Source,
        place: &Place<'_>,
        size: u64,
        first_piece: &mut u64,
    ) -> ContentRecord {
        let base = self.bases[usize::from(source)];
        let record = |storage, digest, layer, offset, sum| ContentRecord {
            digest,
            offset,
            sum,
            size,
            layer,
            storage,
        };
        match place {
            Place::Pack {
                layer,
                offset,
                sum,
                digest,
            } => record(Storage::Pack, **digest, base + *layer, *offset, *sum),
            Place::Object { digest } => record(Storage::Object, **digest, 0, 0, 0),
            Place::Stream { layer, pieces } => {
                let first = *first_piece;
                *first_piece += pieces.len() as u64;
                record(
                    Storage::Stream,
                    [0; 32],
                    base + *layer,
                    first,
                    pieces.len() as u64,
                )
            }
            // a content is always somewhere
            Place::Empty => record(Storage::Stream, [0; 32], 0, *first_piece, 0),
        }
    }
}
