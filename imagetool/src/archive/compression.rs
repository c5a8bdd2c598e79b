//! Compressed streams: recognised by their first bytes, read through one type.

use std::io::{self, BufReader, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Bytes needed to recognise a compression.
const MAGIC_LENGTH: usize = 6;
/// Most memory an xz stream may ask for.
const XZ_MEMORY_KIB: u32 = 512 << 10;

impl Compression {
    /// Recognises a compression by the first bytes of a stream.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // a skippable frame may come first
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The media type of an OCI layer compressed so; `None` where the specification has none.
    pub fn layer_media_type(self) -> Option<&'static str> {
        match self {
            Self::None => Some("application/vnd.oci.image.layer.v1.tar"),
            Self::Gzip => Some("application/vnd.oci.image.layer.v1.tar+gzip"),
            Self::Zstd => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
            Self::Bzip2 | Self::Xz => None,
        }
    }
}

/// A stream whose first bytes were read and put back.
pub type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// Reads the first bytes of a stream and gives it back whole.
pub fn sniff<R: Read>(mut reader: R) -> io::Result<(Compression, Whole<R>)> {
    let mut start = Vec::new();
    reader
        .by_ref()
        .take(MAGIC_LENGTH as u64)
        .read_to_end(&mut start)?;
    Ok((Compression::detect(&start), io::Cursor::new(start).chain(reader)))
}

/// A reader of the plain bytes of a compressed stream. Every format but `None` checks its own sums, and an end inside
/// the compressed data is an error.
pub fn decompress<'a, R: Read + Send + 'a>(
    compression: Compression,
    reader: R,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let reader = BufReader::with_capacity(128 << 10, reader);
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Compresses with the program of that name; `None` when the machine lacks it.
    fn with_program(program: &str, plain: &[u8]) -> Option<Vec<u8>> {
        use std::process::{Command, Stdio};
        let child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("SKIP: {program} is not installed");
            return None;
        };
        let mut input = child.stdin.take().unwrap();
        let plain = plain.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&plain));
        let output = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        Some(output)
    }

    #[test]
    fn reads_what_the_programs_wrote_and_notices_a_cut() {
        let plain: Vec<u8> = (0..200_000u32).flat_map(|n| (n % 1777).to_le_bytes()).collect();
        let programs = [
            ("gzip", Compression::Gzip),
            ("bzip2", Compression::Bzip2),
            ("xz", Compression::Xz),
            ("zstd", Compression::Zstd),
        ];
        for (program, expected) in programs {
            let Some(packed) = with_program(program, &plain) else {
                continue;
            };
            let (found, reader) = sniff(packed.as_slice()).unwrap();
            assert_eq!(found, expected);
            let mut read = Vec::new();
            decompress(found, reader).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == plain, "{program} gave other bytes");
            let cut = &packed[..packed.len() / 2];
            let outcome = decompress(found, cut).unwrap().read_to_end(&mut Vec::new());
            assert!(outcome.is_err(), "{program}: a cut stream passed");
        }
    }

    #[test]
    fn plain_and_short_streams_pass_through() {
        for bytes in [&b""[..], b"B", b"BZ", b"plain text"] {
            let (found, reader) = sniff(bytes).unwrap();
            assert_eq!(found, Compression::None);
            let mut read = Vec::new();
            decompress(found, reader).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes);
        }
    }
}
