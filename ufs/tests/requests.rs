//! Requests that no kernel would send: nodes and handles that nobody was told, names that lead out, offsets and sizes
//! at the ends of their ranges, bodies that are cut off.
//!
//! The same requests, found by coverage, are the fuzz target `requests` in `tests/fuzz`.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use ufs::fuse::fuzzing::Stand;

/// Sequences of requests, each for a fresh upper.
const CASES: u32 = 500;

fn number(variable: &str, default: u32) -> u32 {
    let value = std::env::var(variable).ok().and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

/// `SHALE_TESTS_CASES` and `SHALE_TESTS_SEED` change how many there are, and which.
#[test]
fn no_request_panics_hangs_or_reaches_what_lies_outside() {
    let scratch = tempfile::tempdir().unwrap();
    let stand = Stand::new(scratch.path()).unwrap();
    let cases = number("SHALE_TESTS_CASES", CASES);
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(number("SHALE_TESTS_SEED", 1).into()),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let answers = Cell::new(0);
    let inputs = proptest::collection::vec(any::<u8>(), 1..3000);
    let result = runner.run(&inputs, |input| {
        answers.set(answers.get() + stand.run(&input).unwrap());
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    println!("{} answers", answers.get());
    // one for the handshake, and at least two for each sequence
    assert!(
        answers.get() > 20 * CASES as usize || cases < CASES,
        "hardly anything was answered: {answers:?}"
    );
}
