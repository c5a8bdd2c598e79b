//! The lock protocols of the tree and the page cache under a scheduler (Shuttle) that tries one order of threads after
//! another, over real directories: locks, counters and waits are its own (`ufs/src/sync.rs`), and a deadlock is a
//! failure that it names. What a processor may reorder beyond that (`Ordering`) it does not try.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test -p shale-ufs --test schedules
//! ```
//! `SHALE_TESTS_CASES` changes how many orders are tried. The directory for temporary files must know `user.*`
//! attributes (ext4, xfs, btrfs; tmpfs since Linux 6.6). What fails is repeated by `shuttle::replay` with the string
//! that is printed, in place of `try_orders`.
#![cfg(shuttle)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use ufs::attr::Time;
use ufs::cache::PageCache;
use ufs::fs::{Change, Fs, NewNode, OpenFile, Owner, ROOT, RenameFlags, asked_by};
use ufs::idmap::IdMap;
use ufs::index::build::{Meta, Tree};
use ufs::repository::Repository;
use ufs::{Layout, Lower, UpperOptions};

/// Orders of each kind.
const CASES: usize = 1000;

fn cases() -> usize {
    let asked = std::env::var("SHALE_TESTS_CASES")
        .ok()
        .and_then(|value| value.parse().ok());
    asked.unwrap_or(CASES)
}

fn try_orders(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        // the tests make system calls with paths on the stack
        config.stack_size = 1 << 20;
        // that it takes every atomic operation for a sequentially consistent one
        config.silence_warnings = true;
        let test = Arc::clone(&test);
        Runner::new(scheduler, config).run(move || test());
    };
    run(Box::new(RandomScheduler::new(cases())));
    run(Box::new(PctScheduler::new(3, cases())));
}

/// Layers, made once; an upper for each order.
struct Place {
    folder: tempfile::TempDir,
    lower: Lower,
}

const USER: Owner = Owner {
    uid: 0,
    gid: 0,
    mode: 0o644,
    umask: 0,
};

const NAMES: [&str; 3] = ["f", "g", "h"];

fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

impl Place {
    /// `a/d/{f,g,h}` and `b` in a directory.
    fn of_directory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lower = folder.path().join("lower");
        fs::create_dir_all(lower.join("a/d")).unwrap();
        fs::create_dir(lower.join("b")).unwrap();
        for name in NAMES {
            fs::write(lower.join("a/d").join(name), name).unwrap();
        }
        let lower = Lower::Directory(lower);
        Self { folder, lower }
    }

    /// The same as the layer of an image, whose files are light; they are empty.
    fn of_index() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("objects")).unwrap();
        let (repository, layer) = (Repository::at(folder.path()), [1; 32]);
        fs::create_dir_all(repository.layer(&layer)).unwrap();
        let meta = || Meta {
            mode: 0o755,
            mtime: Time::default(),
            ..Meta::default()
        };
        let mut tree = Tree::new();
        for name in NAMES {
            tree.file(format!("a/d/{name}").as_bytes(), meta(), 0, None)
                .unwrap();
        }
        tree.directory(b"b", meta()).unwrap();
        let path = repository.index(&layer);
        tree.finish()
            .unwrap()
            .write(&layer, &mut File::create(&path).unwrap())
            .unwrap();
        let repository = folder.path().to_path_buf();
        let lower = Lower::Index { path, repository };
        Self { folder, lower }
    }

    fn upper(&self) -> PathBuf {
        self.folder.path().join("upper")
    }

    fn open(&self) -> Arc<Fs> {
        Arc::new(Fs::open(&self.layout(), IdMap::default()).unwrap())
    }

    fn layout(&self) -> Layout {
        Layout {
            lowers: vec![self.lower.clone()],
            upper: Some((self.upper(), self.folder.path().join("work"))),
            options: UpperOptions {
                user_marks: true,
                volatile: true,
                ..UpperOptions::default()
            },
            ..Layout::default()
        }
    }

    fn fresh(&self) -> Arc<Fs> {
        for name in ["upper", "work"] {
            let path = self.folder.path().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(path).unwrap();
        }
        self.open()
    }

    /// The tree at the end, which the next mount shows too; all nodes were given back.
    fn seen_at_the_end(&self, fs: Arc<Fs>, nodes_before: usize) -> Vec<(String, Vec<u8>)> {
        assert_eq!(fs.node_count(), nodes_before, "nodes are left");
        let seen = Self::tree_of(&fs);
        drop(fs);
        assert_eq!(Self::tree_of(&self.open()), seen, "the next mount shows the same");
        seen
    }

    /// The tree as the next mount will show it: paths with their contents, directories with nothing.
    fn tree_of(fs: &Fs) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut pending = vec![(ROOT, String::new())];
        while let Some((dir, path)) = pending.pop() {
            for entry in fs.list(dir).unwrap() {
                let node = fs.lookup(dir, &entry.name).unwrap();
                let path = format!("{path}/{}", entry.name.display());
                if node.attr.is_dir() {
                    pending.push((node.node, path.clone()));
                    found.push((path, Vec::new()));
                } else {
                    found.push((path, content(fs, node.node)));
                }
            }
        }
        found.sort();
        found
    }
}

