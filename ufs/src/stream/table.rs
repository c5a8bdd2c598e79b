//! The stream file, `ROOT/archives/HEX/stream`: how to find any place of a stream again (pure).
//!
//! ```text
//! header (256 bytes) │ windows and stored frames … │ base │ checkpoints (48 bytes each) │ sums (8 bytes each)
//!                    └ data                        └ tables, to the end of the file
//! ```
//!
//! Little-endian. The header carries its own xxh3-64 sum and that of the tables; both are looked at when the file is
//! opened. A window has a sum in its checkpoint. A stored frame needs none: what is decompressed is compared with the
//! sums of the chunks, as everything is.
//!
//! Invariants, all looked at in [`Table::read`]: checkpoints ascend and the first is at 0; there is a sum for each
//! chunk; whatever a checkpoint points to lies in the slice or in the data; the file ends with the tables.
//!
//! The layout is described in `docs/store-format.md`; whoever changes it changes [`VERSION`].

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use super::file::{OwnFile, failed, usize_of};
use super::{Base, Identity, Slice, StreamError};
use crate::index::Sha256;

/// Plain bytes of a chunk: what is summed, and what the page cache holds. Part of the format: the header names it, and
/// readers take what the header says.
pub(crate) const CHUNK_BYTES: u32 = 128 << 10;
/// Most plain bytes of a chunk that a reader believes in.
const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// Version of the format.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"shlstrm\n";
/// Bytes of the header, and where the data begins.
pub(crate) const HEADER_BYTES: u64 = 256;
const CHECKPOINT_BYTES: u64 = 48;
const SUM_BYTES: u64 = 8;
/// Longest path of an archive.
const BASE_BYTES_MAX: u32 = 64 << 10;
const KIND_PLAIN: u32 = 0;
const KIND_COMPRESSED: u32 = 1;
const BASE_FILE: u32 = 0;
const BASE_STREAM: u32 = 1;

/// xxh3-64 of some bytes.
pub(crate) fn sum_of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// How decompression begins at a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the header of a gzip member.
    Member,
    /// Between two deflate blocks, `bits` of the byte before left over, with a window.
    Block { bits: u32, window: Window },
    /// At a Zstandard frame of the slice.
    Frame,
    /// At a Zstandard frame of the stream file's own data; `source` is a place in the stream file.
    Stored,
}

impl Start {
    /// Whether the compressed bytes are those of the stream file, not of the slice.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self, Self::Stored)
    }
}

/// A window in the stream file's data, compressed with Zstandard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) at: u64,
    pub(crate) length: u32,
    /// Of the compressed bytes.
    pub(crate) sum: u64,
}

/// A place where decompression can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Of the first plain byte.
    pub(crate) plain: u64,
    /// Of the first compressed byte.
    pub(crate) source: u64,
    pub(crate) start: Start,
}

/// What the base was when it was indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    File(Identity),
    /// Of the base's stream file ([`Table::stamp`]); absent when it was not written yet.
    Stream(Option<u64>),
}

/// What a stream file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) slice: Slice,
    pub(crate) stamp: Stamp,
    pub(crate) plain_bytes: u64,
    /// Absent when the slice is not compressed.
    pub(crate) chunks: Option<Chunks>,
    pub(crate) slice_sha256: Option<Sha256>,
    pub(crate) plain_sha256: Option<Sha256>,
    /// Where the data ends and the tables begin.
    pub(crate) data_end: u64,
}

/// How to find chunks, and how to know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    pub(crate) chunk_bytes: u32,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) sums: Vec<u64>,
}

impl Chunks {
    /// The number of the last checkpoint at or before a place.
    pub(crate) fn before(&self, plain: u64) -> usize {
        self.checkpoints
            .partition_point(|checkpoint| checkpoint.plain <= plain)
            .saturating_sub(1)
    }
}

impl Table {
    /// A number for what the stream's plain bytes are: other bytes, another number.
    pub(crate) fn stamp(&self) -> u64 {
        let mut bytes = Writer(Vec::new());
        bytes.u64(self.plain_bytes);
        match &self.chunks {
            Some(chunks) => chunks.sums.iter().for_each(|&sum| bytes.u64(sum)),
            None => {
                bytes.u64(self.slice.offset);
                bytes.stamp(&self.stamp);
            }
        }
        // 0 says that there is none
        sum_of(&bytes.0).max(1)
    }

