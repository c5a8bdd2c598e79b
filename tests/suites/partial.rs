//! Sub-file copy-on-write: what is copied, what is read, what a crash leaves, and how copies become whole.
//!
//! The other suites run on partial copies as well (`shale_partial`); here is what only concerns them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, XattrFlags};
use shale_tests::fixture::{Fixture, put, text};
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::posix;
use shale_tests::programs;
use shale_tests::scratch::Scratch;
use shale_tests::sys::Mapping;

const MARK: &str = "trusted.overlay.shale.partial";
const METACOPY: &str = "trusted.overlay.metacopy";
const SIZE_BYTES: usize = 3 << 20;

/// No two blocks of it are the same.
fn below(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 9) ^ (at >> 17)) as u8 | 1)
        .collect()
}

fn spec(scratch: &Scratch, options: &[&str]) -> MountSpec {
    MountSpec {
        lowers: vec![scratch.directory("l1"), scratch.directory("l0")],
        upper: Some((scratch.directory("upper"), scratch.directory("work"))),
        extra_options: options.iter().map(|option| (*option).to_owned()).collect(),
        open_files_limit: None,
    }
}

/// A union with `d/f` of [`SIZE_BYTES`] in its lower layer. Nothing is sealed unless a test asks for it.
fn fixture(backend: Backend, options: &[&str]) -> Fixture {
    fixture_in(Scratch::new(), backend, options, SIZE_BYTES)
}

fn fixture_in(scratch: Scratch, backend: Backend, options: &[&str], length: usize) -> Fixture {
    let spec = spec(&scratch, options);
    put(&spec.lowers[1], "d/f", below(length));
    Fixture::over(scratch, backend, spec)
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open for both")
}

fn is_marked(path: &Path) -> bool {
    let marked = |name| posix::get_xattr(path, name).is_ok();
    assert_eq!(marked(MARK), marked(METACOPY), "marks of {}", path.display());
    marked(MARK)
}

fn read_all(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let wrong = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    assert_eq!((found.len(), wrong), (expected.len(), None), "{what}");
}

