//! The recipe of a layer: how its index, pack and objects become the exact tar stream again.
//!
//! ```text
//! header, 64 bytes, little-endian
//!    0  magic "shalercp"      8  version (u32)      12  zero (u32)
//!   16  diff id (32 bytes)   48  length of the tar stream (u64)   56  xxh3-64 of the 56 bytes before it
//! body: one zstd frame with its checksum; in it, one after another, numbers as LEB128:
//!    1  length, bytes              literal bytes: headers, padding, end marker, whatever follows it
//!    2  content                    a whole content, by its number in the index
//!    3  content, offset, length    a part of one: a piece of a sparse file
//!    0  end
//! ```
//!
//! Invariants: the steps, one after another, give the whole stream; the header is written last, so a recipe that was
//! not finished has none. Whoever reproduces a stream verifies its digest besides: a recipe is never trusted further
//! than that. Lengths are checked before anything is allocated.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;
use ufs::index::ContentId;

use crate::digest::Digest;

/// First bytes of a recipe.
const MAGIC: &[u8; 8] = b"shalercp";
/// The format's version.
const VERSION: u32 = 1;
/// Size of the header.
const HEADER_BYTES: usize = 64;
/// Literal bytes that are kept until a step is written.
const LITERAL_BYTES_MAX: usize = 64 << 10;
/// Headers compress so well that more effort would save little.
const ZSTD_LEVEL: i32 = 1;

const END: u8 = 0;
const LITERAL: u8 = 1;
const CONTENT: u8 = 2;
const PART: u8 = 3;

/// One step of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This many bytes, to be taken with [`RecipeReader::literal`].
    Literal(u64),
    /// A whole content.
    Content(ContentId),
    /// A part of a content: offset and length.
    Part(ContentId, u64, u64),
}

/// A recipe being written. What is written to it with [`Write`] are literal bytes.
pub struct RecipeWriter {
    path: PathBuf,
    out: zstd::Encoder<'static, BufWriter<File>>,
    literal: Vec<u8>,
    length_bytes: u64,
}

impl RecipeWriter {
    /// Starts a recipe in a new file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        file.write_all(&[0; HEADER_BYTES])?;
        let mut out = zstd::Encoder::new(BufWriter::with_capacity(64 << 10, file), ZSTD_LEVEL)?;
        out.include_checksum(true)?;
        Ok(Self {
            path: path.to_owned(),
            out,
            literal: Vec::with_capacity(LITERAL_BYTES_MAX),
            length_bytes: 0,
        })
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the stream so far.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// A whole content comes next in the stream.
    pub fn content(&mut self, content: ContentId, size_bytes: u64) -> io::Result<()> {
        self.flush_literal()?;
        self.out.write_all(&[CONTENT])?;
        self.number(u64::from(content.0))?;
        self.length_bytes += size_bytes;
        Ok(())
    }

    /// The pieces (offset, length) of a content come next, one after another: a sparse file.
    pub fn pieces(&mut self, content: ContentId, pieces: &[(u64, u64)]) -> io::Result<()> {
        self.flush_literal()?;
        for (offset, length) in pieces {
            self.out.write_all(&[PART])?;
            self.number(u64::from(content.0))?;
            self.number(*offset)?;
            self.number(*length)?;
            self.length_bytes += length;
        }
        Ok(())
    }

    /// Ends the recipe of the stream with this digest. It is not synced.
    pub fn finish(mut self, diff_id: &Digest) -> io::Result<()> {
        self.flush_literal()?;
        self.out.write_all(&[END])?;
        let file = self.out.finish()?.into_inner().map_err(io::Error::from)?;
        let header = Header {
            diff_id: *diff_id,
            length_bytes: self.length_bytes,
        };
        file.write_all_at(&header.to_bytes(), 0)
    }

    fn flush_literal(&mut self) -> io::Result<()> {
        if self.literal.is_empty() {
            return Ok(());
        }
        self.out.write_all(&[LITERAL])?;
        self.number(self.literal.len() as u64)?;
        self.out.write_all(&self.literal)?;
        self.literal.clear();
        Ok(())
    }

    fn number(&mut self, mut number: u64) -> io::Result<()> {
        let mut bytes = [0; 10];
        let mut length = 0;
        loop {
            let low = (number & 0x7f) as u8;
            number >>= 7;
            bytes[length] = if number == 0 { low } else { low | 0x80 };
            length += 1;
            if number == 0 {
                return self.out.write_all(&bytes[..length]);
            }
        }
    }
}

impl Write for RecipeWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = buffer.len().min(LITERAL_BYTES_MAX - self.literal.len());
        self.literal.extend_from_slice(&buffer[..count]);
        self.length_bytes += count as u64;
        if self.literal.len() == LITERAL_BYTES_MAX {
            self.flush_literal()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a recipe says of the whole stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The stream's digest.
    pub diff_id: Digest,
    /// The stream's length.
    pub length_bytes: u64,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..48].copy_from_slice(self.diff_id.as_bytes());
        bytes[48..56].copy_from_slice(&self.length_bytes.to_le_bytes());
        let sum = XxHash3_64::oneshot(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> io::Result<Self> {
        let word = |at: usize| -> [u8; 8] { std::array::from_fn(|index| bytes[at + index]) };
        let version = u32::from_le_bytes(std::array::from_fn(|index| bytes[8 + index]));
        if &bytes[..8] != MAGIC || u64::from_le_bytes(word(56)) != XxHash3_64::oneshot(&bytes[..56]) {
            return Err(damaged("its header is damaged"));
        }
        if version != VERSION {
            return Err(damaged(&format!(
                "version {version} is not known here: use a newer shale"
            )));
        }
        let diff_id: [u8; 32] = std::array::from_fn(|index| bytes[16 + index]);
        Ok(Self {
            diff_id: Digest::from(diff_id),
            length_bytes: u64::from_le_bytes(word(48)),
        })
    }

    /// Reads the header of a recipe.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        File::open(path)?.read_exact(&mut bytes)?;
        Self::from_bytes(&bytes)
    }
}

