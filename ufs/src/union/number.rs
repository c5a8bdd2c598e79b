//! Inode numbers: the same for a file however it was reached, over copy-up and over remounts of the same stack.
//!
//! ```text
//! bits 62, 61 a second node of a file (never shown for long, see `inode`)
//! bit 62      handed out while mounted: the layer's own number does not fit below
//! bits 60-48  0: born in the upper; else the layer, counted from the bottom, starting at 1
//! bits 47-0   the file's number in its layer
//! ```
//!
//! Counting from the bottom keeps numbers when layers are added on top. A file that was copied up keeps its number
//! through the `overlay.shale.ino` mark of its copy.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

const OWN_BITS: u32 = 48;
const HANDED_OUT: u64 = 1 << 62;

/// The most layers that fit into a number.
pub(crate) const LAYERS_MAX: usize = (1 << 13) - 1;

/// Gives every file of every layer its number.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Device of each layer's root, top first.
    devices: Vec<u64>,
    upper_device: u64,
    handed_out: Mutex<HashMap<(u64, u64, u64), u64>>,
    next: AtomicU64,
}

impl Numbers {
    pub(crate) fn new(devices: Vec<u64>, upper_device: u64) -> Self {
        Self {
            devices,
            upper_device,
            handed_out: Mutex::default(),
            next: AtomicU64::new(HANDED_OUT),
        }
    }

    /// The number of a file of the layer with this index, counted from the top.
    pub(crate) fn of_lower(&self, layer: usize, device: u64, ino: u64) -> u64 {
        let tag = (self.devices.len() - layer) as u64;
        if self.devices[layer] == device && ino >> OWN_BITS == 0 {
            return tag << OWN_BITS | ino;
        }
        self.hand_out((tag, device, ino))
    }

    /// The number of a file born in the upper.
    pub(crate) fn of_upper(&self, device: u64, ino: u64) -> u64 {
        if self.upper_device == device && ino >> OWN_BITS == 0 {
            return ino;
        }
        self.hand_out((0, device, ino))
    }

    fn hand_out(&self, key: (u64, u64, u64)) -> u64 {
        let mut handed_out = self.handed_out.lock();
        *handed_out
            .entry(key)
            .or_insert_with(|| self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_upper_never_share_a_number() {
        let numbers = Numbers::new(vec![7, 7], 7);
        let all = [
            numbers.of_upper(7, 5),
            numbers.of_lower(0, 7, 5),
            numbers.of_lower(1, 7, 5),
        ];
        assert_eq!(all, [5, 2 << 48 | 5, 1 << 48 | 5]);
    }

    #[test]
    fn a_layer_on_top_changes_no_number_below() {
        let before = Numbers::new(vec![7], 7).of_lower(0, 7, 5);
        let after = Numbers::new(vec![8, 7], 7).of_lower(1, 7, 5);
        assert_eq!(before, after);
    }

    #[test]
    fn large_and_foreign_numbers_are_handed_out_once() {
        let numbers = Numbers::new(vec![7], 7);
        let large = numbers.of_lower(0, 7, 1 << 60);
        let foreign = numbers.of_lower(0, 9, 5);
        assert_ne!(large, foreign);
        assert_eq!(large, numbers.of_lower(0, 7, 1 << 60));
        assert!(large >= HANDED_OUT && foreign >= HANDED_OUT);
    }
}
