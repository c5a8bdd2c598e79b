//! Files whose every byte is known, and numbers that are the same in every run.

use std::path::{Path, PathBuf};

use shale_tests::fixture::put;

/// The byte at `offset` of the file with this number.
pub(crate) fn byte(number: u64, offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 9) ^ number.wrapping_mul(97)) as u8
}

pub(crate) fn content(number: u64, length: u64) -> Vec<u8> {
    (0..length).map(|offset| byte(number, offset)).collect()
}

/// A cheap source of numbers, the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

pub(crate) const FILES: u64 = 40;

pub(crate) fn length_of(number: u64) -> u64 {
    [3_000, 40_000, 700_000][number as usize % 3]
}

pub(crate) fn fill_files(lower: &Path) {
    for number in 0..FILES {
        let path = format!("both/d{}/f{number}", number % 4);
        put(lower, &path, content(number, length_of(number)));
    }
    for number in 0..500 {
        put(lower, &format!("many/entry{number}"), "");
    }
}

pub(crate) fn file_path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("both/d{}/f{number}", number % 4))
}
