//! Any bytes as a stream file with right sums over a real archive: it is refused, or reads give errors or the right
//! bytes, and never more or fewer than the file says.
#![no_main]

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use twox_hash::XxHash3_64;
use ufs::cache::PageCache;
use ufs::repository::Repository;
use ufs::stream::{self, ReadAt};

const KEY: [u8; 32] = [7; 32];
/// Header fields that come from the input: kind to plain bytes, and the numbers of checkpoints and sums.
const FIELDS: usize = 36 + 16;

struct Place {
    folder: tempfile::TempDir,
    /// The header's description of the archive: what a stream file must repeat to be read at all.
    identity: Vec<u8>,
}

/// An archive of gzip data followed by a Zstandard frame, made once.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let plain: Vec<u8> = (0..60_000u32)
            .flat_map(|n| (n * n % 1777).to_le_bytes())
            .collect();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        packed.write_all(&plain).expect("memory");
        let mut packed = packed.finish().expect("memory");
        packed.extend(zstd::bulk::compress(&plain, 1).expect("memory"));
        let path = folder.path().join("archive");
        fs::write(&path, packed).expect("room");
        fs::create_dir_all(Repository::at(folder.path()).archive(&KEY)).expect("room");
        let found = fs::metadata(&path).expect("it was just written");
        let mut identity = Vec::new();
        for number in [
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime() as u64,
            found.ctime() as u64,
        ] {
            identity.extend(number.to_le_bytes());
        }
        for number in [found.mtime_nsec() as u32, found.ctime_nsec() as u32] {
            identity.extend(number.to_le_bytes());
        }
        Place { folder, identity }
    })
}

/// A stream file whose sums are right, whatever it says.
fn stream_file(place: &Place, path: &Path, input: &[u8]) -> Option<Vec<u8>> {
    let (fields, rest) = input.split_at_checked(FIELDS)?;
    let number = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
    // few, so that the lengths fit often
    let (checkpoints, sums) = (number(36) % 8, number(44) % 8);
    let tables = (checkpoints * 48 + sums * 8) as usize;
    let (data, tables) = rest.split_at_checked(rest.len().checked_sub(tables)?)?;
    let base = path.as_os_str().as_bytes();
    let mut header = b"shlstrm\n\x01\0\0\0".to_vec();
    header.extend(&fields[..36]);
    header.extend(0u32.to_le_bytes());
    header.extend((base.len() as u32).to_le_bytes());
    header.extend(&place.identity);
    header.extend(0u64.to_le_bytes());
    let tables = [base, tables].concat();
    for number in [
        256 + data.len() as u64,
        checkpoints,
        sums,
        XxHash3_64::oneshot(&tables),
    ] {
        header.extend(number.to_le_bytes());
    }
    header.resize(248, 0);
    header.extend(XxHash3_64::oneshot(&header).to_le_bytes());
    Some([&header, data, &tables].concat())
}

fn read(stream: &dyn ReadAt) {
    let size_bytes = stream.size_bytes();
    let mut buffer = vec![0; 10_000];
    for offset in [
        0,
        1,
        size_bytes / 2,
        size_bytes.saturating_sub(1),
        size_bytes,
        u64::MAX,
    ] {
        if let Ok(read) = stream.read_at(&mut buffer, offset) {
            assert_eq!(
                read as u64,
                size_bytes.saturating_sub(offset).min(buffer.len() as u64)
            );
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let place = place();
    let repository = Repository::at(place.folder.path());
    let target = repository.archive(&KEY).join(stream::STREAM_FILE);
    let path = place.folder.path().join("archive");
    // as it is, and dressed up
    for bytes in [Some(input.to_vec()), stream_file(place, &path, input)]
        .into_iter()
        .flatten()
    {
        fs::write(&target, bytes).expect("room");
        let _ = stream::describe(&repository, &KEY);
        let cache = Arc::new(PageCache::new(1 << 20));
        if let Ok(stream) = stream::open(&repository, &KEY, &cache) {
            read(&*stream);
        }
    }
});
