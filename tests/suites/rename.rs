//! Renames of what lies in layers: never `EXDEV`, nothing left behind, nothing back.

use rustix::fs::RenameFlags;
use shale_tests::fixture::{Fixture, listed, put, put_dir, put_opaque, text};
use shale_tests::for_each_union;
use shale_tests::mount::Backend;
use shale_tests::posix::{self, assert_errno};
use shale_tests::snapshot::Snapshot;
use std::fs::{create_dir, remove_dir_all, rename, write};

/// Three levels of directories over two layers.
fn tree(layers: &[std::path::PathBuf]) {
    put(&layers[1], "d/low", "low");
    put(&layers[1], "d/sub/deep/f", "deep");
    put(&layers[0], "d/high", "high");
    put(&layers[0], "d/sub/g", "g");
    put(&layers[1], "other/o", "o");
    put_dir(&layers[1], "empty");
}

for_each_union! {
    fn a_merged_directory_moves_whole(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, tree);
        let before = Snapshot::of(&fixture.at("d")).unwrap().without_times();
        rename(fixture.at("d"), fixture.at("other/moved")).unwrap();
        for _ in 0..2 {
            let after = Snapshot::of(&fixture.at("other/moved")).unwrap().without_times();
            before.assert_same(&after, "the moved directory");
            assert_errno(fixture.at("d").symlink_metadata(), libc::ENOENT, "the old name");
            fixture.remount();
        }
        // A new directory of the old name has nothing of the old one.
        create_dir(fixture.at("d")).unwrap();
        assert!(listed(&fixture.at("d")).is_empty());
        write(fixture.at("other/moved/sub/deep/new"), "n").unwrap();
        rename(fixture.at("other/moved/sub"), fixture.at("d/sub2")).unwrap();
        for _ in 0..2 {
            assert_eq!(listed(&fixture.at("d/sub2")), ["deep", "g"]);
            assert_eq!(listed(&fixture.at("d/sub2/deep")), ["f", "new"]);
            assert_eq!(listed(&fixture.at("other/moved")), ["high", "low"]);
            fixture.remount();
        }
    }

    fn a_directory_moves_again_and_again(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, tree);
        let before = Snapshot::of(&fixture.at("d")).unwrap().without_times();
        let mut at = "d".to_owned();
        for round in 0..12 {
            let to = if round % 3 == 0 { format!("n{round}") } else { format!("other/n{round}") };
            rename(fixture.at(&at), fixture.at(&to)).unwrap();
            at = to;
            if round % 4 == 3 {
                fixture.remount();
            }
        }
        before.assert_same(&Snapshot::of(&fixture.at(&at)).unwrap().without_times(), "after twelve moves");
        rename(fixture.at(&at), fixture.at("d")).unwrap();
        fixture.remount();
        before.assert_same(&Snapshot::of(&fixture.at("d")).unwrap().without_times(), "back where it was");
    }

    fn a_child_moves_out_of_a_moved_directory_and_back(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, tree);
        rename(fixture.at("d"), fixture.at("e")).unwrap();
        rename(fixture.at("e/sub/deep"), fixture.at("out")).unwrap();
        rename(fixture.at("e/sub"), fixture.at("out/sub")).unwrap();
        rename(fixture.at("out"), fixture.at("e/in")).unwrap();
        for _ in 0..2 {
            assert_eq!(listed(&fixture.at("e")), ["high", "in", "low"]);
            assert_eq!(listed(&fixture.at("e/in")), ["f", "sub"]);
            assert_eq!(listed(&fixture.at("e/in/sub")), ["g"]);
            fixture.remount();
        }
    }

    fn rename_onto_an_empty_lower_directory(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, tree);
        assert_errno(rename(fixture.at("d"), fixture.at("other")), libc::ENOTEMPTY, "onto a full directory");
        rename(fixture.at("d"), fixture.at("empty")).unwrap();
        for _ in 0..2 {
            assert_eq!(listed(&fixture.at("empty")), ["high", "low", "sub"]);
            assert_eq!(text(&fixture.at("empty/sub/deep/f")), "deep");
            fixture.remount();
        }
    }

    fn exchange_of_directories_and_files(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, tree);
        let exchange = |fixture: &Fixture, from: &str, to: &str| {
            posix::rename(&fixture.at(from), &fixture.at(to), RenameFlags::EXCHANGE).unwrap();
        };
        exchange(&fixture, "d", "other");
        exchange(&fixture, "d/o", "other/sub");
        for _ in 0..2 {
            assert_eq!(listed(&fixture.at("other")), ["high", "low", "sub"]);
            assert_eq!(text(&fixture.at("other/sub")), "o");
            assert_eq!(listed(&fixture.at("d/o")), ["deep", "g"]);
            fixture.remount();
        }
        let missing = posix::rename(&fixture.at("d"), &fixture.at("none"), RenameFlags::EXCHANGE);
        assert_errno(missing, libc::ENOENT, "exchange with nothing");
        let inside = posix::rename(&fixture.at("d"), &fixture.at("d/o"), RenameFlags::EXCHANGE);
        assert_errno(inside, libc::EINVAL, "exchange with its own child");
    }

    fn noreplace(backend) {
        let fixture = Fixture::with_layers(backend, 2, tree);
        let noreplace = |from: &str, to: &str| {
            posix::rename(&fixture.at(from), &fixture.at(to), RenameFlags::NOREPLACE)
        };
        assert_errno(noreplace("d", "empty"), libc::EEXIST, "onto an empty lower directory");
        assert_errno(noreplace("d/low", "other/o"), libc::EEXIST, "onto a lower file");
        noreplace("d/low", "free").unwrap();
        noreplace("free", "d/low").unwrap();
        assert_eq!(text(&fixture.at("d/low")), "low");
    }

    fn a_file_replaces_a_lower_file(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, tree);
        write(fixture.at("new"), "new").unwrap();
        rename(fixture.at("new"), fixture.at("d/low")).unwrap();
        rename(fixture.at("d/high"), fixture.at("d/sub/deep/f")).unwrap();
        for _ in 0..2 {
            assert_eq!(text(&fixture.at("d/low")), "new");
            assert_eq!(text(&fixture.at("d/sub/deep/f")), "high");
            assert_eq!(listed(&fixture.at("d")), ["low", "sub"]);
            assert_eq!(listed(fixture.root()), ["d", "empty", "other"]);
            fixture.remount();
        }
    }

    fn an_opaque_directory_stays_opaque_when_moved(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, |layers| {
            put(&layers[1], "d/hidden", "x");
            put_opaque(&layers[0], "d");
            put(&layers[0], "d/seen", "x");
            put(&layers[1], "target/t", "x");
        });
        remove_dir_all(fixture.at("target")).unwrap();
        rename(fixture.at("d"), fixture.at("target")).unwrap();
        for _ in 0..2 {
            assert_eq!(listed(&fixture.at("target")), ["seen"]);
            fixture.remount();
        }
    }

    fn an_open_directory_and_a_working_directory_follow(backend) {
        let fixture = Fixture::with_layers(backend, 2, tree);
        let held = std::fs::File::open(fixture.at("d/sub")).unwrap();
        rename(fixture.at("d"), fixture.at("e")).unwrap();
        let file = rustix::fs::openat(
            &held,
            "made-after",
            rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::from_raw_mode(0o644),
        );
        drop(file.unwrap());
        assert_eq!(listed(&fixture.at("e/sub")), ["deep", "g", "made-after"]);
        // Held files below keep working, and are the same files under the new name.
        let file = posix::open(&fixture.at("e/sub/g"), libc::O_RDWR, 0).unwrap();
        rename(fixture.at("e"), fixture.at("f")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"G", 0).unwrap();
        assert_eq!(text(&fixture.at("f/sub/g")), "G");
    }

    fn a_directory_does_not_move_into_itself(backend) {
        let fixture = Fixture::with_layers(backend, 2, tree);
        assert_errno(rename(fixture.at("d"), fixture.at("d/sub/x")), libc::EINVAL, "into itself");
        assert_errno(rename(fixture.at("d/sub"), fixture.at("d")), libc::ENOTEMPTY, "onto its parent");
        assert_errno(rename(fixture.at("d"), fixture.at("d/low")), libc::EINVAL, "onto its child");
        assert_errno(rename(fixture.at("d"), fixture.at("other/o")), libc::ENOTDIR, "onto a file");
        assert_errno(rename(fixture.at("other/o"), fixture.at("d")), libc::EISDIR, "a file onto a directory");
    }

    fn hard_links_of_a_layer_rename_onto_each_other(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "a", "x");
            posix::link(&lower.join("a"), &lower.join("b")).unwrap();
        });
        rename(fixture.at("a"), fixture.at("b")).unwrap();
        assert_eq!(listed(fixture.root()), ["a", "b"], "both names stay, as rename(2) says of one file");
    }

    fn a_directory_with_a_255_byte_name_moves(backend) {
        let long = "n".repeat(255);
        let mut fixture = Fixture::new(backend, |lower| put(lower, &format!("{long}/{long}/f"), "x"));
        rename(fixture.at(&long), fixture.at("short")).unwrap();
        rename(fixture.at("short"), fixture.at(&"m".repeat(255))).unwrap();
        for _ in 0..2 {
            assert_eq!(text(&fixture.at(&format!("{}/{long}/f", "m".repeat(255)))), "x");
            fixture.remount();
        }
    }
}