fn content(fs: &Fs, node: u64) -> Vec<u8> {
    let opened = fs.open_file(node, OFlags::RDONLY, false).unwrap();
    let mut buffer = [0; 64];
    let read = fs.read(OpenFile::Handle(opened.handle), &mut buffer, 0).unwrap();
    fs.close(opened.handle);
    buffer[..read].to_vec()
}

/// Follows a path; the nodes on the way stay held by whoever wants them back.
fn find(fs: &Fs, path: &str) -> ufs::error::Result<Vec<u64>> {
    let mut held = vec![ROOT];
    for name in path.split('/') {
        let dir = held[held.len() - 1];
        match fs.lookup(dir, os(name)) {
            Ok(entry) => held.push(entry.node),
            Err(error) => {
                give_back(fs, &held);
                return Err(error);
            }
        }
    }
    Ok(held)
}

fn give_back(fs: &Fs, held: &[u64]) {
    for node in held.iter().skip(1) {
        fs.forget(*node, 1);
    }
}

/// Writes one byte at a place of its own, as a program does that opens by name. `false`: the name was not there.
fn write(fs: &Fs, path: &str, at: u64) -> bool {
    let Ok(held) = find(fs, path) else { return false };
    let opened = fs.open_file(held[held.len() - 1], OFlags::WRONLY, false).unwrap();
    fs.write(OpenFile::Handle(opened.handle), b"!", at).unwrap();
    fs.close(opened.handle);
    give_back(fs, &held);
    true
}

fn both(test: impl Fn(&Place) + Send + Sync + Copy + 'static) {
    for place in [Place::of_directory(), Place::of_index()] {
        try_orders(move || test(&place));
    }
}

fn spawn(fs: &Arc<Fs>, act: impl FnOnce(&Fs) + Send + 'static) -> thread::JoinHandle<()> {
    let fs = Arc::clone(fs);
    thread::spawn(move || act(&fs))
}

/// Data, metadata and a look at the same file at once: one file, all changes in it, nothing held in the end.
#[test]
fn one_file_is_copied_up_once() {
    both(|place| {
        let fs = place.fresh();
        let before = fs.node_count();
        let threads = [
            spawn(&fs, |fs| assert!(write(fs, "a/d/f", 1))),
            spawn(&fs, |fs| assert!(write(fs, "a/d/f", 2))),
            spawn(&fs, |fs| {
                let held = find(fs, "a/d/f").unwrap();
                let mode = Change {
                    mode: Some(0o600),
                    ..Change::default()
                };
                assert_eq!(fs.change(held[3], &mode).unwrap().permissions(), 0o600);
                give_back(fs, &held);
            }),
        ];
        let held = find(&fs, "a/d/f").unwrap();
        let number = fs.attr(held[3]).unwrap().ino;
        give_back(&fs, &held);
        for thread in threads {
            thread.join().unwrap();
        }
        let held = find(&fs, "a/d/f").unwrap();
        let attr = fs.attr(held[3]).unwrap();
        assert_eq!((attr.ino, attr.permissions(), attr.nlink), (number, 0o600, 1));
        assert_eq!(&content(&fs, held[3])[1..], b"!!");
        give_back(&fs, &held);
        assert_eq!(fs.node_count(), before, "nodes are left");
    });
}

