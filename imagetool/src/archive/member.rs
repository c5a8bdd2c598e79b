//! The members of a tar stream, read one after another.
//!
//! ```text
//! [x header + records] [L header + name] [K header + name]   describe the next member, any or none of them
//! header (512 bytes)  [sparse map blocks]  content, padded to 512     … then two blocks of zeros
//! ```
//!
//! Understood: ustar, POSIX pax, GNU (long names, base-256 numbers), old V7; sparse files in GNU's old form and in pax
//! forms 0.0, 0.1 and 1.0. Header blocks are decoded by the `tar` crate; its own iterator is not used since it splits
//! pax records at newlines, which loses binary attributes and makes the size of a member depend on them.
//!
//! Where tar readers differ, this one does what Go's `archive/tar` (and so Docker) does: links, directories and devices
//! have no content whatever their size field says, and global headers are skipped.
//!
//! Outside input: lengths are checked before anything is allocated, and a malformed archive is an error, never a panic.

use std::io::{self, Read, Seek, Write};

use super::hashed::HashedRead;
use super::number::{field, signed_field};
use super::pax;

/// Size of a tar block.
const BLOCK: usize = 512;
/// The longest extended header or long name that is read.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// The most pieces of a sparse file.
const SEGMENT_LIMIT: usize = 1 << 20;

/// Why a tar stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself failed (the disk, or the decompressor).
    #[error("read archive")]
    Read(#[source] io::Error),
    /// What is not content could not be handed on.
    #[error("write the recipe of the archive")]
    Record(#[source] io::Error),
    /// The stream ends inside a member.
    #[error("archive is truncated {0}")]
    Truncated(String),
    /// The stream is no tar archive, or a broken one.
    #[error("archive is malformed at byte {offset}: {problem}")]
    Malformed {
        /// Where, counted in the decompressed stream.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// Another name of an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A member without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, as written.
    pub path: Vec<u8>,
    /// Target of a link, as written.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits (0o7777).
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, u32),
    /// Size of the file, holes included.
    pub size_bytes: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file: the pieces (offset, length) whose bytes the content holds one after another.
    pub segments: Option<Vec<(u64, u64)>>,
}

/// A tar stream. [`Members::next`] moves to the next member; as [`Read`] it gives the current member's stored bytes.
///
/// All other bytes (headers, maps, padding, contents that nobody read, what follows the end marker) are written to
/// `literals` in their order, so that they and the contents together are the whole stream.
pub struct Members<R, L = io::Sink> {
    reader: R,
    literals: L,
    offset: u64,
    content: u64,
    padding: u64,
    /// Bytes of extended headers since the last member.
    described_bytes: u64,
    ended: bool,
    end_marker: bool,
}

/// What extension headers said about the member that follows.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: SparseRecords,
}

/// The `GNU.sparse.*` records.
#[derive(Default)]
struct SparseRecords {
    major: Option<u64>,
    real_size: Option<u64>,
    name: Option<Vec<u8>>,
    /// Offsets and lengths in turn, of forms 0.0 and 0.1.
    numbers: Vec<u64>,
}

impl<R: Read> Members<R> {
    /// Starts at the beginning of a tar stream.
    pub fn new(reader: R) -> Self {
        Self::recording(reader, io::sink())
    }
}

impl<R: Read, L: Write> Members<R, L> {
    /// Starts at the beginning of a tar stream; what is no content goes to `literals`.
    pub fn recording(reader: R, literals: L) -> Self {
        Self {
            reader,
            literals,
            offset: 0,
            content: 0,
            padding: 0,
            described_bytes: 0,
            ended: false,
            end_marker: false,
        }
    }

    /// Bytes read so far: right after [`Members::next`], where the member's content begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where everything goes that is no content.
    pub fn literals(&mut self) -> &mut L {
        &mut self.literals
    }

    /// Whether the end marker was met.
    pub fn end_marker(&self) -> bool {
        self.end_marker
    }