/// Seals in the background, by the attribute of the root, and waits for it.
fn seal_mounted(fixture: &Fixture) {
    posix::set_xattr(fixture.root(), "user.shale.seal", b"1", XattrFlags::empty()).expect("ask to seal");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let state = posix::get_xattr(fixture.root(), "user.shale.seal").expect("ask what is left");
        let state = String::from_utf8(state).expect("JSON");
        if state == r#"{"waiting":0,"looking":false}"# {
            return;
        }
        assert!(Instant::now() < end, "not sealed: {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Seals an upper that is not mounted. Answers whether the program said that all is whole.
fn seal_unmounted(spec: &MountSpec) -> bool {
    let program = programs::workspace_binary("shale-ufs").expect("the program");
    let output = Command::new(program)
        .args(["--seal", "-o"])
        .arg(spec.fuse_options())
        .output()
        .expect("run shale-ufs --seal");
    println!("{output:?}");
    output.status.success()
}

fn for_each(body: fn(Backend)) {
    for backend in [
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
    ] {
        if backend.is_available_or_skip() {
            body(backend);
        }
    }
}

#[test]
fn one_byte_copies_one_block() {
    for_each(|backend| {
        let mut fixture = fixture(backend, &["partial", "seal=off"]);
        let mut model = below(SIZE_BYTES);
        let before = fixture.at("d/f").metadata().unwrap();
        posix::write_at(&fixture.at("d/f"), 1_234_567, b"x").unwrap();
        model[1_234_567] = b'x';
        let copy = fixture.upper().join("d/f");
        assert!(is_marked(&copy));
        let taken = copy.metadata().unwrap();
        // The block, and perhaps one for the marks.
        assert!(taken.blocks() <= 16, "{} blocks of 512 bytes", taken.blocks());
        assert_eq!(taken.len(), SIZE_BYTES as u64);
        assert_same(&read_all(&fixture.at("d/f")), &model, "at once");
        let after = fixture.at("d/f").metadata().unwrap();
        assert_eq!(
            (after.ino(), after.len(), after.mode()),
            (before.ino(), before.len(), before.mode())
        );
        assert!(after.blocks() >= before.blocks() && after.mtime() >= before.mtime());
        fixture.remount();
        assert_same(&read_all(&fixture.at("d/f")), &model, "after a remount");
        assert_eq!(fixture.at("d/f").metadata().unwrap().ino(), before.ino());
    });
}

#[test]
fn small_files_are_copied_whole() {
    let backend = Backend::ShalePassthrough;
    if !backend.is_available_or_skip() {
        return;
    }
    let fixture = fixture_in(
        Scratch::new(),
        backend,
        &["partial_min=262144", "seal=off"],
        200 << 10,
    );
    posix::write_at(&fixture.at("d/f"), 0, b"x").unwrap();
    assert!(!is_marked(&fixture.upper().join("d/f")));
}

/// A file whose metadata was changed before is no other.
#[test]
fn a_metadata_only_copy_becomes_a_partial_one() {
    for_each(|backend| {
        let fixture = fixture(backend, &["partial", "seal=off"]);
        let (path, copy) = (fixture.at("d/f"), fixture.upper().join("d/f"));
        let reader = File::open(&path).unwrap();
        posix::chmod(&path, 0o640).unwrap();
        assert!(posix::get_xattr(&copy, METACOPY).is_ok() && posix::get_xattr(&copy, MARK).is_err());
        let mut model = below(SIZE_BYTES);
        posix::write_at(&path, 100, b"changed").unwrap();
        model[100..107].copy_from_slice(b"changed");
        assert!(is_marked(&copy));
        assert_same(&read_all(&path), &model, "after the write");
        let old = posix::read_all_at_start(&reader).unwrap();
        assert!(
            old == model || old == below(SIZE_BYTES),
            "the old descriptor reads a mixture"
        );
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
    });
}

/// Names, links, deletion, and descriptors from before.
#[test]
fn a_partial_copy_is_moved_linked_and_deleted() {
    for_each(|backend| {
        let mut fixture = fixture(backend, &["partial", "seal=off"]);
        let mut model = below(SIZE_BYTES);
        let file = open(&fixture.at("d/f"));
        file.write_all_at(b"one", 5000).unwrap();
        model[5000..5003].copy_from_slice(b"one");
        std::fs::rename(fixture.at("d"), fixture.at("e")).unwrap();
        std::fs::rename(fixture.at("e/f"), fixture.at("g")).unwrap();
        std::fs::hard_link(fixture.at("g"), fixture.at("h")).unwrap();
        file.write_all_at(b"two", 2_000_000).unwrap();
        model[2_000_000..2_000_003].copy_from_slice(b"two");
        assert_same(&read_all(&fixture.at("h")), &model, "by another name");
        drop(file);
        fixture.remount();
        assert_same(&read_all(&fixture.at("g")), &model, "moved, after a remount");
        assert_eq!(
            fixture.at("g").metadata().unwrap().ino(),
            fixture.at("h").metadata().unwrap().ino()
        );
        let file = open(&fixture.at("h"));
        std::fs::remove_file(fixture.at("g")).unwrap();
        std::fs::remove_file(fixture.at("h")).unwrap();
        file.write_all_at(b"three", 9000).unwrap();
        model[9000..9005].copy_from_slice(b"three");
        file.set_len(2_500_000).unwrap();
        model.truncate(2_500_000);
        assert_same(&posix::read_all_at_start(&file).unwrap(), &model, "deleted");
        drop(file);
        fixture.assert_layers_untouched();
    });
}

/// What a file was cut of does not come back when it grows, whoever makes it grow, also over a remount in between.
#[test]
fn what_was_cut_off_stays_away() {
    for_each(|backend| {
        for remount in [false, true] {
            for grow in 0..4 {
                let mut fixture = fixture(backend, &["partial", "seal=off"]);
                let path = fixture.at("d/f");
                posix::truncate(&path, 1_000_001).unwrap();
                if remount {
                    fixture.remount();
                }
                let mut model = below(1_000_001);
                model.resize(2_000_000, 0);
                let file = open(&path);
                match grow {
                    0 => posix::truncate(&path, 2_000_000).unwrap(),
                    1 => {
                        file.write_all_at(b"end", 1_999_997).unwrap();
                        model[1_999_997..].copy_from_slice(b"end");
                    }
                    2 => rustix::fs::fallocate(&file, FallocateFlags::empty(), 1_500_000, 500_000).unwrap(),
                    _ => {
                        posix::append(&path, &vec![0; 999_999]).unwrap();
                    }
                }
                drop(file);
                assert_same(&read_all(&path), &model, &format!("grown by {grow}"));
                if remount {
                    fixture.remount();
                    assert_same(
                        &read_all(&path),
                        &model,
                        &format!("grown by {grow}, mounted again"),
                    );
                }
            }
        }
    });
}

/// Where the file system keeps data that it has not put anywhere yet.
fn has_delayed_blocks(copy: &Path) -> bool {
    let output = Command::new("filefrag")
        .arg("-v")
        .arg(copy)
        .output()
        .expect("run filefrag");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).contains("delalloc")
}

