//! The same steps on the kernel's overlayfs and on ours; then each upper is mounted by the other, and as a
//! layer of a further union.

use shale_tests::fixture::{Fixture, put, put_whiteout};
use shale_tests::mount::Backend;
use shale_tests::runner::{Plan, run_random};
use shale_tests::snapshot::Snapshot;
use shale_tests::strategies::Shape;
use std::fs::{create_dir, remove_dir_all, remove_file, rename, write};

/// Hard links of a layer that are copied up one by one need the index that each program keeps its own way,
/// so the uppers that travel between programs come from layers without them.
fn travelling() -> Shape {
    Shape {
        lower_links: false,
        ..Shape::default()
    }
}

fn run(shape: Shape, unions: &[Backend], readers: &[Backend], stackers: &[Backend], cases: u32) {
    if unions
        .iter()
        .chain(readers)
        .chain(stackers)
        .all(|backend| backend.is_available_or_skip())
    {
        let plan = Plan {
            unions: unions.to_vec(),
            readers: readers.to_vec(),
            stackers: stackers.to_vec(),
            compare_every: 4,
        };
        run_random(shape, &plan, cases);
    }
}

#[test]
fn kernel_and_both_modes_agree_step_by_step() {
    run(
        Shape::default(),
        &[Backend::Kernel, Backend::ShalePassthrough, Backend::ShalePlain],
        &[],
        &[],
        50,
    );
}

/// Partial copies look like whole ones, and an upper that holds some is read by every mount of ours, as a layer too.
#[test]
fn partial_copies_and_whole_ones_agree_step_by_step() {
    let ours = &[Backend::ShalePartial, Backend::ShalePlain];
    run(
        travelling(),
        &[Backend::Kernel, Backend::ShalePartial],
        ours,
        &[],
        40,
    );
    run(
        travelling(),
        &[Backend::ShalePartial],
        &[],
        &[Backend::ShalePlain],
        40,
    );
}

/// Over the layers of an image as over directories, and our uppers are read the same by both.
#[test]
fn the_kernel_and_a_container_s_root_agree_step_by_step() {
    run(
        Shape::default(),
        &[Backend::Kernel, Backend::ShaleImage, Backend::ShaleLayers],
        &[],
        &[],
        50,
    );
    run(
        travelling(),
        &[Backend::ShaleImage],
        &[Backend::KernelNoIndex, Backend::ShalePlain],
        &[],
        30,
    );
}

#[test]
fn the_kernel_reads_its_own_upper() {
    let kernel = &[Backend::KernelNoIndex];
    run(travelling(), kernel, kernel, kernel, 40);
}

#[test]
fn the_kernel_reads_uppers_of_shale() {
    run(
        travelling(),
        &[Backend::ShalePassthrough],
        &[Backend::KernelNoIndex],
        &[],
        50,
    );
    run(
        travelling(),
        &[Backend::ShalePlain],
        &[Backend::KernelNoIndex],
        &[],
        25,
    );
}

#[test]
fn the_kernel_stacks_uppers_of_shale() {
    run(
        travelling(),
        &[Backend::ShalePlain],
        &[],
        &[Backend::KernelNoIndex],
        50,
    );
}

#[test]
fn shale_reads_uppers_of_the_kernel() {
    run(
        travelling(),
        &[Backend::KernelNoIndex],
        &[Backend::ShalePassthrough, Backend::ShalePlain],
        &[],
        50,
    );
}

#[test]
fn shale_stacks_uppers_of_both() {
    run(
        travelling(),
        &[Backend::KernelNoIndex, Backend::ShalePlain],
        &[],
        &[Backend::ShalePlain],
        50,
    );
}

/// With hard links in the layers, too, our own upper is the same tree as a layer.
#[test]
fn shale_stacks_its_own_uppers_with_links() {
    run(
        Shape::default(),
        &[Backend::ShalePlain],
        &[],
        &[Backend::ShalePassthrough],
        30,
    );
}

/// Forgets times, and what fuse-overlayfs writes down beside overlayfs' own marks: names and attributes that
/// only it hides.
fn without_notes(mut snapshot: Snapshot) -> Snapshot {
    snapshot
        .entries
        .retain(|path, _| !path.ends_with(b".wh..wh..opq"));
    for entry in snapshot.entries.values_mut() {
        entry
            .xattrs
            .retain(|name, _| !name.starts_with(b"user.fuseoverlayfs."));
    }
    snapshot.without_times()
}

/// What fuse-overlayfs, which knows neither redirects nor metadata-only copies, can read: everything else.
fn plain_changes(writer: Backend, reader: Backend) {
    if !writer.is_available_or_skip() || !reader.is_available_or_skip() {
        return;
    }
    let mut fixture = Fixture::with_layers(writer, 2, |layers| {
        put(&layers[1], "d/low", "low");
        put(&layers[1], "d/gone", "gone");
        put(&layers[1], "tree/a/b", "b");
        put(&layers[1], "replaced/x", "x");
        put(&layers[0], "d/high", "high");
        put_whiteout(&layers[0], "never");
        put(&layers[1], "never/seen", "x");
    });
    write(fixture.at("d/low"), "changed").unwrap();
    remove_file(fixture.at("d/gone")).unwrap();
    remove_dir_all(fixture.at("tree")).unwrap();
    remove_dir_all(fixture.at("replaced")).unwrap();
    create_dir(fixture.at("replaced")).unwrap();
    write(fixture.at("replaced/y"), "y").unwrap();
    create_dir(fixture.at("new")).unwrap();
    rename(fixture.at("new"), fixture.at("new2")).unwrap();
    std::os::unix::fs::symlink("d/low", fixture.at("link")).unwrap();
    create_dir(fixture.at("never")).unwrap();
    let before = without_notes(Snapshot::of(fixture.root()).unwrap());
    fixture.remount_as(reader);
    let after = without_notes(Snapshot::of(fixture.root()).unwrap());
    before.assert_same(&after, &format!("{writer:?} read by {reader:?}"));
}

#[test]
fn plain_changes_of_the_kernel_read_by_fuse_overlayfs() {
    plain_changes(Backend::KernelPlain, Backend::FuseOverlayfs);
}

#[test]
fn plain_changes_of_shale_read_by_fuse_overlayfs() {
    plain_changes(Backend::ShalePassthrough, Backend::FuseOverlayfs);
    plain_changes(Backend::ShalePlain, Backend::FuseOverlayfs);
}

#[test]
fn plain_changes_of_fuse_overlayfs_read_by_shale() {
    plain_changes(Backend::FuseOverlayfs, Backend::ShalePassthrough);
    plain_changes(Backend::FuseOverlayfs, Backend::ShalePlain);
}