    /// Bytes of the current member's content that were not read yet.
    pub fn remaining(&self) -> u64 {
        self.content
    }

    /// Moves to the next member; `None` at the end of the archive.
    #[allow(clippy::should_implement_trait)] // an iterator could not lend the content
    pub fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extensions = Extensions::default();
        let mut described = false;
        self.described_bytes = 0;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return match described {
                    true => Err(TarError::Truncated("after an extended header".to_owned())),
                    false => Ok(None),
                };
            };
            let at = self.offset - BLOCK as u64;
            let fail = |problem: String| TarError::Malformed { offset: at, problem };
            let size = field(&header.as_bytes()[124..136]).map_err(|p| fail(format!("size {p}")))?;
            match header.as_bytes()[156] {
                b'x' | b'X' => {
                    let records = self.extension(size, at)?;
                    extensions.read(&records).map_err(fail)?;
                }
                b'L' => extensions.long_path = Some(until_nul(self.extension(size, at)?)),
                b'K' => extensions.long_link = Some(until_nul(self.extension(size, at)?)),
                b'g' => {
                    self.extension(size, at)?;
                    continue;
                }
                b'V' => {
                    self.set_content(size);
                    continue;
                }
                _ => return self.member(&header, extensions, at).map(Some),
            }
            described = true;
        }
    }

    /// Reads what is left of the stream, so that whoever hashes it has seen every byte; tells whether the archive had
    /// its end marker (a cut at a member's edge is known by that alone).
    pub fn finish(self) -> Result<(bool, R), TarError> {
        let (end_marker, reader, _) = self.finish_recording()?;
        Ok((end_marker, reader))
    }

    /// As [`Members::finish`], with the literals.
    pub fn finish_recording(mut self) -> Result<(bool, R, L), TarError> {
        self.skip_content()?;
        self.pass(u64::MAX)?;
        Ok((self.end_marker, self.reader, self.literals))
    }

    /// Hands on so many bytes, or all that are left, as literals.
    fn pass(&mut self, count: u64) -> Result<u64, TarError> {
        let mut buffer = [0; 8 << 10];
        let mut passed = 0;
        while passed < count {
            let wanted = buffer
                .len()
                .min(usize::try_from(count - passed).unwrap_or(usize::MAX));
            match self.reader.read(&mut buffer[..wanted]) {
                Ok(0) => break,
                Ok(read) => {
                    self.literals
                        .write_all(&buffer[..read])
                        .map_err(TarError::Record)?;
                    passed += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(passed)
    }

    /// The next header block; `None` at the end marker or at a clean end of the stream.
    fn header(&mut self) -> Result<Option<tar::Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let at = self.offset;
        let mut header = tar::Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            self.ended = true;
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.ended = true;
            self.end_marker = true;
            let mut second = [0; BLOCK];
            if self.block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                let problem = "a block of zeros stands between members".to_owned();
                return Err(TarError::Malformed { offset: at, problem });
            }
            return Ok(None);
        }
        if !checksum_fits(&header) {
            let problem = if at == 0 {
                "this is no tar archive"
            } else {
                "header checksum does not fit"
            };
            return Err(TarError::Malformed {
                offset: at,
                problem: problem.to_owned(),
            });
        }
        Ok(Some(header))
    }

    /// Reads a whole block; false at a clean end.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => {
                    return Err(TarError::Truncated(format!(
                        "after {} bytes",
                        self.offset + filled as u64
                    )));
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        self.offset += BLOCK as u64;
        self.literals.write_all(block).map_err(TarError::Record)?;
        Ok(true)
    }

    fn set_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads over what is left of the current member.
    fn skip_content(&mut self) -> Result<(), TarError> {
        let left = self.content.saturating_add(self.padding);
        self.content = 0;
        self.padding = 0;
        let skipped = self.pass(left)?;
        self.offset += skipped;
        if skipped < left {
            return Err(TarError::Truncated(format!("after {} bytes", self.offset)));
        }
        Ok(())
    }

    /// The content of an extension header.
    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        self.described_bytes = self.described_bytes.saturating_add(size);
        if self.described_bytes > EXTENSION_LIMIT {
            let problem =
                format!("the extended headers of one member have more than {EXTENSION_LIMIT} bytes");
            return Err(TarError::Malformed { offset: at, problem });
        }
        self.set_content(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(TarError::Read)?;
        if (bytes.len() as u64) < size {
            return Err(TarError::Truncated("inside an extended header".to_owned()));
        }
        self.literals.write_all(&bytes).map_err(TarError::Record)?;
        Ok(bytes)
    }

    /// Puts a member together from its header and what described it.
    fn member(&mut self, header: &tar::Header, more: Extensions, at: u64) -> Result<Member, TarError> {
        let fail = |problem: String| TarError::Malformed { offset: at, problem };
        let raw = header.as_bytes();
        let path = more
            .long_path
            .or(more.sparse.name)
            .or(more.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&path).into_owned();
        let kind = kind(raw[156], &path).ok_or_else(|| {
            fail(format!(
                "{shown:?} has the unknown type {:?}",
                char::from(raw[156])
            ))
        })?;
        let number = |what: &str, from: usize, to: usize| {
            field(&raw[from..to]).map_err(|problem| fail(format!("{what} of {shown:?} {problem}")))
        };
        let size = match more.size {
            Some(size) => size,
            None => number("size", 124, 136)?,
        };
        self.set_content(if kind == Kind::Regular { size } else { 0 });
        let mtime = match more.mtime {
            Some(mtime) => mtime,
            None => (
                signed_field(&raw[136..148]).map_err(|p| fail(format!("time of {shown:?} {p}")))?,
                0,
            ),
        };
        let device = |from: usize| -> Result<u32, TarError> {
            let value = number("device", from, from + 8)?;
            u32::try_from(value).map_err(|_| fail(format!("device number {value} of {shown:?} is too large")))
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let link = more
            .long_link
            .or(more.link)
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let mut member = Member {
            path,
            link: link.unwrap_or_default(),
            kind,
            mode: (number("mode", 100, 108)? & 0o7777) as u32,
            uid: more.uid.map_or_else(|| number("owner", 108, 116), Ok)?,
            gid: more.gid.map_or_else(|| number("group", 116, 124), Ok)?,
            mtime,
            size_bytes: self.content,
            device: if is_device {
                (device(329)?, device(337)?)
            } else {
                (0, 0)
            },
            xattrs: more.xattrs,
            segments: None,
        };
        if member.path.contains(&0) || member.link.contains(&0) {
            return Err(fail(format!("{shown:?} has a zero byte in its name")));
        }
        if kind == Kind::Regular {
            self.sparse(
                &mut member,
                header,
                &more.sparse.numbers,
                more.sparse.major,
                more.sparse.real_size,
            )
            .map_err(|error| match error {
                SparseError::Wrong(problem) => fail(format!("sparse file {shown:?}: {problem}")),
                SparseError::Tar(error) => error,
            })?;
        }
        Ok(member)
    }

    /// Reads the map of a sparse file, wherever its form keeps it.
    fn sparse(
        &mut self,
        member: &mut Member,
        header: &tar::Header,
        numbers: &[u64],
        major: Option<u64>,
        real_size: Option<u64>,
    ) -> Result<(), SparseError> {
        let raw = header.as_bytes();
        let numbers = if raw[156] == b'S' {
            member.size_bytes = field(&raw[483..495]).map_err(SparseError::Wrong)?;
            self.old_gnu_map(raw)?
        } else if major == Some(1) {
            member.size_bytes = real_size.ok_or_else(|| wrong("has no real size"))?;
            self.pax_map()?
        } else if !numbers.is_empty() || real_size.is_some() {
            member.size_bytes = real_size.ok_or_else(|| wrong("has no real size"))?;
            numbers.to_vec()
        } else {
            return Ok(());
        };
        if numbers.len() % 2 != 0 {
            return Err(wrong("its map has an odd number of entries"));
        }
        let mut end = 0u64;
        let mut stored = 0u64;
        let mut segments = Vec::new();
        for pair in numbers.chunks_exact(2) {
            let (offset, length) = (pair[0], pair[1]);
            if offset < end {
                return Err(wrong("its pieces overlap"));
            }
            // GNU tar pads each piece to a block, others do not: only whole blocks mean the same to all
            if !stored.is_multiple_of(BLOCK as u64) && length > 0 {
                return Err(wrong("a piece before the last is no multiple of 512 bytes"));
            }
            end = offset
                .checked_add(length)
                .ok_or_else(|| wrong("a piece is too long"))?;
            stored = stored
                .checked_add(length)
                .ok_or_else(|| wrong("its pieces are too long"))?;
            if length > 0 {
                segments.push((offset, length));
            }
        }
        if i64::try_from(member.size_bytes).is_err() {
            return Err(wrong("is larger than a file can be"));
        }
        if end > member.size_bytes || stored != self.content {
            return Err(wrong("its map does not fit its size"));
        }
        member.segments = Some(segments);
        Ok(())
    }

    /// The map of GNU's old form: four entries in the header, more in blocks after it.
    fn old_gnu_map(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u64>, SparseError> {
        let mut numbers = Vec::new();
        let mut read = |bytes: &[u8]| -> Result<(), SparseError> {
            for entry in bytes.chunks_exact(24).take_while(|entry| entry[0] != 0) {
                numbers.push(field(&entry[..12]).map_err(SparseError::Wrong)?);
                numbers.push(field(&entry[12..]).map_err(SparseError::Wrong)?);
            }
            if numbers.len() > 2 * SEGMENT_LIMIT {
                Err(wrong("has too many pieces"))
            } else {
                Ok(())
            }
        };
        read(&header[386..482])?;
        let mut extended = header[482] != 0;
        while extended {
            let mut block = [0; BLOCK];
            if !self.block(&mut block).map_err(SparseError::Tar)? {
                return Err(SparseError::Tar(TarError::Truncated(
                    "inside a sparse map".to_owned(),
                )));
            }
            read(&block[..504])?;
            extended = block[504] != 0;
        }
        Ok(numbers)
    }

    /// The map of pax form 1.0: decimal lines at the start of the content, padded to a block.
    fn pax_map(&mut self) -> Result<Vec<u64>, SparseError> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<u64, SparseError> {
            let mut digits = Vec::new();
            loop {
                if at == BLOCK {
                    if self.content < BLOCK as u64 {
                        return Err(wrong("its map is cut off"));
                    }
                    if !self.block(&mut block).map_err(SparseError::Tar)? {
                        return Err(SparseError::Tar(TarError::Truncated(
                            "inside a sparse map".to_owned(),
                        )));
                    }
                    self.content -= BLOCK as u64;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                if byte == b'\n' {
                    return pax::decimal(&digits)
                        .ok_or_else(|| wrong("its map has a line that is no number"));
                }
                if digits.len() > 20 {
                    return Err(wrong("its map has a line that is no number"));
                }
                digits.push(byte);
            }
        };
        let count = usize::try_from(line()?)
            .ok()
            .filter(|count| *count <= SEGMENT_LIMIT);
        let count = count.ok_or_else(|| wrong("has too many pieces"))?;
        let mut numbers = Vec::new();
        for _ in 0..count * 2 {
            numbers.push(line()?);
        }
        Ok(numbers)
    }
}

impl<R: Read + Seek> Members<R> {
    /// Goes over what is left of the current member's content without reading it. A stream that ends inside is found
    /// by whoever moves on: its last byte is read.
    pub fn seek_over(&mut self) -> Result<(), TarError> {
        let left = self.content.saturating_add(self.padding);
        let Some(far) = left.checked_sub(1).filter(|far| *far > 0) else {
            return Ok(());
        };
        let Ok(by) = i64::try_from(far) else {
            return Err(TarError::Truncated(format!("after {} bytes", self.offset)));
        };
        self.reader.seek_relative(by).map_err(TarError::Read)?;
        self.offset += far;
        // the byte that is left counts as padding, which the next step reads
        self.content = 0;
        self.padding = 1;
        Ok(())
    }
}

/// A failure while a sparse map is read: the text lacks the file's name, which the caller knows.
enum SparseError {
    Wrong(String),
    Tar(TarError),
}

fn wrong(problem: &str) -> SparseError {
    SparseError::Wrong(problem.to_owned())
}

impl<R: Read, L: Write> Read for Members<R, L> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.content).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 {
            let text = format!("archive is truncated after {} bytes", self.offset);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.content -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }
}

