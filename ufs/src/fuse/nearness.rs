//! Answers beside the program that asks.
//!
//! A program that asks one thing after another sleeps while it is answered, and the server sleeps while it is not
//! asked. On two processors each of them is woken on one that fell asleep a moment ago, which takes several times as
//! long as the answer. So a server thread that has had a run of requests from one thread moves to the processor where
//! that one runs, and away again when somebody else asks or nobody does.
//!
//! ```text
//! program  ─ asks ─┐                ┌─ goes on ─ asks ─┐
//! server           └─ answers ─ put off               └─ goes on, reads: there is a request ─ answers ─ …
//! ```
//!
//! The kernel wakes a program where it slept if nobody runs there, else where the processor is idle: that would be far from
//! the thread that came near. So that thread *steps back* as well (`SCHED_IDLE` of sched(7)): what runs only such a thread
//! counts as idle (`sched_idle_cpu` in kernel/sched/fair.c), and the program that is woken puts the thread off at once.
//! Then neither of them ever sleeps for long enough that a processor must be woken.
//!
//! A thread that has stepped back may get no time at all when others want its processor. So whenever no request comes for a
//! while, the watch of the [gate](super::gate) calls it forward; and if a request was waiting then, it does not step back
//! again before it has answered twice as many as before. Who may not come forward again (it takes CAP_SYS_NICE) never
//! steps back.
//!
//! What is allowed by the affinity that the server was started with is kept to.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::sys::idle::{be_usual, is_usual, step_back};

/// So many requests of one thread in a row, and it is worth the while to see where that thread runs.
const RUN: u32 = 32;

/// After so many requests in a row for which this thread had to be woken is looked whether it is still near: at first, and
/// at most.
const LOOK_MIN: u32 = 3;
const LOOK_MAX: u32 = 256;

/// Requests near the asker before this thread steps back: at first, and at most.
const PROOF_MIN: u32 = 32;
const PROOF_MAX: u32 = 1 << 14;

/// Where this thread is.
#[derive(Debug, Clone, Copy)]
struct Place {
    asker: u32,
    /// Requests of the asker in a row.
    run: u32,
    near: Option<usize>,
    /// Requests in a row for which it had to be woken, since it looked.
    woken: u32,
    /// It looks after so many of them.
    patience: u32,
    is_back: bool,
    /// Requests since it came near, or stepped back, or was called forward.
    steady: u32,
    /// It steps back after so many of them.
    proof: u32,
}

impl Place {
    const fn far_from(asker: u32) -> Self {
        Self {
            asker,
            run: 0,
            near: None,
            woken: 0,
            patience: LOOK_MIN,
            is_back: false,
            steady: 0,
            proof: PROOF_MIN,
        }
    }
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::far_from(0)) };
}

/// The processors the server may use, and who is where.
#[derive(Debug)]
pub(super) struct Processors {
    /// `None` where they cannot be told or there is but one: nothing is ever moved.
    all: Option<CpuSet>,
    can_step_back: bool,
    /// The thread that has stepped back, 0 for none.
    back: AtomicI32,
    /// The thread that keeps watch, 0 for none.
    watch: Mutex<i32>,
}

impl Processors {
    /// Those of this thread. `has_watch`: somebody calls a thread forward that gets no time.
    pub(super) fn of_this_thread(has_watch: bool) -> Self {
        let all = sched_getaffinity(Pid::from_raw(0)).ok();
        let all = all.filter(|set| processors(set).count() > 1);
        Self {
            can_step_back: has_watch && all.is_some() && can_come_forward(),
            all,
            back: AtomicI32::new(0),
            watch: Mutex::new(0),
        }
    }

    /// This thread was asked by `asker`, and is the only one that answers. `was_woken`: for this request. `is_busy`: no
    /// processor is idle, so that nobody who is woken goes to another one. Answers whether this thread has stepped back.
    pub(super) fn asked_by(&self, asker: u32, was_woken: bool, is_busy: bool) -> bool {
        let Some(all) = &self.all else { return false };
        let mut place = PLACE.get();
        if asker != place.asker {
            self.leave();
            PLACE.set(Place::far_from(asker));
            return false;
        }
        place.run = place.run.saturating_add(1);
        if was_woken {
            place.woken += 1;
        } else {
            place.woken = 0;
            place.patience = LOOK_MIN;
        }
        if place.run == RUN || place.run > RUN && place.woken >= place.patience {
            self.come_near(all, &mut place, is_busy);
        }
        if is_busy {
            self.come_forward(&mut place);
        } else if place.near.is_some() && self.can_step_back {
            self.step_back(&mut place, was_woken);
        }
        PLACE.set(place);
        place.is_back
    }

    /// Whether a thread that is near its asker also steps back.
    pub(super) fn can_step_back(&self) -> bool {
        self.can_step_back
    }

