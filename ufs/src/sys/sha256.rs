//! The compression function of SHA-256 (FIPS 180-4, 6.2) on two states at once.
//!
//! A processor's instructions for SHA-256 wait for each other: a round needs the result of the round before. Two
//! states that take in the same blocks fill that time, and the message schedule is worked out once for both. Where the
//! instructions are missing, each state goes its own way through the `sha2` crate.
#![allow(unsafe_code)]

use sha2::block_api::compress256;

/// Size of a block.
pub(crate) const BLOCK_BYTES: usize = 64;

/// Takes the same blocks into both states.
pub(crate) fn compress_both(first: &mut [u32; 8], second: &mut [u32; 8], blocks: &[[u8; BLOCK_BYTES]]) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_available() {
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe { x86::compress_both(first, second, blocks) };
        return;
    }
    compress256(first, blocks);
    compress256(second, blocks);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
        _mm_shuffle_epi32, _mm_storeu_si128,
    };

    use super::BLOCK_BYTES;

    /// The constants of the rounds (FIPS 180-4, 4.2.2).
    static CONSTANTS: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ];

    /// Whether the processor has what [`compress_both`] needs.
    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1")
    }

    /// A state in the order that the instructions want: words A, B, E, F and C, D, G, H.
    #[derive(Clone, Copy)]
    struct State {
        abef: __m128i,
        cdgh: __m128i,
    }

    impl State {
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn load(state: &[u32; 8]) -> Self {
            // SAFETY: both halves lie in the array; the load needs no alignment.
            let [dcba, hgfe] = unsafe {
                let from = state.as_ptr().cast::<__m128i>();
                [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1))]
            };
            let cdab = _mm_shuffle_epi32::<0xb1>(dcba);
            let efgh = _mm_shuffle_epi32::<0x1b>(hgfe);
            Self {
                abef: _mm_alignr_epi8::<8>(cdab, efgh),
                cdgh: _mm_blend_epi16::<0xf0>(efgh, cdab),
            }
        }

        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn store(self, state: &mut [u32; 8]) {
            let feba = _mm_shuffle_epi32::<0x1b>(self.abef);
            let dchg = _mm_shuffle_epi32::<0xb1>(self.cdgh);
            // SAFETY: both halves lie in the array; the store needs no alignment.
            unsafe {
                let to = state.as_mut_ptr().cast::<__m128i>();
                _mm_storeu_si128(to, _mm_blend_epi16::<0xf0>(feba, dchg));
                _mm_storeu_si128(to.add(1), _mm_alignr_epi8::<8>(dchg, feba));
            }
        }

        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn add(&mut self, other: Self) {
            self.abef = _mm_add_epi32(self.abef, other.abef);
            self.cdgh = _mm_add_epi32(self.cdgh, other.cdgh);
        }
    }

    /// Four rounds of both states with the words `words` of the schedule, the first being number `4 * group`.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn rounds(states: &mut [State; 2], group: usize, words: __m128i) {
        // SAFETY: the schedule has 16 groups of four; the load needs no alignment.
        let constants = unsafe { _mm_loadu_si128(CONSTANTS.as_ptr().add(4 * (group & 15)).cast()) };
        let words = _mm_add_epi32(words, constants);
        let upper = _mm_shuffle_epi32::<0x0e>(words);
        for state in states.iter_mut() {
            state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, words);
        }
        for state in states.iter_mut() {
            state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, upper);
        }
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn compress_both(first: &mut [u32; 8], second: &mut [u32; 8], blocks: &[[u8; BLOCK_BYTES]]) {
        // big-endian words
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let mut states = [State::load(first), State::load(second)];
        for block in blocks {
            let before = states;
            let from = block.as_ptr().cast::<__m128i>();
            // SAFETY: a block holds four of these; the loads need no alignment.
            let mut words: [__m128i; 4] =
                std::array::from_fn(|at| unsafe { _mm_shuffle_epi8(_mm_loadu_si128(from.add(at)), swap) });
            for (group, words) in words.into_iter().enumerate() {
                rounds(&mut states, group, words);
            }
            for group in 4..16 {
                let at = group % 4;
                let (next, last) = (words[(at + 1) % 4], words[(at + 3) % 4]);
                let middle = _mm_alignr_epi8::<4>(last, words[(at + 2) % 4]);
                let sum = _mm_add_epi32(_mm_sha256msg1_epu32(words[at], next), middle);
                words[at] = _mm_sha256msg2_epu32(sum, last);
                rounds(&mut states, group, words[at]);
            }
            states[0].add(before[0]);
            states[1].add(before[1]);
        }
        states[0].store(first);
        states[1].store(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_states_become_what_each_becomes_alone() {
        let blocks: Vec<[u8; BLOCK_BYTES]> = (0..5u8)
            .map(|n| std::array::from_fn(|at| (at as u8).wrapping_mul(37) ^ n.wrapping_mul(91)))
            .collect();
        for count in 0..=blocks.len() {
            let mut states = [[7, 6, 5, 4, 3, 2, 1, u32::MAX], [1, 0, 1 << 31, 9, 8, 7, 6, 5]];
            let mut alone = states;
            for state in &mut alone {
                compress256(state, &blocks[..count]);
            }
            let [first, second] = &mut states;
            compress_both(first, second, &blocks[..count]);
            assert_eq!(states, alone, "{count} blocks");
        }
    }
}
