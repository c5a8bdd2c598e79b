//! Damage: every kind is an error, none a panic, a hang or another answer.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::index::build::{Stored, Tree};
use crate::index::fuzzing::{read_everything, reseal};
use crate::index::merge::merge;
use crate::index::testing::{dump, meta};

/// The bytes of a layer that has something of everything.
fn sample() -> Vec<u8> {
    let mut tree = Tree::new();
    let pack = Stored::Pack {
        offset: 1,
        sum: 2,
        digest: [3; 32],
    };
    let pieces = [(0, 4), (10, 3)].map(|(at, length)| Piece { at, from: at, length });
    let stream = Stored::Stream {
        pieces: pieces.to_vec(),
    };
    let contents = [
        tree.add_content(pack, 20),
        tree.add_content(Stored::Object { digest: [7; 32] }, 21),
        tree.add_content(stream, 22),
    ];
    let mut with_xattrs = meta(9);
    with_xattrs.xattrs.push((b"user.a".to_vec(), b"value".to_vec()));
    for ((name, size), content) in [(b"d/pack", 20), (b"d/objt", 21), (b"e/strm", 22)]
        .iter()
        .zip(contents)
    {
        tree.file(*name, with_xattrs.clone(), *size, Some(content))
            .unwrap();
    }
    tree.hard_link(b"e/hard", b"d/pack").unwrap();
    tree.symlink(b"d/f/link", meta(1), b"../target").unwrap();
    tree.special(b"dev", meta(2), FileType::CharDevice, 5).unwrap();
    tree.whiteout(b"gone").unwrap();
    tree.opaque(b"e").unwrap();
    let mut bytes = Vec::new();
    tree.finish().unwrap().write(&[1; 32], &mut bytes).unwrap();
    bytes
}

/// The same merged.
fn sample_chain() -> Vec<u8> {
    let layer = Index::from_bytes(sample()).unwrap();
    let mut bytes = Vec::new();
    merge(&[&layer, &layer], Kind::Chain)
        .unwrap()
        .write(&mut bytes)
        .unwrap();
    bytes
}

fn is_damaged<T: std::fmt::Debug>(result: Result<T>) -> bool {
    matches!(
        result,
        Err(IndexError::Damaged { .. } | IndexError::NotAnIndex { .. } | IndexError::Version { .. })
    )
}

#[test]
fn a_sound_index_answers_everything() {
    for bytes in [sample(), sample_chain()] {
        let index = Index::from_bytes(bytes).unwrap();
        index.check().unwrap();
        // what is asked of the wrong type of file, and one number too many of each kind
        let _ = read_everything(&index);
    }
    let index = Index::from_bytes(sample()).unwrap();
    assert!(matches!(
        index.lookup(InodeId(index.inode_count()), b"x"),
        Err(IndexError::NoSuch { .. })
    ));
    let dir = index.find(b"d").unwrap().unwrap().inode.unwrap();
    let names =
        |entries: Entries<'_>| -> Vec<Vec<u8>> { entries.map(|entry| entry.unwrap().0.to_vec()).collect() };
    assert_eq!(names(index.entries(dir).unwrap()), [&b"f"[..], b"objt", b"pack"]);
    let first = index.lookup(dir, b"f").unwrap().unwrap().entry;
    assert_eq!(
        names(index.entries_after(dir, first).unwrap()),
        [&b"objt"[..], b"pack"]
    );
    assert_eq!(names(index.entries_after(dir, EntryId(0)).unwrap()).len(), 3);
    assert_eq!(
        names(index.entries_after(dir, EntryId(u32::MAX)).unwrap()).len(),
        0
    );
    assert_eq!(index.lookup(dir, b"").unwrap(), None);
    assert!(index.find(b"gone/x/y").unwrap().unwrap().inode.is_none());
    assert_eq!(index.find(b"dev/x").unwrap(), None);
}

#[test]
fn every_flipped_bit_is_noticed() {
    for good in [sample(), sample_chain()] {
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            let noticed = match Index::from_bytes(bytes) {
                Ok(index) => is_damaged(index.check()) && read_everything(&index) > 0,
                error => is_damaged(error),
            };
            assert!(noticed, "byte {at}");
        }
    }
}

#[test]
fn every_length_but_the_right_one_is_noticed() {
    let good = sample();
    for length in 0..good.len() {
        assert!(is_damaged(Index::from_bytes(good[..length].to_vec())), "{length}");
    }
    let mut longer = good;
    longer.push(0);
    assert!(is_damaged(Index::from_bytes(longer)));
    assert!(is_damaged(Index::from_bytes(vec![0; 1 << 16])));
}

#[test]
fn another_version_says_so() {
    let mut bytes = sample();
    bytes[8] = 2;
    let error = Index::from_bytes(bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "index (memory) has format version 2, this program reads 1: rebuild it"
    );
}

