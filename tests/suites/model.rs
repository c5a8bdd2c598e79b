//! Random operations over random layers: each union against the reference model, the whole tree compared.

use shale_tests::mount::Backend;
use shale_tests::runner::{Plan, run_random, run_random_together};
use shale_tests::strategies::{LONG, Shape};

fn run(backend: Backend, shape: Shape, compare_every: usize, cases: u32) {
    if backend.is_available_or_skip() {
        let plan = Plan {
            unions: vec![backend],
            readers: vec![],
            stackers: vec![],
            compare_every,
        };
        run_random(shape, &plan, cases);
    }
}

/// Shows that the model is overlayfs' own behaviour and not our idea of it.
#[test]
fn kernel_overlayfs_is_the_model() {
    run(Backend::Kernel, Shape::default(), 1, 150);
}

#[test]
fn shale_passthrough_is_the_model() {
    run(Backend::ShalePassthrough, Shape::default(), 1, 80);
}

#[test]
fn shale_plain_is_the_model() {
    run(Backend::ShalePlain, Shape::default(), 1, 80);
}

#[test]
fn shale_with_partial_copies_is_the_model() {
    run(Backend::ShalePartial, Shape::default(), 1, 80);
}

#[test]
fn shale_over_an_image_is_the_model() {
    run(Backend::ShaleImage, Shape::default(), 1, 80);
}

#[test]
fn long_sequences_on_kernel_overlayfs() {
    run(Backend::Kernel, LONG, 10, 25);
}

#[test]
fn long_sequences_on_shale_passthrough() {
    run(Backend::ShalePassthrough, LONG, 10, 20);
}

#[test]
fn long_sequences_on_shale_plain() {
    run(Backend::ShalePlain, LONG, 10, 20);
}

#[test]
fn long_sequences_on_shale_with_partial_copies() {
    run(Backend::ShalePartial, LONG, 10, 20);
}

#[test]
fn long_sequences_on_shale_over_an_image() {
    run(Backend::ShaleImage, LONG, 10, 20);
}

/// Eight sequences at once, each in its own directory of one union.
fn together(backend: Backend, sets: u32) {
    if backend.is_available_or_skip() {
        let shape = Shape {
            max_ops: 60,
            ..Shape::default()
        };
        run_random_together(shape, 8, backend, sets);
    }
}

#[test]
fn eight_at_once_on_kernel_overlayfs() {
    together(Backend::Kernel, 20);
}

#[test]
fn eight_at_once_on_shale_passthrough() {
    together(Backend::ShalePassthrough, 15);
}

#[test]
fn eight_at_once_on_shale_plain() {
    together(Backend::ShalePlain, 15);
}

#[test]
fn eight_at_once_on_shale_with_partial_copies() {
    together(Backend::ShalePartial, 15);
}

#[test]
fn eight_at_once_on_shale_over_an_image() {
    together(Backend::ShaleImage, 15);
}
