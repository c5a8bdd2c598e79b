//! `kill -9` of a supervised server, again and again: programs go on, and what they read and wrote is right.
//!
//! ```text
//! supervisor ── server ◄── SIGKILL every few hundred milliseconds
//!                 ▲
//!      readers, a writer with a model, git, listings, makers of names; the watchdog of the mount guard ends what hangs
//! ```

mod data;
mod git;
mod killer;
mod life;
mod names;
mod open;
mod readers;
mod writers;

use std::path::Path;
use std::time::Duration;

use shale_tests::fixture::{Fixture, put};
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::scratch::Scratch;

/// How long each load runs.
const RUN: Duration = Duration::from_secs(6);

const BACKENDS: [Backend; 4] = [
    Backend::ShalePassthrough,
    Backend::ShalePlain,
    Backend::ShaleImage,
    Backend::ShaleLayers,
];

/// A mount with a supervisor over what `fill` puts into the lowest of two layers.
fn supervised(
    backend: Backend,
    writable: bool,
    options: &[&str],
    fill: impl FnOnce(&Path),
) -> (Fixture, i32) {
    let scratch = Scratch::new();
    let lowers = vec![scratch.directory("l1"), scratch.directory("l0")];
    fill(&lowers[1]);
    put(&lowers[0], "both/top", "top");
    let upper = writable.then(|| (scratch.directory("upper"), scratch.directory("work")));
    let mut extra_options = vec!["supervise".to_owned()];
    extra_options.extend(options.iter().map(|option| (*option).to_owned()));
    let spec = MountSpec {
        lowers,
        upper,
        extra_options,
        open_files_limit: None,
    };
    let mut fixture = Fixture::over(scratch, backend, spec);
    let supervisor = fixture.guard().server_pid().expect("a supervisor");
    (fixture, supervisor)
}