/// Changes that keep the checksums right: every one is noticed by the check, and whatever is asked, the reader ends.
#[test]
fn every_byte_changed_under_right_sums_is_noticed_by_the_check() {
    for good in [sample(), sample_chain()] {
        assert_eq!(reseal(good.clone()).as_ref(), Some(&good));
        let header = Index::from_bytes(good.clone()).unwrap().header;
        let start = |section: Section| usize::try_from(header.layout.starts[section as usize]).unwrap();
        // what the sums alone protect: digests, owners, times, names' letters and the like mean nothing to the reader
        let free = |at: usize| {
            let in_inode = (at.wrapping_sub(start(Section::Inodes))) % 64;
            let in_content = (at.wrapping_sub(start(Section::Contents))) % 64;
            match at {
                _ if at < start(Section::Inodes) => at >= start(Section::Layers),
                _ if at < start(Section::Entries) => {
                    // permissions, owners, time, size of a hole, opaque or not; in a chain layer and origin
                    let origin = header.kind == Kind::Layer && matches!(in_inode, 36 | 40..44);
                    !matches!(in_inode, 12..16 | 37 | 39 | 44..64) && !origin
                }
                _ if at < start(Section::Names) => false,
                _ if at < start(Section::SetStarts) => true,
                _ if at < start(Section::SetBytes) => false,
                _ if at < start(Section::Contents) => true,
                _ if at < start(Section::Pieces) => in_content < 58,
                _ if at < start(Section::Objects) => true,
                _ if at < start(Section::Origins) => false,
                _ => at >= usize::try_from(header.layout.sums).unwrap(),
            }
        };
        for at in (0..good.len()).filter(|&at| !free(at) && !(8..32).contains(&at)) {
            for mask in [1, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= mask;
                let Some(bytes) = reseal(bytes) else { continue };
                if bytes == good {
                    continue; // magic and length are put right again
                }
                if let Ok(index) = Index::from_bytes(bytes) {
                    let _ = read_everything(&index);
                    assert!(index.check().is_err(), "byte {at} ^ {mask:#x}");
                }
            }
        }
    }
}

#[test]
fn a_file_cut_short_while_mapped_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut tree = Tree::new();
    for number in 0..20_000u32 {
        tree.file(format!("dir/{number:05}").as_bytes(), meta(number), 0, None)
            .unwrap();
    }
    let mut file = std::fs::File::create(&path).unwrap();
    tree.finish().unwrap().write(&[1; 32], &mut file).unwrap();
    file.flush().unwrap();
    let index = Index::open(&path).unwrap();
    let dir = index.find(b"dir").unwrap().unwrap().inode.unwrap();
    assert!(index.lookup(dir, b"00000").unwrap().is_some());
    assert!(!index.is_gone());
    file.set_len(4096).unwrap();
    for number in 0..20_000u32 {
        let found = index.lookup(dir, format!("{number:05}").as_bytes());
        assert!(matches!(found, Err(IndexError::Gone { .. })), "{found:?}");
    }
    assert!(index.is_gone());
    assert!(matches!(index.check(), Err(IndexError::Gone { .. })));
    assert!(matches!(Index::open(&path), Err(IndexError::Damaged { .. })));
}

#[test]
fn a_file_damaged_on_disk_is_noticed_where_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut tree = Tree::new();
    for number in 0..20_000u32 {
        tree.file(format!("{number:05}").as_bytes(), meta(number), 0, None)
            .unwrap();
    }
    let mut bytes = Vec::new();
    tree.finish().unwrap().write(&[1; 32], &mut bytes).unwrap();
    let last_names = bytes.len() - 1000;
    bytes[last_names] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let index = Index::open(&path).unwrap();
    assert!(index.lookup(InodeId::ROOT, b"00000").unwrap().is_some());
    assert!(is_damaged(index.lookup(InodeId::ROOT, b"19999")));
    assert!(index.lookup(InodeId::ROOT, b"00001").unwrap().is_some());
    let error = index.check().unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert!(matches!(
        Index::open(dir.path()),
        Err(IndexError::NotAnIndex { .. })
    ));
    assert!(matches!(
        Index::open(&dir.path().join("none")),
        Err(IndexError::Open { .. })
    ));
}

#[test]
fn many_threads_read_one_index() {
    let index = Index::from_bytes(sample()).unwrap();
    let expected = dump(&index);
    let fresh = Index::from_bytes(sample()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(dump(&fresh), expected));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn hostile_bytes_under_right_sums_neither_panic_nor_hang(
        chain in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..5), 1..6),
    ) {
        let mut bytes = if chain { sample_chain() } else { sample() };
        for (at, value, form) in changes {
            let at = at.index(bytes.len());
            match form {
                0 => bytes[at] = value,
                1 => bytes[at] = bytes[at].wrapping_add(1),
                2 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                3 => bytes[at / 4 * 4..].iter_mut().take(4).for_each(|byte| *byte = 0),
                _ => {
                    let (from, to) = (at / 16 * 16, usize::from(value) * 8);
                    if from.max(to) + 16 <= bytes.len() {
                        bytes.copy_within(from..from + 16, to);
                    }
                }
            }
        }
        if let Some(Ok(index)) = reseal(bytes).map(Index::from_bytes) {
            let _ = read_everything(&index);
        }
    }

    #[test]
    fn any_bytes_are_no_index(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Index::from_bytes(bytes).is_err());
    }
}
