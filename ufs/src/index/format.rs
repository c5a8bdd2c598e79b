//! The bytes of an index: sections, records, and their sizes. Pure.
//!
//! ```text
//! header 256 B │ layers │ inodes │ entries │ names │ … │ sums of the 64 KiB blocks before │ trailer 16 B
//! ```
//!
//! All numbers are little-endian. Sections follow each other in the order of [`Section`], each from the next multiple of
//! 64 on, so that their places follow from their lengths. No record is valid when all its bytes are zero.
//! `docs/store-format.md` describes every field; a change of anything here needs a new [`VERSION`].

use super::{Kind, Sha256};
use crate::attr::FileType;

/// How a file starts.
pub(super) const MAGIC: [u8; 8] = *b"SHALEIDX";
/// How a file ends.
pub(super) const END_MAGIC: [u8; 8] = *b"SHALEEND";
/// Version of the format.
pub(super) const VERSION: u32 = 1;
/// Size of the header.
pub(super) const HEADER_BYTES: usize = 256;
/// Size of the trailer: the sum of header and sum table, and the magic.
pub(super) const TRAILER_BYTES: usize = 16;
/// What one sum covers. Larger blocks would make the first touch slower, smaller ones the table longer.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// Sections start at a multiple of this: no record of 64 bytes or less than that lies in two blocks (but pieces may).
pub(super) const ALIGN: u64 = 64;
/// "None" wherever a number may be missing.
pub(super) const NONE: u32 = u32::MAX;
/// Longest name: the 255 bytes that Linux allows, and `.wh.` before them when layers are shown side by side.
pub(super) const NAME_BYTES_MAX: usize = 255 + 4;

/// The parts of a file, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// Digests of the layers, bottom first.
    Layers,
    /// Files: directories first, breadth first.
    Inodes,
    /// Names in directories, in the order of the directories, sorted within each.
    Entries,
    /// Bytes of names and of links' targets.
    Names,
    /// Where each attribute set starts, and where the last one ends.
    SetStarts,
    /// Bytes of attribute sets.
    SetBytes,
    /// Contents.
    Contents,
    /// Stretches of contents that lie in a stream.
    Pieces,
    /// Digests of all contents that are objects, sorted.
    Objects,
    /// Files by layer and number there. Absent for a layer.
    Origins,
    /// File and entry of each name of a file that has several, sorted.
    Links,
}

/// Number of sections.
pub(super) const SECTIONS: usize = 11;
/// Size of a record of each section.
pub(super) const RECORD_BYTES: [u64; SECTIONS] = [32, 64, 16, 1, 4, 1, 64, 24, 32, 4, 8];

/// Where everything lies, from the numbers of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// Number of records of each section.
    pub(super) counts: [u64; SECTIONS],
    /// Where each section starts.
    pub(super) starts: [u64; SECTIONS],
    /// Where the sums start: what lies before is covered by them.
    pub(super) sums: u64,
    /// Number of sums.
    pub(super) blocks: u64,
    /// Length of the file.
    pub(super) file_bytes: u64,
}

impl Layout {
    /// `None` when the numbers are impossible.
    pub(super) fn new(counts: [u64; SECTIONS]) -> Option<Self> {
        let mut at = HEADER_BYTES as u64;
        let mut starts = [0; SECTIONS];
        for section in 0..SECTIONS {
            starts[section] = at;
            let bytes = counts[section].checked_mul(RECORD_BYTES[section])?;
            at = at.checked_add(bytes)?.checked_next_multiple_of(ALIGN)?;
        }
        let blocks = at.div_ceil(BLOCK_BYTES as u64);
        let file_bytes = at
            .checked_add(blocks.checked_mul(8)?)?
            .checked_add(TRAILER_BYTES as u64)?;
        Some(Self {
            counts,
            starts,
            sums: at,
            blocks,
            file_bytes,
        })
    }
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// How many of the first inodes are directories.
    pub(super) directories: u32,
    pub(super) layout: Layout,
}