/// A sync that the server forgets is seen by nobody until the power goes.
#[test]
fn what_is_synced_is_on_the_disk() {
    for_each(|backend| {
        let fixture = fixture(backend, &["partial", "seal=off"]);
        let copy = fixture.upper().join("d/f");
        let file = open(&fixture.at("d/f"));
        for data_only in [false, true] {
            file.write_all_at(b"x", if data_only { 1_000_000 } else { 2_000_000 })
                .unwrap();
            assert!(
                has_delayed_blocks(&copy),
                "on the disk before it is synced: nothing to see"
            );
            if data_only {
                file.sync_data()
            } else {
                file.sync_all()
            }
            .unwrap();
            assert!(!has_delayed_blocks(&copy), "synced, data only: {data_only}");
        }
    });
}

#[test]
fn emptied_files_are_whole() {
    for_each(|backend| {
        let mut fixture = fixture(backend, &["partial", "seal=off"]);
        let (path, copy) = (fixture.at("d/f"), fixture.upper().join("d/f"));
        let held = open(&path);
        held.write_all_at(b"x", 0).unwrap();
        assert!(is_marked(&copy));
        std::fs::write(&path, b"anew").unwrap();
        assert!(!is_marked(&copy));
        held.write_all_at(b"y", 10).unwrap();
        assert_eq!(read_all(&path), b"anew\0\0\0\0\0\0y");
        drop(held);
        fixture.remount();
        assert_eq!(read_all(&path), b"anew\0\0\0\0\0\0y");
        assert_eq!(
            posix::list_xattrs(&copy)
                .unwrap()
                .iter()
                .filter(|name| *name == MARK)
                .count(),
            0
        );
    });
}

/// Copies that were asked to be made whole are, with descriptors and mappings in use, and look the same.
#[test]
fn sealed_copies_are_whole_files() {
    for_each(|backend| {
        let mut fixture = fixture(backend, &["partial"]);
        let (path, copy) = (fixture.at("d/f"), fixture.upper().join("d/f"));
        let mut model = below(SIZE_BYTES);
        let file = open(&path);
        let mut mapping = Mapping::shared(&file, SIZE_BYTES, true).unwrap();
        file.write_all_at(b"written", 1_000_000).unwrap();
        model[1_000_000..1_000_007].copy_from_slice(b"written");
        mapping.write(2_000_000, b"mapped");
        model[2_000_000..2_000_006].copy_from_slice(b"mapped");
        mapping.sync().unwrap();
        let before = path.metadata().unwrap();
        seal_mounted(&fixture);
        assert!(!is_marked(&copy));
        assert_same(&read_all(&copy), &model, "the copy by itself");
        let after = path.metadata().unwrap();
        assert_eq!(
            (after.mtime(), after.mtime_nsec()),
            (before.mtime(), before.mtime_nsec())
        );
        assert_eq!(copy.metadata().unwrap().mtime_nsec(), before.mtime_nsec());
        mapping.write(2_000_000, b"MAPPED");
        mapping.sync().unwrap();
        model[2_000_000..2_000_006].copy_from_slice(b"MAPPED");
        file.write_all_at(b"WRITTEN", 1_000_000).unwrap();
        model[1_000_000..1_000_007].copy_from_slice(b"WRITTEN");
        assert_same(&read_all(&path), &model, "through the mount");
        drop((file, mapping));
        assert_same(&read_all(&path), &model, "opened again");
        fixture.remount();
        assert_same(&read_all(&path), &model, "mounted again");
        fixture.unmount();
        // Now it is a copy for everybody.
        fixture.remount_as(Backend::KernelNoIndex);
        assert_same(&read_all(&path), &model, "by the kernel");
    });
}

