//! One file stays one file, and two stay two: under memory pressure, after a crash, for whoever still has it open.

use shale_tests::fixture::{Fixture, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::mount::Backend;
use shale_tests::posix::{self, append};
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// Makes the kernel forget names and inodes that nobody uses.
fn drop_names() {
    std::fs::write("/proc/sys/vm/drop_caches", "2").expect("drop caches");
}

for_each_union! {
    fn a_file_held_open_over_its_directorys_forgetting(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "a/f", "one ");
            posix::link(&lower.join("a/f"), &lower.join("a/g")).unwrap();
            put(lower, "b/h", "alone ");
        });
        let held = [File::open(fixture.at("a/f")).unwrap(), File::open(fixture.at("b/h")).unwrap()];
        for round in 0..3 {
            drop_names();
            std::fs::write(fixture.at(&format!("a/new{round}")), "x").unwrap();
            std::fs::write(fixture.at(&format!("b/new{round}")), "x").unwrap();
            append(&fixture.at("a/f"), b"more ").unwrap();
            append(&fixture.at("b/h"), b"more ").unwrap();
            std::fs::set_permissions(fixture.at("b/h"), std::fs::Permissions::from_mode(0o600 + round)).unwrap();
        }
        assert_eq!(text(&fixture.at("a/g")), "one more more more ");
        assert_eq!(text(&fixture.at("b/h")), "alone more more more ");
        std::fs::remove_file(fixture.at("a/g")).unwrap();
        assert_eq!(fixture.at("a/f").metadata().unwrap().nlink(), 1);
        drop(held);
        fixture.assert_layers_untouched();
    }

    fn both_names_of_a_large_file_follow_a_writer(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "a", vec![b'0'; 200_000]);
            posix::link(&lower.join("a"), &lower.join("b")).unwrap();
        });
        let reader = File::open(fixture.at("a")).unwrap();
        for path in ["a", "b"] {
            assert_eq!(fixture.at(path).metadata().unwrap().size(), 200_000);
        }
        append(&fixture.at("a"), b"tail").unwrap();
        drop(reader);
        append(&fixture.at("b"), b" two").unwrap();
        for path in ["a", "b"] {
            assert_eq!(fixture.at(path).metadata().unwrap().size(), 200_008, "{path}");
            assert!(text(&fixture.at(path)).ends_with("0tail two"), "{path}");
        }
        fixture.assert_layers_untouched();
    }

    /// A program may give a file any name, also one that a mount program would like to use itself.
    fn every_name_in_the_upper_is_the_users(backend) {
        let mut fixture = Fixture::new(backend, |lower| put(lower, "f", "x"));
        for name in [".shale-probe", "work", "index", "#1", ".wh.f"] {
            std::fs::write(fixture.at(name), name).unwrap();
        }
        fixture.remount();
        for name in [".shale-probe", "work", "index", "#1", ".wh.f"] {
            assert_eq!(text(&fixture.at(name)), name);
        }
        assert_eq!(text(&fixture.at("f")), "x");
    }
}

/// What a crash leaves when it comes while the names of a copied file are linked: one name is on the copy, the other
/// still below. From then on they are two files, and a write to one is never lost in the other.
#[test]
fn names_that_a_crash_parted_stay_apart() {
    for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
        if !backend.is_available_or_skip() {
            continue;
        }
        let mut fixture = Fixture::new(backend, |lower| {
            put_dir(lower, "d");
            put(lower, "a", "old\n");
            posix::link(&lower.join("a"), &lower.join("d/b")).unwrap();
        });
        append(&fixture.at("a"), b"new\n").unwrap();
        fixture.unmount();
        std::fs::remove_file(fixture.upper().join("d/b")).unwrap();
        for first in ["d/b", "a"] {
            fixture.remount_after_crash();
            assert!(text(&fixture.at(first)).starts_with("old\n"));
            assert_eq!(text(&fixture.at("d/b")), "old\n");
            assert_eq!(text(&fixture.at("a")), "old\nnew\n");
            fixture.unmount();
        }
        fixture.remount_after_crash();
        append(&fixture.at("a"), b"more\n").unwrap();
        append(&fixture.at("d/b"), b"other\n").unwrap();
        fixture.remount();
        assert_eq!(text(&fixture.at("a")), "old\nnew\nmore\n");
        assert_eq!(text(&fixture.at("d/b")), "old\nother\n");
        fixture.assert_layers_untouched();
    }
}

/// Who has a deleted file of a layer open may still change it. (overlayfs without an index refuses.)
#[test]
fn a_deleted_lower_file_can_be_changed_by_its_holder() {
    for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
        if !backend.is_available_or_skip() {
            continue;
        }
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "content"));
        let file = File::open(fixture.at("f")).unwrap();
        std::fs::remove_file(fixture.at("f")).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.set_permissions(std::fs::Permissions::from_mode(0o640))
            .unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(posix::read_all_at_start(&file).unwrap(), b"content");
        assert!(!fixture.at("f").exists());
        drop(file);
        fixture.assert_layers_untouched();
    }
}