/// Why a header cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderProblem {
    NotAnIndex,
    Version(u32),
    Damaged,
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = Put(&mut bytes, 0);
        put.bytes(&MAGIC);
        put.u32(VERSION);
        put.u32(match self.kind {
            Kind::Layer => 1,
            Kind::Chain => 2,
            Kind::Run => 3,
        });
        put.u64(self.layout.file_bytes);
        put.u32(self.directories);
        put.u32(0);
        for count in self.layout.counts {
            put.u64(count);
        }
        bytes
    }

    /// Reads the header of a file of this length.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Self, HeaderProblem> {
        if bytes[..8] != MAGIC {
            return Err(HeaderProblem::NotAnIndex);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(HeaderProblem::Version(version));
        }
        let kind = match u32_at(bytes, 12) {
            1 => Kind::Layer,
            2 => Kind::Chain,
            3 => Kind::Run,
            _ => return Err(HeaderProblem::Damaged),
        };
        let mut counts = [0; SECTIONS];
        for (section, count) in counts.iter_mut().enumerate() {
            *count = u64_at(bytes, 32 + 8 * section);
        }
        let layout = Layout::new(counts).ok_or(HeaderProblem::Damaged)?;
        let header = Self {
            kind,
            directories: u32_at(bytes, 24),
            layout,
        };
        // the encoding is canonical: padding included
        if layout.file_bytes == file_bytes && header.is_sound() && header.encode() == *bytes {
            Ok(header)
        } else {
            Err(HeaderProblem::Damaged)
        }
    }

    fn is_sound(&self) -> bool {
        let count = |section: Section| self.layout.counts[section as usize];
        let fits = |section: Section| count(section) < u64::from(NONE);
        let inodes = count(Section::Inodes);
        let origins_fit = match self.kind {
            Kind::Layer => count(Section::Layers) == 1 && count(Section::Origins) == 0,
            Kind::Chain | Kind::Run => count(Section::Origins) <= inodes,
        };
        origins_fit
            && count(Section::Layers) <= u64::from(u16::MAX)
            && self.directories >= 1
            && u64::from(self.directories) <= inodes
            && count(Section::Entries) >= 1
            && [
                Section::Inodes,
                Section::Entries,
                Section::Contents,
                Section::SetStarts,
            ]
            .into_iter()
            .all(fits)
            && [
                Section::Names,
                Section::SetBytes,
                Section::Objects,
                Section::Links,
            ]
            .into_iter()
            .all(|section| count(section) <= u64::from(u32::MAX))
    }
}

/// A file. Directories: `first`, `count` are its entries. Regular files: `first` is the content or [`NONE`]. Symbolic
/// links: `first`, `count` are the target's bytes among the names. Devices: `size` is the device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeRecord {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) secs: i64,
    pub(super) nanos: u32,
    pub(super) layer: u16,
    pub(super) flags: u16,
    pub(super) origin: u32,
    pub(super) entry: u32,
    pub(super) xattrs: u32,
    pub(super) first: u32,
    pub(super) count: u32,
    /// The directory that `entry` is in.
    pub(super) parent: u32,
}

/// Flag of an inode: the directory hides what lies below.
pub(super) const OPAQUE: u16 = 1;

impl InodeRecord {
    pub(super) fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let mut put = Put(&mut bytes, 0);
        put.u32(self.mode);
        put.u32(self.uid);
        put.u32(self.gid);
        put.u32(self.nlink);
        put.u64(self.size);
        put.bytes(&self.secs.to_le_bytes());
        put.u32(self.nanos);
        put.u16(self.layer);
        put.u16(self.flags);
        put.u32(self.origin);
        put.u32(self.entry);
        put.u32(self.xattrs);
        put.u32(self.first);
        put.u32(self.count);
        put.u32(self.parent);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; 64]) -> Self {
        Self {
            mode: u32_at(bytes, 0),
            uid: u32_at(bytes, 4),
            gid: u32_at(bytes, 8),
            nlink: u32_at(bytes, 12),
            size: u64_at(bytes, 16),
            secs: u64_at(bytes, 24).cast_signed(),
            nanos: u32_at(bytes, 32),
            layer: u16_at(bytes, 36),
            flags: u16_at(bytes, 38),
            origin: u32_at(bytes, 40),
            entry: u32_at(bytes, 44),
            xattrs: u32_at(bytes, 48),
            first: u32_at(bytes, 52),
            count: u32_at(bytes, 56),
            parent: u32_at(bytes, 60),
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryRecord {
    /// Where the name starts among the names.
    pub(super) name: u32,
    /// The file; [`NONE`] for a whiteout.
    pub(super) inode: u32,
    /// [`prefix`] of the name.
    pub(super) prefix: u32,
    /// Length of the name.
    pub(super) name_bytes: u16,
    /// [`type_code`] of the file.
    pub(super) file_type: u8,
}

impl EntryRecord {
    pub(super) fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut put = Put(&mut bytes, 0);
        put.u32(self.name);
        put.u32(self.inode);
        put.u32(self.prefix);
        put.u16(self.name_bytes);
        put.bytes(&[self.file_type]);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; 16]) -> Self {
        Self {
            name: u32_at(bytes, 0),
            inode: u32_at(bytes, 4),
            prefix: u32_at(bytes, 8),
            name_bytes: u16_at(bytes, 12),
            file_type: bytes[14],
        }
    }
}

/// How a content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Storage {
    Pack = 1,
    Object = 2,
    Stream = 3,
}

