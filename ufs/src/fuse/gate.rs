//! How many server threads wait for requests at a time.
//!
//! The kernel hands requests to the threads that read the device in turn. With a program that asks one thing after
//! another, each request then wakes a thread that slept, often on a processor that slept too, though the one that
//! answered last is awake and has everything at hand. So a thread that has answered waits *beside* the device when
//! enough others read it.
//!
//! ```text
//!              ┌────────── answered; fewer read than wanted ─────────┐
//!              ▼                                                     │
//!           reading ──── a request ────► answering ──── answered ────┤
//!              ▲                                                     ▼
//!              └──── nobody reads for 1 ms; answers are slow ───── beside
//! ```
//!
//! One reader is wanted while answers are quick and the device is empty in between. More are when requests of others were
//! waiting already as they were read (parallel clients), and all when an answer took long: it waited for a disk, and
//! others must not wait with it. While no processor is idle, requests of the same program count as well: a thread that has
//! slept for long is run before one that has used its share. So they do where no thread may step back (see
//! [`nearness`](super::nearness)). One of the threads beside keeps watch that no answer takes all readers away.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::nearness::Processors;

/// An answer that took longer waited for something.
const QUICK_MAX: Duration = Duration::from_micros(200);

/// So many quick answers after a slow one, threads are spared again.
const QUICK_RUN: u32 = 64;

/// A request that came to a reader this soon after it had begun to read was waiting already.
const WAITED_MAX: Duration = Duration::from_micros(4);

/// So many more of them than of others, one more reader is wanted; so many fewer, one less. A single program leaves a
/// few of them behind (RELEASE, FORGET).
const WAITED_RUN: i32 = 12;

/// How often is looked whether a processor is idle, in requests.
const LOAD_EVERY: u64 = 64;

/// How often is looked whether anybody reads, and after how many looks without a request no more.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);
const IDLE_LOOKS: u32 = 20;

/// Of one mount.
#[derive(Debug)]
pub(super) struct Gate {
    threads: usize,
    processors: Processors,
    load: Load,
    state: Mutex<State>,
    /// For the threads beside.
    beside: Condvar,
    /// For the one of them that keeps watch, when it does not look any more.
    watch: Condvar,
}

#[derive(Debug)]
struct State {
    /// Threads that read, as far as they have ever answered: only those tell when they end.
    reading: usize,
    /// Threads beside.
    beside: usize,
    /// How many of them may read again.
    called: usize,
    /// Readers wanted while answers are quick.
    wanted: usize,
    /// Quick answers in a row, at most [`QUICK_RUN`].
    quick: u32,
    /// No processor of the machine is idle; and none was when that was looked at last.
    is_busy: bool,
    seemed_busy: bool,
    /// Requests that had waited, less the others, since `wanted` changed.
    waited: i32,
    /// Requests that came, to see whether any did since the last look.
    requests: u64,
    /// Who asked last.
    asker: u32,
    has_watch: bool,
    watch_sleeps: bool,
    /// A thread has ended: the mount is gone, and the others are to find out.
    ended: bool,
}

/// What a server thread knows of itself.
struct Seat {
    gate: Arc<Gate>,
    reads_since: Instant,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.end();
    }
}

/// How much the machine has to do.
#[derive(Debug)]
struct Load {
    processors: i64,
}

impl Default for Load {
    fn default() -> Self {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN);
        Self {
            processors: online.ok().flatten().unwrap_or(i64::MAX),
        }
    }
}

impl Load {
    /// Whether as many threads run as there are processors: the fourth field of `/proc/loadavg` (proc(5)).
    fn is_busy(&self) -> bool {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let running = load
            .split_ascii_whitespace()
            .nth(3)
            .and_then(|field| field.split_once('/')?.0.parse::<i64>().ok());
        running.is_some_and(|running| running >= self.processors)
    }
}

/// A request that is being answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entered {
    since: Instant,
    /// Of a thread that has stepped back, so that whoever it answers may put it off: what it had used before.
    used: Option<Used>,
}

/// What a thread has used of the processor.
#[derive(Debug, Clone, Copy)]
struct Used {
    time: Duration,
    /// How often it had to wait for something, and how often for the processor.
    waits: i64,
    put_off: i64,
}

impl Used {
    fn by_this_thread() -> Option<Self> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
        let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
        Some(Self {
            time: Duration::from_micros(microseconds.cast_unsigned()),
            waits: usage.voluntary_context_switches(),
            put_off: usage.involuntary_context_switches(),
        })
    }
}

impl Entered {
    /// How long the answer has taken until now. Of a thread that was put off when it answered, and never waited for
    /// anything else, only its own time counts.
    pub(super) fn took(&self) -> Duration {
        if let Some(before) = self.used
            && let Some(now) = Used::by_this_thread()
            && now.waits == before.waits
            && now.put_off != before.put_off
        {
            return now.time.saturating_sub(before.time);
        }
        self.since.elapsed()
    }
}