impl<R: HashedRead, L: Write> HashedRead for Members<R, L> {
    fn begin(&mut self) {
        self.reader.begin();
    }

    fn end(&mut self) -> ufs::index::Sha256 {
        self.reader.end()
    }
}

impl Extensions {
    /// Takes over the records of a pax header.
    fn read(&mut self, header: &[u8]) -> Result<(), String> {
        let records = pax::parse(header).ok_or("an extended header has a malformed record")?;
        for (key, value) in records {
            let number = || {
                let digits = pax::decimal(value);
                digits.ok_or_else(|| format!("the record {:?} is no number", String::from_utf8_lossy(key)))
            };
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                self.xattrs.push((name.to_vec(), value.to_vec()));
                continue;
            }
            match key {
                b"path" => self.path = Some(value.to_vec()).filter(|value| !value.is_empty()),
                b"linkpath" => self.link = Some(value.to_vec()).filter(|value| !value.is_empty()),
                b"size" => self.size = if value.is_empty() { None } else { Some(number()?) },
                b"uid" => self.uid = if value.is_empty() { None } else { Some(number()?) },
                b"gid" => self.gid = if value.is_empty() { None } else { Some(number()?) },
                b"mtime" if value.is_empty() => self.mtime = None,
                b"mtime" => self.mtime = Some(pax::time(value).ok_or("the record \"mtime\" is no time")?),
                b"GNU.sparse.major" => self.sparse.major = Some(number()?),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number()?),
                b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(number()?),
                b"GNU.sparse.map" => {
                    let numbers = value
                        .split(|byte| *byte == b',')
                        .map(pax::decimal)
                        .collect::<Option<Vec<_>>>();
                    self.sparse.numbers =
                        numbers.ok_or("the record \"GNU.sparse.map\" is no list of numbers")?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What the type byte of a header means; old archives mark directories by a slash.
fn kind(byte: u8, path: &[u8]) -> Option<Kind> {
    Some(match byte {
        0 if path.last() == Some(&b'/') => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return None,
    })
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Whether the checksum of a header fits, counted with unsigned or (as old programs did) signed bytes.
fn checksum_fits(header: &tar::Header) -> bool {
    let raw = header.as_bytes();
    let Ok(stored) = field(&raw[148..156]) else {
        return false;
    };
    let rest = raw[..148].iter().chain(&raw[156..]);
    let unsigned: u64 = rest.clone().map(|byte| u64::from(*byte)).sum::<u64>() + 256;
    let signed: i64 = rest.map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 256;
    stored == unsigned || i64::try_from(stored) == Ok(signed)
}

/// Whether a stream whose first block is this may be a tar archive: it is a header, or the end marker of an empty one.
pub fn starts_tar(block: &[u8; 512]) -> bool {
    let mut header = tar::Header::new_old();
    *header.as_mut_bytes() = *block;
    block.iter().all(|byte| *byte == 0) || checksum_fits(&header)
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
