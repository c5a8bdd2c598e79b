//! `kill -9` of the server at any moment: afterwards a file is the old one or the whole new one.

use shale_tests::fixture::{Fixture, listed, put, text};
use shale_tests::mount::Backend;
use shale_tests::posix;
use shale_tests::snapshot::Snapshot;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const SIZE_BYTES: usize = 48 << 20;

/// Kills the server `delay` after a copy-up began.
fn killed_during_copy_up(backend: Backend, delay: Duration) {
    let mut fixture = Fixture::new(backend, |lower| {
        put(lower, "d/big", vec![b'b'; SIZE_BYTES]);
        put(lower, "d/other", "other");
        posix::chmod(&lower.join("d/big"), 0o640).unwrap();
    });
    let path = fixture.at("d/big");
    let writer = std::thread::spawn(move || posix::append(&path, b"x"));
    std::thread::sleep(delay);
    fixture.guard().kill_server();
    let outcome = writer.join().expect("the writer");
    // The mount is dead; whoever asks is told so and does not hang.
    let dead = fixture.at("d/other").metadata().expect_err("a dead mount");
    assert!(
        [libc::ENOTCONN, libc::ECONNABORTED].contains(&posix::errno(&dead)),
        "{dead}"
    );
    fixture.abandon_mount();
    for reader in [backend, Backend::KernelNoIndex] {
        let spec = fixture.spec().clone();
        let at = fixture.scratch().directory("again");
        let guard = shale_tests::mount::MountGuard::mount(reader, &spec, &at).expect("mount after the crash");
        let content = std::fs::read(at.join("d/big")).expect("read after the crash");
        let is_old = content.len() == SIZE_BYTES && content.iter().all(|byte| *byte == b'b');
        let is_new =
            content.len() == SIZE_BYTES + 1 && content[..SIZE_BYTES].iter().all(|byte| *byte == b'b');
        assert!(
            is_old || is_new,
            "{reader:?}: neither old nor new: {} bytes ({outcome:?})",
            content.len()
        );
        assert_eq!(at.join("d/big").metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(listed(&at.join("d")), ["big", "other"]);
        posix::append(&at.join("d/other"), b"!").expect("write after the crash");
        guard.unmount().expect("unmount");
    }
    fixture.assert_layers_untouched();
    fixture.remount_after_crash();
}

fn run(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    for delay_ms in [0, 2, 5, 10, 20, 40, 80] {
        killed_during_copy_up(backend, Duration::from_millis(delay_ms));
    }
}

#[test]
fn during_copy_up_shale_passthrough() {
    run(Backend::ShalePassthrough);
}

#[test]
fn during_copy_up_shale_plain() {
    run(Backend::ShalePlain);
}

/// Kills the server while many small changes run: every change that was answered is there afterwards.
fn answered_changes_survive(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let mut fixture = Fixture::new(backend, |lower| {
        for i in 0..200 {
            put(lower, &format!("d/f{i}"), "lower");
        }
        put(lower, "tree/a/b", "x");
    });
    let root = fixture.root().to_owned();
    let worker = std::thread::spawn(move || {
        let mut done = 0;
        for i in 0..200 {
            let path = root.join(format!("d/f{i}"));
            let changed = match i % 3 {
                0 => std::fs::remove_file(&path),
                1 => std::fs::rename(&path, root.join(format!("d/moved{i}"))),
                _ => posix::chmod(&path, 0o600),
            };
            if changed.is_err() {
                break;
            }
            done = i + 1;
        }
        done
    });
    std::thread::sleep(Duration::from_millis(15));
    fixture.guard().kill_server();
    let done = worker.join().expect("the worker");
    fixture.remount_after_crash();
    for i in 0..done {
        let (old, moved) = (fixture.at(&format!("d/f{i}")), fixture.at(&format!("d/moved{i}")));
        match i % 3 {
            0 => assert!(!old.exists(), "f{i} is back"),
            1 => assert!(
                !old.exists() && text(&moved) == "lower",
                "f{i} did not stay moved"
            ),
            _ => assert_eq!(old.metadata().unwrap().mode() & 0o777, 0o600, "mode of f{i}"),
        }
    }
    for i in done + 1..200 {
        assert_eq!(
            text(&fixture.at(&format!("d/f{i}"))),
            "lower",
            "f{i} was never touched"
        );
    }
    Snapshot::of(fixture.root()).expect("the whole tree can be read");
    std::fs::remove_dir_all(fixture.at("d")).expect("and removed");
    assert_eq!(listed(fixture.root()), ["tree"]);
}

#[test]
fn answered_changes_survive_shale_passthrough() {
    answered_changes_survive(Backend::ShalePassthrough);
}

#[test]
fn answered_changes_survive_shale_plain() {
    answered_changes_survive(Backend::ShalePlain);
}

#[test]
fn answered_changes_survive_shale_partial() {
    answered_changes_survive(Backend::ShalePartial);
}

/// What was fsynced before the kill is there afterwards.
fn synced_data_survives(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let mut fixture = Fixture::new(backend, |lower| put(lower, "f", vec![b'l'; 100_000]));
    let file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"synced", 50_000).unwrap();
    file.sync_all().unwrap();
    let new = File::create(fixture.at("new")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&new, b"new", 0).unwrap();
    new.sync_all().unwrap();
    fixture.guard().kill_server();
    drop((file, new));
    fixture.remount_after_crash();
    let content = std::fs::read(fixture.at("f")).unwrap();
    assert_eq!(&content[50_000..50_006], b"synced");
    assert_eq!(
        (content.len(), content[49_999], content[50_006]),
        (100_000, b'l', b'l')
    );
    assert_eq!(text(&fixture.at("new")), "new");
}

#[test]
fn synced_data_survives_shale_passthrough() {
    synced_data_survives(Backend::ShalePassthrough);
}

#[test]
fn synced_data_survives_shale_plain() {
    synced_data_survives(Backend::ShalePlain);
}

#[test]
fn synced_data_survives_shale_partial() {
    synced_data_survives(Backend::ShalePartial);
}