#[test]
fn copies_that_rest_are_sealed_unasked_also_those_of_an_earlier_mount() {
    let backend = Backend::ShalePassthrough;
    if !backend.is_available_or_skip() {
        return;
    }
    let scratch = Scratch::new();
    let mut spec = spec(&scratch, &["partial", "seal=off"]);
    put(&spec.lowers[1], "d/f", below(SIZE_BYTES));
    put(&spec.lowers[1], "d/g", below(SIZE_BYTES));
    let at = scratch.directory("first");
    let first = MountGuard::mount(backend, &spec, &at).unwrap();
    posix::write_at(&at.join("d/f"), 7, b"x").unwrap();
    first.unmount().unwrap();
    spec.extra_options[1] = "seal=0.2".into();
    let fixture = Fixture::over(scratch, backend, spec);
    let (earlier, now) = (fixture.upper().join("d/f"), fixture.upper().join("d/g"));
    assert!(is_marked(&earlier));
    posix::write_at(&fixture.at("d/g"), 7, b"x").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while posix::get_xattr(&earlier, MARK).is_ok() || posix::get_xattr(&now, MARK).is_ok() {
        assert!(Instant::now() < end, "not sealed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut model = below(SIZE_BYTES);
    model[7] = b'x';
    assert_same(&read_all(&earlier), &model, "of an earlier mount");
    assert_same(&read_all(&now), &model, "of this one");
}

#[test]
fn an_upper_at_rest_is_sealed_by_command() {
    for_each(|backend| {
        if backend == Backend::ShaleImage {
            return;
        }
        let mut fixture = fixture(backend, &["partial", "seal=off"]);
        let mut model = below(SIZE_BYTES);
        posix::write_at(&fixture.at("d/f"), 1_000_000, b"x").unwrap();
        model[1_000_000] = b'x';
        assert!(!seal_unmounted(fixture.spec()), "sealed under a mount");
        fixture.unmount();
        // As documented: who does not know partial copies sees the file as it was.
        fixture.remount_as(Backend::KernelNoIndex);
        assert_same(&read_all(&fixture.at("d/f")), &below(SIZE_BYTES), "by the kernel");
        fixture.unmount();
        assert!(seal_unmounted(fixture.spec()));
        let copy = fixture.upper().join("d/f");
        assert!(!is_marked(&copy));
        assert_same(&read_all(&copy), &model, "the copy");
        fixture.remount_as(Backend::KernelNoIndex);
        assert_same(&read_all(&fixture.at("d/f")), &model, "sealed, by the kernel");
    });
}

/// Without the option, partial copies of an earlier mount are read right, and filled in before they are written to.
#[test]
fn a_mount_without_the_option_reads_and_fills_in() {
    for_each(|backend| {
        let scratch = Scratch::new();
        let mut spec = spec(&scratch, &["partial", "seal=off"]);
        put(&spec.lowers[1], "d/f", below(SIZE_BYTES));
        let at = scratch.directory("first");
        let first = MountGuard::mount(backend, &spec, &at).unwrap();
        let mut model = below(SIZE_BYTES);
        posix::write_at(&at.join("d/f"), 1_000_000, b"x").unwrap();
        model[1_000_000] = b'x';
        first.unmount().unwrap();
        // As one more layer, read-only.
        let mut layers = spec.clone();
        let upper = layers.upper.take().unwrap().0;
        layers.lowers.insert(0, upper.clone());
        layers.extra_options.clear();
        if backend != Backend::ShaleImage {
            let guard = MountGuard::mount(backend, &layers, &at).unwrap();
            assert_same(&read_all(&at.join("d/f")), &model, "as a layer");
            guard.unmount().unwrap();
        }
        spec.extra_options.clear();
        let guard = MountGuard::mount(backend, &spec, &at).unwrap();
        assert_same(&read_all(&at.join("d/f")), &model, "without the option");
        assert!(is_marked(&upper.join("d/f")), "reading changed the copy");
        posix::append(&at.join("d/f"), b"more").unwrap();
        model.extend(b"more");
        assert_same(&read_all(&upper.join("d/f")), &model, "the copy");
        assert!(!is_marked(&upper.join("d/f")));
        assert_same(&read_all(&at.join("d/f")), &model, "written");
        guard.unmount().unwrap();
    });
}

/// An upper whose partial copies were copied by a program that does not know them gives errors, never wrong bytes.
#[test]
fn a_copied_upper_is_refused_file_by_file() {
    let backend = Backend::ShalePlain;
    if !backend.is_available_or_skip() {
        return;
    }
    let mut fixture = fixture(backend, &["partial", "seal=off"]);
    posix::write_at(&fixture.at("d/f"), 1_000_000, b"x").unwrap();
    fixture.unmount();
    let upper = fixture.upper().to_owned();
    let moved = upper.with_extension("moved");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&upper)
        .arg(&moved)
        .status()
        .unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(&upper).unwrap();
    std::fs::rename(&moved, &upper).unwrap();
    fixture.remount();
    posix::assert_errno(
        std::fs::read(fixture.at("d/f")),
        libc::EIO,
        "read a copy of a copy",
    );
    std::fs::write(fixture.at("d/f"), b"anew").expect("replace it");
    assert_eq!(text(&fixture.at("d/f")), "anew");
}

/// Writes until nothing fits any more: what was answered is there, all else is as it was.
#[test]
fn a_full_file_system_loses_nothing() {
    for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
        if !backend.is_available_or_skip() {
            return;
        }
        for piece in [4096_usize, 100_000, 1 << 20] {
            let length = 24 << 20;
            let scratch = Scratch::with_size_mib(40);
            let mut fixture = fixture_in(scratch, backend, &["partial"], length);
            let mut model = below(length);
            let path = fixture.at("d/f");
            let file = open(&path);
            let mut failed = 0;
            for step in 0..length / piece {
                // From both ends, unaligned.
                let at = match step % 2 {
                    0 => step / 2 * piece + 77,
                    _ => length - (step / 2 + 1) * piece - 99,
                };
                let data: Vec<u8> = (0..piece).map(|byte| (byte * 3 + step) as u8).collect();
                let mut written = 0;
                while written < piece {
                    match file.write_at(&data[written..], (at + written) as u64) {
                        Ok(count) => {
                            let from = at + written;
                            model[from..from + count].copy_from_slice(&data[written..written + count]);
                            written += count;
                        }
                        Err(error) => {
                            assert_eq!(posix::errno(&error), libc::ENOSPC);
                            failed += 1;
                            break;
                        }
                    }
                }
                if failed > 20 {
                    break;
                }
            }
            assert!(failed > 0, "the file system was never full");
            assert_same(&read_all(&path), &model, &format!("full, pieces of {piece}"));
            drop(file);
            seal_mounted(&fixture);
            assert!(is_marked(&fixture.upper().join("d/f")), "sealed without space");
            fixture.remount();
            assert_same(
                &read_all(&path),
                &model,
                &format!("mounted again, pieces of {piece}"),
            );
        }
    }
}

