//! Which blocks of a partial copy are in the upper. No I/O.
//!
//! ```text
//! block      0      1      2      3      4 …
//!          ┌──────┬──────┬──────┬───┄┄┄┬──────
//! bits     │  1   │  0   │  1   │  0   │  none: past the limit everything is in the upper
//!          └──────┴──────┴──────┴───┄┄┄┴──────
//! content   upper  below  upper  below│zeros    upper
//!                                   limit
//! ```
//!
//! Bits are only ever set. A reader looks without a lock: a bit is set after the whole block is in the upper.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a piece of the content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the upper's file; its holes are zeros.
    Upper,
    /// In the content below.
    Below,
    /// Nowhere: past the limit, in a block whose beginning is below.
    Zeros,
}

/// One bit for each block below the limit that a copy had when it was opened.
#[derive(Debug)]
pub(crate) struct Blocks {
    shift: u32,
    count: u64,
    words: Box<[AtomicU64]>,
}

impl Blocks {
    /// No block is there. `block_bytes` is a power of two.
    pub(crate) fn none(block_bytes: u64, limit: u64) -> Self {
        let shift = block_bytes.trailing_zeros();
        let count = limit.div_ceil(block_bytes);
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            shift,
            count,
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn block_bytes(&self) -> u64 {
        1 << self.shift
    }

    /// Where the block begins that holds this byte.
    pub(crate) fn start_of(&self, at: u64) -> u64 {
        at >> self.shift << self.shift
    }

    /// Where the block ends that holds this byte.
    pub(crate) fn end_of(&self, at: u64) -> u64 {
        self.start_of(at).saturating_add(self.block_bytes())
    }

    /// The place of the byte `at`, and how far, at most to `end`, the bytes after it are in the same place.
    pub(crate) fn piece(&self, at: u64, end: u64, limit: u64) -> (Place, u64) {
        let block = at >> self.shift;
        if block >= self.count || self.start_of(at) >= limit {
            return (Place::Upper, end);
        }
        let (present, run_end) = self.run(block, end.div_ceil(self.block_bytes()).min(self.count));
        let run_end = (run_end << self.shift).min(end);
        match present {
            true => (Place::Upper, run_end),
            false if at < limit => (Place::Below, run_end.min(limit)),
            false => (Place::Zeros, self.end_of(at).min(end)),
        }
    }

    /// Whether every block that holds one of these bytes is in the upper.
    pub(crate) fn hold(&self, mut at: u64, end: u64, limit: u64) -> bool {
        while at < end {
            let (Place::Upper, next) = self.piece(at, end, limit) else {
                return false;
            };
            at = next;
        }
        true
    }

    /// The first stretch of absent blocks at or after `at` and before `end`, in bytes: whole blocks.
    pub(crate) fn absent(&self, mut at: u64, end: u64, limit: u64) -> Option<Range<u64>> {
        let end = end.min(limit);
        while at < end {
            match self.piece(at, end, limit) {
                (Place::Below | Place::Zeros, to) => {
                    return Some(self.start_of(at)..self.end_of(to - 1));
                }
                (Place::Upper, to) => at = to,
            }
        }
        None
    }

    /// The blocks that begin in this range of bytes are in the upper now.
    pub(crate) fn set(&self, bytes: Range<u64>) {
        let first = bytes.start >> self.shift;
        let end = bytes.end.div_ceil(self.block_bytes()).min(self.count);
        for block in first..end {
            let word = usize::try_from(block / 64).unwrap_or(usize::MAX);
            self.words[word].fetch_or(1 << (block % 64), Ordering::Release);
        }
    }

    /// Whether `block` is there, and the first block, at most `end`, of which that is not so.
    fn run(&self, block: u64, end: u64) -> (bool, u64) {
        let word = |block: u64| {
            let index = usize::try_from(block / 64).unwrap_or(usize::MAX);
            self.words[index].load(Ordering::Acquire)
        };
        let present = word(block) >> (block % 64) & 1 == 1;
        let mut at = block;
        while at < end {
            let bits = if present { !word(at) } else { word(at) };
            let rest = bits >> (at % 64);
            if rest != 0 {
                return (present, end.min(at + u64::from(rest.trailing_zeros())));
            }
            at = (at / 64 + 1) * 64;
        }
        (present, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 16;

    /// The same, one byte at a time.
    fn place(present: &[bool], at: u64, limit: u64) -> Place {
        let block = usize::try_from(at / BLOCK).unwrap();
        if block >= present.len() || present[block] || at / BLOCK * BLOCK >= limit {
            Place::Upper
        } else if at < limit {
            Place::Below
        } else {
            Place::Zeros
        }
    }

    fn blocks(present: &[bool], first_limit: u64) -> Blocks {
        let blocks = Blocks::none(BLOCK, first_limit);
        for (block, _) in (0u64..).zip(present).filter(|(_, present)| **present) {
            blocks.set(block * BLOCK..block * BLOCK + 1);
        }
        blocks
    }

    proptest! {
        #[test]
        fn pieces_are_what_each_byte_says(
            present in proptest::collection::vec(any::<bool>(), 0..200),
            cut in 0..BLOCK,
            lowered in 0..3300_u64,
            at in 0..3300_u64,
            length in 1..2000_u64,
        ) {
            let first_limit = (present.len() as u64 * BLOCK).saturating_sub(cut);
            let limit = first_limit.min(lowered);
            let blocks = blocks(&present, first_limit);
            let end = at + length;
            let (mut from, mut holds) = (at, true);
            while from < end {
                let (found, to) = blocks.piece(from, end, limit);
                prop_assert!(to > from && to <= end);
                for byte in from..to {
                    prop_assert_eq!(found, place(&present, byte, limit), "byte {}", byte);
                }
                holds &= found == Place::Upper;
                from = to;
            }
            prop_assert_eq!(blocks.hold(at, end, limit), holds);
            let absent = (at..end.min(limit)).find(|byte| place(&present, *byte, limit) != Place::Upper);
            let found = blocks.absent(at, end, limit);
            prop_assert_eq!(found.as_ref().map(|found| found.start.max(at)), absent);
            if let Some(found) = found {
                prop_assert!(found.start % BLOCK == 0 && found.end % BLOCK == 0);
            }
        }

        #[test]
        fn bits_stay(ranges in proptest::collection::vec((0..3000_u64, 1..400_u64), 0..20)) {
            let blocks = Blocks::none(BLOCK, 3000);
            let mut model = vec![false; 188];
            for (start, length) in ranges {
                let start = start / BLOCK * BLOCK;
                blocks.set(start..start + length);
                for block in start / BLOCK..(start + length).div_ceil(BLOCK).min(188) {
                    model[usize::try_from(block).unwrap()] = true;
                }
            }
            for byte in 0..3100 {
                prop_assert_eq!(blocks.piece(byte, byte + 1, 3000).0, place(&model, byte, 3000));
            }
        }
    }

    #[test]
    fn an_empty_content_is_all_in_the_upper() {
        let blocks = Blocks::none(4096, 0);
        assert_eq!(blocks.piece(0, 10, 0), (Place::Upper, 10));
        assert_eq!(blocks.absent(0, 10, 0), None);
    }
}