/// The kernel's overlayfs answers `EXDEV` where a redirect would be longer than 256 bytes; ours never does.
fn a_long_redirect(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let long = "n".repeat(255);
    let deep = format!("{long}/{long}/{long}");
    let mut fixture = Fixture::new(backend, |lower| put(lower, &format!("{deep}/f"), "x"));
    rename(fixture.at(&deep), fixture.at("short")).unwrap();
    rename(fixture.at("short"), fixture.at(&format!("{long}/back"))).unwrap();
    for _ in 0..2 {
        assert_eq!(text(&fixture.at(&format!("{long}/back/f"))), "x");
        fixture.remount();
    }
}

#[test]
fn a_long_redirect_shale_passthrough() {
    a_long_redirect(Backend::ShalePassthrough);
}

#[test]
fn a_long_redirect_shale_plain() {
    a_long_redirect(Backend::ShalePlain);
}

/// What another program makes of moved directories: the redirects are overlayfs' own.
fn travels(writer: Backend, reader: Backend) {
    if !writer.is_available_or_skip() || !reader.is_available_or_skip() {
        return;
    }
    let mut fixture = Fixture::with_layers(writer, 2, tree);
    rename(fixture.at("d/sub"), fixture.at("other/sub")).unwrap();
    rename(fixture.at("d"), fixture.at("e")).unwrap();
    posix::chmod(&fixture.at("other/sub/deep/f"), 0o600).unwrap();
    rename(fixture.at("other/sub/g"), fixture.at("e/g")).unwrap();
    posix::chmod(&fixture.at("other/o"), 0o640).unwrap();
    rename(fixture.at("other/o"), fixture.at("o")).unwrap();
    let before = Snapshot::of(fixture.root()).unwrap();
    fixture.remount_as(reader);
    before.assert_same(
        &Snapshot::of(fixture.root()).unwrap(),
        &format!("{writer:?} read by {reader:?}"),
    );
    fixture.assert_layers_untouched();
}

#[test]
fn kernel_redirects_read_by_the_kernel() {
    travels(Backend::KernelNoIndex, Backend::KernelNoIndex);
}

#[test]
fn kernel_redirects_read_by_shale() {
    travels(Backend::KernelNoIndex, Backend::ShalePassthrough);
    travels(Backend::Kernel, Backend::ShalePlain);
}

#[test]
fn shale_redirects_read_by_the_kernel() {
    travels(Backend::ShalePassthrough, Backend::KernelNoIndex);
    travels(Backend::ShalePlain, Backend::KernelNoIndex);
}
