//! The bytes of an open index: bounds, sums, and what happens when the file goes away.
//!
//! Every access goes through [`Data::bytes`], which answers with bytes whose sums were compared (once per block, at the
//! first touch) and which lie within the file, or with an error. Whether the file was still there while it was read is
//! asked afterwards, by [`Data::answer`].

use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use twox_hash::XxHash3_64;

use crate::index::IndexError;
use crate::index::format::{
    BLOCK_BYTES, END_MAGIC, HEADER_BYTES, Header, HeaderProblem, Layout, RECORD_BYTES, Section,
    TRAILER_BYTES, VERSION,
};
use crate::sys::map::Map;

/// Where the bytes are.
#[derive(Debug)]
enum Backing {
    Map(Map),
    Memory(Vec<u8>),
}

/// The bytes of an index, and which of its blocks have been compared with their sums.
#[derive(Debug)]
pub(super) struct Data {
    path: PathBuf,
    backing: Backing,
    layout: Layout,
    /// A bit per block.
    verified: Box<[AtomicU64]>,
}

type Result<T> = std::result::Result<T, IndexError>;

impl Data {
    /// Maps a file and verifies its header and its table of sums.
    pub(super) fn open(path: &Path) -> Result<(Self, Header)> {
        let failed = |cause| IndexError::Open {
            path: path.to_path_buf(),
            cause,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(IndexError::NotAnIndex {
                path: path.to_path_buf(),
            });
        }
        let map = Map::new(&file).map_err(failed)?;
        Self::new(path.to_path_buf(), Backing::Map(map))
    }

    /// The same for bytes in memory.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Result<(Self, Header)> {
        Self::new(PathBuf::from("(memory)"), Backing::Memory(bytes))
    }

    fn new(path: PathBuf, backing: Backing) -> Result<(Self, Header)> {
        let mut data = Self {
            path,
            backing,
            layout: Layout::default(),
            verified: Box::default(),
        };
        let header = data.header();
        let header = data.answer(header)?;
        data.layout = header.layout;
        let words = data.index(header.layout.blocks)?.div_ceil(64);
        data.verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok((data, header))
    }

    fn header(&self) -> Result<Header> {
        let all = self.all();
        let Some(bytes) = all.first_chunk::<HEADER_BYTES>() else {
            return Err(IndexError::NotAnIndex {
                path: self.path.clone(),
            });
        };
        let header = Header::decode(bytes, all.len() as u64).map_err(|problem| match problem {
            HeaderProblem::NotAnIndex => IndexError::NotAnIndex {
                path: self.path.clone(),
            },
            HeaderProblem::Version(found) => IndexError::Version {
                path: self.path.clone(),
                found,
                known: VERSION,
            },
            HeaderProblem::Damaged => self.damaged("header"),
        })?;
        let sums = self.index(header.layout.sums)?;
        let end = all.len() - TRAILER_BYTES;
        let mut sum = XxHash3_64::new();
        sum.write(bytes);
        sum.write(&all[sums..end]);
        if all[end..end + 8] == sum.finish().to_le_bytes() && all[end + 8..] == END_MAGIC {
            Ok(header)
        } else {
            Err(self.damaged("table of sums"))
        }
    }

    fn all(&self) -> &[u8] {
        match &self.backing {
            Backing::Map(map) => map,
            Backing::Memory(bytes) => bytes,
        }
    }

    /// A number of bytes or blocks as an index into memory.
    fn index(&self, number: u64) -> Result<usize> {
        usize::try_from(number).map_err(|_| self.damaged("length"))
    }

    /// The error for a broken invariant.
    #[cold]
    pub(super) fn damaged(&self, what: &'static str) -> IndexError {
        IndexError::Damaged {
            path: self.path.clone(),
            what,
        }
    }

    /// The error for a number that is not there.
    #[cold]
    pub(super) fn no_such(&self, what: &'static str, number: u32) -> IndexError {
        IndexError::NoSuch {
            path: self.path.clone(),
            what,
            number,
        }
    }

    /// What was found out by reading, unless the file went away meanwhile.
    pub(super) fn answer<T>(&self, result: Result<T>) -> Result<T> {
        if self.gone() {
            return Err(IndexError::Gone {
                path: self.path.clone(),
            });
        }
        result
    }

    /// Whether a part of the file could not be read.
    pub(super) fn gone(&self) -> bool {
        match &self.backing {
            Backing::Map(map) => map.poisoned(),
            Backing::Memory(_) => false,
        }
    }

    /// Number of records of a section.
    pub(super) fn count(&self, section: Section) -> u64 {
        self.layout.counts[section as usize]
    }

    /// Bytes of a section, counted in records; verified.
    pub(super) fn bytes(&self, section: Section, first: u64, count: u64) -> Result<&[u8]> {
        let there = self.count(section);
        if first > there || count > there - first {
            return Err(self.damaged("reference outside its section"));
        }
        // cannot overflow: sections lie within the file
        let record = RECORD_BYTES[section as usize];
        let start = self.layout.starts[section as usize] + first * record;
        let end = start + count * record;
        self.verify(start, end)?;
        let (start, end) = (self.index(start)?, self.index(end)?);
        self.all()
            .get(start..end)
            .ok_or_else(|| self.damaged("section outside the file"))
    }

    /// One record.
    pub(super) fn record<const N: usize>(&self, section: Section, number: u64) -> Result<&[u8; N]> {
        let bytes = self.bytes(section, number, 1)?;
        bytes
            .first_chunk()
            .ok_or_else(|| self.damaged("section outside the file"))
    }

    /// Compares the blocks of a range with their sums, those that were not compared before.
    fn verify(&self, start: u64, end: u64) -> Result<()> {
        if start == end {
            return Ok(());
        }
        let block_bytes = BLOCK_BYTES as u64;
        for block in start / block_bytes..=(end - 1) / block_bytes {
            let block = self.index(block)?;
            let bit = 1 << (block % 64);
            let word = self
                .verified
                .get(block / 64)
                .ok_or_else(|| self.damaged("section outside the file"))?;
            if word.load(Ordering::Relaxed) & bit == 0 {
                self.verify_block(block)?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    #[cold]
    fn verify_block(&self, block: usize) -> Result<()> {
        let sums = self.index(self.layout.sums)?;
        let start = block * BLOCK_BYTES;
        let end = sums.min(start + BLOCK_BYTES);
        let all = self.all();
        let (Some(bytes), Some(sum)) = (
            all.get(start..end),
            all.get(sums + 8 * block..).and_then(|rest| rest.first_chunk()),
        ) else {
            return Err(self.damaged("section outside the file"));
        };
        if XxHash3_64::oneshot(bytes) == u64::from_le_bytes(*sum) {
            self.answer(Ok(()))
        } else {
            self.answer(Err(self.damaged("checksum")))
        }
    }

    /// Compares all blocks, whether they were compared before or not, and looks at the gaps between sections.
    pub(super) fn verify_all(&self) -> Result<()> {
        for block in 0..self.index(self.layout.blocks)? {
            self.verify_block(block)?;
        }
        let ends = self.layout.starts[1..].iter().copied().chain([self.layout.sums]);
        for (section, next) in ends.enumerate() {
            let end = self.layout.starts[section] + self.layout.counts[section] * RECORD_BYTES[section];
            let gap = self.all().get(self.index(end)?..self.index(next)?);
            if gap.is_none_or(|gap| gap.iter().any(|&byte| byte != 0)) {
                return Err(self.damaged("gap between sections"));
            }
        }
        Ok(())
    }
}
