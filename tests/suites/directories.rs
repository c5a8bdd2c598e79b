//! Listing: large directories, positions, changes meanwhile, odd names.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, SeekFrom, StatxFlags};
use shale_tests::fixture::{Fixture, listed, put, put_whiteout, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix;
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::check_listing;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MANY: usize = 20_000;

/// Reads entries from `directory`'s position on, at most `limit`: names, each with the position after it.
fn read_some(directory: &File, limit: usize) -> Vec<(Vec<u8>, u64)> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(entry) = entries.next() else { break };
        let entry = entry.expect("read the directory");
        found.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
    }
    found
}

fn open_directory(fixture: &Fixture, path: &str) -> File {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    File::from(
        rustix::fs::open(fixture.at(path), flags, rustix::fs::Mode::empty()).expect("open a directory"),
    )
}

for_each_union! {
    /// What is there all the time is listed exactly once, whatever comes and goes meanwhile.
    fn a_large_directory_is_listed_while_it_changes(backend) {
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            for i in 0..MANY {
                put(&layers[i % 2], &format!("d/stays-{i}"), "");
            }
            for i in 0..500 {
                put(&layers[1], &format!("d/goes-{i}"), "");
            }
        });
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changer = scope.spawn(|| {
                for i in 0..500 {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    std::fs::remove_file(fixture.at(&format!("d/goes-{i}"))).expect("remove");
                    std::fs::write(fixture.at(&format!("d/comes-{i}")), "").expect("create");
                }
            });
            for round in 0..3 {
                let names = posix::names(&fixture.at("d")).expect("list");
                let distinct: BTreeSet<&Vec<u8>> = names.iter().collect();
                assert_eq!(distinct.len(), names.len(), "round {round}: a name is listed twice");
                let stay = names.iter().filter(|name| name.starts_with(b"stays-")).count();
                assert_eq!(stay, MANY, "round {round}: of the names that stay");
            }
            stop.store(true, Ordering::Relaxed);
            changer.join().expect("the changer");
        });
    }

    fn positions_can_be_returned_to(backend) {
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            for i in 0..1000 {
                put(&layers[i % 2], &format!("d/f{i:04}"), "");
            }
            put_whiteout(&layers[0], "d/f0001");
        });
        let directory = open_directory(&fixture, "d");
        let all = read_some(&directory, usize::MAX);
        assert_eq!(all.len(), 999 + 2);
        for start in [0, 1, 17, 500, 998] {
            let (_, position) = all[start];
            rustix::fs::seek(&directory, SeekFrom::Start(position)).expect("seek");
            let rest: Vec<Vec<u8>> = read_some(&directory, usize::MAX).into_iter().map(|(name, _)| name).collect();
            let expected: Vec<Vec<u8>> = all[start + 1..].iter().map(|(name, _)| name.clone()).collect();
            assert!(rest == expected, "from the position after entry {start}");
        }
        // Rewound, it shows what is new.
        std::fs::write(fixture.at("d/new"), "").unwrap();
        std::fs::remove_file(fixture.at("d/f0002")).unwrap();
        rustix::fs::seek(&directory, SeekFrom::Start(0)).expect("rewind");
        let names: BTreeSet<Vec<u8>> = read_some(&directory, usize::MAX).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&b"new"[..]) && !names.contains(&b"f0002"[..]), "after a rewind");
        assert!(names.contains(&b"."[..]) && names.contains(&b".."[..]));
    }

    /// A listing goes on where it was when another one was made of the changed directory meanwhile, and fills the pages
    /// in which the kernel keeps it to the last byte, or nearly: there is room for 128 such names in one.
    fn a_listing_goes_on_beside_another(backend) {
        for count in 508..=512 {
            let fixture = Fixture::new(backend, |lower| {
                for i in 0..count {
                    put(lower, &format!("d/f{i}"), "");
                }
            });
            assert_eq!(listed(&fixture.at("d")).len(), count);
            let directory = open_directory(&fixture, "d");
            let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
            while names.len() < 100 {
                let some = read_some(&directory, 50);
                let (_, position) = some.last().expect("more names");
                rustix::fs::seek(&directory, SeekFrom::Start(*position)).expect("seek");
                names.extend(some.into_iter().map(|(name, _)| name));
            }
            std::fs::write(fixture.at("d/new"), "").unwrap();
            // The first brings it, the second may be given it by the kernel.
            for _ in 0..2 {
                assert_eq!(listed(&fixture.at("d")).len(), count + 1, "{count}");
            }
            loop {
                let some = read_some(&directory, usize::MAX);
                if some.is_empty() {
                    break;
                }
                names.extend(some.into_iter().map(|(name, _)| name));
            }
            names.remove(&b"new"[..]);
            assert_eq!(names.len(), count + 2, "{count}");
        }
    }

    /// `rm -r` and friends: remove while reading on.
    fn removing_while_listing_leaves_nothing(backend) {
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            for i in 0..2000 {
                put(&layers[i % 2], &format!("d/f{i}"), "");
            }
        });
        for i in 0..500 {
            std::fs::write(fixture.at(&format!("d/u{i}")), "").unwrap();
        }
        let directory = open_directory(&fixture, "d");
        let mut seen = BTreeSet::new();
        loop {
            let some = read_some(&directory, usize::MAX);
            if some.is_empty() {
                break;
            }
            for (name, _) in some.into_iter().filter(|(name, _)| name != b"." && name != b"..") {
                assert!(seen.insert(name.clone()), "listed twice: {}", name.escape_ascii());
                let path = fixture.at("d").join(OsStr::from_bytes(&name));
                std::fs::remove_file(path).expect("a listed file can be removed");
            }
        }
        assert_eq!(seen.len(), 2500);
        std::fs::remove_dir(fixture.at("d")).unwrap();
    }

    fn an_open_directory_that_is_removed(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "d/f", "x"));
        let directory = open_directory(&fixture, "d");
        std::fs::remove_dir_all(fixture.at("d")).unwrap();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let first = RawDir::new(&directory, &mut buffer).next().map(|entry| entry.map(|_| ()));
        assert_eq!(first, Some(Err(rustix::io::Errno::NOENT)), "listing a removed directory");
        let made = rustix::fs::mkdirat(&directory, "x", rustix::fs::Mode::from_raw_mode(0o755));
        posix::assert_errno(made.map_err(Into::into), libc::ENOENT, "mkdir in a removed directory");
    }

    fn a_listing_agrees_with_lstat(backend) {
        let fixture = Fixture::with_layers(backend, 3, |layers| {
            put(&layers[2], "m/a", "x");
            put(&layers[1], "m/b", "x");
            put(&layers[0], "m/c", "x");
            put(&layers[2], "only/low", "x");
            posix::symlink("a".as_ref(), &layers[1].join("m/s")).unwrap();
            posix::mkfifo(&layers[1].join("m/p")).unwrap();
            posix::link(&layers[2].join("m/a"), &layers[2].join("only/link")).unwrap();
        });
        assert_eq!(check_listing(fixture.root()), Vec::<String>::new(), "before any change");
        posix::append(&fixture.at("m/a"), b"y").unwrap();
        posix::chmod(&fixture.at("m/b"), 0o600).unwrap();
        std::fs::write(fixture.at("m/new"), "n").unwrap();
        std::fs::rename(fixture.at("only"), fixture.at("m/only")).unwrap();
        assert_eq!(check_listing(fixture.root()), Vec::<String>::new(), "after changes");
    }

    fn odd_names_are_kept(backend) {
        let odd: Vec<Vec<u8>> = vec![
            vec![b'n'; 255],
            b"\xff\xfe\x80".to_vec(),
            b"new\nline".to_vec(),
            b" ".to_vec(),
            b"...".to_vec(),
            b".wh.looks-like-a-marker".to_vec(),
            b".wh..wh..opq".to_vec(),
            b"a:b,c\\d=e".to_vec(),
            "\u{e4}\u{0308}\u{1F980}".as_bytes().to_vec(),
            b"#1".to_vec(),
            b"-rf".to_vec(),
        ];
        let mut fixture = Fixture::new(backend, |lower| put(lower, "d/x", "x"));
        for name in &odd {
            std::fs::write(fixture.at("d").join(OsStr::from_bytes(name)), name).expect("create an odd name");
        }
        fixture.remount();
        let mut names: BTreeSet<Vec<u8>> = posix::names(&fixture.at("d")).unwrap().into_iter().collect();
        assert!(names.remove(&b"x"[..]));
        assert_eq!(names, odd.iter().cloned().collect());
        for name in &odd {
            let path = fixture.at("d").join(OsStr::from_bytes(name));
            assert_eq!(&std::fs::read(&path).unwrap(), name);
            std::fs::rename(&path, fixture.at("moved")).unwrap();
            std::fs::rename(fixture.at("moved"), &path).unwrap();
        }
        let long = std::fs::write(fixture.at(&"n".repeat(256)), "");
        posix::assert_errno(long, libc::ENAMETOOLONG, "256 bytes");
    }

    fn odd_names_of_a_layer_are_deleted_and_made_again(backend) {
        let odd: [&[u8]; 4] = [&[b'n'; 255], b"\xff\xfe", b"new\nline", b"a:b,c\\d"];
        let mut fixture = Fixture::new(backend, |lower| {
            for name in odd {
                let directory = lower.join(OsStr::from_bytes(name));
                std::fs::create_dir(&directory).unwrap();
                put(&directory, "f", "lower");
            }
        });
        for name in odd {
            let path = fixture.root().join(OsStr::from_bytes(name));
            std::fs::rename(&path, fixture.at("moved")).unwrap();
            assert_eq!(text(&fixture.at("moved/f")), "lower");
            std::fs::remove_dir_all(fixture.at("moved")).unwrap();
        }
        fixture.remount();
        assert!(listed(fixture.root()).is_empty());
    }

    /// What the kernel knows of a directory is right once a change is answered, whoever asked meanwhile. Compared when
    /// all askers have their answers: while one is taken in, the kernel shows parts of the old and the new.
    fn times_of_a_directory_are_never_old(backend) {
        const ASKERS: usize = 3;
        const ROUNDS: usize = 4000;
        let fixture = Fixture::new(backend, |lower| put(lower, "d/f", ""));
        let (directory, in_upper) = (fixture.at("d"), fixture.upper().join("d"));
        let mtime = |path: &Path, flags| {
            let found = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).expect("statx");
            (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec)
        };
        let (begin, end) = (Barrier::new(ASKERS + 1), Barrier::new(ASKERS + 1));
        let old = std::thread::scope(|scope| {
            for _ in 0..ASKERS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        begin.wait();
                        mtime(&directory, AtFlags::STATX_FORCE_SYNC);
                        end.wait();
                    }
                });
            }
            let stale = |round: &usize| {
                let path = directory.join(format!("n{round}"));
                begin.wait();
                let made = rustix::fs::mknodat(CWD, &path, FileType::RegularFile, Mode::RUSR, 0);
                end.wait();
                made.expect("make a file");
                mtime(&directory, AtFlags::empty()) != mtime(&in_upper, AtFlags::empty())
            };
            (0..ROUNDS).filter(stale).count()
        });
        assert_eq!(old, 0, "of {ROUNDS} answers with an old time");
    }

    /// A listing shows every name that was made before it began, also when it comes from the kernel's memory and
    /// others list meanwhile.
    fn a_listing_is_never_older_than_its_beginning(backend) {
        // Enough that a listing takes several requests.
        const BELOW: usize = 400;
        const FILES: usize = 500;
        let fixture = Fixture::new(backend, |lower| {
            for i in 0..3 * BELOW {
                put(lower, &format!("d{}/f{i}", i % 3), "");
            }
        });
        let lister = |directory: &Path, made: &AtomicUsize| {
            let mut missing = 0;
            loop {
                let at_least = made.load(Ordering::SeqCst);
                missing += usize::from(posix::names(directory).expect("list").len() < BELOW + at_least);
                if at_least == FILES {
                    return missing;
                }
            }
        };
        let mut missing = 0;
        for round in 0..3 {
            let directory = fixture.at(&format!("d{round}"));
            let made = AtomicUsize::new(0);
            missing += std::thread::scope(|scope| {
                let listers: Vec<_> = (0..4).map(|_| scope.spawn(|| lister(&directory, &made))).collect();
                for i in 0..FILES {
                    let path = directory.join(format!("n{i}"));
                    rustix::fs::mknodat(CWD, &path, FileType::RegularFile, Mode::RUSR, 0).expect("make a file");
                    made.store(i + 1, Ordering::SeqCst);
                }
                listers.into_iter().map(|lister| lister.join().expect("a lister")).sum::<usize>()
            });
        }
        assert_eq!(missing, 0, "listings without a name that was there");
    }
}

