//! Writing an index in one pass: what is put is gathered in blocks, summed and written.

use std::io::{self, Write};

use twox_hash::XxHash3_64;

use super::format::{BLOCK_BYTES, END_MAGIC, HEADER_BYTES, Header, Layout, SECTIONS, Section};
use super::sets::Sets;
use super::{Kind, Piece};

/// Finds the directories that ascending entries are in.
pub(super) struct Parents<I> {
    counts: I,
    directory: u32,
    /// The entry after those of the directory.
    end: u32,
}

impl<I: Iterator<Item = u32>> Parents<I> {
    /// From the numbers of entries of all directories.
    pub(super) fn new(mut counts: I) -> Self {
        let first = counts.next().unwrap_or(0);
        Self {
            counts,
            directory: 0,
            end: 1 + first,
        }
    }

    /// The directory of an entry that does not come before the last one asked for.
    pub(super) fn of(&mut self, entry: u32) -> u32 {
        while entry >= self.end {
            let Some(count) = self.counts.next() else { break };
            self.directory += 1;
            self.end += count;
        }
        self.directory
    }
}

/// A file being written. Sections come in their order, with as many records as were announced.
pub(super) struct Emitter<'a, W: Write> {
    out: &'a mut W,
    header: [u8; HEADER_BYTES],
    layout: Layout,
    block: Vec<u8>,
    sums: Vec<u8>,
    written: u64,
}

impl<'a, W: Write> Emitter<'a, W> {
    /// Starts a file with these numbers of records.
    pub(super) fn new(
        out: &'a mut W,
        kind: Kind,
        directories: u32,
        counts: [u64; SECTIONS],
    ) -> io::Result<Self> {
        let layout = Layout::new(counts).ok_or_else(|| io::Error::other("the index would be too large"))?;
        let header = Header {
            kind,
            directories,
            layout,
        };
        let mut emitter = Self {
            out,
            header: header.encode(),
            layout,
            block: Vec::with_capacity(BLOCK_BYTES),
            sums: Vec::new(),
            written: 0,
        };
        let header = emitter.header;
        emitter.put(&header)?;
        Ok(emitter)
    }

    fn at(&self) -> u64 {
        self.written + self.block.len() as u64
    }

    /// Begins the next section.
    pub(super) fn section(&mut self, section: Section) -> io::Result<()> {
        self.pad(self.layout.starts[section as usize])
    }

    /// Fills up to where the next part starts; the part before must have been complete.
    fn pad(&mut self, start: u64) -> io::Result<()> {
        match start.checked_sub(self.at()) {
            Some(gap @ 0..64) => self.put(&[0; 64][..usize::try_from(gap).unwrap_or(0)]),
            _ => Err(io::Error::other(
                "a section of the index has another length than announced",
            )),
        }
    }

    /// Writes bytes of the present section.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK_BYTES - self.block.len());
            self.block.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.block.len() == BLOCK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes the sections of attribute sets.
    pub(super) fn sets(&mut self, sets: &Sets) -> io::Result<()> {
        self.section(Section::SetStarts)?;
        for start in sets.starts() {
            self.put(&start.to_le_bytes())?;
        }
        self.section(Section::SetBytes)?;
        self.put(sets.bytes())
    }

    /// Writes one stretch.
    pub(super) fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        for number in [piece.at, piece.from, piece.length] {
            self.put(&number.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes the section of links.
    pub(super) fn links(&mut self, links: &[(u32, u32)]) -> io::Result<()> {
        self.section(Section::Links)?;
        for (inode, entry) in links {
            self.put(&inode.to_le_bytes())?;
            self.put(&entry.to_le_bytes())?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sums
            .extend_from_slice(&XxHash3_64::oneshot(&self.block).to_le_bytes());
        self.out.write_all(&self.block)?;
        self.written += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Writes sums and trailer.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.pad(self.layout.sums)?;
        if !self.block.is_empty() {
            self.flush()?;
        }
        let mut summed = self.header.to_vec();
        summed.extend_from_slice(&self.sums);
        self.out.write_all(&self.sums)?;
        self.out.write_all(&XxHash3_64::oneshot(&summed).to_le_bytes())?;
        self.out.write_all(&END_MAGIC)
    }
}