/// A recipe being read.
pub struct RecipeReader {
    header: Header,
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    /// Bytes of the current literal that were not taken yet.
    literal: u64,
    ended: bool,
}

impl RecipeReader {
    /// Opens a recipe.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact(&mut bytes)?;
        Ok(Self {
            header: Header::from_bytes(&bytes)?,
            input: BufReader::with_capacity(64 << 10, zstd::Decoder::new(file)?),
            literal: 0,
            ended: false,
        })
    }

    /// What it says of the stream.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The next step; what is left of a literal is passed over. `None` at the end.
    pub fn step(&mut self) -> io::Result<Option<Step>> {
        let left = std::mem::take(&mut self.literal);
        if io::copy(&mut self.input.by_ref().take(left), &mut io::sink())? < left {
            return Err(damaged("it is cut off"));
        }
        if self.ended {
            return Ok(None);
        }
        let mut code = [0];
        self.input.read_exact(&mut code)?;
        Ok(Some(match code[0] {
            LITERAL => {
                self.literal = self.number()?;
                Step::Literal(self.literal)
            }
            CONTENT => Step::Content(self.content()?),
            PART => Step::Part(self.content()?, self.number()?, self.number()?),
            END => {
                // reading on makes the decoder compare the frame's checksum
                if self.input.read(&mut code)? != 0 {
                    return Err(damaged("something follows its end"));
                }
                self.ended = true;
                return Ok(None);
            }
            code => return Err(damaged(&format!("it has a step of the unknown kind {code}"))),
        }))
    }

    /// Bytes of the current literal.
    pub fn literal(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.literal).unwrap_or(usize::MAX));
        let count = self.input.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(damaged("it is cut off"));
        }
        self.literal -= count as u64;
        Ok(count)
    }

    fn content(&mut self) -> io::Result<ContentId> {
        let number = u32::try_from(self.number()?);
        number
            .map(ContentId)
            .map_err(|_| damaged("it names a content that cannot be"))
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = match self.input.fill_buf()?.first() {
                Some(byte) => *byte,
                None => return Err(damaged("it is cut off")),
            };
            self.input.consume(1);
            let low = u64::from(byte & 0x7f);
            number |= low << shift;
            if (low << shift) >> shift != low {
                break;
            }
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("it has a number that is too large"))
    }
}

fn damaged(detail: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("recipe is damaged: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(path: &Path) -> io::Result<Vec<(Step, Vec<u8>)>> {
        let mut reader = RecipeReader::open(path)?;
        let mut steps = Vec::new();
        while let Some(step) = reader.step()? {
            let mut bytes = Vec::new();
            if let Step::Literal(length) = step {
                let mut buffer = [0; 1000];
                while (bytes.len() as u64) < length {
                    let count = reader.literal(&mut buffer)?;
                    bytes.extend_from_slice(&buffer[..count]);
                }
            }
            steps.push((step, bytes));
        }
        Ok(steps)
    }

    /// A recipe of two literals, a content and two pieces.
    fn sample(folder: &Path) -> PathBuf {
        let path = folder.join("recipe");
        let mut writer = RecipeWriter::create(&path).unwrap();
        writer.write_all(b"header").unwrap();
        writer.content(ContentId(300), 1000).unwrap();
        writer
            .pieces(ContentId(1), &[(0, 512), (1 << 40, u64::from(u32::MAX))])
            .unwrap();
        writer.write_all(&vec![0; 100_000]).unwrap();
        writer.finish(&Digest::of(b"stream")).unwrap();
        path
    }

    #[test]
    fn steps_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = sample(folder.path());
        let steps = read_back(&path).unwrap();
        let kinds: Vec<Step> = steps.iter().map(|(step, _)| *step).collect();
        let expected = [
            Step::Literal(6),
            Step::Content(ContentId(300)),
            Step::Part(ContentId(1), 0, 512),
            Step::Part(ContentId(1), 1 << 40, u64::from(u32::MAX)),
            Step::Literal(65536),
            Step::Literal(100_000 - 65536),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(steps[0].1, b"header");
        let header = Header::read(&path).unwrap();
        assert_eq!(header.diff_id, Digest::of(b"stream"));
        assert_eq!(
            header.length_bytes,
            6 + 1000 + 512 + u64::from(u32::MAX) + 100_000
        );
    }

    #[test]
    fn an_unfinished_or_newer_recipe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unfinished");
        drop(RecipeWriter::create(&path).unwrap());
        assert!(Header::read(&path).is_err() && RecipeReader::open(&path).is_err());
        let path = sample(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 2;
        let sum = XxHash3_64::oneshot(&bytes[..56]);
        bytes[56..64].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let refused = Header::read(&path).unwrap_err().to_string();
        assert!(refused.contains("version 2"), "{refused}");
    }

    proptest! {
        #[test]
        fn damage_is_an_error(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = sample(folder.path());
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            let whole = read_back(&path).unwrap();
            std::fs::write(&path, &bytes).unwrap();
            // zstd's frame header has bits that mean nothing here: then the steps must be the same
            if let Ok(steps) = read_back(&path) {
                prop_assert_eq!(steps, whole);
            }
        }
    }
}