/// A content. Pack: `offset`, `sum` as named. Stream: `offset` is the first piece, `sum` the number of pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRecord {
    pub(super) digest: Sha256,
    pub(super) offset: u64,
    pub(super) sum: u64,
    pub(super) size: u64,
    pub(super) layer: u16,
    pub(super) storage: Storage,
}

impl ContentRecord {
    pub(super) fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let mut put = Put(&mut bytes, 0);
        put.bytes(&self.digest);
        put.u64(self.offset);
        put.u64(self.sum);
        put.u64(self.size);
        put.u16(self.layer);
        put.bytes(&[self.storage as u8]);
        bytes
    }

    /// `None` when there is no such storage.
    pub(super) fn decode(bytes: &[u8; 64]) -> Option<Self> {
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[..32]);
        Some(Self {
            digest,
            offset: u64_at(bytes, 32),
            sum: u64_at(bytes, 40),
            size: u64_at(bytes, 48),
            layer: u16_at(bytes, 56),
            storage: match bytes[58] {
                1 => Storage::Pack,
                2 => Storage::Object,
                3 => Storage::Stream,
                _ => return None,
            },
        })
    }
}

/// The first four bytes of a name as a number that sorts like them; missing ones count as zero, which no name holds.
pub(super) fn prefix(name: &[u8]) -> u32 {
    let mut first = [0; 4];
    let length = name.len().min(4);
    first[..length].copy_from_slice(&name[..length]);
    u32::from_be_bytes(first)
}

/// The type bits of a mode as one byte, as `d_type` has them.
pub(super) fn type_code(file_type: FileType) -> u8 {
    match file_type {
        FileType::Fifo => 1,
        FileType::CharDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::Regular => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
    }
}

/// The type of a [`type_code`].
pub(super) fn type_of(code: u32) -> Option<FileType> {
    Some(match code {
        1 => FileType::Fifo,
        2 => FileType::CharDevice,
        4 => FileType::Directory,
        6 => FileType::BlockDevice,
        8 => FileType::Regular,
        10 => FileType::Symlink,
        12 => FileType::Socket,
        _ => return None,
    })
}

/// The type bits of a mode.
pub(super) fn type_bits(file_type: FileType) -> u32 {
    u32::from(type_code(file_type)) << 12
}

/// Whether a directory may hold this name.
pub(super) fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= NAME_BYTES_MAX
        && !name.iter().any(|&byte| byte == 0 || byte == b'/')
}

/// Writes numbers one after another. Too short a buffer is a mistake in this module.
struct Put<'a>(&'a mut [u8], usize);

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }
}

/// The number at a constant place in a record.
pub(super) fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The number at a constant place in a record.
pub(super) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The number at a constant place in a record.
pub(super) fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let inode = InodeRecord {
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            nlink: 3,
            size: 4 << 40,
            secs: -5,
            nanos: 6,
            layer: 7,
            flags: 8,
            origin: 9,
            entry: 10,
            xattrs: 11,
            first: 12,
            count: 13,
            parent: 14,
        };
        assert_eq!(InodeRecord::decode(&inode.encode()), inode);
        let entry = EntryRecord {
            name: 1,
            inode: 2,
            prefix: 3,
            name_bytes: 4,
            file_type: 5,
        };
        assert_eq!(EntryRecord::decode(&entry.encode()), entry);
        let content = ContentRecord {
            digest: [1; 32],
            offset: 2,
            sum: u64::MAX,
            size: 4,
            layer: 5,
            storage: Storage::Stream,
        };
        assert_eq!(ContentRecord::decode(&content.encode()), Some(content));
        assert_eq!(ContentRecord::decode(&[0; 64]), None);
    }

    #[test]
    fn layouts_that_cannot_be_are_refused() {
        assert!(Layout::new([0; SECTIONS]).is_some());
        for count in [u64::MAX, u64::MAX / 64, u64::MAX / 24] {
            assert_eq!(Layout::new([count; SECTIONS]), None);
        }
    }

    #[test]
    fn prefixes_sort_like_names() {
        let names: [&[u8]; 7] = [b"", b"a", b"a\x01", b"aaaa", b"aaaab", b"ab", b"\xff"];
        assert!(names.windows(2).all(|pair| prefix(pair[0]) <= prefix(pair[1])));
    }

    #[test]
    fn types_are_those_of_the_mode() {
        for code in 0..16 {
            if let Some(file_type) = type_of(code) {
                assert_eq!(u32::from(type_code(file_type)), code);
                assert_eq!(FileType::from_mode(type_bits(file_type)), file_type);
            }
        }
        assert_eq!(type_bits(FileType::Directory), libc::S_IFDIR);
    }
}