/// A directory moves away and another takes its name while files in it are written, made and removed.
#[test]
fn what_moves_while_it_is_written_is_there_afterwards() {
    both(|place| {
        let fs = place.fresh();
        let before = fs.node_count();
        let threads = [
            spawn(&fs, |fs| {
                let held = find(fs, "a").unwrap();
                fs.rename(held[1], os("d"), ROOT, os("moved"), RenameFlags::Replace)
                    .unwrap();
                fs.rename(ROOT, os("b"), held[1], os("d"), RenameFlags::Replace)
                    .unwrap();
                give_back(fs, &held);
            }),
            spawn(&fs, |fs| {
                // by the way that was looked up before, or by the new name
                let _ = write(fs, "a/d/f", 1) || write(fs, "moved/f", 1);
            }),
            spawn(&fs, |fs| {
                let Ok(held) = find(fs, "a/d") else { return };
                if let Ok((made, _)) = fs.make(held[2], os("new"), NewNode::File, USER) {
                    fs.forget(made.node, 1);
                }
                let _ = fs.unlink(held[2], os("g"));
                give_back(fs, &held);
            }),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        let seen = place.seen_at_the_end(fs, before);
        let files = seen
            .iter()
            .filter(|(path, _)| path.ends_with("/f") || path.ends_with("/h"));
        assert_eq!(files.count(), 2, "{seen:?}");
    });
}

/// Names change places, are replaced and removed, in two directories, in both directions.
#[test]
fn names_that_change_places_do_not_block_each_other() {
    both(|place| {
        let fs = place.fresh();
        let before = fs.node_count();
        let dir = find(&fs, "b").unwrap();
        let (made, _) = fs.make(dir[1], os("x"), NewNode::File, USER).unwrap();
        fs.forget(made.node, 1);
        give_back(&fs, &dir);
        let names = [
            ("a/d", "f", "b", "x"),
            ("b", "x", "a/d", "g"),
            ("a/d", "g", "a/d", "h"),
        ];
        let mut threads = Vec::new();
        for (from, name, to, new_name) in names {
            threads.push(spawn(&fs, move |fs| {
                let (from, to) = (find(fs, from).unwrap(), find(fs, to).unwrap());
                let dirs = (from[from.len() - 1], to[to.len() - 1]);
                let _ = fs.rename(dirs.0, os(name), dirs.1, os(new_name), RenameFlags::Replace);
                let _ = fs.rename(dirs.1, os(new_name), dirs.0, os(name), RenameFlags::Exchange);
                give_back(fs, &from);
                give_back(fs, &to);
            }));
        }
        threads.push(spawn(&fs, |fs| {
            let dir = find(fs, "a/d").unwrap();
            let _ = fs.unlink(dir[2], os("h"));
            give_back(fs, &dir);
        }));
        for thread in threads {
            thread.join().unwrap();
        }
        place.seen_at_the_end(fs, before);
    });
}

/// The kernel is told of a file, forgets it and changes it at once: its number stays, and nothing of it is lost.
#[test]
fn what_is_forgotten_while_it_changes_is_found_again() {
    both(|place| {
        let fs = place.fresh();
        let before = fs.node_count();
        let held = find(&fs, "a/d/f").unwrap();
        let number = held[3];
        let threads = [0, 1].map(|turn| {
            spawn(&fs, move |fs| {
                let held = find(fs, "a/d/f").unwrap();
                assert_eq!(held[3], number);
                if turn == 0 {
                    fs.set_xattr(held[3], os("user.x"), b"y", 0).unwrap();
                }
                give_back(fs, &held);
                let again = find(fs, "a/d/f").unwrap();
                assert_eq!(again[3], number);
                give_back(fs, &again);
            })
        });
        give_back(&fs, &held);
        for thread in threads {
            thread.join().unwrap();
        }
        let held = find(&fs, "a/d/f").unwrap();
        assert_eq!(
            (held[3], fs.xattr(held[3], os("user.x")).unwrap()),
            (number, b"y".to_vec())
        );
        give_back(&fs, &held);
        assert_eq!(fs.node_count(), before, "nodes are left");
    });
}

/// One fetch for all who wait, an error for all who waited for it, and the next one tries again.
#[test]
fn a_chunk_is_fetched_once_for_all_who_wait() {
    try_orders(|| {
        let cache = Arc::new(PageCache::new(1 << 20));
        let stream = cache.stream_id();
        let threads = [0, 1, 2].map(|number| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                cache.get_or_fetch(stream, 7, || {
                    thread::yield_now();
                    match number {
                        0 => Err(io::Error::other("the first fails")),
                        _ => Ok(Arc::from(&b"page"[..])),
                    }
                })
            })
        });
        let outcomes = threads.map(|thread| thread.join().unwrap());
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
        let counted = cache.counters();
        assert_eq!(counted.hits + counted.misses + counted.waits, 3, "{counted:?}");
        assert!(
            counted.failures <= 1 && counted.misses - counted.failures <= 1,
            "{counted:?}"
        );
        assert!(failed <= counted.failures * (1 + counted.waits), "{counted:?}");
        assert!(outcomes.iter().flatten().all(|page| **page == *b"page"));
        assert_eq!(cache.contains(stream, 7), failed < 3);
    });
}

