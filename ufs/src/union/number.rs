//! Inode numbers: the same for a file however it was reached, over copy-up and over remounts of the same stack.
//!
//! ```text
//! bits 62, 61 a second node of a file (never shown for long, see `inode`)
//! bit 62      handed out while mounted: the layer's own number does not fit below
//! bits 60-48  0: born in the upper; else the layer, counted from the bottom, starting at 1
//! bits 47-0   the file's number in its layer
//! ```
//!
//! An index of several layers counts as so many: its own numbers say which of them in bits 48 and up. So the numbers
//! of an image's files do not depend on how many of its layers are merged into one index.
//!
//! The kernel's table of inodes makes little of the upper bits, and files of the same number in many layers would all
//! meet in one place of it. So the lower 32 bits of an index's numbers are stirred by the layer, which can be undone.
//!
//! The upper's file system gives the number of a file that is gone to a new one. The kernel may still know the first:
//! a server that died had kept it, and the next one cannot. So the new file is given a number of ours.
//!
//! Counting from the bottom keeps numbers when layers are added on top. A file that was copied up keeps its number
//! through the `overlay.shale.ino` mark of its copy.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::journal::{Journal, Record};
use crate::layer::Layer;

const OWN_BITS: u32 = 48;
const HANDED_OUT: u64 = 1 << 62;

/// The most layers that fit into a number.
pub(crate) const LAYERS_MAX: usize = (1 << 13) - 1;

/// Gives every file of every layer its number.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Top first.
    layers: Vec<Tagged>,
    upper_device: u64,
    handed_out: Mutex<HandedOut>,
    /// Files of the upper are among those, although their own numbers fit.
    any_renumbered: AtomicBool,
    next: AtomicU64,
    journal: Arc<Journal>,
}

/// Numbers given to files (tag, device, inode) whose own do not fit.
pub(crate) type HandedOut = HashMap<(u64, u64, u64), u64>;

/// How the numbers of one layer are tagged.
#[derive(Debug, Clone, Copy)]
struct Tagged {
    /// The tag, or the first one of an index.
    tag: u64,
    /// How many tags it has.
    count: u64,
    /// Device of a directory's root; `None` for an index, whose numbers are its own.
    device: Option<u64>,
}

impl Numbers {
    /// For layers, top first.
    ///
    /// # Errors
    /// When a layer's root cannot be read, or there are more layers than tags.
    pub(crate) fn of_layers(layers: &[Arc<dyn Layer>], upper_device: u64) -> Result<Self> {
        let kinds = layers.iter().map(|layer| match layer.number_tags() {
            Some(tags) => Ok((tags, None)),
            None => Ok((1, Some(layer.root_attr()?.dev))),
        });
        Self::new(kinds.collect::<Result<_>>()?, upper_device)
    }

    /// For the number of tags and device of each layer, top first.
    fn new(kinds: Vec<(u64, Option<u64>)>, upper_device: u64) -> Result<Self> {
        let mut next = 1;
        let tagged = |(count, device): &(u64, Option<u64>)| {
            let tag = next;
            next += count;
            Tagged {
                tag,
                count: *count,
                device: *device,
            }
        };
        let mut layers: Vec<Tagged> = kinds.iter().rev().map(tagged).collect();
        layers.reverse();
        if next > LAYERS_MAX as u64 + 1 {
            return Err(Error::Invalid("more layers than inode numbers can tell apart"));
        }
        Ok(Self {
            layers,
            upper_device,
            handed_out: Mutex::default(),
            any_renumbered: AtomicBool::new(false),
            next: AtomicU64::new(HANDED_OUT),
            journal: Arc::default(),
        })
    }

    /// With what an earlier server `given`, and the journal for what will be.
    pub(crate) fn going_on(mut self, given: HandedOut, journal: Arc<Journal>) -> Self {
        let next = given.values().max().map_or(HANDED_OUT, |largest| largest + 1);
        self.next = AtomicU64::new(next);
        let renumbered = |key: &(u64, u64, u64)| key.0 == 0 && self.is_upper(key.1, key.2);
        self.any_renumbered = AtomicBool::new(given.keys().any(renumbered));
        self.handed_out = Mutex::new(given);
        self.journal = journal;
        self
    }

    /// The number of a file of the layer with this index, counted from the top.
    pub(crate) fn of_lower(&self, layer: usize, device: u64, ino: u64) -> u64 {
        let Tagged {
            tag,
            count,
            device: own,
        } = self.layers[layer];
        let fits = match own {
            None => ino >> OWN_BITS < count,
            Some(own) => own == device && ino >> OWN_BITS == 0,
        };
        match own {
            None if fits => stirred((tag << OWN_BITS) + ino),
            Some(_) if fits => (tag << OWN_BITS) + ino,
            _ => self.hand_out((tag, device, ino)),
        }
    }

    /// The layer that a number belongs to, and the file's number there, if numbers of that layer lead back to files.
    pub(crate) fn layer_of(&self, number: u64) -> Option<(usize, u64)> {
        let tag = number >> OWN_BITS;
        // Ascending towards the bottom's end: the tags fall from the top layer on.
        let layer = self.layers.partition_point(|layer| layer.tag > tag);
        let found = self.layers.get(layer)?;
        let own = found.device.is_none() && tag - found.tag < found.count;
        own.then(|| (layer, stirred(number) - (found.tag << OWN_BITS)))
    }

