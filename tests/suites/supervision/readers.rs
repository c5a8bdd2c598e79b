//! Programs that read and list.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use shale_tests::fixture::listed;
use shale_tests::mount::Backend;

use crate::data::{Dice, FILES, byte, file_path, fill_files, length_of};
use crate::killer::{Killer, kill_once};
use crate::{BACKENDS, RUN, supervised};

/// Reads files that stay open and files just opened, and compares every byte.
fn read_and_verify(root: &Path, deadline: Instant) {
    let open: Vec<File> = (0..FILES)
        .map(|number| File::open(file_path(root, number)).expect("open before"))
        .collect();
    let mut dice = Dice(7);
    let mut rounds = 0;
    while Instant::now() < deadline {
        let number = dice.roll(FILES);
        let offset = dice.roll(length_of(number));
        let mut buffer = vec![0; 5000];
        let fresh;
        let file = if dice.roll(3) == 0 {
            fresh = File::open(file_path(root, number)).expect("open meanwhile");
            &fresh
        } else {
            &open[number as usize]
        };
        if dice.roll(8) == 0 {
            // Or the kernel would answer all of it from its cache.
            nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                .expect("drop pages");
        }
        let read = file.read_at(&mut buffer, offset).expect("read");
        let expected = (length_of(number) - offset).min(5000);
        assert_eq!(read as u64, expected, "length at {offset} of {number}");
        for (at, found) in buffer[..read].iter().enumerate() {
            assert_eq!(*found, byte(number, offset + at as u64), "byte {at} of {number}");
        }
        assert_eq!(file.metadata().expect("fstat").len(), length_of(number));
        rounds += 1;
    }
    assert!(rounds > 50, "only {rounds} reads");
}

fn list_and_verify(root: &Path, deadline: Instant) {
    while Instant::now() < deadline {
        let names: Vec<_> = fs::read_dir(root.join("many"))
            .expect("open the directory")
            .map(|entry| entry.expect("list").file_name())
            .collect();
        assert_eq!(names.len(), 500, "entries");
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), 500, "distinct entries");
        assert_eq!(listed(&root.join("both")), ["d0", "d1", "d2", "d3", "top"]);
    }
}

fn readers_go_on(backend: Backend, writable: bool) {
    if !backend.is_available_or_skip() {
        return;
    }
    let (fixture, supervisor) = supervised(backend, writable, &["timeout=0.05"], fill_files);
    let killer = Killer::start(supervisor);
    let deadline = Instant::now() + RUN;
    let root = fixture.root();
    std::thread::scope(|scope| {
        scope.spawn(|| read_and_verify(root, deadline));
        scope.spawn(|| read_and_verify(root, deadline));
        scope.spawn(|| list_and_verify(root, deadline));
    });
    killer.finish();
}

#[test]
fn readers_of_an_image_go_on() {
    readers_go_on(Backend::ShaleImage, false);
}

#[test]
fn readers_of_layers_go_on() {
    readers_go_on(Backend::ShaleLayers, false);
}

#[test]
fn readers_of_directories_go_on() {
    readers_go_on(Backend::ShalePassthrough, false);
    readers_go_on(Backend::ShalePlain, false);
}

#[test]
fn readers_below_an_upper_go_on() {
    for backend in BACKENDS {
        readers_go_on(backend, true);
    }
}

/// A directory that was read in part is read to its end by the next server.
#[test]
fn a_listing_goes_on_where_it_was() {
    for (backend, writable) in BACKENDS.into_iter().flat_map(|one| [(one, false), (one, true)]) {
        if !backend.is_available_or_skip() {
            return;
        }
        let (fixture, supervisor) = supervised(backend, writable, &[], fill_files);
        let mut listing = fs::read_dir(fixture.at("many")).expect("open the directory");
        let mut names = BTreeSet::new();
        for _ in 0..100 {
            names.insert(listing.next().expect("more").expect("an entry").file_name());
        }
        kill_once(supervisor);
        for entry in listing {
            assert!(names.insert(entry.expect("an entry").file_name()), "twice");
        }
        assert_eq!(names.len(), 500, "{backend:?}");
    }
}
