//! The contents of a layer, each distinct one once.

use hashbrown::HashTable;

use super::Stored;
use crate::index::format::{ContentRecord, NONE, Storage};
use crate::index::{BuildError, ContentId, Piece, Sha256};

/// Contents in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Contents {
    contents: Vec<Content>,
    storages: Vec<Storage>,
    pub(super) pieces: Vec<Piece>,
    by_digest: HashTable<u32>,
    /// What was wrong with one; told at the end.
    problem: Option<BuildError>,
}

/// What is kept for one. Fields as in [`ContentRecord`].
#[derive(Debug, Clone, Copy)]
struct Content {
    digest: Sha256,
    offset: u64,
    sum: u64,
    size: u64,
}

/// A digest is as good a hash as any.
fn hash(digest: &Sha256) -> u64 {
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

impl Contents {
    pub(super) fn known(&self, digest: &Sha256) -> Option<ContentId> {
        let same = |&number: &u32| self.contents[number as usize].digest == *digest;
        self.by_digest
            .find(hash(digest), same)
            .map(|&number| ContentId(number))
    }

    pub(super) fn add(&mut self, stored: Stored, size: u64) -> ContentId {
        let content = match stored {
            Stored::Pack { offset, sum, digest } => (Storage::Pack, digest, offset, sum),
            Stored::Object { digest } => (Storage::Object, digest, 0, 0),
            Stored::Stream { pieces } => {
                let first = self.pieces.len() as u64;
                self.check_pieces(&pieces, size);
                self.pieces.extend_from_slice(&pieces);
                (Storage::Stream, [0; 32], first, pieces.len() as u64)
            }
        };
        let (storage, digest, offset, sum) = content;
        if storage != Storage::Stream
            && let Some(known) = self.known(&digest)
        {
            return known;
        }
        if offset.checked_add(size).is_none() {
            self.complain("its end is beyond the largest number");
        }
        let Some(number) = u32::try_from(self.contents.len())
            .ok()
            .filter(|&number| number < NONE - 1)
        else {
            self.problem.get_or_insert(BuildError::TooLarge("contents"));
            return ContentId(NONE);
        };
        self.contents.push(Content {
            digest,
            offset,
            sum,
            size,
        });
        self.storages.push(storage);
        if storage != Storage::Stream {
            let contents = &self.contents;
            self.by_digest.insert_unique(hash(&digest), number, |&other| {
                hash(&contents[other as usize].digest)
            });
        }
        ContentId(number)
    }

    fn check_pieces(&mut self, pieces: &[Piece], size: u64) {
        let mut end = 0;
        for piece in pieces {
            let next = piece.at.checked_add(piece.length);
            let source = piece.from.checked_add(piece.length);
            match (next, source) {
                (Some(next), Some(_)) if piece.at >= end && piece.length > 0 && next <= size => end = next,
                _ => return self.complain("its stretches are not ascending, apart and within its size"),
            }
        }
    }

    fn complain(&mut self, problem: &'static str) {
        let number = u32::try_from(self.contents.len()).unwrap_or(NONE);
        self.problem
            .get_or_insert(BuildError::Content { number, problem });
    }

    pub(super) fn size(&self, content: ContentId) -> Option<u64> {
        self.contents.get(content.0 as usize).map(|content| content.size)
    }

    pub(super) fn len(&self) -> u64 {
        self.contents.len() as u64
    }

    /// Drops what only adding needs.
    pub(super) fn seal(&mut self) -> Result<(), BuildError> {
        self.by_digest = HashTable::new();
        self.problem.take().map_or(Ok(()), Err)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = ContentRecord> {
        self.contents
            .iter()
            .zip(&self.storages)
            .map(|(content, &storage)| ContentRecord {
                digest: content.digest,
                offset: content.offset,
                sum: content.sum,
                size: content.size,
                layer: 0,
                storage,
            })
    }

    /// The digests of objects, sorted.
    pub(super) fn objects(&self) -> Vec<Sha256> {
        let mut objects: Vec<Sha256> = self
            .records()
            .filter(|record| record.storage == Storage::Object)
            .map(|record| record.digest)
            .collect();
        objects.sort_unstable();
        objects
    }
}