    /// The number of a file born in the upper.
    pub(crate) fn of_upper(&self, device: u64, ino: u64) -> u64 {
        if !self.is_upper(device, ino) {
            return self.hand_out((0, device, ino));
        }
        if !self.any_renumbered.load(Ordering::Acquire) {
            return ino;
        }
        let handed_out = self.handed_out.lock();
        handed_out.get(&(0, device, ino)).copied().unwrap_or(ino)
    }

    /// Gives another number to a file just born in the upper, whose own is that of another one.
    pub(crate) fn renumber(&self, device: u64, ino: u64) -> u64 {
        let mut handed_out = self.handed_out.lock();
        let number = self.fresh((0, device, ino));
        handed_out.insert((0, device, ino), number);
        self.any_renumbered.store(true, Ordering::Release);
        number
    }

    fn is_upper(&self, device: u64, ino: u64) -> bool {
        self.upper_device == device && ino >> OWN_BITS == 0
    }

    fn hand_out(&self, key: (u64, u64, u64)) -> u64 {
        let mut handed_out = self.handed_out.lock();
        *handed_out.entry(key).or_insert_with(|| self.fresh(key))
    }

    fn fresh(&self, key: (u64, u64, u64)) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.journal.note(&Record::HandedOut { key, number });
        number
    }
}

/// Spreads the numbers of layers over the kernel's table. Twice is none.
fn stirred(number: u64) -> u64 {
    let layer = (number >> OWN_BITS) as u32;
    number ^ u64::from(layer.wrapping_mul(0x9e37_79b1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(devices: &[u64]) -> Numbers {
        Numbers::new(devices.iter().map(|device| (1, Some(*device))).collect(), 7).unwrap()
    }

    #[test]
    fn layers_and_upper_never_share_a_number() {
        let numbers = directories(&[7, 7]);
        let all = [
            numbers.of_upper(7, 5),
            numbers.of_lower(0, 7, 5),
            numbers.of_lower(1, 7, 5),
        ];
        assert_eq!(all, [5, 2 << 48 | 5, 1 << 48 | 5]);
    }

    #[test]
    fn a_layer_on_top_changes_no_number_below() {
        let before = directories(&[7]).of_lower(0, 7, 5);
        let after = directories(&[8, 7]).of_lower(1, 7, 5);
        assert_eq!(before, after);
    }

    #[test]
    fn large_and_foreign_numbers_are_handed_out_once() {
        let numbers = directories(&[7]);
        let large = numbers.of_lower(0, 7, 1 << 60);
        let foreign = numbers.of_lower(0, 9, 5);
        assert_ne!(large, foreign);
        assert_eq!(large, numbers.of_lower(0, 7, 1 << 60));
        assert!(large >= HANDED_OUT && foreign >= HANDED_OUT);
    }

    #[test]
    fn merging_layers_into_one_index_changes_no_number() {
        // A directory at the bottom, then five layers of an image, then a directory.
        let merged = Numbers::new(vec![(1, Some(7)), (5, None), (1, Some(7))], 7).unwrap();
        let split = Numbers::new(vec![(1, Some(7)), (2, None), (3, None), (1, Some(7))], 7).unwrap();
        assert_eq!(merged.of_lower(1, 0, 3 << 48 | 9), split.of_lower(1, 0, 9));
        assert_eq!(
            merged.of_lower(1, 0, 2 << 48 | 9),
            split.of_lower(2, 0, 2 << 48 | 9)
        );
        assert_eq!(merged.of_lower(0, 7, 9), split.of_lower(0, 7, 9));
    }

    #[test]
    fn a_new_file_keeps_the_number_it_was_given() {
        let first = directories(&[7]);
        let given = first.renumber(7, 5);
        assert_eq!(first.of_upper(7, 5), given);
        assert_eq!(first.of_upper(7, 6), 6);
        let handed_out = first.handed_out.lock().clone();
        let next = directories(&[7]).going_on(handed_out, Arc::default());
        assert_eq!(next.of_upper(7, 5), given);
        assert_eq!(next.of_upper(7, 6), 6);
        assert!(![5, given].contains(&next.renumber(7, 5)));
    }

    #[test]
    fn numbers_of_indexes_lead_back() {
        let numbers = Numbers::new(vec![(1, Some(7)), (2, None), (3, None), (1, Some(7))], 7).unwrap();
        for (layer, ino) in [(1, 9), (1, 1 << 48 | 9), (2, 0), (2, 2 << 48 | 1)] {
            assert_eq!(
                numbers.layer_of(numbers.of_lower(layer, 0, ino)),
                Some((layer, ino))
            );
        }
        for number in [
            1,
            5,
            numbers.of_lower(0, 7, 5),
            numbers.of_lower(3, 7, 5),
            HANDED_OUT,
            3 << 61,
            u64::MAX,
        ] {
            assert_eq!(numbers.layer_of(number), None, "{number:x}");
        }
    }
}