thread_local! {
    /// Of a thread that has answered at least once.
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

impl Gate {
    /// For so many server threads.
    pub(super) fn new(threads: usize) -> Arc<Self> {
        let state = State {
            reading: 0,
            beside: 0,
            called: 0,
            wanted: 1,
            quick: QUICK_RUN,
            is_busy: false,
            seemed_busy: false,
            waited: 0,
            requests: 0,
            asker: 0,
            has_watch: false,
            watch_sleeps: false,
            ended: false,
        };
        Arc::new(Self {
            threads,
            processors: Processors::of_this_thread(threads > 1),
            load: Load::default(),
            state: Mutex::new(state),
            beside: Condvar::new(),
            watch: Condvar::new(),
        })
    }

    /// This thread has read a request of `asker`. What is returned tells for [`leave`](Self::leave) how long it took.
    pub(super) fn enter(&self, asker: u32) -> Entered {
        if self.threads == 1 {
            self.processors.asked_by(asker, true, true);
            return Entered {
                since: Instant::now(),
                used: None,
            };
        }
        let now = Instant::now();
        let read_since = SEAT.with_borrow(|seat| seat.as_ref().map(|seat| seat.reads_since));
        let mut state = self.state.lock();
        state.requests += 1;
        let had_waited = read_since.is_some_and(|since| now.duration_since(since) < WAITED_MAX);
        if read_since.is_some() {
            state.reading -= 1;
            // Who asks again as soon as it is answered is but one. But one reader is only faster if it can step back.
            let counts = asker != state.asker || state.is_busy || !self.processors.can_step_back();
            state.note_wait(had_waited && counts, self.threads);
        }
        state.asker = asker;
        if state.reading == 0 {
            if state.target(self.threads) > 1 {
                self.call(&mut state);
            }
            if state.watch_sleeps {
                self.watch.notify_one();
            }
        }
        if state.requests.is_multiple_of(LOAD_EVERY) {
            drop(state);
            let seems_busy = self.load.is_busy();
            state = self.state.lock();
            // Once may have been some short work.
            state.is_busy = seems_busy && state.seemed_busy;
            state.seemed_busy = seems_busy;
        }
        let alone = state.reading == 0 && state.target(self.threads) == 1;
        let is_busy = state.is_busy;
        drop(state);
        let is_back = alone && self.processors.asked_by(asker, !had_waited, is_busy);
        if !alone {
            self.processors.leave();
        }
        // To move takes longer than an answer.
        Entered {
            since: Instant::now(),
            used: is_back.then(Used::by_this_thread).flatten(),
        }
    }

    /// This thread has answered a request, and that took so long. Returns when it is to read again.
    pub(super) fn leave(self: &Arc<Self>, took: Duration) {
        if self.threads == 1 {
            return;
        }
        let mut state = self.state.lock();
        state.quick = if took > QUICK_MAX {
            0
        } else {
            QUICK_RUN.min(state.quick + 1)
        };
        if state.has_readers(self.threads) {
            // Not with the lock: whoever moves may have to wait for its turn there.
            MutexGuard::unlocked(&mut state, || self.processors.leave());
            if state.has_readers(self.threads) {
                self.wait_beside(&mut state);
            }
        }
        state.reading += 1;
        drop(state);
        let reads_since = Instant::now();
        SEAT.with_borrow_mut(|seat| match seat {
            Some(seat) => seat.reads_since = reads_since,
            None => {
                *seat = Some(Seat {
                    gate: Arc::clone(self),
                    reads_since,
                });
            }
        });
    }

    fn wait_beside(&self, state: &mut MutexGuard<'_, State>) {
        state.beside += 1;
        while state.called == 0 && !state.ended {
            if state.has_watch {
                self.beside.wait(state);
            } else {
                state.has_watch = true;
                let nobody_reads = self.keep_watch(state);
                state.has_watch = false;
                // Another one keeps watch from here on.
                self.beside.notify_one();
                if nobody_reads {
                    state.quick = 0;
                    state.called = state.beside;
                    self.beside.notify_all();
                }
            }
        }
        state.called = state.called.saturating_sub(1);
        state.beside -= 1;
    }

    /// Looks whether anybody reads until somebody is called back, or nobody reads.
    fn keep_watch(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let mut idle_looks = 0;
        let mut nobody_reads = false;
        self.processors.watches();
        while state.called == 0 && !state.ended {
            let seen = state.requests;
            if idle_looks < IDLE_LOOKS {
                self.beside.wait_for(state, WATCH_INTERVAL);
            } else {
                state.watch_sleeps = true;
                self.watch.wait(state);
                state.watch_sleeps = false;
                idle_looks = 0;
                continue;
            }
            match (state.reading, state.requests == seen) {
                (_, false) => idle_looks = 0,
                (_, true) if self.processors.call_forward() => {}
                (0, true) => {
                    nobody_reads = true;
                    break;
                }
                (_, true) => idle_looks += 1,
            }
        }
        MutexGuard::unlocked(state, || self.processors.watches_no_more());
        nobody_reads
    }

    /// Calls one thread back.
    fn call(&self, state: &mut State) {
        if state.called < state.beside {
            state.called += 1;
            self.beside.notify_one();
            if state.watch_sleeps {
                self.watch.notify_one();
            }
        }
    }

    /// The mount is gone: nobody waits any more.
    fn end(&self) {
        self.state.lock().ended = true;
        self.beside.notify_all();
        self.watch.notify_all();
    }
}

impl State {
    /// Whether enough others read.
    fn has_readers(&self, threads: usize) -> bool {
        self.reading >= self.target(threads) && !self.ended
    }

    /// How many are to read.
    fn target(&self, threads: usize) -> usize {
        if self.quick < QUICK_RUN {
            threads
        } else {
            self.wanted
        }
    }

    /// Notes whether a request had waited for a reader.
    fn note_wait(&mut self, had_waited: bool, threads: usize) {
        self.waited += if had_waited { 1 } else { -1 };
        if self.waited >= WAITED_RUN {
            self.waited = 0;
            self.wanted = threads.min(self.wanted + 1);
        } else if self.waited <= -WAITED_RUN {
            self.waited = 0;
            self.wanted = 1.max(self.wanted - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::{self, JoinHandle, ThreadId};

    use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    const THREADS: usize = 4;

    /// A request, and where its answer goes.
    struct Request {
        takes: Duration,
        answer: Sender<ThreadId>,
    }

    /// A device that gate's threads read.
    struct Server {
        device: Sender<Request>,
        threads: Vec<JoinHandle<()>>,
    }

    impl Server {
        fn start() -> Self {
            let (device, requests): (_, Receiver<Request>) = unbounded();
            let gate = Gate::new(THREADS);
            let serve = move |gate: Arc<Gate>, requests: Receiver<Request>| {
                for request in requests {
                    let entered = gate.enter(1);
                    thread::sleep(request.takes);
                    request.answer.send(thread::current().id()).unwrap();
                    gate.leave(entered.took());
                }
            };
            let threads = (0..THREADS)
                .map(|_| {
                    let (gate, requests) = (Arc::clone(&gate), requests.clone());
                    thread::spawn(move || serve(gate, requests))
                })
                .collect();
            Self { device, threads }
        }

        fn ask(&self, takes: Duration) -> Receiver<ThreadId> {
            let (answer, answers) = bounded(1);
            self.device.send(Request { takes, answer }).unwrap();
            answers
        }

        /// Every thread ends, wherever it waits.
        fn end(self) {
            drop(self.device);
            self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn one_program_is_answered_by_one_thread() {
        let server = Server::start();
        let is_spared = || {
            // Every thread reads at first, and each is left beside after its first answer but one.
            for _ in 0..1000 {
                server.ask(Duration::ZERO).recv().unwrap();
            }
            let answered: HashSet<ThreadId> = (0..100)
                .map(|_| {
                    let thread = server.ask(Duration::ZERO).recv().unwrap();
                    // A pause, as a program makes that waits for nothing.
                    thread::sleep(Duration::from_micros(50));
                    thread
                })
                .collect();
            answered.len() < THREADS
        };
        // On a loaded machine an answer may have taken long, and all threads read for a while.
        assert!(
            (0..20).any(|_| is_spared()),
            "every thread answers, again and again"
        );
        server.end();
    }

    #[test]
    fn a_slow_answer_keeps_nobody_waiting() {
        let server = Server::start();
        for _ in 0..1000 {
            server.ask(Duration::ZERO).recv().unwrap();
        }
        let slow = server.ask(Duration::from_secs(2));
        let others: Vec<_> = (0..20).map(|_| server.ask(Duration::ZERO)).collect();
        for other in others {
            other.recv().unwrap();
        }
        assert!(slow.is_empty(), "the slow answer came before the quick ones");
        slow.recv().unwrap();
        server.end();
    }

    #[test]
    fn all_threads_are_there_for_slow_answers() {
        let server = Server::start();
        for _ in 0..1000 {
            server.ask(Duration::ZERO).recv().unwrap();
        }
        let begun = Instant::now();
        let takes = Duration::from_millis(200);
        let answers: Vec<_> = (0..THREADS).map(|_| server.ask(takes)).collect();
        let threads: HashSet<ThreadId> = answers.iter().map(|answer| answer.recv().unwrap()).collect();
        assert_eq!(threads.len(), THREADS, "{:?}", begun.elapsed());
        server.end();
    }

    #[test]
    fn an_end_finds_threads_that_never_answered() {
        let server = Server::start();
        server.ask(Duration::ZERO).recv().unwrap();
        server.end();
        Server::start().end();
    }
}
