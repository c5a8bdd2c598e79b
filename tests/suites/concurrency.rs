//! Many processes at once, and what one does while another copies up.
//!
//! `SHALE_TESTS_CROWD_SECONDS` (10) and `SHALE_TESTS_CROWD_PROCESSES` (64) set how long and how large the crowd is,
//! `SHALE_TESTS_LARGE_MIB` (2048) how large the file is that is copied up. A long run:
//!
//! ```text
//! SHALE_TESTS_CROWD_SECONDS=600 cargo test -p shale-tests --test concurrency crowd_on_shale_passthrough
//! ```

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shale_tests::crowd;
use shale_tests::fixture::{Fixture, put};
use shale_tests::mount::Backend;
use shale_tests::posix;
use shale_tests::scratch::Scratch;

#[test]
#[ignore = "one process of the crowd; the tests beside it start it"]
fn member() {
    crowd::work();
}

/// The reference: what the crowd takes for right is what overlayfs does.
#[test]
fn crowd_on_kernel_overlayfs() {
    crowd::run(Backend::Kernel, "member");
}

#[test]
fn crowd_on_shale_passthrough() {
    crowd::run(Backend::ShalePassthrough, "member");
}

#[test]
fn crowd_on_shale_plain() {
    crowd::run(Backend::ShalePlain, "member");
}

#[test]
fn crowd_on_shale_with_partial_copies() {
    crowd::run(Backend::ShalePartial, "member");
}

#[test]
fn crowd_on_shale_over_an_image() {
    crowd::run(Backend::ShaleImage, "member");
}

const LARGE_MIB_VARIABLE: &str = "SHALE_TESTS_LARGE_MIB";
const DIRECTORIES: usize = 100;
const FILES_EACH: usize = 80;
/// At least so many answers make a median.
const STATS_MIN: usize = 200;

/// Stats names that were never asked for, one after another, until told to stop; how long each took.
fn stat_until(fixture: &Fixture, next: &mut usize, mut stop: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !stop(times.len()) && *next < DIRECTORIES * FILES_EACH {
        let path = fixture.at(&format!("d{}/f{}", *next % DIRECTORIES, *next / DIRECTORIES));
        *next += 1;
        let start = Instant::now();
        let size = path.symlink_metadata().unwrap().size();
        times.push(start.elapsed());
        assert_eq!(size, 1);
        // As a user would, now and then: a loop without a pause competes with the copy for the processor.
        std::thread::sleep(Duration::from_millis(1));
    }
    times
}

fn median(mut times: Vec<Duration>) -> Duration {
    assert!(
        times.len() >= STATS_MIN,
        "only {} answers were measured",
        times.len()
    );
    times.sort();
    times[times.len() / 2]
}

/// The copy-up of a large file must not slow a `stat` of other files by more than twice. `SHALE_TESTS_LARGE_MIB`
/// sets the size.
fn a_stat_beside_a_large_copy_up(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let large_mib = std::env::var(LARGE_MIB_VARIABLE).map_or(2048, |value| value.parse().expect("a number"));
    let fixture = Fixture::in_scratch(
        Scratch::with_size_mib(3 * large_mib + 512),
        backend,
        1,
        |layers| {
            for number in 0..DIRECTORIES * FILES_EACH {
                put(
                    &layers[0],
                    &format!("d{}/f{}", number % DIRECTORIES, number / DIRECTORIES),
                    "1",
                );
            }
            write_large(&layers[0].join("large"), large_mib);
        },
    );
    let mut next = 0;
    let idle = median(stat_until(&fixture, &mut next, |done| done >= 1000));
    let is_done = AtomicBool::new(false);
    let (took, busy) = std::thread::scope(|scope| {
        let copy = scope.spawn(|| {
            let start = Instant::now();
            posix::write_at(&fixture.at("large"), 7, b"!").unwrap();
            is_done.store(true, Ordering::Release);
            start.elapsed()
        });
        let times = stat_until(&fixture, &mut next, |_| is_done.load(Ordering::Acquire));
        (copy.join().unwrap(), median(times))
    });
    eprintln!(
        "{backend:?}: copy-up of {large_mib} MiB in {took:?}; a stat took {idle:?} before, {busy:?} meanwhile"
    );
    assert!(
        busy <= 2 * idle,
        "a stat took {idle:?} before and {busy:?} beside the copy-up of {large_mib} MiB, which took {took:?}"
    );
}

fn write_large(path: &std::path::Path, mib: u64) {
    use std::io::Write;
    let block: Vec<u8> = (0..1_u32 << 20).map(|i| (i % 251) as u8).collect();
    let mut file = std::fs::File::create(path).unwrap();
    for _ in 0..mib {
        file.write_all(&block).unwrap();
    }
}

#[test]
#[ignore = "a measurement: run it alone, on a quiet machine, with 7 GiB of room"]
fn a_stat_beside_a_large_copy_up_on_shale_passthrough() {
    a_stat_beside_a_large_copy_up(Backend::ShalePassthrough);
}

#[test]
#[ignore = "a measurement: run it alone, on a quiet machine, with 7 GiB of room"]
fn a_stat_beside_a_large_copy_up_on_shale_plain() {
    a_stat_beside_a_large_copy_up(Backend::ShalePlain);
}
