//! What tests and fuzz targets need to get past the checksums, and a reader that uses everything.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use super::format::{BLOCK_BYTES, END_MAGIC, HEADER_BYTES, Layout, MAGIC, SECTIONS, VERSION, u64_at};
use super::merge::{merge, side_by_side};
use super::{ContentId, EntryId, Index, IndexError, InodeId, Kind, Place};

/// Makes length and sums of damaged bytes fit again, so that a reader meets the damage itself. `None` when the numbers
/// of records ask for a file of more than 1 MiB.
#[must_use]
pub fn reseal(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    bytes.resize(bytes.len().max(HEADER_BYTES), 0);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let mut counts = [0; SECTIONS];
    for (section, count) in counts.iter_mut().enumerate() {
        *count = u64_at(bytes.first_chunk::<HEADER_BYTES>()?, 32 + 8 * section);
    }
    let layout = Layout::new(counts).filter(|layout| layout.file_bytes <= 1 << 20)?;
    bytes[16..24].copy_from_slice(&layout.file_bytes.to_le_bytes());
    bytes[28..32].fill(0);
    bytes[32 + 8 * SECTIONS..HEADER_BYTES].fill(0);
    bytes.resize(usize::try_from(layout.sums).ok()?, 0);
    let sums: Vec<u8> = bytes
        .chunks(BLOCK_BYTES)
        .flat_map(|block| XxHash3_64::oneshot(block).to_le_bytes())
        .collect();
    let mut sum = XxHash3_64::new();
    sum.write(&bytes[..HEADER_BYTES]);
    sum.write(&sums);
    bytes.extend_from_slice(&sums);
    bytes.extend_from_slice(&sum.finish().to_le_bytes());
    bytes.extend_from_slice(&END_MAGIC);
    Some(bytes)
}

/// Asks an index everything there is to ask; returns how many answers were errors. Whatever the bytes are, this ends
/// and does not panic.
///
/// # Panics
/// When an index that passes its own check gives wrong answers.
#[must_use]
pub fn read_everything(index: &Index) -> u64 {
    let mut errors = 0;
    let mut note = |failed: bool| errors += u64::from(failed);
    // a walk by directories meets each at most once, or says that something is wrong
    let mut waiting = vec![InodeId::ROOT];
    let mut met = 0u64;
    while let Some(dir) = waiting.pop() {
        met += 1;
        assert!(met <= index.directory_count().into(), "a walk without end");
        let Ok(entries) = index.entries(dir) else {
            note(true);
            continue;
        };
        for entry in entries {
            note(entry.is_err());
            let Ok((name, found)) = entry else { continue };
            note(index.lookup(dir, name).is_err());
            if let (Some(inode), true) = (found.inode, found.inode.is_some_and(|id| is_dir(index, id))) {
                waiting.push(inode);
            }
        }
    }
    for entry in (0..=index.entry_count()).map(EntryId) {
        note(index.entry(entry).is_err());
        note(index.parent(entry).is_err());
        note(index.path(entry).and_then(|path| index.find(&path)).is_err());
        note(index.entries_after(InodeId::ROOT, entry).is_err());
    }
    for inode in (0..=index.inode_count()).map(InodeId) {
        note(index.inode(inode).is_err());
        note(index.links(inode).is_err());
        note(index.link_target(inode).is_err());
        note(index.xattr(inode, b"user.a").is_err());
        note(index.xattrs(inode).is_err());
        note(index.place(inode).is_err());
        note(index.by_origin(0, inode.0).is_err());
    }
    for content in (0..=index.content_count()).map(ContentId) {
        let place = index.content(content);
        note(place.is_err());
        if let Ok((Place::Stream { pieces, .. }, size)) = place {
            assert!(pieces.from(size).next().is_none());
            assert!(pieces.map(|piece| piece.length).sum::<u64>() <= size);
        }
    }
    note(index.has_object(&[7; 32]).is_err());
    note(index.objects().any(|digest| digest.is_err()));
    note(merges(index).is_err());
    errors
}

fn is_dir(index: &Index, inode: InodeId) -> bool {
    index.inode(inode).is_ok_and(|inode| inode.is_dir())
}

/// Merges it, and when it is sound expects sound indexes.
fn merges(index: &Index) -> Result<(), IndexError> {
    let sound = index.check();
    for kind in [Kind::Chain, Kind::Run] {
        if kind == Kind::Run && index.kind() == Kind::Chain {
            continue;
        }
        let mut bytes = Vec::new();
        let written = merge(&[index], kind).map(|merged| merged.write(&mut bytes));
        if sound.is_ok() {
            assert!(matches!(written, Ok(Ok(()))), "a sound index merges");
            assert!(Index::from_bytes(bytes).is_ok_and(|merged| merged.check().is_ok()));
        }
    }
    let mut bytes = Vec::new();
    let parts = [(b"a".to_vec(), index), (b"b".to_vec(), index)];
    let written = side_by_side(&parts).map(|merged| merged.write(&mut bytes));
    if sound.is_ok() {
        assert!(
            matches!(written, Ok(Ok(()))),
            "a sound index shows beside another"
        );
        let side = Index::from_bytes(bytes).map(|side| side.check());
        assert!(matches!(side, Ok(Ok(()))), "{side:?}");
    }
    sound
}