    /// The header and the tables, for a file whose data ends at `data_end`.
    pub(crate) fn write(&self) -> (Vec<u8>, Vec<u8>) {
        let mut tables = Writer(Vec::new());
        let base = match &self.slice.base {
            Base::File(path) => path.as_os_str().as_bytes(),
            Base::Stream(key) => key,
        };
        tables.0.extend_from_slice(base);
        let (mut checkpoints, mut sums) = (0, 0);
        if let Some(chunks) = &self.chunks {
            chunks
                .checkpoints
                .iter()
                .for_each(|checkpoint| tables.checkpoint(checkpoint));
            chunks.sums.iter().for_each(|&sum| tables.u64(sum));
            (checkpoints, sums) = (chunks.checkpoints.len() as u64, chunks.sums.len() as u64);
        }
        let mut header = Writer(MAGIC.to_vec());
        header.u32(VERSION);
        header.u32(if self.chunks.is_some() {
            KIND_COMPRESSED
        } else {
            KIND_PLAIN
        });
        header.u32(self.chunks.as_ref().map_or(0, |chunks| chunks.chunk_bytes));
        header.u32(u32::from(self.slice_sha256.is_some()) | u32::from(self.plain_sha256.is_some()) << 1);
        header.u64(self.slice.offset);
        header.u64(self.slice.length);
        header.u64(self.plain_bytes);
        header.u32(match self.slice.base {
            Base::File(_) => BASE_FILE,
            Base::Stream(_) => BASE_STREAM,
        });
        header.u32(base.len() as u32);
        header.stamp(&self.stamp);
        for number in [self.data_end, checkpoints, sums, sum_of(&tables.0)] {
            header.u64(number);
        }
        header.0.extend_from_slice(&self.slice_sha256.unwrap_or_default());
        header.0.extend_from_slice(&self.plain_sha256.unwrap_or_default());
        header.0.resize(HEADER_BYTES as usize - 8, 0);
        header.u64(sum_of(&header.0));
        (header.0, tables.0)
    }

    /// Reads and checks a stream file.
    pub(crate) fn read(file: &OwnFile) -> Result<Self, StreamError> {
        let mut header = vec![0; HEADER_BYTES as usize];
        read_exact(file, &mut header, 0)?;
        let (head, tables_sum, layout) = Head::parse(&header).map_err(|wrong| wrong.of(&file.path))?;
        let wrong = |what: &str| Wrong::What(what.to_owned()).of(&file.path);
        let length = layout
            .length()
            .filter(|&length| length.checked_add(layout.data_end) == Some(file.size_bytes))
            .ok_or_else(|| wrong("its length is not what its header says"))?;
        let mut tables = vec![0; usize_of(length)];
        read_exact(file, &mut tables, layout.data_end)?;
        if sum_of(&tables) != tables_sum {
            return Err(wrong("its tables do not match their sum"));
        }
        let table = head
            .with(&tables, &layout)
            .map_err(|wrong| wrong.of(&file.path))?;
        table.check().map_err(|wrong| wrong.of(&file.path))?;
        Ok(table)
    }

    /// Every invariant that the sums do not cover.
    fn check(&self) -> Result<(), Wrong> {
        let wrong = |what: &str| Err(Wrong::What(what.to_owned()));
        if self.slice.offset.checked_add(self.slice.length).is_none() {
            return wrong("its slice has no end");
        }
        let Some(chunks) = &self.chunks else {
            return match self.plain_bytes == self.slice.length {
                true => Ok(()),
                false => wrong("its lengths differ"),
            };
        };
        if chunks.chunk_bytes == 0 || chunks.chunk_bytes > CHUNK_BYTES_MAX {
            return wrong("its chunks have an impossible size");
        }
        if chunks.sums.len() as u64 != self.plain_bytes.div_ceil(u64::from(chunks.chunk_bytes)) {
            return wrong("it has another number of sums than of chunks");
        }
        if self.plain_bytes != 0 && chunks.checkpoints.first().is_none_or(|first| first.plain != 0) {
            return wrong("its first checkpoint is not at the beginning");
        }
        if !chunks.checkpoints.is_sorted_by(|a, b| a.plain < b.plain) {
            return wrong("its checkpoints do not ascend");
        }
        let inside = |range: Range<u64>| HEADER_BYTES <= range.start && range.end <= self.data_end;
        for checkpoint in &chunks.checkpoints {
            let fits = match checkpoint.start {
                Start::Member | Start::Frame => checkpoint.source <= self.slice.length,
                Start::Block { bits, window } => {
                    checkpoint.source <= self.slice.length
                        && bits < 8
                        && (bits == 0 || checkpoint.source > 0)
                        && window
                            .at
                            .checked_add(u64::from(window.length))
                            .is_some_and(|end| inside(window.at..end))
                }
                Start::Stored => inside(checkpoint.source..checkpoint.source),
            };
            if !fits || checkpoint.plain >= self.plain_bytes {
                return wrong("a checkpoint lies outside");
            }
        }
        Ok(())
    }
}

