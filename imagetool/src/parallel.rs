//! A few threads work on many things; the results are taken one after another, in the order of the things.
//!
//! ```text
//! things ──► worker ─┐
//!        ──► worker ─┼─► at most `ahead` results wait ──► taken in order by the caller's own thread
//!        ──► worker ─┘
//! ```
//!
//! Memory is bounded by the results that may wait. When taking one fails, no further thing is begun.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most threads that work at once: hashing and reading gain nothing from more.
const THREADS_MAX: usize = 8;

/// How many threads there are for work that keeps a processor busy.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX))
}

struct State<R> {
    /// The next thing to be begun.
    next: usize,
    /// Results before this one were taken.
    taken: usize,
    waiting: BTreeMap<usize, R>,
    /// The taker sleeps until its next result is there.
    taker_sleeps: bool,
    /// Workers that sleep because too many results wait.
    sleepers: usize,
    /// Nothing more is to be begun; or a worker has died.
    stopped: bool,
}

/// Whoever has nothing to do sleeps, and is woken only when there is something: waking costs more than many a thing.
struct Shared<R> {
    state: Mutex<State<R>>,
    /// For the taker.
    arrived: Condvar,
    /// For the workers.
    room: Condvar,
}

impl<R> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops everybody when it is dropped: also when a worker or the taker panics, so that nobody waits for ever.
struct Stop<'a, R>(&'a Shared<R>, bool);

impl<R> Drop for Stop<'_, R> {
    fn drop(&mut self) {
        if self.1 {
            self.0.lock().stopped = true;
            self.0.arrived.notify_all();
            self.0.room.notify_all();
        }
    }
}

/// Runs `work` on every thing by a few threads and gives the results to `take` in order.
///
/// # Errors
/// The first error of `take`.
pub fn in_order<T: Sync, R: Send, E>(
    things: &[T],
    ahead: usize,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads().min(things.len());
    if threads <= 1 {
        return things.iter().try_for_each(|thing| take(thing, work(thing)));
    }
    let shared = Shared {
        state: Mutex::new(State {
            next: 0,
            taken: 0,
            waiting: BTreeMap::new(),
            taker_sleeps: false,
            sleepers: 0,
            stopped: false,
        }),
        arrived: Condvar::new(),
        room: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run(&shared, things, ahead, &work));
        }
        let _stop = Stop(&shared, true);
        for (at, thing) in things.iter().enumerate() {
            let mut state = shared.lock();
            let result = loop {
                if let Some(result) = state.waiting.remove(&at) {
                    break result;
                }
                if state.stopped {
                    return Ok(()); // a worker panicked: the scope does so too
                }
                state.taker_sleeps = true;
                state = shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.taker_sleeps = false;
            };
            state.taken = at + 1;
            // not before half of the room is free: then they have something to do for a while
            let wake = state.sleepers > 0 && state.next <= state.taken + ahead / 2;
            drop(state);
            if wake {
                shared.room.notify_all();
            }
            take(thing, result)?;
        }
        Ok(())
    })
}

/// One worker.
fn run<T, R>(shared: &Shared<R>, things: &[T], ahead: usize, work: &impl Fn(&T) -> R) {
    let mut guard = Stop(shared, true);
    loop {
        let mut state = shared.lock();
        while !state.stopped && state.next < things.len() && state.next >= state.taken + ahead.max(1) {
            state.sleepers += 1;
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleepers -= 1;
        }
        let Some(thing) = things.get(state.next).filter(|_| !state.stopped) else {
            guard.1 = false;
            return;
        };
        let at = state.next;
        state.next += 1;
        drop(state);
        let result = work(thing);
        let mut state = shared.lock();
        state.waiting.insert(at, result);
        let wake = state.taker_sleeps && state.taken == at;
        drop(state);
        if wake {
            shared.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_and_few_wait() {
        let things: Vec<usize> = (0..1000).collect();
        let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut seen = Vec::new();
        in_order(
            &things,
            16,
            |thing| {
                begun.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
                thing * 2
            },
            |thing, result| {
                assert_eq!(result, thing * 2);
                let ahead = begun.load(Ordering::SeqCst) - taken.fetch_add(1, Ordering::SeqCst);
                assert!(ahead <= 17 + 1, "{ahead}");
                seen.push(*thing);
                Ok::<(), ()>(())
            },
        )
        .unwrap();
        assert_eq!(seen, things);
    }

    #[test]
    fn an_error_ends_the_work() {
        let things: Vec<usize> = (0..100_000).collect();
        let begun = AtomicUsize::new(0);
        let outcome = in_order(
            &things,
            8,
            |thing| {
                begun.fetch_add(1, Ordering::SeqCst);
                *thing
            },
            |_, result| if result == 10 { Err("ten") } else { Ok(()) },
        );
        assert_eq!(outcome, Err("ten"));
        assert!(begun.load(Ordering::SeqCst) <= 20);
    }

    #[test]
    fn a_worker_that_panics_does_not_leave_the_others_waiting() {
        let things: Vec<usize> = (0..100).collect();
        let outcome = std::panic::catch_unwind(|| {
            in_order(
                &things,
                4,
                |thing| assert_ne!(*thing, 50),
                |_, ()| Ok::<(), ()>(()),
            )
        });
        assert!(outcome.is_err());
    }
}
