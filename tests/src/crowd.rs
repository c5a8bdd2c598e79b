//! Many processes at once on one mount, each sure of what it must see.
//!
//! ```text
//! test ──► mount, one process per member ──► poll: who still moves? ──► compare what is left, look for leaks
//!              member i:  t<i>  random operations beside a model of its own        (tree)
//!                         f<i>  files read, written and mapped beside their bytes  (files)
//!                         s     what all change at once; only counts are compared  (shared)
//! ```
//! `SHALE_TESTS_CROWD_PROCESSES` and `SHALE_TESTS_CROWD_SECONDS` make it larger or longer; with a larger crowd
//! `SHALE_TESTS_SEED` draws other operations.

mod files;
mod shared;
mod status;
mod tree;
mod usage;
mod watch;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::fixture::Fixture;
use crate::mount::Backend;
use crate::scratch::Scratch;
use status::Status;
use usage::Usage;

/// How long the crowd works, in seconds.
pub const SECONDS_VARIABLE: &str = "SHALE_TESTS_CROWD_SECONDS";
const PROCESSES_VARIABLE: &str = "SHALE_TESTS_CROWD_PROCESSES";
const SEED_VARIABLE: &str = "SHALE_TESTS_SEED";
const INDEX_VARIABLE: &str = "SHALE_TESTS_CROWD_INDEX";
const MOUNT_VARIABLE: &str = "SHALE_TESTS_CROWD_MOUNT";
const REPORTS_VARIABLE: &str = "SHALE_TESTS_CROWD_REPORTS";

const SCRATCH_MIB: u64 = 4096;

fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How large the crowd is, how long it works, and what it draws.
#[derive(Clone, Copy, Debug)]
struct Plan {
    processes: usize,
    time: Duration,
    seed: u64,
}

impl Plan {
    fn from_environment() -> Plan {
        Plan {
            processes: from_environment(PROCESSES_VARIABLE, 64),
            time: Duration::from_secs(from_environment(SECONDS_VARIABLE, 10)),
            seed: from_environment(SEED_VARIABLE, 1),
        }
    }
}

/// What a member of the crowd knows of itself.
#[derive(Clone, Debug)]
struct Member {
    index: usize,
    mount: PathBuf,
    seed: u64,
}

/// Small random numbers (xorshift64*, Vigna 2016), the same for the same seed.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64, stream: u64) -> Dice {
        let mut dice = Dice((seed << 32 ^ stream).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.below(2);
        dice
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits fit") % limit
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let first = self.below(256);
        let step = 1 + self.below(250);
        (0..len)
            .map(|i| ((first + i * step + i / 251) % 256) as u8)
            .collect()
    }
}

/// Runs the crowd on a union made by `backend`. `worker` is the name of the ignored test of the same program that
/// calls [`work`].
pub fn run(backend: Backend, worker: &str) {
    if !backend.is_available_or_skip() {
        return;
    }
    let plan = Plan::from_environment();
    let scratch = Scratch::with_size_mib(SCRATCH_MIB);
    let mut fixture = Fixture::in_scratch(scratch, backend, tree::LAYERS_MAX, |layers| {
        for index in 0..plan.processes {
            tree::fill(layers, plan.seed, index);
            files::fill(&layers[0], plan.seed, index);
        }
        shared::fill(layers);
    });
    let reports = fixture.scratch().directory("reports");
    let server = fixture.guard().server_pid();
    let idle = server.map(Usage::of);
    let mut crowd = watch::Crowd::start(&plan, worker, fixture.root(), &reports);
    if let Err(what) = crowd.wait(plan.time, server) {
        crowd.kill();
        fixture.abandon_mount();
        panic!("{backend:?}: {what}");
    }
    let operations: u64 = crowd.operations();
    shared::check(&fixture.at("s"), &reports, plan.processes);
    eprintln!(
        "{backend:?}: {operations} operations of {} processes",
        plan.processes
    );
    if let (Some(server), Some(idle)) = (server, idle) {
        usage::check_for_leaks(server, idle, fixture.root());
    }
    // What the members checked in memory must be in the upper as well.
    fixture.remount();
    shared::check(&fixture.at("s"), &reports, plan.processes);
    fixture.unmount();
    fixture.assert_layers_untouched();
}

/// What one process of the crowd does.
pub fn work() {
    let Some(index) = std::env::var(INDEX_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
    else {
        return crate::skip::skip(crate::skip::Tier::Feature, "started by the tests beside it only");
    };
    let path = |name| PathBuf::from(std::env::var_os(name).expect("set by the test"));
    let plan = Plan::from_environment();
    let member = Member {
        index,
        mount: path(MOUNT_VARIABLE),
        seed: plan.seed,
    };
    let reports = path(REPORTS_VARIABLE);
    let mut status = Status::create(&reports, index);
    if let Err(error) = work_until(&member, plan.time, &mut status, &reports) {
        panic!("member {index}: {error}; it was at: {}", status.text());
    }
}

fn work_until(member: &Member, time: Duration, status: &mut Status, reports: &Path) -> Result<(), String> {
    let mut dice = Dice::new(member.seed, member.index as u64);
    let mut tree = tree::Tree::new(member);
    let mut files = files::Files::new(member);
    let mut shared = shared::Shared::new(member);
    let end = Instant::now() + time;
    while Instant::now() < end {
        match dice.below(10) {
            0..=3 => tree.step(status)?,
            4..=6 => files.step(&mut dice, status)?,
            _ => shared.step(&mut dice, status)?,
        }
    }
    tree.check(status)?;
    files.check_all(status)?;
    shared.report(reports)
}