/// What a program did before the server was killed.
enum Done {
    Written(usize, Vec<u8>),
    Cut(usize),
}

fn apply(model: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Written(at, data) => {
            if model.len() < at + data.len() {
                model.resize(at + data.len(), 0);
            }
            model[*at..at + data.len()].copy_from_slice(data);
        }
        Done::Cut(length) => model.resize(*length, 0),
    }
}

/// Whether a content is that before the last change or after it, or partly so.
fn is_between(found: &[u8], before: &[u8], after: &[u8]) -> Result<(), String> {
    if found.len() != before.len() && found.len() != after.len() {
        // A write that makes the file longer may be there in part.
        let (short, long) = (before.len().min(after.len()), before.len().max(after.len()));
        if found.len() < short || found.len() > long {
            return Err(format!("{} bytes", found.len()));
        }
    }
    for (at, byte) in found.iter().enumerate() {
        let fits = |content: &[u8]| content.get(at).copied().unwrap_or(0) == *byte;
        if !fits(before) && !fits(after) {
            return Err(format!("byte {at} is neither old nor new"));
        }
    }
    Ok(())
}

/// Kills the server in the middle of writes, cuts and sealing, again and again.
fn killed_and_mounted_again(backend: Backend, options: &[&str]) {
    if !backend.is_available_or_skip() {
        return;
    }
    let mut fixture = fixture(backend, options);
    let mut model = below(SIZE_BYTES);
    let mut dice = 1_u64;
    let mut steps = 0;
    for round in 0..25_u64 {
        let file = open(&fixture.at("d/f"));
        let stop = Arc::new(AtomicBool::new(false));
        let mut seed = dice;
        let stopped = Arc::clone(&stop);
        let worker = std::thread::spawn(move || {
            let mut roll = |below: usize| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                usize::try_from(seed % below as u64).unwrap()
            };
            let mut history = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let done = match roll(30) {
                    0 => Done::Cut(roll(SIZE_BYTES)),
                    1 => Done::Cut(SIZE_BYTES),
                    _ => {
                        let at = roll(SIZE_BYTES);
                        let length = 1 + roll(20_000);
                        let tint = roll(256);
                        Done::Written(at, (0..length).map(|byte| (byte + tint) as u8).collect())
                    }
                };
                let result = match &done {
                    Done::Written(at, data) => file.write_all_at(data, *at as u64),
                    Done::Cut(length) => file.set_len(*length as u64),
                };
                let is_answered = result.is_ok();
                history.push((done, is_answered));
                if !is_answered {
                    break;
                }
            }
            (history, seed)
        });
        std::thread::sleep(Duration::from_millis(3 + round * 17 % 90));
        fixture.guard().kill_server();
        stop.store(true, Ordering::Relaxed);
        let (history, seed) = worker.join().expect("the worker");
        dice = seed;
        fixture.remount_after_crash();
        let found = read_all(&fixture.at("d/f"));
        steps += history.len();
        let mut after = model.clone();
        for (done, is_answered) in &history {
            apply(&mut after, done);
            if *is_answered {
                model.clone_from(&after);
            }
        }
        if let Err(why) = is_between(&found, &model, &after) {
            panic!("{backend:?}, round {round}: {why}");
        }
        model = found;
    }
    assert!(steps > 200, "only {steps} steps");
    let length = model.len();
    drop(fixture);
    println!("{backend:?}: {steps} steps, {length} bytes at last");
}

