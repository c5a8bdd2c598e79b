//! Writing a finished layer.

use std::io::{self, Write};

use super::Finished;
use super::tree::State;
use crate::attr::FileType;
use crate::index::emit::{Emitter, Parents};
use crate::index::format::{
    EntryRecord, InodeRecord, NONE, OPAQUE, SECTIONS, Section, prefix, type_code, type_of,
};
use crate::index::{Kind, Sha256};

impl Finished {
    /// Sum of the sizes of regular files, each counted once.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of files, directories included.
    #[must_use]
    pub fn inode_count(&self) -> u32 {
        u32::try_from(self.order.directories.len() + self.order.others.len()).unwrap_or(NONE)
    }

    /// Writes the index. The writer needs no buffer of its own.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(&self, layer: &Sha256, out: &mut impl Write) -> io::Result<()> {
        let (order, tree) = (&self.order, &self.tree);
        let objects = tree.contents.objects();
        let mut counts = [0; SECTIONS];
        for (section, count) in [
            (Section::Layers, 1),
            (Section::Inodes, u64::from(self.inode_count())),
            (Section::Entries, order.entries.len() as u64),
            (Section::Names, order.name_bytes),
            (Section::SetStarts, tree.sets.start_count()),
            (Section::SetBytes, tree.sets.byte_count()),
            (Section::Contents, tree.contents.len()),
            (Section::Pieces, tree.contents.pieces.len() as u64),
            (Section::Objects, objects.len() as u64),
            (Section::Links, order.links.len() as u64),
        ] {
            counts[section as usize] = count;
        }
        let directories = u32::try_from(order.directories.len()).unwrap_or(NONE);
        let mut emitter = Emitter::new(out, Kind::Layer, directories, counts)?;
        emitter.section(Section::Layers)?;
        emitter.put(layer)?;
        self.inodes(&mut emitter)?;
        self.entries(&mut emitter)?;
        self.names(&mut emitter)?;
        emitter.sets(&tree.sets)?;
        emitter.section(Section::Contents)?;
        for record in tree.contents.records() {
            emitter.put(&record.encode())?;
        }
        emitter.section(Section::Pieces)?;
        for piece in &tree.contents.pieces {
            emitter.piece(piece)?;
        }
        emitter.section(Section::Objects)?;
        emitter.put(objects.as_flattened())?;
        emitter.links(&order.links)?;
        emitter.finish()
    }

    fn inodes<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        let order = &self.order;
        emitter.section(Section::Inodes)?;
        let mut origin = 0;
        let mut next_entry = 1;
        let mut parents = Parents::new(order.counts.iter().copied());
        for (&(file, entry), &count) in order.directories.iter().zip(&order.counts) {
            let mut record = self.inode(file, origin, entry);
            if record.first == 1 {
                record.flags = OPAQUE;
            }
            (record.first, record.count) = (next_entry, count);
            record.parent = parents.of(entry);
            next_entry += count;
            origin += 1;
            emitter.put(&record.encode())?;
        }
        // targets of links follow the names
        let names = order.entries.iter().map(|&node| {
            let node = &self.tree.nodes[node as usize];
            u64::from(node.name_bytes)
        });
        let mut target = u32::try_from(names.sum::<u64>()).unwrap_or(NONE);
        let mut parents = Parents::new(order.counts.iter().copied());
        for &(file, entry) in &order.others {
            let mut record = self.inode(file, origin, entry);
            record.parent = parents.of(entry);
            match FileType::from_mode(record.mode) {
                FileType::Regular => {}
                FileType::Symlink => {
                    record.count = u32::try_from(record.size).unwrap_or(NONE);
                    record.first = target;
                    target += record.count;
                }
                _ => record.first = 0,
            }
            origin += 1;
            emitter.put(&record.encode())?;
        }
        Ok(())
    }

    /// A record as far as it does not depend on the type.
    fn inode(&self, file: u32, origin: u32, entry: u32) -> InodeRecord {
        let file = self.tree.files[file as usize];
        let [mode, uid, gid, xattrs] = self.tree.owners[file.owner as usize];
        InodeRecord {
            mode,
            uid,
            gid,
            nlink: file.nlink,
            size: file.size,
            secs: file.secs,
            nanos: file.nanos,
            layer: 0,
            flags: 0,
            origin,
            entry,
            xattrs,
            first: file.part,
            count: 0,
            parent: 0,
        }
    }

    fn entries<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        let tree = &self.tree;
        emitter.section(Section::Entries)?;
        let mut start = 0;
        for &node in &self.order.entries {
            let node = &tree.nodes[node as usize];
            let mut record = EntryRecord {
                name: start,
                inode: NONE,
                prefix: prefix(tree.name(node)),
                name_bytes: node.name_bytes.into(),
                file_type: type_code(FileType::CharDevice),
            };
            if node.state == State::File {
                let owner = tree.files[node.file as usize].owner;
                record.inode = self.order.numbers[node.file as usize];
                let file_type = type_of(tree.owners[owner as usize][0] >> 12);
                record.file_type = file_type.map_or(0, type_code);
            }
            start += u32::from(node.name_bytes);
            emitter.put(&record.encode())?;
        }
        Ok(())
    }

    fn names<W: Write>(&self, emitter: &mut Emitter<'_, W>) -> io::Result<()> {
        let tree = &self.tree;
        emitter.section(Section::Names)?;
        for &node in &self.order.entries {
            emitter.put(tree.name(&tree.nodes[node as usize]))?;
        }
        for &(file, _) in &self.order.others {
            let file = tree.files[file as usize];
            if FileType::from_mode(tree.owners[file.owner as usize][0]) == FileType::Symlink {
                let start = file.part as usize;
                let length = usize::try_from(file.size).unwrap_or(0);
                emitter.put(&tree.bytes[start..start + length])?;
            }
        }
        Ok(())
    }
}
