//! Which chunks stay: two queues and a memory of what was put out (pure; one per shard).
//!
//! ```text
//!            demanded, remembered as a ghost
//!   ┌──────────────────────────────────────────────┐
//!   │                                              ▼
//! new ──► small (a fifth) ──asked for again──► main (the rest) ──► out
//!              │                                   ▲   │ asked for since: once more round
//!              └─ not asked for again ─► out, its key a ghost
//! ```
//!
//! The shape is S3-FIFO's (Yang et al., SOSP 2023): most chunks of a long read are asked for by that read alone, so a
//! new one stands in a small queue first and is put out there unless it proves itself; what proved itself lives in the
//! main queue, where a scan cannot reach it. One point is 2Q's (Johnson and Shasha, VLDB 1994): a program that reads
//! a file from end to end asks for each chunk many times in a row, and those requests are one. So a request counts in
//! the small queue only when the chunk has stood there for half of the queue's length.
//!
//! Chunks that nobody asked for, decompressed on the way to another, enter the small queue, also when they are ghosts:
//! they can displace each other and what is unproven, never what is hot.
//!
//! Invariants: the bytes held are never more than the limit; every key of the map is in exactly one queue, once. The
//! ghosts are as many as the chunks that would fit. Every operation takes constant time, spread over the calls.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The small queue's part of the limit.
const SMALL_PART: u64 = 5;
/// The part of the small queue that must pass before a request counts.
const CORRELATED_PART: u64 = 2;
/// How often an entry of the main queue goes round at most without being asked for.
const ROUNDS_MAX: u8 = 3;

struct Entry<V> {
    value: V,
    size_bytes: u64,
    /// Bytes that had entered when this one did.
    entered_at: u64,
    /// Rounds that it has earned.
    rounds: u8,
    in_main: bool,
}

/// Values under keys, as many as fit.
pub(crate) struct Shelf<K, V> {
    limit_bytes: u64,
    held_bytes: u64,
    small_bytes: u64,
    /// Bytes that entered so far: the clock.
    entered_bytes: u64,
    entries: HashMap<K, Entry<V>>,
    small: VecDeque<K>,
    main: VecDeque<K>,
    ghosts: Ghosts<K>,
}

impl<K: Copy + Eq + Hash, V: Clone> Shelf<K, V> {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            held_bytes: 0,
            small_bytes: 0,
            entered_bytes: 0,
            entries: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: Ghosts::new(limit_bytes),
        }
    }

    /// Bytes of the values held.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Whether a value is here; no request for it.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// A value, if it is here; no request for it.
    pub(crate) fn peek(&self, key: &K) -> Option<V> {
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    /// A value that someone asked for.
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let correlated = self.small_limit() / CORRELATED_PART;
        let entry = self.entries.get_mut(key)?;
        if entry.in_main {
            entry.rounds = (entry.rounds + 1).min(ROUNDS_MAX);
        } else if self.entered_bytes - entry.entered_at > correlated {
            entry.rounds = 1;
        }
        Some(entry.value.clone())
    }

    /// Takes a value in, `demanded` when someone asked for it; gives how many others it displaced. One that is here
    /// already, or that alone is larger than the limit, is not taken.
    pub(crate) fn insert(&mut self, key: K, value: V, size_bytes: u64, demanded: bool) -> u64 {
        if size_bytes > self.limit_bytes || self.entries.contains_key(&key) {
            return 0;
        }
        let mut displaced = 0;
        while self.held_bytes + size_bytes > self.limit_bytes {
            displaced += u64::from(self.step(size_bytes));
        }
        self.entered_bytes += size_bytes;
        self.held_bytes += size_bytes;
        let in_main = demanded && self.ghosts.take(&key);
        if in_main {
            self.main.push_back(key);
        } else {
            self.small_bytes += size_bytes;
            self.small.push_back(key);
        }
        let entry = Entry {
            value,
            size_bytes,
            entered_at: self.entered_bytes,
            rounds: 0,
            in_main,
        };
        self.entries.insert(key, entry);
        displaced
    }

    fn small_limit(&self) -> u64 {
        self.limit_bytes / SMALL_PART
    }

    /// Moves one key on; whether that put a value out. There is a key, since something is held.
    fn step(&mut self, incoming_bytes: u64) -> bool {
        let small_first = self.small_bytes + incoming_bytes > self.small_limit() && !self.small.is_empty();
        if small_first || self.main.is_empty() {
            self.step_small()
        } else {
            self.step_main()
        }
    }

    fn step_small(&mut self) -> bool {
        let Some(key) = self.small.pop_front() else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        self.small_bytes -= entry.size_bytes;
        if entry.rounds > 0 {
            entry.rounds = 0;
            entry.in_main = true;
            self.main.push_back(key);
            return false;
        }
        self.held_bytes -= entry.size_bytes;
        self.ghosts.add(key, entry.size_bytes);
        self.entries.remove(&key);
        true
    }

    fn step_main(&mut self) -> bool {
        let Some(key) = self.main.pop_front() else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        if entry.rounds > 0 {
            entry.rounds -= 1;
            self.main.push_back(key);
            return false;
        }
        self.held_bytes -= entry.size_bytes;
        self.entries.remove(&key);
        true
    }

    /// Every invariant of the header.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert!(self.held_bytes <= self.limit_bytes);
        assert_eq!(
            self.held_bytes,
            self.entries.values().map(|e| e.size_bytes).sum::<u64>()
        );
        assert_eq!(self.entries.len(), self.small.len() + self.main.len());
        let mut small_bytes = 0;
        for key in &self.small {
            assert!(!self.entries[key].in_main);
            small_bytes += self.entries[key].size_bytes;
        }
        assert_eq!(small_bytes, self.small_bytes);
        assert!(self.main.iter().all(|key| self.entries[key].in_main));
        assert!(self.ghosts.queue_bytes <= self.limit_bytes);
    }
}

