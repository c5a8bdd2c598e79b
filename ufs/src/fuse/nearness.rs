//! Answers beside the program that asks.
//!
//! A program that asks one thing after another sleeps while it is answered, and the server sleeps while it is not
//! asked. On two processors each of them is woken on one that fell asleep a moment ago, which takes several times as
//! long as the answer. So a server thread that has had a run of requests from one thread moves to the processor where
//! that one runs, and away again when somebody else asks or nobody does.
//!
//! What is allowed by the affinity that the server was started with is kept to.

use std::cell::Cell;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// So many requests of one thread in a row, and it is worth the while to see where that thread runs.
const RUN: u32 = 32;

/// How often is looked whether it still runs there, in requests.
const LOOK_EVERY: u32 = 256;

/// Where this thread is.
#[derive(Debug, Clone, Copy)]
struct Place {
    asker: u32,
    run: u32,
    near: Option<usize>,
}

thread_local! {
    static PLACE: Cell<Place> = const {
        Cell::new(Place {
            asker: 0,
            run: 0,
            near: None,
        })
    };
}

/// The processors the server may use.
#[derive(Debug)]
pub(super) struct Processors(Option<CpuSet>);

impl Processors {
    /// Those of this thread; nothing is ever moved where they cannot be told or there is but one.
    pub(super) fn of_this_thread() -> Self {
        let all = sched_getaffinity(Pid::from_raw(0)).ok();
        let count = |set: &CpuSet| {
            (0..CpuSet::count())
                .filter(|cpu| set.is_set(*cpu) == Ok(true))
                .count()
        };
        Self(all.filter(|set| count(set) > 1))
    }

    /// This thread was asked by `asker`, and is the only one that answers. Returns whether it is near the asker now.
    pub(super) fn asked_by(&self, asker: u32) -> bool {
        let Some(all) = &self.0 else { return false };
        let mut place = PLACE.get();
        if asker != place.asker {
            self.leave();
            PLACE.set(Place {
                asker,
                run: 0,
                near: None,
            });
            return false;
        }
        place.run += 1;
        if place.run == RUN || place.run.is_multiple_of(LOOK_EVERY) {
            let there = processor_of(asker).filter(|cpu| all.is_set(*cpu) == Ok(true));
            if there != place.near {
                let mut only = CpuSet::new();
                let moved = there.is_some_and(|cpu| only.set(cpu).is_ok() && set(0, &only));
                if !moved {
                    set(0, all);
                }
                place.near = there.filter(|_| moved);
            }
        }
        PLACE.set(place);
        place.near.is_some()
    }

    /// This thread may be anywhere again.
    pub(super) fn leave(&self) {
        let place = PLACE.get();
        if let Some(all) = &self.0
            && place.near.is_some()
        {
            set(0, all);
            PLACE.set(Place {
                near: None,
                run: 0,
                ..place
            });
        }
    }
}

fn set(thread: i32, to: &CpuSet) -> bool {
    sched_setaffinity(Pid::from_raw(thread), to).is_ok()
}

/// The processor that a thread last ran on: field 39 of `/proc/TID/stat` (proc(5)).
fn processor_of(thread: u32) -> Option<usize> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    // The name before it may hold blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok()
}
