//! Who kills servers.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The process that serves, below its supervisor; `None` between two of them.
pub(crate) fn server_of(supervisor: i32) -> Option<Pid> {
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = fs::read_to_string(children).expect("the supervisor lives");
    let first = children.split_whitespace().next()?;
    Some(Pid::from_raw(first.parse().expect("a pid")))
}

/// Kills the server and waits until another one is there.
pub(crate) fn kill_once(supervisor: i32) {
    let old = loop {
        if let Some(server) = server_of(supervisor) {
            break server;
        }
        std::thread::yield_now();
    };
    kill(old, Signal::SIGKILL).expect("kill the server");
    while server_of(supervisor).is_none_or(|new| new == old) {
        std::thread::yield_now();
    }
}

/// Kills the server as long as it lives itself, at intervals that are never the same.
pub(crate) struct Killer {
    stop: Arc<AtomicBool>,
    kills: Arc<AtomicU32>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Killer {
    pub(crate) fn start(supervisor: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kills = Arc::new(AtomicU32::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&kills));
        let thread = std::thread::spawn(move || {
            let mut pause_ms = 200;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(pause_ms));
                pause_ms = 200 + (pause_ms * 7 + 13) % 400;
                kill_once(supervisor);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            kills,
            thread: Some(thread),
        }
    }

    /// Stops; a run in which nobody was killed has shown nothing.
    pub(crate) fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("the killer");
        let kills = self.kills.load(Ordering::Relaxed);
        assert!(kills >= 8, "only {kills} kills");
    }
}
