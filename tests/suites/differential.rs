//! The same steps on the kernel's overlayfs and on ours; then each upper is mounted by the other.

use shale_tests::mount::Backend;
use shale_tests::runner::{Plan, run_random};
use shale_tests::strategies::Shape;

/// Hard links of a layer that are copied up one by one need the index that each program keeps its own way,
/// so the uppers that travel between programs come from layers without them.
fn travelling() -> Shape {
    Shape { lower_links: false, ..Shape::default() }
}

fn run(shape: Shape, unions: &[Backend], readers: &[Backend], cases: u32) {
    if unions.iter().chain(readers).all(|backend| backend.is_available_or_skip()) {
        let plan = Plan { unions: unions.to_vec(), readers: readers.to_vec(), compare_every: 4 };
        run_random(shape, &plan, cases);
    }
}

#[test]
fn kernel_and_both_modes_agree_step_by_step() {
    run(Shape::default(), &[Backend::Kernel, Backend::ShalePassthrough, Backend::ShalePlain], &[], 60);
}

#[test]
fn the_kernel_reads_its_own_upper_without_index() {
    run(travelling(), &[Backend::KernelNoIndex], &[Backend::KernelNoIndex], 40);
}

#[test]
fn the_kernel_reads_uppers_of_shale() {
    run(travelling(), &[Backend::ShalePassthrough], &[Backend::KernelNoIndex], 60);
}

#[test]
fn the_kernel_reads_uppers_of_shale_plain() {
    run(travelling(), &[Backend::ShalePlain], &[Backend::KernelNoIndex], 60);
}

#[test]
fn shale_reads_uppers_of_the_kernel() {
    run(travelling(), &[Backend::KernelNoIndex], &[Backend::ShalePassthrough, Backend::ShalePlain], 60);
}
