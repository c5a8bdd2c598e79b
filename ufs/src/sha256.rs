//! SHA-256 (FIPS 180-4) of a stream and of a stretch of it, in one go.
//!
//! A layer's tar stream is hashed whole for its diff ID, and each file in it for its content's name. [`update_both`]
//! does the second at hardly any cost where the processor has instructions for SHA-256, since members of a tar begin at
//! multiples of 512 bytes: the blocks of both hashes are the same.

use sha2::block_api::compress256;

use crate::sys::sha256::{BLOCK_BYTES, compress_both};

/// The state before any block (FIPS 180-4, 5.3.3).
const START: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];
/// In the last block, the length of the message stands from here on.
const LENGTH_AT: usize = BLOCK_BYTES - 8;

/// A hash that takes in bytes.
#[derive(Debug, Clone)]
pub struct Sha256 {
    state: [u32; 8],
    /// The begin of a block, when less than one was given.
    pending: [u8; BLOCK_BYTES],
    length_bytes: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha256 {
    /// The hash of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: START,
            pending: [0; BLOCK_BYTES],
            length_bytes: 0,
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let rest = self.fill(bytes);
        let (blocks, _) = rest.as_chunks();
        compress256(&mut self.state, blocks);
        self.keep(rest);
    }

    /// The digest of everything that was taken in.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        let (length_bits, used) = (self.length_bytes.wrapping_mul(8), self.used());
        self.pending[used..].fill(0);
        self.pending[used] = 0x80;
        if used >= LENGTH_AT {
            compress256(&mut self.state, &[self.pending]);
            self.pending = [0; BLOCK_BYTES];
        }
        self.pending[LENGTH_AT..].copy_from_slice(&length_bits.to_be_bytes());
        compress256(&mut self.state, &[self.pending]);
        let mut digest = [0; 32];
        for (to, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *to = word.to_be_bytes();
        }
        digest
    }

    /// Bytes of a block that wait for the rest of it.
    fn used(&self) -> usize {
        // below 64
        (self.length_bytes % BLOCK_BYTES as u64) as usize
    }

    /// Completes the block that waits, if there are enough bytes; gives what is left of them.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let used = self.used();
        if used == 0 {
            return bytes;
        }
        let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - used));
        self.pending[used..used + now.len()].copy_from_slice(now);
        self.length_bytes += now.len() as u64;
        if used + now.len() == BLOCK_BYTES {
            compress256(&mut self.state, &[self.pending]);
        }
        rest
    }

    /// Counts bytes whose whole blocks were taken in, and keeps those after them.
    fn keep(&mut self, bytes: &[u8]) {
        let (_, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        // what is left after a block that is not complete yet was kept there
        if !rest.is_empty() {
            self.pending[..rest.len()].copy_from_slice(rest);
        }
        self.length_bytes += bytes.len() as u64;
    }
}

/// Takes the same bytes into both hashes.
pub fn update_both(first: &mut Sha256, second: &mut Sha256, bytes: &[u8]) {
    if first.used() != second.used() {
        first.update(bytes);
        second.update(bytes);
        return;
    }
    let rest = first.fill(bytes);
    second.fill(bytes);
    let (blocks, _) = rest.as_chunks();
    compress_both(&mut first.state, &mut second.state, blocks);
    first.keep(rest);
    second.keep(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest as _;

    fn expected(bytes: &[u8]) -> [u8; 32] {
        sha2::Sha256::digest(bytes).into()
    }

    #[test]
    fn every_length_around_the_blocks_is_padded_right() {
        let bytes: Vec<u8> = (0..300u32).map(|n| (n * 7) as u8).collect();
        for length in 0..bytes.len() {
            let mut hash = Sha256::new();
            hash.update(&bytes[..length]);
            assert_eq!(hash.finish(), expected(&bytes[..length]), "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_stretch_is_hashed_beside_the_stream(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            stretch in any::<[prop::sample::Index; 2]>(),
        ) {
            let place = |index: &prop::sample::Index| index.index(bytes.len() + 1);
            let (from, to) = (place(&stretch[0]).min(place(&stretch[1])), place(&stretch[0]).max(place(&stretch[1])));
            let mut cuts: Vec<usize> = cuts.iter().map(place).chain([0, from, to, bytes.len()]).collect();
            cuts.sort_unstable();
            let (mut stream, mut content) = (Sha256::new(), Sha256::new());
            for pair in cuts.windows(2) {
                let part = &bytes[pair[0]..pair[1]];
                match pair[0] >= from && pair[1] <= to {
                    true => update_both(&mut stream, &mut content, part),
                    false => stream.update(part),
                }
            }
            prop_assert_eq!(stream.finish(), expected(&bytes));
            prop_assert_eq!(content.finish(), expected(&bytes[from..to]));
        }
    }
}