#[test]
fn answered_writes_survive_a_kill() {
    killed_and_mounted_again(Backend::ShalePassthrough, &["partial", "seal=off"]);
    killed_and_mounted_again(Backend::ShaleImage, &["partial", "seal=off"]);
}

/// Sealing begins at once and takes turns with the writes.
#[test]
fn answered_writes_survive_a_kill_while_copies_are_sealed() {
    killed_and_mounted_again(Backend::ShalePassthrough, &["partial", "seal=0"]);
    killed_and_mounted_again(Backend::ShalePlain, &["partial", "seal=0"]);
}

/// A kill at any moment of sealing leaves a partial copy or a whole one.
#[test]
fn a_kill_while_a_copy_is_sealed_changes_nothing() {
    let backend = Backend::ShalePassthrough;
    if !backend.is_available_or_skip() {
        return;
    }
    let length = 24 << 20;
    let mut fixture = fixture_in(Scratch::new(), backend, &["partial"], length);
    let mut model = below(length);
    let (mut partial, mut whole) = (0, 0);
    for round in 0..20_usize {
        posix::write_at(&fixture.at("d/f"), (round * 1_111_111) as u64, b"new").unwrap();
        model[round * 1_111_111..round * 1_111_111 + 3].copy_from_slice(b"new");
        posix::set_xattr(fixture.root(), "user.shale.seal", b"1", XattrFlags::empty()).unwrap();
        std::thread::sleep(Duration::from_millis(round as u64 * 2));
        fixture.guard().kill_server();
        let copy = fixture.upper().join("d/f");
        match posix::get_xattr(&copy, METACOPY) {
            Ok(_) => partial += 1,
            Err(_) => {
                assert_same(&read_all(&copy), &model, "whole");
                whole += 1;
            }
        }
        fixture.remount_after_crash();
        assert_same(&read_all(&fixture.at("d/f")), &model, "after the kill");
    }
    println!("{partial} times partial, {whole} times whole");
    assert!(partial > 0, "never killed before the end");
}

