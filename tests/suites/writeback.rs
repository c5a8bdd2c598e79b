//! `-o writeback`: the kernel keeps what is written until the file is closed or synced.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use shale_tests::fixture::{Fixture, put, text};
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix::{self, append, assert_errno, errno};
use shale_tests::scratch::Scratch;

const BACKENDS: [Backend; 3] = [Backend::ShalePlain, Backend::ShalePartial, Backend::ShaleImage];

/// A mount with an upper in `scratch`, over a layer elsewhere.
fn mounted(backend: Backend, scratch: Scratch, layer: &Scratch, fill: impl FnOnce(&Path)) -> Fixture {
    let lower = layer.directory("lower");
    fill(&lower);
    let spec = MountSpec {
        lowers: vec![lower],
        upper: Some((scratch.directory("upper"), scratch.directory("work"))),
        extra_options: vec!["writeback".to_owned()],
        open_files_limit: None,
    };
    Fixture::over(scratch, backend, spec)
}

#[test]
fn what_is_kept_is_seen_at_once_and_in_the_upper_from_the_close_on() {
    for backend in BACKENDS {
        if !backend.is_available_or_skip() {
            return;
        }
        let layer = Scratch::new();
        let mut fixture = mounted(backend, Scratch::new(), &layer, |lower| {
            put(lower, "f", vec![b'.'; 20_000]);
            posix::set_times(&lower.join("f"), 1_000_000_000, 0).unwrap();
        });
        let path = fixture.at("f");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(b"new", 9000).unwrap();
        file.write_all_at(b"end", 30_000).unwrap();
        let seen = std::fs::read(&path).unwrap();
        assert_eq!(seen.len(), 30_003, "{backend:?}");
        assert_eq!((&seen[8999..9003], &seen[30_000..]), (&b".new"[..], &b"end"[..]));
        let found = path.metadata().unwrap();
        assert_eq!(found.size(), 30_003);
        assert!(found.mtime() > 1_600_000_000, "a write sets the time");
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap();
        assert_eq!(data, 30_003, "no hole is told of that may have been written to");
        drop(file);
        let above = File::open(fixture.upper().join("f")).unwrap();
        let mut bytes = [0; 3];
        above.read_exact_at(&mut bytes, 9000).unwrap();
        assert_eq!(&bytes, b"new", "{backend:?}");
        append(&path, b"more").unwrap();
        let cut = File::options().write(true).open(&path).unwrap();
        cut.set_len(30_005).unwrap();
        drop(cut);
        let time = path.metadata().unwrap();
        fixture.remount();
        let seen = std::fs::read(&path).unwrap();
        assert_eq!(
            (&seen[8999..9003], &seen[30_000..]),
            (&b".new"[..], &b"endmo"[..])
        );
        let now = path.metadata().unwrap();
        assert_eq!(
            (now.mtime(), now.mtime_nsec()),
            (time.mtime(), time.mtime_nsec()),
            "{backend:?}"
        );
    }
}

#[test]
fn a_full_disk_shows_when_the_file_is_synced() {
    for backend in BACKENDS {
        if !backend.is_available_or_skip() {
            return;
        }
        let layer = Scratch::new();
        let fixture = mounted(backend, Scratch::with_size_mib(24), &layer, |lower| {
            put(lower, "small", "small");
        });
        let file = File::create(fixture.at("new")).unwrap();
        let mut at = 0;
        let error = loop {
            let written = file.write_all_at(&[1; 65536], at).and_then(|()| file.sync_data());
            if let Err(error) = written {
                break error;
            }
            at += 65536;
        };
        assert_eq!(errno(&error), libc::ENOSPC, "{backend:?}");
        assert!(at > 1 << 20, "{backend:?}: {at} bytes fit");
        assert_errno(
            file.write_all_at(&[1; 65536], at).and_then(|()| file.sync_data()),
            libc::ENOSPC,
            "told each time",
        );
        drop(file);
        assert_eq!(text(&fixture.at("small")), "small", "reading goes on");
        std::fs::remove_file(fixture.at("new")).unwrap();
        append(&fixture.at("small"), b"er").unwrap();
        assert_eq!(text(&fixture.at("small")), "smaller");
    }
}
