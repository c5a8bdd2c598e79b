//! What a merged index will hold: where each record comes from, and the tables that are new.

use hashbrown::HashTable;

use crate::attr::FileType;
use crate::index::format::{NONE, type_code};
use crate::index::sets::Sets;
use crate::index::{ContentId, EntryId, Index, IndexError, Inode, InodeId, Kind, NO_ORIGIN, Place, Sha256};

/// Which of the merged indexes, bottom first.
pub(super) type Source = u16;

/// No source: made up.
pub(super) const NOWHERE: Source = Source::MAX;

/// What an entry is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// As this entry of the source.
    Same(EntryId),
    /// `.wh.` and the name of this entry of the source.
    Marker(EntryId),
    /// `.wh..wh..opq`.
    Opaque,
    /// One of [`Merged::own_names`].
    Own(u32),
}

/// Merged layers, ready to be written. It borrows the indexes it was made from.
#[derive(Debug)]
pub struct Merged<'a> {
    kind: Kind,
    pub(super) sources: Vec<&'a Index>,
    pub(super) layers: Vec<Sha256>,
    /// Number of each source's first layer in `layers`.
    pub(super) bases: Vec<u16>,
    pub(super) entries: Vec<Entry>,
    pub(super) directories: Vec<Directory>,
    pub(super) others: Vec<Other>,
    /// Source and number there of each content.
    pub(super) contents: Vec<(Source, ContentId)>,
    pub(super) objects: Vec<Sha256>,
    pub(super) sets: Sets,
    pub(super) own_names: Vec<Vec<u8>>,
    pub(super) name_bytes: u64,
    pub(super) target_bytes: u64,
    pub(super) piece_count: u64,
    /// For each source, the new numbers of its contents and attribute sets.
    content_numbers: Vec<Vec<u32>>,
    set_numbers: Vec<Vec<u32>>,
    /// Files with several names, by source and number there.
    linked: HashTable<u32>,
}

/// An entry of the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) source: Source,
    pub(super) file_type: u8,
    /// Number among the directories or among the others; [`NONE`] for a whiteout.
    pub(super) number: u32,
}

/// A directory of the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    /// [`NONE`]: made up.
    pub(super) inode: u32,
    pub(super) entry: u32,
    pub(super) count: u32,
    pub(super) subdirectories: u32,
    pub(super) source: Source,
    pub(super) opaque: bool,
}

/// Any other file of the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Other {
    /// [`NONE`]: made up, empty.
    pub(super) inode: u32,
    pub(super) entry: u32,
    pub(super) nlink: u32,
    pub(super) source: Source,
}

fn too_large(what: &str) -> IndexError {
    IndexError::Merge(format!("too many {what} for one index"))
}

/// A length as the number of the next element.
fn number(length: usize, what: &str) -> Result<u32, IndexError> {
    u32::try_from(length)
        .ok()
        .filter(|&number| number < NONE - 1)
        .ok_or_else(|| too_large(what))
}

