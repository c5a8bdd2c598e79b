//! Streams of every kind against the plain bytes, which are the oracle.

mod changing;
mod damage;
mod reading;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sha2::Digest;

use super::*;

/// A repository and an archive in a directory of their own.
pub(super) struct Place {
    folder: tempfile::TempDir,
    pub(super) repository: Repository,
    pub(super) cache: Arc<PageCache>,
}

pub(super) const KEY: Sha256 = [7; 32];

impl Place {
    fn new() -> Self {
        Self::with_cache(8 << 20)
    }

    pub(super) fn with_cache(limit_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            repository: Repository::at(folder.path().join("root")),
            folder,
            cache: Arc::new(PageCache::new(limit_bytes)),
        }
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn stream_file(&self, key: &Sha256) -> PathBuf {
        self.repository.archive(key).join(STREAM_FILE)
    }

    /// Writes an archive, with bytes around the slice that must never be seen.
    fn write(&self, packed: &[u8]) -> Slice {
        let mut bytes = b"before".to_vec();
        bytes.extend_from_slice(packed);
        bytes.extend_from_slice(b"behind");
        std::fs::write(self.archive(), bytes).unwrap();
        Slice {
            base: Base::File(self.archive()),
            offset: 6,
            length: packed.len() as u64,
        }
    }

    fn index(&self, slice: Slice, compression: Compression, key: &Sha256) -> Result<Finished, StreamError> {
        Indexer::new(&self.repository, slice, compression, Options::default())?.finish(key)
    }

    fn open(&self, key: &Sha256) -> Result<Arc<dyn ReadAt>, StreamError> {
        open(&self.repository, key, &self.cache)
    }

    /// Indexes and opens what was compressed from `plain`, and looks at what the pass found out.
    pub(super) fn serve(&self, packed: &[u8], compression: Compression, plain: &[u8]) -> Arc<dyn ReadAt> {
        let finished = self.index(self.write(packed), compression, &KEY).unwrap();
        assert_eq!(finished.plain_bytes, plain.len() as u64);
        assert_eq!(finished.plain_sha256, Some(sha2::Sha256::digest(plain).into()));
        assert_eq!(finished.slice_sha256, Some(sha2::Sha256::digest(packed).into()));
        assert_eq!(describe(&self.repository, &KEY).unwrap().finished, finished);
        self.open(&KEY).unwrap()
    }
}

/// Bytes that compress somewhat: runs, repetitions from afar, and noise.
pub(super) fn mixture(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length + 4096);
    while bytes.len() < length {
        let count = 1 + random.below(3000) as usize;
        match random.below(4) {
            0 => bytes.extend((0..count).map(|_| random.next() as u8)),
            1 => bytes.extend(std::iter::repeat_n(random.next() as u8, count)),
            2 => bytes.extend((0..count).map(|_| b"etaoin shrdlu\n"[random.below(14) as usize])),
            _ => {
                let back = (random.below(40_000) as usize + 1).min(bytes.len());
                let from = bytes.len() - back;
                let copy: Vec<u8> = bytes[from..]
                    .iter()
                    .copied()
                    .cycle()
                    .take(if back == 0 { 0 } else { count })
                    .collect();
                bytes.extend(copy);
            }
        }
    }
    bytes.truncate(length);
    bytes
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 29)) >> 7
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

pub(super) fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .filename("a name")
        .comment("a comment")
        .extra("extra")
        .write(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Members of about `member_bytes` plain bytes each.
fn gzip_members(plain: &[u8], member_bytes: usize) -> Vec<u8> {
    plain
        .chunks(member_bytes)
        .flat_map(|part| gzip(part, 6))
        .collect()
}

fn zstd_frames(plain: &[u8], frame_bytes: usize) -> Vec<u8> {
    plain
        .chunks(frame_bytes)
        .flat_map(|part| zstd::bulk::compress(part, 3).unwrap())
        .collect()
}

/// What a program makes of its input; `None` when the machine lacks it.
fn program(name: &str, arguments: &[&str], plain: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIP: {name} is not installed");
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let plain = plain.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&plain));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}

/// Reads a range and compares it with the oracle.
fn expect(stream: &dyn ReadAt, plain: &[u8], offset: usize, length: usize) {
    let mut buffer = vec![0xa5; length];
    let read = stream.read_at(&mut buffer, offset as u64).unwrap();
    let expected = &plain[offset.min(plain.len())..(offset + length).min(plain.len())];
    assert_eq!(read, expected.len(), "length at {offset}");
    assert!(buffer[..read] == *expected, "other bytes in {offset}+{length}");
    assert!(
        buffer[read..].iter().all(|&byte| byte == 0xa5),
        "bytes past the end were touched"
    );
}

/// Random ranges, those around chunk and checkpoint ends among them, then everything in order.
fn expect_everywhere(stream: &dyn ReadAt, plain: &[u8], seed: u64, reads: usize) {
    assert_eq!(stream.size_bytes(), plain.len() as u64);
    let mut random = Random(seed);
    let chunk = u64::from(table::CHUNK_BYTES);
    for _ in 0..reads {
        let mut offset = random.below(plain.len() as u64 + 10);
        if random.below(3) == 0 {
            offset = (offset / chunk * chunk + random.below(3)).saturating_sub(1);
        }
        let length = match random.below(4) {
            0 => random.below(10),
            1 => 4096,
            2 => chunk,
            _ => random.below(400_000),
        };
        expect(stream, plain, offset as usize, length as usize);
    }
    for offset in (0..plain.len()).step_by(100_000) {
        expect(stream, plain, offset, 100_000);
    }
    expect(stream, plain, 0, plain.len() + 1);
    expect(stream, plain, plain.len(), 10);
    expect(stream, plain, plain.len() + (1 << 40), 10);
}
