//! The partial copies that are to be sealed, and when.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Partials;
use super::seal::Sealed;
use crate::error::Result;
use crate::union::Union;
use crate::union::inode::Inode;

/// Between two looks at a file that does not rest yet.
const PAUSE: Duration = Duration::from_secs(1);

/// Sealed together at most: each is open meanwhile, and so may be what is below it.
pub(crate) const TOGETHER_MAX: usize = 128;

/// Copies that are to be sealed, by the number of their file.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    files: HashMap<u64, (Arc<Inode>, Instant)>,
    /// Everything is to be sealed, whether it rests or not.
    now: bool,
    /// The whole upper is to be looked through, from then on.
    look: Option<Instant>,
    /// That is under way.
    looks: bool,
    ended: bool,
    /// How long a copy is left alone at first.
    pause: Duration,
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Task {
    /// Look for copies in the upper.
    Look,
    /// Seal these, if they rest.
    Seal(Vec<Arc<Inode>>),
    /// Nothing any more.
    End,
}

impl Partials {
    /// Notes that a copy is to be sealed when it rests: not at once, since whoever opens it now is about to write.
    pub(crate) fn expect(&self, inode: &Arc<Inode>) {
        let mut waiting = self.waiting.lock();
        let pause = if waiting.now {
            Duration::ZERO
        } else {
            waiting.pause
        };
        if let Entry::Vacant(entry) = waiting.files.entry(inode.ino) {
            entry.insert((Arc::clone(inode), Instant::now() + pause));
            self.wake.notify_all();
        }
    }

    /// A copy is whole, or deleted.
    pub(crate) fn expect_no_more(&self, inode: &Inode) {
        self.waiting.lock().files.remove(&inode.ino);
    }

    /// Has the upper looked through after a while, and copies that are opened left alone for as long.
    pub(crate) fn look_after(&self, pause: Duration) {
        let mut waiting = self.waiting.lock();
        waiting.pause = pause;
        waiting.look = Some(Instant::now() + pause);
        self.wake.notify_all();
    }

    /// Has everything sealed.
    pub(crate) fn seal_now(&self) {
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        waiting.now = true;
        waiting.look = Some(now);
        waiting.files.values_mut().for_each(|(_, at)| *at = now);
        drop(waiting);
        self.wake.notify_all();
    }

    pub(crate) fn wants_now(&self) -> bool {
        self.waiting.lock().now
    }

    /// How many copies wait, and whether more may be found.
    pub(crate) fn state(&self) -> (usize, bool) {
        let waiting = self.waiting.lock();
        (waiting.files.len(), waiting.looks || waiting.look.is_some())
    }

    pub(crate) fn end(&self) {
        self.waiting.lock().ended = true;
        self.wake.notify_all();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.waiting.lock().ended
    }

    /// Waits for something to do: unasked, or only what [`Partials::seal_now`] asks for.
    pub(crate) fn next_task(&self, unasked: bool) -> Task {
        let mut waiting = self.waiting.lock();
        waiting.looks = false;
        loop {
            if waiting.ended {
                return Task::End;
            }
            let now = Instant::now();
            if waiting.look.is_some_and(|at| at <= now) {
                waiting.look = None;
                waiting.looks = true;
                return Task::Look;
            }
            let is_time = unasked || waiting.now;
            if is_time {
                let inodes = waiting.next_files(now);
                if !inodes.is_empty() {
                    return Task::Seal(inodes);
                }
            }
            let files = waiting.files.values().map(|(_, at)| *at).filter(|_| is_time);
            match files.chain(waiting.look).min() {
                Some(at) => {
                    self.wake.wait_until(&mut waiting, at);
                }
                None => {
                    waiting.now = false;
                    self.wake.wait(&mut waiting);
                }
            }
        }
    }

    /// What came of sealing a copy.
    pub(crate) fn note_outcome(&self, inode: &Inode, outcome: &Result<Sealed>) {
        match outcome {
            Ok(Sealed::NotYet) => return,
            Ok(Sealed::Whole | Sealed::Deleted) => {}
            Ok(Sealed::NoSpace) => tracing::debug!(ino = inode.ino, "no space to seal a partial copy"),
            Err(error) => tracing::warn!(ino = inode.ino, %error, "a partial copy cannot be sealed"),
        }
        self.expect_no_more(inode);
        // Also what stays partial: it rests, and a file that is open for writing keeps its file system from becoming
        // read-only.
        if let Some(number) = inode.state.read().upper {
            self.let_go(number);
        }
    }
}

impl Waiting {
    /// Files whose turn it is.
    fn next_files(&mut self, now: Instant) -> Vec<Arc<Inode>> {
        let due = self.files.values_mut().filter(|(_, at)| *at <= now);
        due.take(TOGETHER_MAX)
            .map(|(inode, at)| {
                *at = now + PAUSE;
                Arc::clone(inode)
            })
            .collect()
    }
}

impl Union {
    /// How long ago a copy was written to; `None` when it was not as far as anybody knows.
    pub(crate) fn rests_for(&self, inode: &Inode) -> Option<Duration> {
        self.known_partial(inode)?.rests_for()
    }
}