/// Why bytes are no stream file.
enum Wrong {
    What(String),
    Version(u32),
}

impl Wrong {
    fn of(self, path: &Path) -> StreamError {
        let path = path.to_owned();
        match self {
            Self::What(what) => StreamError::Damaged { path, what },
            Self::Version(found) => StreamError::Version {
                path,
                found,
                expected: VERSION,
            },
        }
    }
}

/// How long the tables are.
struct Layout {
    compressed: bool,
    chunk_bytes: u32,
    base_kind: u32,
    base_bytes: u32,
    data_end: u64,
    checkpoints: u64,
    sums: u64,
}

impl Layout {
    fn length(&self) -> Option<u64> {
        let checkpoints = self.checkpoints.checked_mul(CHECKPOINT_BYTES)?;
        let sums = self.sums.checked_mul(SUM_BYTES)?;
        u64::from(self.base_bytes)
            .checked_add(checkpoints)?
            .checked_add(sums)
    }
}

/// What the header alone says; the base is not known yet.
struct Head {
    offset: u64,
    length: u64,
    stamp: Stamp,
    plain_bytes: u64,
    slice_sha256: Option<Sha256>,
    plain_sha256: Option<Sha256>,
}

impl Head {
    fn parse(header: &[u8]) -> Result<(Self, u64, Layout), Wrong> {
        let wrong = |what: &str| Wrong::What(what.to_owned());
        let mut reader = Reader(header);
        if reader.bytes() != MAGIC {
            return Err(wrong("it does not begin like one"));
        }
        let version = reader.u32();
        if version != VERSION {
            return Err(Wrong::Version(version));
        }
        let body = header.len() - 8;
        if sum_of(&header[..body]) != Reader(&header[body..]).u64() {
            return Err(wrong("its header does not match its sum"));
        }
        let (kind, chunk_bytes, flags) = (reader.u32(), reader.u32(), reader.u32());
        let (offset, length, plain_bytes) = (reader.u64(), reader.u64(), reader.u64());
        let (base_kind, base_bytes) = (reader.u32(), reader.u32());
        let (file, stream) = reader.stamp();
        let stamp = match base_kind {
            BASE_FILE => Stamp::File(file),
            BASE_STREAM => Stamp::Stream(Some(stream).filter(|&stamp| stamp != 0)),
            _ => return Err(wrong("its base is of an unknown kind")),
        };
        if kind > KIND_COMPRESSED || base_bytes > BASE_BYTES_MAX {
            return Err(wrong("it is of an unknown kind"));
        }
        let layout = Layout {
            compressed: kind == KIND_COMPRESSED,
            chunk_bytes,
            base_kind,
            base_bytes,
            data_end: reader.u64(),
            checkpoints: reader.u64(),
            sums: reader.u64(),
        };
        if layout.data_end < HEADER_BYTES {
            return Err(wrong("its tables begin before its data"));
        }
        let tables_sum = reader.u64();
        let digests: [Sha256; 2] = [reader.bytes(), reader.bytes()];
        let head = Self {
            offset,
            length,
            stamp,
            plain_bytes,
            slice_sha256: (flags & 1 != 0).then_some(digests[0]),
            plain_sha256: (flags & 2 != 0).then_some(digests[1]),
        };
        Ok((head, tables_sum, layout))
    }