/// A file that was deleted while it is open is read on by the next server.
#[test]
fn a_deleted_partial_copy_goes_on_after_a_restart() {
    for_each(|backend| {
        let mut fixture = fixture(backend, &["partial", "seal=off", "supervise"]);
        let supervisor = fixture.guard().server_pid().expect("a supervisor");
        let mut model = below(SIZE_BYTES);
        let file = open(&fixture.at("d/f"));
        file.write_all_at(b"one", 1_000_000).unwrap();
        model[1_000_000..1_000_003].copy_from_slice(b"one");
        std::fs::remove_file(fixture.at("d/f")).unwrap();
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let server = || {
            std::fs::read_to_string(&children)
                .unwrap()
                .trim()
                .parse::<i32>()
                .ok()
        };
        let old = server().expect("a server");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), nix::sys::signal::Signal::SIGKILL).unwrap();
        while server().is_none_or(|new| new == old) {
            std::thread::yield_now();
        }
        file.write_all_at(b"two", 2_000_000).unwrap();
        model[2_000_000..2_000_003].copy_from_slice(b"two");
        // Or the kernel would answer from its cache.
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
        assert_same(
            &posix::read_all_at_start(&file).unwrap(),
            &model,
            "after the restart",
        );
    });
}

/// The kernel keeps lookups and changes of one directory apart, but not the server's own search for copies.
#[test]
fn a_search_for_copies_disturbs_nobody() {
    const TRIALS: usize = 200;
    const RENAMES: usize = 60;
    for_each(|backend| {
        let scratch = Scratch::new();
        let spec = spec(&scratch, &["partial_min=4096", "seal=off"]);
        let content = below(20_000);
        for trial in 0..TRIALS {
            put(&spec.lowers[1], &format!("d{trial}/a"), &content);
        }
        let mut fixture = Fixture::over(scratch, backend, spec);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    posix::set_xattr(fixture.root(), "user.shale.seal", b"1", XattrFlags::empty())
                        .expect("ask to seal");
                }
            });
            let work = scope.spawn(|| {
                for trial in 0..TRIALS {
                    let dir = fixture.at(&format!("d{trial}"));
                    let names = [dir.join("a"), dir.join("b")];
                    let file = open(&names[0]);
                    file.write_all_at(b"x", 1).expect("write to copy");
                    // Who reads the copy in the upper keeps it from being sealed.
                    let copy =
                        File::open(fixture.upper().join(format!("d{trial}/a"))).expect("open in upper");
                    copy.lock_shared().expect("lock copy");
                    for round in 0..RENAMES {
                        std::fs::rename(&names[round % 2], &names[1 - round % 2]).expect("rename copy");
                    }
                    std::fs::remove_file(&names[0]).expect("delete copy");
                    let meta = file.metadata().expect("attributes of a deleted file");
                    assert_eq!((meta.nlink(), meta.len()), (0, 20_000), "trial {trial}");
                    std::fs::remove_dir(&dir).expect("remove directory");
                }
            });
            let worked = work.join();
            stop.store(true, Ordering::Relaxed);
            worked.expect("changes beside the search");
        });
        fixture.remount();
        assert_eq!(posix::names(fixture.root()).expect("list"), Vec::<Vec<u8>>::new());
    });
}
