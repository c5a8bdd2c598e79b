//! Sets of extended attributes, each distinct one once. Pure.
//!
//! ```text
//! set:  { length of name u16 │ length of value u32 │ name │ value }*    sorted by name
//! ```

use hashbrown::HashTable;
use twox_hash::XxHash3_64;

use super::format::NONE;

/// Attribute sets in the order in which they came.
#[derive(Debug)]
pub(super) struct Sets {
    /// Where each starts, and where the last one ends.
    starts: Vec<u32>,
    bytes: Vec<u8>,
    table: HashTable<u32>,
    seed: u64,
}

impl Sets {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            starts: Vec::new(),
            bytes: Vec::new(),
            table: HashTable::new(),
            seed,
        }
    }

    /// The number of a set given by its bytes; [`NONE`] for the empty one. `None` when there are too many.
    pub(super) fn add(&mut self, set: &[u8]) -> Option<u32> {
        if set.is_empty() {
            return Some(NONE);
        }
        let hash = XxHash3_64::oneshot_with_seed(self.seed, set);
        let (starts, bytes) = (&self.starts, &self.bytes);
        if let Some(found) = self.table.find(hash, |&number| get(starts, bytes, number) == set) {
            return Some(*found);
        }
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        let number = u32::try_from(self.starts.len() - 1).ok()?;
        self.bytes.extend_from_slice(set);
        self.starts.push(u32::try_from(self.bytes.len()).ok()?);
        let (starts, bytes, seed) = (&self.starts, &self.bytes, self.seed);
        self.table.insert_unique(hash, number, |&number| {
            XxHash3_64::oneshot_with_seed(seed, get(starts, bytes, number))
        });
        Some(number)
    }

    /// Number of records of the starts' section.
    pub(super) fn start_count(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Number of bytes.
    pub(super) fn byte_count(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The starts' section.
    pub(super) fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The bytes' section.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn get<'a>(starts: &[u32], bytes: &'a [u8], number: u32) -> &'a [u8] {
    let number = number as usize;
    &bytes[starts[number] as usize..starts[number + 1] as usize]
}

/// Appends one attribute to the bytes of a set. `None` when name or value are longer than Linux allows.
pub(super) fn put(set: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Option<()> {
    if name.is_empty() || name.len() > 255 || value.len() > 65536 || name.contains(&0) {
        return None;
    }
    set.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
    set.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
    set.extend_from_slice(name);
    set.extend_from_slice(value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_kept_once() {
        let mut sets = Sets::new(1);
        let mut numbers = Vec::new();
        for round in 0..2 {
            for number in 0..300u32 {
                let mut set = Vec::new();
                put(&mut set, b"user.a", &number.to_le_bytes()).unwrap();
                numbers.push(sets.add(&set).unwrap());
                assert_eq!(numbers[number as usize], number, "round {round}");
            }
        }
        assert_eq!(sets.start_count(), 301);
        assert_eq!(sets.byte_count(), 300 * (6 + 6 + 4));
        assert_eq!(sets.add(b""), Some(NONE));
    }

    #[test]
    fn what_linux_does_not_allow_is_refused() {
        let mut set = Vec::new();
        for (name, value) in [(0, 0), (256, 0), (1, 65537)] {
            assert_eq!(put(&mut set, &vec![b'a'; name], &vec![0; value]), None);
        }
        assert_eq!(put(&mut set, b"a\0b", b""), None);
        assert!(set.is_empty());
        assert_eq!(put(&mut set, &[b'a'; 255], &[0; 65536]), Some(()));
    }
}