fn hash(source: Source, inode: u32) -> u64 {
    let mixed = (u64::from(source) << 32 | u64::from(inode)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

impl<'a> Merged<'a> {
    pub(super) fn new(sources: &[&'a Index], kind: Kind) -> Result<Self, IndexError> {
        if sources.len() >= usize::from(NOWHERE) {
            return Err(too_large("layers"));
        }
        let mut layers = Vec::new();
        let mut bases = Vec::new();
        for source in sources {
            bases.push(u16::try_from(layers.len()).map_err(|_| too_large("layers"))?);
            layers.extend_from_slice(source.layers());
        }
        if layers.len() > usize::from(u16::MAX) {
            return Err(too_large("layers"));
        }
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        Ok(Self {
            kind,
            sources: sources.to_vec(),
            layers,
            bases,
            entries: Vec::new(),
            directories: Vec::new(),
            others: Vec::new(),
            contents: Vec::new(),
            objects: Vec::new(),
            sets: Sets::new(seed),
            own_names: Vec::new(),
            name_bytes: 0,
            target_bytes: 0,
            piece_count: 0,
            content_numbers: vec![Vec::new(); sources.len()],
            set_numbers: vec![Vec::new(); sources.len()],
            linked: HashTable::new(),
        })
    }

    /// What it will be.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its layers, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Sha256] {
        &self.layers
    }

    /// Number of files, directories included.
    #[must_use]
    pub fn inode_count(&self) -> u32 {
        u32::try_from(self.directories.len() + self.others.len()).unwrap_or(NONE)
    }

    pub(super) fn source_count(&self) -> Source {
        // checked when it was made
        Source::try_from(self.sources.len()).unwrap_or(NOWHERE)
    }

    pub(super) fn index(&self, source: Source) -> &'a Index {
        self.sources[usize::from(source)]
    }

    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// The root directory, with the attributes of a source's directory or made up.
    pub(super) fn root(&mut self, of: Option<(Source, InodeId)>) -> Result<(), IndexError> {
        self.entries.push(Entry {
            name: Name::Own(NONE),
            source: NOWHERE,
            file_type: type_code(FileType::Directory),
            number: 0,
        });
        self.push_directory(of, 0)
    }

    fn push_directory(&mut self, of: Option<(Source, InodeId)>, entry: u32) -> Result<(), IndexError> {
        if let Some((source, inode)) = of {
            let attributes = self.index(source).inode(inode)?;
            self.note_set(source, inode, &attributes)?;
        }
        self.directories.push(Directory {
            inode: of.map_or(NONE, |(_, inode)| inode.0),
            entry,
            count: 0,
            subdirectories: 0,
            source: of.map_or(NOWHERE, |(source, _)| source),
            opaque: false,
        });
        Ok(())
    }

    /// Marks the directory pushed last.
    pub(super) fn end_directory(&mut self, opaque: bool) {
        if let Some(directory) = self.directories.last_mut() {
            directory.opaque = opaque;
        }
    }

    /// The entries pushed since `first_entry` are those of a directory.
    pub(super) fn set_count(&mut self, directory: usize, first_entry: usize) {
        let entries = &self.entries[first_entry..];
        let is_dir = |entry: &&Entry| entry.file_type == type_code(FileType::Directory);
        // as many as entries, whose number fits
        self.directories[directory].count = u32::try_from(entries.len()).unwrap_or(NONE);
        self.directories[directory].subdirectories =
            u32::try_from(entries.iter().filter(is_dir).count()).unwrap_or(NONE);
    }

    fn push_entry(&mut self, entry: Entry, name_bytes: usize) -> Result<u32, IndexError> {
        let at = number(self.entries.len(), "names")?;
        self.name_bytes += name_bytes as u64;
        if self.name_bytes + self.target_bytes > u64::from(u32::MAX) {
            return Err(too_large("bytes of names"));
        }
        self.entries.push(entry);
        Ok(at)
    }

    /// A directory with the attributes of a source's.
    pub(super) fn directory(
        &mut self,
        source: Source,
        place: Name,
        name: &[u8],
        inode: InodeId,
    ) -> Result<(), IndexError> {
        let entry = Entry {
            name: place,
            source,
            file_type: type_code(FileType::Directory),
            number: number(self.directories.len(), "directories")?,
        };
        let at = self.push_entry(entry, name.len())?;
        self.push_directory(Some((source, inode)), at)
    }

    /// A whiteout.
    pub(super) fn whiteout(&mut self, source: Source, place: Name, name: &[u8]) -> Result<(), IndexError> {
        let entry = Entry {
            name: place,
            source,
            file_type: type_code(FileType::CharDevice),
            number: NONE,
        };
        self.push_entry(entry, name.len()).map(|_| ())
    }

    /// An empty file that stands for a marker of a source.
    pub(super) fn marker(&mut self, source: Source, place: Name, name: &[u8]) -> Result<(), IndexError> {
        let new = number(self.others.len(), "files")?;
        let entry = Entry {
            name: place,
            source,
            file_type: type_code(FileType::Regular),
            number: new,
        };
        let entry = self.push_entry(entry, name.len())?;
        self.others.push(Other {
            inode: NONE,
            entry,
            nlink: 1,
            source,
        });
        Ok(())
    }

    /// A file that is no directory.
    pub(super) fn file(
        &mut self,
        source: Source,
        place: Name,
        name: &[u8],
        inode: InodeId,
        file_type: FileType,
    ) -> Result<(), IndexError> {
        let index = self.index(source);
        let attributes = index.inode(inode)?;
        if attributes.file_type() != file_type {
            return Err(index.broken("type of an entry"));
        }
        let linked = attributes.nlink > 1;
        let others = &self.others;
        let same = |&number: &u32| {
            let other = &others[number as usize];
            (other.source, other.inode) == (source, inode.0)
        };
        let known = linked
            .then(|| self.linked.find(hash(source, inode.0), same).copied())
            .flatten();
        let number = match known {
            Some(known) => known,
            None => number(self.others.len(), "files")?,
        };
        let entry = Entry {
            name: place,
            source,
            file_type: type_code(file_type),
            number,
        };
        let entry = self.push_entry(entry, name.len())?;
        if let Some(known) = known {
            self.others[known as usize].nlink += 1;
            return Ok(());
        }
        self.others.push(Other {
            inode: inode.0,
            entry,
            nlink: 1,
            source,
        });
        if linked {
            let others = &self.others;
            self.linked
                .insert_unique(hash(source, inode.0), number, |&number| {
                    let other = &others[number as usize];
                    hash(other.source, other.inode)
                });
        }
        self.note_set(source, inode, &attributes)?;
        match file_type {
            FileType::Regular => self.note_content(source, &attributes),
            FileType::Symlink => {
                self.target_bytes += index.link_target(inode)?.len() as u64;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes over a file's attribute set.
    fn note_set(&mut self, source: Source, inode: InodeId, attributes: &Inode) -> Result<(), IndexError> {
        let index = self.index(source);
        let set = attributes.xattrs;
        if set == NONE
            || slot(&mut self.set_numbers, source, set, index.set_count())
                .ok_or_else(|| index.broken("attribute set of a file"))
                .is_ok_and(|slot| *slot != NONE)
        {
            return Ok(());
        }
        let bytes = index.set_of(inode)?;
        let new = self
            .sets
            .add(bytes)
            .ok_or_else(|| too_large("extended attributes"))?;
        if let Some(slot) = slot(&mut self.set_numbers, source, set, index.set_count()) {
            *slot = new;
        }
        Ok(())
    }

    /// Takes over a file's content.
    fn note_content(&mut self, source: Source, attributes: &Inode) -> Result<(), IndexError> {
        if attributes.first == NONE {
            return Ok(());
        }
        let (index, content) = (self.index(source), ContentId(attributes.first));
        let new = number(self.contents.len(), "contents")?;
        let slot = slot(
            &mut self.content_numbers,
            source,
            content.0,
            index.content_count(),
        )
        .ok_or_else(|| index.broken("content of a file"))?;
        if *slot != NONE {
            return Ok(());
        }
        *slot = new;
        self.contents.push((source, content));
        match index.content(content)?.0 {
            Place::Object { digest } => self.objects.push(*digest),
            Place::Stream { pieces, .. } => self.piece_count += pieces.len() as u64,
            Place::Pack { .. } | Place::Empty => {}
        }
        Ok(())
    }

    /// The new number of a source's content or attribute set.
    pub(super) fn content_number(&self, source: Source, content: ContentId) -> u32 {
        let numbers = &self.content_numbers[usize::from(source)];
        numbers.get(content.0 as usize).copied().unwrap_or(NONE)
    }

    pub(super) fn set_number(&self, source: Source, set: u32) -> u32 {
        let numbers = &self.set_numbers[usize::from(source)];
        numbers.get(set as usize).copied().unwrap_or(NONE)
    }

    /// Ends the merge.
    pub(super) fn seal(mut self) -> Self {
        self.objects.sort_unstable();
        self.objects.dedup();
        self.linked = HashTable::new();
        self
    }

    /// Which layer and number there a file of the result comes from.
    pub(super) fn origin(&self, source: Source, inode: u32) -> Result<(u16, u32), IndexError> {
        if source == NOWHERE {
            return Ok((0, NO_ORIGIN));
        }
        let base = self.bases[usize::from(source)];
        if inode == NONE {
            return Ok((base, NO_ORIGIN));
        }
        let attributes = self.index(source).inode(InodeId(inode))?;
        Ok((base + attributes.layer, attributes.origin))
    }
}

/// The place of a new number in a source's table, which is made at the first use.
fn slot(tables: &mut [Vec<u32>], source: Source, old: u32, count: u32) -> Option<&mut u32> {
    let table = &mut tables[usize::from(source)];
    if table.is_empty() {
        table.resize(count as usize, NONE);
    }
    table.get_mut(old as usize)
}