    fn with(self, tables: &[u8], layout: &Layout) -> Result<Table, Wrong> {
        let (base, rest) = tables.split_at(layout.base_bytes as usize);
        let base = match layout.base_kind {
            BASE_FILE => Base::File(PathBuf::from(OsStr::from_bytes(base).to_owned())),
            _ => Base::Stream(
                base.try_into()
                    .map_err(|_| Wrong::What("the key of its base is none".to_owned()))?,
            ),
        };
        let mut reader = Reader(rest);
        let checkpoints: Option<Vec<_>> = (0..layout.checkpoints).map(|_| reader.checkpoint()).collect();
        let checkpoints =
            checkpoints.ok_or_else(|| Wrong::What("a checkpoint is of an unknown kind".to_owned()))?;
        let sums = (0..layout.sums).map(|_| reader.u64()).collect();
        Ok(Table {
            slice: Slice {
                base,
                offset: self.offset,
                length: self.length,
            },
            stamp: self.stamp,
            plain_bytes: self.plain_bytes,
            chunks: layout.compressed.then_some(Chunks {
                chunk_bytes: layout.chunk_bytes,
                checkpoints,
                sums,
            }),
            slice_sha256: self.slice_sha256,
            plain_sha256: self.plain_sha256,
            data_end: layout.data_end,
        })
    }
}

fn read_exact(file: &OwnFile, buffer: &mut [u8], offset: u64) -> Result<(), StreamError> {
    match super::file::read_full(&file.file, buffer, offset) {
        Ok(read) if read == buffer.len() => Ok(()),
        Ok(_) => Err(Wrong::What("it is cut".to_owned()).of(&file.path)),
        Err(error) => Err(failed(&file.path, "reading the stream file", error)),
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// 56 bytes: an identity, then the stamp of a stream.
    fn stamp(&mut self, stamp: &Stamp) {
        let (file, stream) = match *stamp {
            Stamp::File(identity) => (identity, 0),
            Stamp::Stream(stamp) => (NO_FILE, stamp.unwrap_or(0)),
        };
        for number in [
            file.dev,
            file.ino,
            file.size,
            file.mtime.0 as u64,
            file.ctime.0 as u64,
        ] {
            self.u64(number);
        }
        self.u32(file.mtime.1);
        self.u32(file.ctime.1);
        self.u64(stream);
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.u64(checkpoint.plain);
        self.u64(checkpoint.source);
        let (kind, bits, window) = match checkpoint.start {
            Start::Member => (0, 0, NO_WINDOW),
            Start::Block { bits, window } => (1, bits, window),
            Start::Frame => (2, 0, NO_WINDOW),
            Start::Stored => (3, 0, NO_WINDOW),
        };
        self.u32(kind);
        self.u32(bits);
        self.u64(window.at);
        self.u32(window.length);
        self.u32(0);
        self.u64(window.sum);
    }
}

const NO_FILE: Identity = Identity {
    dev: 0,
    ino: 0,
    size: 0,
    mtime: (0, 0),
    ctime: (0, 0),
};

const NO_WINDOW: Window = Window {
    at: 0,
    length: 0,
    sum: 0,
};

/// Numbers one after another; the lengths were looked at before, what lies past the end reads as 0.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some((head, rest)) = self.0.split_at_checked(N) {
            bytes.copy_from_slice(head);
            self.0 = rest;
        }
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn stamp(&mut self) -> (Identity, u64) {
        let (dev, ino, size) = (self.u64(), self.u64(), self.u64());
        let (mtime, ctime) = (self.u64() as i64, self.u64() as i64);
        let (mtime_nanos, ctime_nanos) = (self.u32(), self.u32());
        let identity = Identity {
            dev,
            ino,
            size,
            mtime: (mtime, mtime_nanos),
            ctime: (ctime, ctime_nanos),
        };
        (identity, self.u64())
    }

    fn checkpoint(&mut self) -> Option<Checkpoint> {
        let (plain, source) = (self.u64(), self.u64());
        let (kind, bits, at, length, _) = (self.u32(), self.u32(), self.u64(), self.u32(), self.u32());
        let window = Window {
            at,
            length,
            sum: self.u64(),
        };
        let start = match kind {
            0 => Start::Member,
            1 => Start::Block { bits, window },
            2 => Start::Frame,
            3 => Start::Stored,
            _ => return None,
        };
        Some(Checkpoint { plain, source, start })
    }
}