/// A directory changes while its attributes are read for others: who gets the earlier ones must be told again.
#[test]
fn whoever_has_earlier_attributes_is_told() {
    both(|place| {
        let fs = place.fresh();
        let dir = find(&fs, "b").unwrap();
        // what was told before the last change counts no more
        asked_by(7);
        let (made, _) = fs.make(dir[1], os("old"), NewNode::File, USER).unwrap();
        fs.forget(made.node, 1);
        assert!(fs.was_told(dir[1]));
        assert!(!fs.was_told(dir[1]));
        let before = fs.attr(dir[1]).unwrap().mtime;
        let number = dir[1];
        let askers = [
            thread::spawn({
                let fs = Arc::clone(&fs);
                move || {
                    asked_by(1);
                    fs.attr(number).unwrap().mtime
                }
            }),
            thread::spawn({
                let fs = Arc::clone(&fs);
                move || {
                    asked_by(2);
                    let entry = fs.lookup(ROOT, os("b")).unwrap();
                    fs.forget(entry.node, 1);
                    entry.attr.mtime
                }
            }),
        ];
        let changer = thread::spawn({
            let fs = Arc::clone(&fs);
            move || {
                asked_by(7);
                let (made, _) = fs.make(number, os("new"), NewNode::File, USER).unwrap();
                let told = fs.was_told(number);
                fs.forget(made.node, 1);
                told
            }
        });
        let seen = askers.map(|asker| asker.join().unwrap());
        let told = changer.join().unwrap();
        assert!(told || !seen.contains(&before), "{seen:?}");
        give_back(&fs, &dir);
    });
}

/// A default access control list is set while files are made: those made afterwards inherit it.
#[test]
fn a_default_list_counts_from_when_it_is_set() {
    const NAME: &str = "system.posix_acl_default";
    /// Version 2; the owner `rwx`, its group `r-x`, others nothing (posix_acl_xattr.h).
    const LIST: [u8; 28] = [
        2, 0, 0, 0, //
        0x01, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
        0x04, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, //
        0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
    ];
    // as a server has it
    rustix::process::umask(rustix::fs::Mode::empty());
    both(|place| {
        let fs = place.fresh();
        let held = find(&fs, "b").unwrap();
        let dir = held[1];
        let make = move |fs: &Fs, name: &str| {
            // with a list, the mask counts for nothing
            let (mode, umask) = (0o666, 0o077);
            let owner = Owner { mode, umask, ..USER };
            let (made, _) = fs.make(dir, os(name), NewNode::File, owner).unwrap();
            fs.forget(made.node, 1);
            made.attr.permissions()
        };
        let maker = spawn(&fs, move |fs| {
            for name in ["one", "two"] {
                assert!([0o600, 0o640].contains(&make(fs, name)));
            }
        });
        fs.set_xattr(dir, os(NAME), &LIST, 0).unwrap();
        assert_eq!(make(&fs, "set"), 0o640);
        maker.join().unwrap();
        assert_eq!(make(&fs, "afterwards"), 0o640);
        fs.remove_xattr(dir, os(NAME)).unwrap();
        assert_eq!(make(&fs, "none"), 0o600);
        give_back(&fs, &held);
    });
}