/// Keys that were put out of the small queue lately.
struct Ghosts<K> {
    limit_bytes: u64,
    /// Bytes that the keys of the queue stood for.
    queue_bytes: u64,
    /// Key, size and turn, oldest first; the turn tells a key that came back from one that left again.
    queue: VecDeque<(K, u64, u64)>,
    turns: HashMap<K, u64>,
    next_turn: u64,
}

impl<K: Copy + Eq + Hash> Ghosts<K> {
    fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            queue_bytes: 0,
            queue: VecDeque::new(),
            turns: HashMap::new(),
            next_turn: 0,
        }
    }

    fn add(&mut self, key: K, size_bytes: u64) {
        self.turns.insert(key, self.next_turn);
        self.queue.push_back((key, size_bytes, self.next_turn));
        self.next_turn += 1;
        self.queue_bytes += size_bytes;
        while self.queue_bytes > self.limit_bytes {
            let Some((key, size_bytes, turn)) = self.queue.pop_front() else {
                return;
            };
            self.queue_bytes -= size_bytes;
            if self.turns.get(&key) == Some(&turn) {
                self.turns.remove(&key);
            }
        }
    }

    /// Whether a key was remembered; it is no more.
    fn take(&mut self, key: &K) -> bool {
        self.turns.remove(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plain way: whoever was asked for longest ago goes.
    struct LeastRecent {
        limit: usize,
        keys: lru::LruCache<u64, ()>,
    }

    impl LeastRecent {
        fn new(limit: usize) -> Self {
            Self {
                limit,
                keys: lru::LruCache::unbounded(),
            }
        }

        fn ask(&mut self, key: u64) -> bool {
            let hit = self.keys.get(&key).is_some();
            if !hit {
                if self.keys.len() == self.limit {
                    self.keys.pop_lru();
                }
                self.keys.put(key, ());
            }
            hit
        }
    }

    fn ask(shelf: &mut Shelf<u64, ()>, key: u64) -> bool {
        let hit = shelf.get(&key).is_some();
        if !hit {
            shelf.insert(key, (), 1, true);
        }
        hit
    }

    /// Asks for the keys of a hot set in turn, `rounds` times.
    fn warm(shelf: &mut Shelf<u64, ()>, hot: u64, rounds: u64) {
        for _ in 0..rounds {
            for key in 0..hot {
                ask(shelf, key);
            }
        }
    }

    #[test]
    fn a_hot_set_survives_one_long_scan_that_empties_a_plain_lru() {
        let (mut shelf, mut plain) = (Shelf::new(128), LeastRecent::new(128));
        let (hot, scan) = (60, 10_000);
        // other keys between the rounds, as in life: the hot ones prove themselves
        for round in 0..4 {
            warm(&mut shelf, hot, 1);
            (0..hot).for_each(|key| {
                plain.ask(key);
            });
            for key in 0..100 {
                ask(&mut shelf, 1_000_000 + round * 100 + key);
                plain.ask(1_000_000 + round * 100 + key);
            }
        }
        for key in 0..scan {
            // a scan asks for each chunk many times in a row
            for _ in 0..32 {
                ask(&mut shelf, 2_000_000 + key);
                plain.ask(2_000_000 + key);
            }
        }
        shelf.check();
        let kept = (0..hot).filter(|&key| ask(&mut shelf, key)).count() as u64;
        let kept_by_plain = (0..hot).filter(|&key| plain.ask(key)).count();
        assert!(kept >= hot * 9 / 10, "{kept} of {hot} are left");
        assert_eq!(kept_by_plain, 0);
    }

    #[test]
    fn what_was_offered_displaces_no_hot_entry() {
        let mut shelf = Shelf::new(128);
        for round in 0..4 {
            warm(&mut shelf, 60, 1);
            for key in 0..100 {
                ask(&mut shelf, 1_000_000 + round * 100 + key);
            }
        }
        for key in 0..10_000 {
            shelf.insert(5_000_000 + key % 300, (), 1, false);
        }
        shelf.check();
        let kept = (0..60).filter(|key| shelf.contains(key)).count();
        assert!(kept >= 54, "{kept} of 60 are left");
    }

    #[test]
    fn an_offered_entry_is_found_when_asked_for() {
        let mut shelf = Shelf::new(10);
        shelf.insert(7, (), 1, false);
        assert!(ask(&mut shelf, 7));
    }

    #[test]
    fn a_skewed_load_hits_about_as_often_as_with_a_plain_lru() {
        let (mut shelf, mut plain) = (Shelf::new(100), LeastRecent::new(100));
        let mut state = 7u64;
        let (mut hits, mut hits_of_plain) = (0, 0);
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
            // one over rank, about: key k with probability near 1/(k ln 1000)
            let key = 1000f64.powf(unit) as u64;
            hits += u32::from(ask(&mut shelf, key));
            hits_of_plain += u32::from(plain.ask(key));
        }
        shelf.check();
        assert!(hits * 100 >= hits_of_plain * 98, "{hits} against {hits_of_plain}");
    }

    #[test]
    fn an_entry_that_comes_back_soon_goes_to_the_main_queue() {
        let mut shelf = Shelf::new(10);
        for key in 0..20 {
            ask(&mut shelf, key);
        }
        assert!(!shelf.contains(&5));
        ask(&mut shelf, 5);
        assert!(shelf.entries[&5].in_main);
    }

    #[test]
    fn what_is_larger_than_the_limit_is_not_taken() {
        let mut shelf = Shelf::new(10);
        shelf.insert(1, (), 4, true);
        assert_eq!(shelf.insert(2, (), 11, true), 0);
        assert!(shelf.contains(&1) && !shelf.contains(&2));
    }

    proptest! {
        #[test]
        fn the_limit_and_the_queues_hold_whatever_is_asked(
            limit in 0u64..200,
            steps in prop::collection::vec((0u64..60, 0u64..40, any::<bool>(), any::<bool>()), 0..400),
        ) {
            let mut shelf = Shelf::new(limit);
            for (key, size, demanded, only_ask) in steps {
                if only_ask {
                    let here = shelf.contains(&key);
                    prop_assert_eq!(shelf.get(&key).is_some(), here);
                } else {
                    shelf.insert(key, key, size, demanded);
                }
                if let Some(value) = shelf.get(&key) {
                    prop_assert_eq!(value, key);
                }
                shelf.check();
            }
        }
    }
}