/// A hundred thousand names, listed by several at once while others add, remove and rename.
fn a_hundred_thousand_names(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    const COUNT: usize = 100_000;
    let scratch = Scratch::with_size_mib(4096);
    let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
    let in_lower = lower.join("d");
    let in_upper = upper.join("d");
    for directory in [&in_lower, &in_upper] {
        std::fs::create_dir(directory).unwrap();
    }
    for i in 0..COUNT {
        // A third lies in the upper already, as after a long life.
        let directory = if i % 3 == 0 { &in_upper } else { &in_lower };
        File::create(directory.join(format!("stays-{i}"))).unwrap();
    }
    for i in 0..1000 {
        File::create(in_lower.join(format!("goes-{i}"))).unwrap();
    }
    let upper = Some((upper, scratch.directory("work")));
    let spec = MountSpec {
        lowers: vec![lower],
        upper,
        extra_options: vec![],
        open_files_limit: None,
    };
    let mut fixture = Fixture::over(scratch, backend, spec);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changers: Vec<_> = (0..4)
            .map(|changer| {
                let (fixture, stop) = (&fixture, &stop);
                scope.spawn(move || {
                    for i in (changer..1000).step_by(4) {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let at = |name: &str| fixture.at(&format!("d/{name}-{i}"));
                        std::fs::remove_file(at("goes")).expect("remove");
                        std::fs::write(at("comes"), "").expect("create");
                        std::fs::rename(at("comes"), at("renamed")).expect("rename");
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let fixture = &fixture;
                scope.spawn(move || {
                    for round in 0..2 {
                        let names = posix::names(&fixture.at("d")).expect("list");
                        let distinct: BTreeSet<&Vec<u8>> = names.iter().collect();
                        assert_eq!(
                            distinct.len(),
                            names.len(),
                            "reader {reader} round {round}: a name comes twice"
                        );
                        let stay = names.iter().filter(|name| name.starts_with(b"stays-")).count();
                        assert_eq!(
                            stay, COUNT,
                            "reader {reader} round {round}: of the names that stay"
                        );
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().expect("a reader");
        }
        stop.store(true, Ordering::Relaxed);
        for changer in changers {
            changer.join().expect("a changer");
        }
    });
    let before: BTreeSet<Vec<u8>> = posix::names(&fixture.at("d")).unwrap().into_iter().collect();
    fixture.remount();
    let after: BTreeSet<Vec<u8>> = posix::names(&fixture.at("d")).unwrap().into_iter().collect();
    assert!(before == after, "a remount changes the listing");
    assert_eq!(after.len(), COUNT + 1000);
}

#[test]
fn a_hundred_thousand_names_kernel() {
    a_hundred_thousand_names(Backend::Kernel);
}

#[test]
fn a_hundred_thousand_names_shale_passthrough() {
    a_hundred_thousand_names(Backend::ShalePassthrough);
}

#[test]
fn a_hundred_thousand_names_shale_image() {
    a_hundred_thousand_names(Backend::ShaleImage);
}
