//! Random operations over random layers: each union against the reference model, the whole tree compared.

use shale_tests::mount::Backend;
use shale_tests::runner::{Plan, run_random};
use shale_tests::strategies::Shape;

fn run(backend: Backend, compare_every: usize, cases: u32) {
    if backend.is_available_or_skip() {
        let plan = Plan { unions: vec![backend], readers: vec![], stackers: vec![], compare_every };
        run_random(Shape::default(), &plan, cases);
    }
}

/// Shows that the model is overlayfs' own behaviour and not our idea of it.
#[test]
fn kernel_overlayfs_is_the_model() {
    run(Backend::Kernel, 1, 150);
}

#[test]
fn shale_passthrough_is_the_model() {
    run(Backend::ShalePassthrough, 1, 100);
}

#[test]
fn shale_plain_is_the_model() {
    run(Backend::ShalePlain, 1, 100);
}