    fn come_near(&self, all: &CpuSet, place: &mut Place, is_busy: bool) {
        place.woken = 0;
        place.patience = LOOK_MAX.min(2 * place.patience);
        let there = processor_of(place.asker).filter(|cpu| all.is_set(*cpu) == Ok(true));
        if there == place.near {
            return;
        }
        let mut only = CpuSet::new();
        let moved = there.is_some_and(|cpu| only.set(cpu).is_ok() && set_affinity(0, &only));
        if !moved {
            set_affinity(0, all);
            self.come_forward(place);
        }
        place.near = there.filter(|_| moved);
        if let Some(near) = place.near
            && !is_busy
        {
            self.keep_watch_off(near);
        }
    }

    fn step_back(&self, place: &mut Place, was_woken: bool) {
        let own = own_number();
        place.steady = place.steady.saturating_add(1);
        if place.is_back && self.back.load(Ordering::Relaxed) != own {
            // Called forward: since nobody asked, or since it got no time.
            self.come_forward(place);
            place.proof = match was_woken {
                true => PROOF_MIN,
                false => PROOF_MAX.min(2 * place.proof),
            };
            place.steady = 0;
        }
        if !place.is_back && place.steady >= place.proof {
            // No more than one, or the watch could not call all.
            place.is_back = self.replace_back(0, own) && step_back();
            place.steady = 0;
        }
    }

    fn come_forward(&self, place: &mut Place) {
        if place.is_back {
            be_usual(0);
            place.is_back = false;
            self.replace_back(own_number(), 0);
        }
    }

    fn replace_back(&self, old: i32, new: i32) -> bool {
        self.back
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// This thread may be anywhere again.
    pub(super) fn leave(&self) {
        let mut place = PLACE.get();
        if let Some(all) = &self.all
            && place.near.is_some()
        {
            self.come_forward(&mut place);
            set_affinity(0, all);
            PLACE.set(Place::far_from(place.asker));
        }
    }

    /// For another thread, when no requests come: whether there was one that has stepped back, which may be kept from its
    /// work. It is called forward.
    pub(super) fn call_forward(&self) -> bool {
        let back = self.back.swap(0, Ordering::Relaxed);
        if back != 0 {
            be_usual(back);
        }
        back != 0
    }

    /// This thread wakes up now and then, until [`watches_no_more`](Self::watches_no_more): it is kept off the processor
    /// where another one is near its asker.
    pub(super) fn watches(&self) {
        *self.watch.lock() = own_number();
    }

    pub(super) fn watches_no_more(&self) {
        if let Some(all) = &self.all {
            *self.watch.lock() = 0;
            set_affinity(0, all);
        }
    }

    /// By whoever comes near, while the watch sleeps: were it to go by itself, it would first wake up where it must not.
    fn keep_watch_off(&self, near: usize) {
        let watch = self.watch.lock();
        if let Some(mut others) = self.all
            && *watch != 0
            && others.unset(near).is_ok()
        {
            set_affinity(*watch, &others);
        }
    }
}

fn own_number() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn processors(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true))
}

/// Tried by a thread that ends then. Who was started under another policy keeps that.
fn can_come_forward() -> bool {
    let tried = std::thread::Builder::new().spawn(|| is_usual() && step_back() && be_usual(0));
    tried.is_ok_and(|thread| thread.join().unwrap_or(false))
}

/// Of a thread, 0 for the calling one.
fn set_affinity(thread: i32, to: &CpuSet) -> bool {
    sched_setaffinity(Pid::from_raw(thread), to).is_ok()
}

/// The processor that a thread last ran on: field 39 of `/proc/TID/stat` (proc(5)).
fn processor_of(thread: u32) -> Option<usize> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    // The name before it may hold blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::idle::is_usual;

    /// Asked by itself, so that the asker is where it is.
    fn ask(processors: &Processors, times: u32) -> bool {
        let own = own_number().cast_unsigned();
        (0..times).fold(false, |_, _| processors.asked_by(own, false, false))
    }

    #[test]
    fn who_is_near_steps_back_until_called_forward_or_asked_by_another() {
        let processors = Processors::of_this_thread(true);
        if !processors.can_step_back {
            println!("skipped: needs two processors, and CAP_SYS_NICE or RLIMIT_NICE");
            return;
        }
        assert!(!ask(&processors, RUN + PROOF_MIN - 1) && is_usual());
        let near = sched_getaffinity(Pid::from_raw(0)).unwrap();
        assert_eq!(super::processors(&near).count(), 1);
        assert!(ask(&processors, 2) && !is_usual());
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| processors.call_forward());
            assert!(watch.join().unwrap());
        });
        assert!(is_usual());
        assert!(!processors.call_forward(), "nobody is back any more");
        assert!(!ask(&processors, 1) && is_usual());
        // A request had waited meanwhile: twice as many before the next time.
        assert!(!ask(&processors, 2 * PROOF_MIN - 1));
        assert!(ask(&processors, 2) && !is_usual());
        assert!(!processors.asked_by(own_number().cast_unsigned() + 1, false, false) && is_usual());
        assert_eq!(Some(sched_getaffinity(Pid::from_raw(0)).unwrap()), processors.all);
    }
}
