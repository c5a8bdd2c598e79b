//! Names that are made, moved and removed.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shale_tests::fixture::{counter, listed, text};
use shale_tests::mount::Backend;

use crate::data::{content, fill_files, length_of};
use crate::killer::{Killer, kill_once};
use crate::{BACKENDS, RUN, supervised};

/// Makes, links, moves, exchanges and removes names. Every one must succeed, once: an answer that the program did not
/// get must not turn into an error, nor an exchange into two.
fn make_and_verify(root: &Path, deadline: Instant) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    fs::create_dir(root).expect("make the directory");
    let at = |name: &str| root.join(name);
    let mut rounds = 0;
    while Instant::now() < deadline {
        // Of no other maker and no other round: a number may come again.
        let content = |name: &str| format!("{} {rounds} {name}", root.display());
        let create = |name: &str| {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).open(at(name));
            let file = file.unwrap_or_else(|error| panic!("create {name} in round {rounds}: {error}"));
            file.write_all_at(content(name).as_bytes(), 0).expect("write");
        };
        create("a");
        create("b");
        renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::EXCHANGE).expect("exchange");
        assert_eq!(
            (text(&at("a")), text(&at("b"))),
            (content("b"), content("a")),
            "{rounds}"
        );
        fs::create_dir(at("dir")).expect("mkdir");
        std::os::unix::fs::symlink("a", at("dir/link")).expect("symlink");
        fs::hard_link(at("b"), at("dir/hard")).expect("link");
        assert_eq!(at("b").metadata().expect("stat").nlink(), 2);
        fs::rename(at("dir"), at("moved")).expect("rename a directory");
        fs::rename(at("a"), at("b")).expect("rename over");
        assert_eq!(
            (text(&at("moved/hard")), text(&at("b"))),
            (content("a"), content("b"))
        );
        assert_eq!(listed(root), ["b", "moved"]);
        fs::remove_file(at("moved/link")).expect("unlink the symlink");
        fs::remove_file(at("moved/hard")).expect("unlink the hard link");
        fs::remove_dir(at("moved")).expect("rmdir");
        fs::remove_file(at("b")).expect("unlink");
        assert!(listed(root).is_empty());
        rounds += 1;
    }
    assert!(rounds > 20, "only {rounds} rounds");
}

fn makers_go_on(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let (fixture, supervisor) = supervised(backend, true, &[], |_| {});
    let killer = Killer::start(supervisor);
    let deadline = Instant::now() + RUN;
    let root = fixture.root();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let root = root.join(format!("maker{number}"));
            scope.spawn(move || make_and_verify(&root, deadline));
        }
    });
    killer.finish();
    // Closing is told to the server when nobody waits for it.
    let give_up = Instant::now() + Duration::from_secs(10);
    while counter(root, "handles") > 0 {
        assert!(
            Instant::now() < give_up,
            "{} files are left open",
            counter(root, "handles")
        );
        std::thread::yield_now();
    }
}

#[test]
fn makers_with_passthrough_go_on() {
    makers_go_on(Backend::ShalePassthrough);
}

#[test]
fn makers_over_an_image_go_on() {
    makers_go_on(Backend::ShaleImage);
}

/// Renamed directories, files moved into them, and hard links are found under their new names only.
#[test]
fn what_was_moved_is_found_after_a_restart() {
    for backend in BACKENDS {
        if !backend.is_available_or_skip() {
            return;
        }
        let (fixture, supervisor) = supervised(backend, true, &[], fill_files);
        let at = |path: &str| fixture.at(path);
        let open = File::open(at("both/d1/f1")).expect("open");
        let directory = File::open(at("both/d1")).expect("open the directory");
        let inode = at("both/d1/f5").metadata().expect("stat").ino();
        fs::rename(at("both/d1"), at("d1 moved")).expect("rename");
        fs::rename(at("both/d2"), at("d1 moved/d2")).expect("rename into it");
        fs::hard_link(at("d1 moved/f5"), at("hard")).expect("link");
        kill_once(supervisor);
        let below = PathBuf::from(format!(
            "/proc/self/fd/{}/d2/f2",
            std::os::fd::AsRawFd::as_raw_fd(&directory)
        ));
        assert!(fs::read(below).expect("read below the open directory") == content(2, length_of(2)));
        let mut all = Vec::new();
        (&open).read_to_end(&mut all).expect("read the open file");
        assert!(all == content(1, length_of(1)), "{backend:?}");
        assert_eq!(at("hard").metadata().expect("stat").ino(), inode, "{backend:?}");
        assert_eq!(at("hard").metadata().expect("stat").nlink(), 2, "{backend:?}");
        assert_eq!(listed(&at("both")), ["d0", "d3", "top"]);
    }
}
