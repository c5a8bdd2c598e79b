//! Giving the kernel what will be read next, before it asks.
//!
//! A program that reads one small file of a directory after another costs a round trip for each. When a second one is
//! read, the contents of those that follow are put into the kernel's cache (`FUSE_NOTIFY_STORE`), twice as many each
//! time this proves right: then most of them are read without a request.
//!
//! ```text
//! READ of a small file ──► queue ──► Pace: how many after it? ──► contents ──► kernel's cache
//!      (server thread)      (bounded: what does not fit is left out)  (this thread)
//! ```
//!
//! A thread of its own does this: the kernel may make it wait for a page that another request is filling, which a
//! thread that answers requests must never do.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use lru::LruCache;

use crate::fs::Fs;

/// Larger files are read ahead by the kernel itself.
pub(super) const SMALL_BYTES_MAX: usize = 16 << 10;

/// Reads that may wait for their followers.
const QUEUE_MAX: usize = 64;

/// Files given at first, and at most, at a time.
const WINDOW_MIN: usize = 8;
const WINDOW_MAX: usize = 64;

/// Bytes given at a time.
const BYTES_MAX: u64 = 512 << 10;

/// Directories that are watched at a time.
const DIRECTORIES_MAX: usize = 256;

/// The way from the threads that answer to the one that gives.
#[derive(Debug, Clone)]
pub(crate) struct Ahead(Sender<u64>);

/// What is to be given, and who gives it: made before the mount is served, run when it is.
pub(crate) struct Giver {
    fs: Arc<Fs>,
    reads: Receiver<u64>,
}

/// The two ends.
pub(super) fn pair(fs: &Arc<Fs>) -> (Ahead, Giver) {
    let (sender, reads) = bounded(QUEUE_MAX);
    let giver = Giver {
        fs: Arc::clone(fs),
        reads,
    };
    (Ahead(sender), giver)
}

impl Ahead {
    /// A small file is being read.
    pub(super) fn note(&self, node: u64) {
        // A full queue means that there is enough to do.
        let _ = self.0.try_send(node);
    }
}

impl Giver {
    /// Gives until nobody notes reads any more.
    pub(super) fn run(self, notifier: &fuser::Notifier) {
        let mut pace = Pace::default();
        for node in &self.reads {
            if let Err(error) = self.follow(&mut pace, node, notifier) {
                tracing::debug!(node, %error, "nothing is given ahead");
            }
        }
    }

    fn follow(&self, pace: &mut Pace, node: u64, notifier: &fuser::Notifier) -> crate::error::Result<()> {
        let Some((dir, position)) = self.fs.position(node)? else {
            return Ok(());
        };
        let Some(count) = pace.read(dir, position) else {
            return Ok(());
        };
        for neighbour in self.fs.neighbours(node, count, BYTES_MAX)? {
            // The kernel knows no such file, or is going away: either way there is nothing to give.
            if notifier
                .store(fuser::INodeNo(neighbour.node), 0, &neighbour.content)
                .is_err()
            {
                break;
            }
            pace.given(dir, neighbour.position);
        }
        Ok(())
    }
}

/// How many files to give, by what was read before.
struct Pace(LruCache<u64, Seen>);

/// What was read of a directory.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The last file read by request.
    read: u64,
    /// The last file given.
    given: u64,
    window: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self(LruCache::new(
            NonZeroUsize::new(DIRECTORIES_MAX).unwrap_or(NonZeroUsize::MIN),
        ))
    }
}

impl Pace {
    /// The file at `position` of `dir` is read: how many of those after it are to be given?
    fn read(&mut self, dir: u64, position: u64) -> Option<usize> {
        let Some(seen) = self.0.get_mut(&dir) else {
            let first = Seen {
                read: position,
                given: position,
                window: 0,
            };
            self.0.put(dir, first);
            return None;
        };
        let before = std::mem::replace(&mut seen.read, position);
        if position <= before || position <= seen.given && before < seen.given {
            // Not in order; or a file that was given came too late.
            return None;
        }
        seen.window = (2 * seen.window).clamp(WINDOW_MIN, WINDOW_MAX);
        Some(seen.window)
    }

    fn given(&mut self, dir: u64, position: u64) {
        if let Some(seen) = self.0.get_mut(&dir) {
            seen.given = seen.given.max(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_order_is_given_more_and_more() {
        let mut pace = Pace::default();
        assert_eq!(pace.read(1, 10), None);
        assert_eq!(pace.read(1, 11), Some(8));
        pace.given(1, 19);
        assert_eq!(pace.read(1, 20), Some(16));
        pace.given(1, 36);
        assert_eq!(pace.read(1, 37), Some(32));
        pace.given(1, 69);
        assert_eq!(pace.read(1, 70), Some(64));
        pace.given(1, 134);
        assert_eq!(pace.read(1, 135), Some(64));
    }

    #[test]
    fn a_reader_out_of_order_is_given_nothing() {
        let mut pace = Pace::default();
        let asked: Vec<_> = [50, 40, 30, 20, 10].map(|at| pace.read(1, at)).to_vec();
        assert_eq!(asked, [None; 5]);
    }

    #[test]
    fn what_was_given_is_not_given_again() {
        let mut pace = Pace::default();
        pace.read(1, 10);
        assert_eq!(pace.read(1, 11), Some(8));
        pace.given(1, 19);
        assert_eq!(pace.read(1, 12), None);
        assert_eq!(pace.read(1, 13), None);
        assert_eq!(pace.read(1, 20), Some(16));
    }

    #[test]
    fn directories_do_not_mix() {
        let mut pace = Pace::default();
        assert_eq!(
            [pace.read(1, 10), pace.read(2, 11), pace.read(1, 12)],
            [None, None, Some(8)]
        );
    }
}
