//! What is open: deleted files, locks, maps, running programs.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use shale_tests::fixture::{put, text};
use shale_tests::mount::Backend;
use shale_tests::posix;
use shale_tests::sys::Mapping;

use crate::data::{file_path, fill_files};
use crate::killer::kill_once;
use crate::{BACKENDS, supervised};

/// What was deleted while it was open is there until it is closed, and comes back in nobody else's file.
#[test]
fn deleted_files_that_are_open_go_on() {
    for backend in BACKENDS {
        if !backend.is_available_or_skip() {
            return;
        }
        let (fixture, supervisor) = supervised(backend, true, &[], fill_files);
        let mut options = OpenOptions::new();
        let open = |path: &Path| {
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
        };
        let mut open = open;
        let files: Vec<(File, u8)> = (0..20)
            .map(|number| {
                let path = fixture.at(&format!("deleted{number}"));
                let file = open(&path).expect("create");
                file.write_all_at(&[number; 1000], 0).expect("write");
                fs::remove_file(path).expect("unlink");
                (file, number)
            })
            .collect();
        let changed = file_path(fixture.root(), 2);
        let lower_born = open(&changed).expect("open for writing");
        lower_born.write_all_at(b"changed", 0).expect("write");
        fs::remove_file(changed).expect("unlink");
        for round in 0..3_u8 {
            kill_once(supervisor);
            // Would take the numbers of files that are gone.
            for number in 0..20 {
                fs::write(fixture.at(&format!("other{round}-{number}")), "other").expect("write another");
            }
            for (file, number) in &files {
                let mut buffer = [0; 1000];
                file.read_exact_at(&mut buffer, 0).expect("read a deleted file");
                assert_eq!(buffer[999], *number, "{backend:?}");
                assert_eq!(file.metadata().expect("fstat").nlink(), 0);
                file.write_all_at(&[round], 0).expect("write a deleted file");
            }
            let mut buffer = [0; 7];
            lower_born.read_exact_at(&mut buffer, 0).expect("read");
            assert_eq!(&buffer, b"changed");
            for number in 0..20 {
                assert_eq!(text(&fixture.at(&format!("other{round}-{number}"))), "other");
            }
        }
    }
}

/// What was deleted is not open, but the kernel knows it: its number is nobody else's, also when no server holds the
/// file any more.
#[test]
fn a_number_is_not_given_twice() {
    for backend in [Backend::ShalePassthrough, Backend::ShaleImage] {
        if !backend.is_available_or_skip() {
            return;
        }
        let (fixture, supervisor) = supervised(backend, true, &[], fill_files);
        let mut known = Vec::new();
        let mut numbers = BTreeSet::new();
        for round in 0..3 {
            for number in 0..20 {
                let path = fixture.at(&format!("deleted{round}-{number}"));
                if number % 2 == 0 {
                    fs::write(&path, "old").expect("write");
                } else {
                    fs::create_dir(&path).expect("mkdir");
                }
                let named =
                    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
                let new = numbers.insert(path.metadata().expect("stat").ino());
                assert!(new, "{backend:?}: the number of a deleted file in round {round}");
                known.push(File::from(named));
                if number % 2 == 0 {
                    fs::remove_file(path).expect("unlink");
                } else {
                    fs::remove_dir(path).expect("rmdir");
                }
            }
            kill_once(supervisor);
            for number in 0..20 {
                let path = fixture.at(&format!("other{round}-{number}"));
                fs::write(&path, format!("{number}")).expect("write another");
                let found = path.metadata().expect("stat").ino();
                assert!(
                    numbers.insert(found),
                    "{backend:?}: the number of another in round {round}"
                );
                assert_eq!(text(&path), format!("{number}"));
            }
            // Where nobody says what is open, all that is deleted is kept. Elsewhere a file is that the server still takes for
            // open when its name goes: nobody waits for a release.
            let all_kept = backend != Backend::ShalePassthrough;
            for (index, file) in known.iter().enumerate() {
                let is_file = index % 2 == 0;
                let nlink = file.metadata().map(|found| found.nlink());
                let expected = match &nlink {
                    Ok(0) => all_kept || is_file,
                    Err(error) => !all_kept && error.raw_os_error() == Some(libc::ESTALE),
                    Ok(_) => false,
                };
                assert!(expected, "{backend:?}: {index}: {nlink:?}");
            }
        }
        // They keep the numbers that they were given.
        kill_once(supervisor);
        for number in 0..20 {
            let path = fixture.at(&format!("other0-{number}"));
            assert!(numbers.contains(&path.metadata().expect("stat").ino()));
            assert_eq!(text(&path), format!("{number}"));
        }
    }
}

/// A map and a lock need no server, but the file that they are of does.
#[test]
fn locks_and_maps_go_on() {
    use rustix::fs::{FlockOperation, flock};
    for backend in [
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShalePartial,
        Backend::ShaleImage,
    ] {
        if !backend.is_available_or_skip() {
            return;
        }
        let (fixture, supervisor) = supervised(backend, true, &[], fill_files);
        let path = file_path(fixture.root(), 1);
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .expect("open")
        };
        let file = open();
        flock(&file, FlockOperation::NonBlockingLockExclusive).expect("lock");
        kill_once(supervisor);
        let other = open();
        let refused = flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(refused, Err(Errno::WOULDBLOCK), "{backend:?}");
        // Not by closing it: a process that another test starts just now may hold a copy.
        flock(&file, FlockOperation::Unlock).expect("unlock");
        flock(&other, FlockOperation::NonBlockingLockExclusive).expect("lock after it was given back");
        drop(file);
        // A reader by another descriptor sees what is written after the restart.
        let mut reader = File::open(&path).expect("open for reading");
        other.write_all_at(b"after", 0).expect("write");
        let mut buffer = [0; 5];
        reader.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"after", "{backend:?}");
        // What is stored in a map, of which no descriptor is open any more, reaches the file.
        let mut map = Mapping::shared(&other, 8192, true).expect("map");
        map.write(0, b"first");
        drop((other, reader));
        kill_once(supervisor);
        map.write(4096, b"second");
        map.sync().expect("sync the map");
        drop(map);
        kill_once(supervisor);
        let found = fs::read(&path).expect("read all");
        assert_eq!(
            (&found[..5], &found[4096..4102]),
            (&b"first"[..], &b"second"[..]),
            "{backend:?}"
        );
    }
}

/// A program that runs is still one when the server is another: nobody may empty it.
#[test]
fn running_programs_go_on() {
    for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
        if !backend.is_available_or_skip() {
            return;
        }
        let program = fs::read("/bin/sleep").expect("a program");
        let length = program.len() as u64;
        let (fixture, supervisor) = supervised(backend, true, &[], |lower| put(lower, "program", program));
        let path = fixture.at("program");
        posix::chmod(&path, 0o755).expect("chmod");
        let empty = || rustix::fs::open(&path, OFlags::RDONLY | OFlags::TRUNC, Mode::empty());
        let mut running = Command::new(&path).arg("100").spawn().expect("run it");
        for round in 0..2 {
            kill_once(supervisor);
            assert_eq!(empty().err(), Some(Errno::TXTBSY), "{backend:?} in round {round}");
            assert_eq!(path.metadata().expect("stat").len(), length);
        }
        running.kill().expect("end it");
        running.wait().expect("wait for it");
        empty().expect("empty what no longer runs");
    }
}
