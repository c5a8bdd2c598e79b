//! Positions in a directory that can change: who reads, and how far.
//!
//! ```text
//! 0 │ reader, 16 bits │ place, 47 bits: 0 at the beginning, 1 after `.`, 2 after `..`, then hashes of names
//! ```
//!
//! The kernel keeps what a program lists, and gives it to the next one without a request. It notes the version of the
//! directory when one begins while nothing is kept yet, appends what is brought from the position up to which it has
//! something, and drops all of it when somebody begins and the version is another (`fuse_readdir_cached` and
//! `fuse_add_dirent_to_cache` in fs/fuse/readdir.c). Of two that list at the same time one may so note the version after
//! a change, while the other still brings what it read before it: a name is missing until the next change.
//!
//! So everyone who begins first gets nothing but `.`, which never changes, and a number of its own with it: nobody else
//! asks from there. What comes next was hence read after `.` was appended, and so after the version was noted. It comes
//! with the number of its listing, and a listing that is as old or older has another number: from that it cannot go on.
//! Who does not get all of a listing, and nothing else, goes on under a number that nobody has.

use std::ffi::OsStr;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Places after `.` and `..`.
pub(super) const AFTER_DOT: u64 = 1;
pub(super) const AFTER_DOTS: u64 = 2;

const READER_BITS: u32 = 16;
const PLACE_BITS: u32 = 63 - READER_BITS;

/// Those who read the same listing of a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reader(u64);

impl Reader {
    /// The reader and the place of a position.
    pub(super) fn of(position: u64) -> (Self, u64) {
        (Self(position >> PLACE_BITS), position & ((1 << PLACE_BITS) - 1))
    }

    /// Its position at a place.
    pub(super) fn position(self, place: u64) -> u64 {
        self.0 << PLACE_BITS | place
    }
}

/// Numbers for them: none comes again before 65,535 others were given.
#[derive(Debug)]
pub(super) struct Readers(AtomicU64);

impl Default for Readers {
    /// Begins anywhere: some may have begun under a server before this one.
    fn default() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0)))
    }
}

impl Readers {
    /// One that nobody has.
    pub(super) fn next(&self) -> Reader {
        Reader(self.0.fetch_add(1, Ordering::Relaxed) & ((1 << READER_BITS) - 1))
    }
}

/// A place above those of the dots, the same for a name as long as the program is, and with room for the few that have to
/// move on since two names have one hash.
pub(super) fn place_of(name: &OsStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_encoded_bytes());
    (hasher.finish() >> (64 - PLACE_BITS + 1)) + AFTER_DOTS + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_signed_numbers_of_a_reader_and_a_place() {
        let readers = Readers::default();
        let (first, second) = (readers.next(), readers.next());
        assert_ne!(first, second);
        for reader in [first, second, Reader((1 << READER_BITS) - 1)] {
            for place in [
                0,
                AFTER_DOT,
                AFTER_DOTS,
                place_of(OsStr::new("x")),
                (1 << PLACE_BITS) - 1,
            ] {
                let position = reader.position(place);
                assert!(i64::try_from(position).is_ok());
                assert_eq!(Reader::of(position), (reader, place));
            }
        }
        assert!(place_of(OsStr::new("x")) > AFTER_DOTS);
    }
}
