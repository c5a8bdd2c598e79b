//! A damaged index whose checksums are right: whatever is asked, there is an answer or an error, and an end.
//!
//! The input is a list of changes, 8 bytes each, to an index that has something of everything, or a whole file when it
//! starts with an index's header.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ufs::attr::FileType;
use ufs::index::build::{Meta, Stored, Tree};
use ufs::index::fuzzing::{read_everything, reseal};
use ufs::index::merge::merge;
use ufs::index::{Index, Kind, Piece};

/// A layer, a run and a chain of two.
static SAMPLES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let layers = [1, 2].map(|number| Index::from_bytes(layer(number)).expect("it was just written"));
    let merged = |kind| {
        let mut bytes = Vec::new();
        let merged = merge(&[&layers[0], &layers[1]], kind).expect("they are sound");
        merged.write(&mut bytes).expect("memory can be written");
        bytes
    };
    [layer(1), merged(Kind::Run), merged(Kind::Chain)]
});

fn layer(number: u8) -> Vec<u8> {
    let mut tree = Tree::new();
    let piece = |at| Piece { at, from: 512 + at, length: 4 };
    let contents = [
        Stored::Pack { offset: 1, sum: 2, digest: [number; 32] },
        Stored::Object { digest: [7; 32] },
        Stored::Stream { pieces: vec![piece(0), piece(8)] },
    ]
    .map(|stored| tree.add_content(stored, 20));
    let meta = Meta {
        mode: 0o644,
        xattrs: vec![(b"user.a".to_vec(), vec![number])],
        ..Meta::default()
    };
    let path = |name: &str| format!("d{number}/{name}").into_bytes();
    for (name, content) in ["e/a", "e/b", "common"].into_iter().zip(contents) {
        tree.file(&path(name), meta.clone(), 20, Some(content)).expect("it can be");
    }
    tree.file(b"both/x", meta.clone(), 0, None).expect("it can be");
    tree.hard_link(&path("f/link"), &path("e/a")).expect("it can be");
    tree.symlink(&path("f/symlink"), meta.clone(), b"target").expect("it can be");
    tree.special(&path("f/device"), meta, FileType::BlockDevice, 5).expect("it can be");
    tree.whiteout(b"both/gone").expect("it can be");
    tree.opaque(&path("f")).expect("it can be");
    let mut bytes = Vec::new();
    let finished = tree.finish().expect("it is whole");
    finished.write(&[number; 32], &mut bytes).expect("memory can be written");
    bytes
}

/// What the input makes of the samples.
fn damaged(input: &[u8]) -> Vec<u8> {
    if input.starts_with(b"SHALEIDX") {
        return input.to_vec();
    }
    let Some((sample, changes)) = input.split_first() else {
        return Vec::new();
    };
    let mut bytes = SAMPLES[usize::from(sample % 3)].clone();
    for change in changes.chunks_exact(8) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        let length = usize::from(change[2] % 5).min(bytes.len() - at);
        if change[3] & 1 == 0 {
            bytes[at..at + length].copy_from_slice(&change[4..4 + length]);
        } else {
            // a record in another's place
            let to = usize::from(u16::from_le_bytes([change[4], change[5]])) % bytes.len();
            let length = usize::from(change[2]).min(bytes.len() - at.max(to));
            bytes.copy_within(at..at + length, to);
        }
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    let _ = Index::from_bytes(input.to_vec());
    let Some(bytes) = reseal(damaged(input)) else { return };
    if let Ok(index) = Index::from_bytes(bytes) {
        let _ = read_everything(&index);
    }
});
