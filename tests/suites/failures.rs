//! An upper that fails: the error is passed on, nothing half-made is seen, and the mount goes on working.

use rustix::fs::{RenameFlags, XattrFlags};
use shale_tests::faults::{Faults, FaultyCalls};
use shale_tests::fixture::{Fixture, listed, put, put_dir, put_whiteout, text};
use shale_tests::mount::Backend;
use shale_tests::posix::{self, append, assert_errno, errno};
use shale_tests::snapshot::{Snapshot, check_listing};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A change of the tree that takes more than one system call of the server.
type Step = (&'static str, fn(&Path) -> io::Result<()>);

fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    posix::rename(from, to, RenameFlags::EXCHANGE)
}

/// Each is tried on a fresh [`tree`].
const STEPS: [Step; 31] = [
    ("append to a lower file", |at| append(&at.join("d/f"), b"more")),
    ("append to a large lower file", |at| {
        append(&at.join("large"), b"more")
    }),
    ("empty a lower file", |at| std::fs::write(at.join("d/f"), "")),
    ("shorten a lower file", |at| posix::truncate(&at.join("d/f"), 2)),
    ("chmod of a lower file", |at| posix::chmod(&at.join("d/f"), 0o600)),
    ("chown of a lower file", |at| posix::lchown(&at.join("d/f"), 7, 8)),
    ("times of a lower file", |at| {
        posix::set_times(&at.join("d/f"), 1_000_000_000, 5)
    }),
    ("attribute of a lower file", |at| {
        posix::set_xattr(&at.join("d/f"), "user.note", b"x", XattrFlags::empty())
    }),
    ("append to a copy without content", |at| {
        append(&at.join("metacopy"), b"more")
    }),
    ("append to one of three names", |at| {
        append(&at.join("one"), b"more")
    }),
    ("unlink one of three names", |at| {
        std::fs::remove_file(at.join("d/two"))
    }),
    ("link a lower file", |at| {
        posix::link(&at.join("d/f"), &at.join("d/new"))
    }),
    ("link over a whiteout", |at| {
        posix::link(&at.join("d/f"), &at.join("gone"))
    }),
    ("unlink a lower file", |at| std::fs::remove_file(at.join("d/f"))),
    ("unlink a copy", |at| std::fs::remove_file(at.join("copy"))),
    ("rmdir of a lower directory", |at| {
        std::fs::remove_dir(at.join("empty"))
    }),
    ("rmdir of an emptied directory", |at| {
        std::fs::remove_dir(at.join("emptied"))
    }),
    ("rename a lower file", |at| {
        std::fs::rename(at.join("d/f"), at.join("d/g"))
    }),
    ("rename onto a lower file", |at| {
        std::fs::rename(at.join("new"), at.join("d/f"))
    }),
    ("rename onto a whiteout", |at| {
        std::fs::rename(at.join("d/f"), at.join("gone"))
    }),
    ("rename a lower directory", |at| {
        std::fs::rename(at.join("d"), at.join("moved"))
    }),
    ("rename a directory onto an emptied one", |at| {
        std::fs::rename(at.join("d"), at.join("emptied"))
    }),
    ("rename a directory onto a whiteout", |at| {
        std::fs::rename(at.join("newdir"), at.join("gone"))
    }),
    ("exchange of directories", |at| {
        exchange(&at.join("d"), &at.join("other"))
    }),
    ("exchange of a file and a directory", |at| {
        exchange(&at.join("large"), &at.join("newdir"))
    }),
    ("mkdir over a whiteout", |at| {
        posix::mkdir(&at.join("gone"), 0o755)
    }),
    ("mkdir in a set-group-id directory", |at| {
        posix::mkdir(&at.join("group/sub"), 0o755)
    }),
    ("create over a whiteout", |at| {
        File::create_new(at.join("gone")).map(drop)
    }),
    ("create in a set-group-id directory", |at| {
        File::create_new(at.join("group/file")).map(drop)
    }),
    ("symlink over a whiteout", |at| {
        posix::symlink("to".as_ref(), &at.join("gone"))
    }),
    ("fifo over a whiteout", |at| posix::mkfifo(&at.join("gone"))),
];

/// A tree with something of every kind to change.
fn tree(layers: &[std::path::PathBuf]) {
    put(&layers[1], "d/f", "lower");
    put(&layers[1], "d/sub/deep", "deep");
    put(&layers[1], "one", "linked");
    posix::link(&layers[1].join("one"), &layers[1].join("d/two")).unwrap();
    posix::link(&layers[1].join("one"), &layers[1].join("three")).unwrap();
    put(&layers[1], "large", vec![b'l'; 300_000]);
    put(&layers[1], "copy", "lower");
    put(&layers[1], "metacopy", "lower");
    put(&layers[1], "gone", "x");
    put(&layers[1], "emptied/x", "x");
    put(&layers[1], "emptied/z", "z");
    put_whiteout(&layers[0], "emptied/x");
    put(&layers[0], "d/high", "high");
    put(&layers[0], "other/o", "o");
    put_dir(&layers[1], "empty");
    put_dir(&layers[1], "group");
    posix::lchown(&layers[1].join("group"), 0, 4321).unwrap();
    posix::chmod(&layers[1].join("group"), 0o2775).unwrap();
}

fn change_first(at: &Path) {
    append(&at.join("copy"), b"!").unwrap();
    posix::chmod(&at.join("metacopy"), 0o600).unwrap();
    std::fs::remove_file(at.join("gone")).unwrap();
    std::fs::write(at.join("new"), "new").unwrap();
    put(at, "newdir/inside", "inside");
    put(at, "emptied/y", "y");
    for name in ["y", "z"] {
        std::fs::remove_file(at.join("emptied").join(name)).unwrap();
    }
}

/// The tree, with times only of files: a step that failed may have touched a directory.
fn seen(fixture: &Fixture) -> Snapshot {
    let mut seen = Snapshot::of(fixture.root()).expect("the tree can be read");
    for entry in seen.entries.values_mut() {
        if entry.kind == shale_tests::snapshot::Kind::Dir {
            entry.mtime = None;
        }
    }
    seen
}

fn number_of_emptied(fixture: &Fixture) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fixture.at("emptied").metadata().unwrap())
}

fn fresh(backend: Backend) -> Fixture {
    let fixture = Fixture::with_layers(backend, 2, tree);
    change_first(fixture.root());
    fixture
}

/// How a step ended in whose way a fault was.
#[derive(PartialEq, Eq)]
enum End {
    /// It came to an end before the fault did.
    Unharmed,
    /// It failed with the error, and nothing has changed.
    Failed,
    /// It could do without the call that failed.
    Done,
}

/// Does `step` while the changing call `index` of the server fails.
fn fail_at(fixture: &Fixture, faults: &Faults, (name, step): Step, error: i32, index: usize) -> End {
    let before = seen(fixture);
    let number = number_of_emptied(fixture);
    faults.fail_once(error, index);
    let result = step(fixture.root());
    let Some(call) = faults.stop() else {
        result.unwrap_or_else(|error| panic!("{name}: it fails with no fault in its way: {error}"));
        return End::Unharmed;
    };
    let what = format!("{name}, call {index} (number {call}) failed");
    assert_eq!(check_listing(fixture.root()), Vec::<String>::new(), "{what}");
    // Nothing stays behind but the whiteout that all others are links of.
    let left = listed(&fixture.spec().upper.as_ref().unwrap().1.join("work"));
    let Err(got) = result else {
        let expected = fresh(fixture.backend());
        step(expected.root()).unwrap();
        let expected = seen(&expected).without_times();
        expected.assert_same(
            &seen(fixture).without_times(),
            &format!("{what}, and it could do without"),
        );
        return End::Done;
    };
    assert_eq!(errno(&got), error, "{what}");
    before.assert_same(&seen(fixture), &what);
    // The directory that it should have replaced is the same, and not one that looks like it.
    let probe = fixture.at("emptied/probe");
    let probed = posix::mkdir(&probe, 0o755).and_then(|()| std::fs::remove_dir(&probe));
    probed.unwrap_or_else(|error| panic!("{what}, and the directory cannot be used: {error}"));
    assert_eq!(number_of_emptied(fixture), number, "{what}");
    assert!(left.len() <= 1, "{what}: left in the work directory: {left:?}");
    End::Failed
}

/// Fails every changing call of the server during `step`: first, second, … until there is none to fail, then on a
/// fresh tree from the last to the first, since a step that fails late has done part of the next one's work.
fn fail_at_every_call(backend: Backend, step: Step, error: i32) {
    let mut fixture = fresh(backend);
    let mut faults = fixture.remount_faulty(FaultyCalls::Changes);
    let mut index = 0;
    let mut is_rising = true;
    loop {
        assert!(index < 200, "{}: it never comes to an end", step.0);
        let end = fail_at(&fixture, &faults, step, error, index);
        if is_rising && end == End::Unharmed {
            is_rising = false;
        }
        if end != End::Failed || index % 4 == 0 {
            let shown = seen(&fixture);
            drop(faults);
            fixture.remount();
            let what = format!("{}, call {index}: after a remount", step.0);
            shown.assert_same(&seen(&fixture), &what);
            if end != End::Failed {
                fixture = fresh(backend);
            }
            faults = fixture.remount_faulty(FaultyCalls::Changes);
        }
        index = match (is_rising, index) {
            (true, _) => index + 1,
            (false, 0) => return,
            (false, _) => index - 1,
        };
    }
}

fn every_step(backend: Backend, error: i32) {
    if backend.is_available_or_skip() {
        for step in STEPS {
            fail_at_every_call(backend, step, error);
        }
    }
}

#[test]
fn eio_at_every_call_shale_passthrough() {
    every_step(Backend::ShalePassthrough, libc::EIO);
}

#[test]
fn enospc_at_every_call_shale_plain() {
    every_step(Backend::ShalePlain, libc::ENOSPC);
}

#[test]
fn edquot_at_every_call_shale_image() {
    every_step(Backend::ShaleImage, libc::EDQUOT);
}

/// While every change fails, all fails with that error, and afterwards nothing has happened.
fn a_dead_upper_is_survived(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    for error in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS] {
        let mut fixture = fresh(backend);
        let faults = fixture.remount_faulty(FaultyCalls::Changes);
        let before = seen(&fixture);
        faults.fail_from(error, 0);
        for (name, step) in STEPS {
            assert_errno(step(fixture.root()), error, name);
        }
        assert_eq!(text(&fixture.at("d/f")), "lower", "reading goes on");
        assert!(faults.stop().is_some());
        before.assert_same(&seen(&fixture), "after a time of failures");
        append(&fixture.at("d/f"), b" and more").unwrap();
        assert_eq!(text(&fixture.at("d/f")), "lower and more");
    }
}

#[test]
fn a_dead_upper_is_survived_shale_passthrough() {
    a_dead_upper_is_survived(Backend::ShalePassthrough);
}

#[test]
fn a_dead_upper_is_survived_shale_plain() {
    a_dead_upper_is_survived(Backend::ShalePlain);
}

/// What cannot be read is an error, never an empty or a missing file; once it can be, it is as before.
fn failing_looks(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    type Look = (&'static str, fn(&Path) -> io::Result<()>);
    let looks: [Look; 8] = [
        ("read a lower file", |at| assert_read(&at.join("d/f"), "lower")),
        ("read a copy", |at| assert_read(&at.join("copy"), "lower!")),
        ("read a copy without content", |at| {
            assert_read(&at.join("metacopy"), "lower")
        }),
        ("list a merged directory", |at| {
            let mut names = posix::names(&at.join("d"))?;
            names.sort();
            assert_eq!(names, [&b"f"[..], b"high", b"sub", b"two"]);
            Ok(())
        }),
        ("look for what is not there", |at| {
            match at.join("d/none").symlink_metadata() {
                Err(error) if errno(&error) == libc::ENOENT => Ok(()),
                Err(error) => Err(error),
                Ok(_) => panic!("it is there"),
            }
        }),
        ("look for what is deleted", |at| {
            match at.join("gone").symlink_metadata() {
                Err(error) if errno(&error) == libc::ENOENT => Ok(()),
                Err(error) => Err(error),
                Ok(_) => panic!("it is there"),
            }
        }),
        ("rename a lower file", |at| {
            std::fs::rename(at.join("d/f"), at.join("d/g"))
        }),
        ("rename a lower directory", |at| {
            std::fs::rename(at.join("d"), at.join("e"))
        }),
    ];
    for (name, look) in looks {
        let mut fixture = fresh(backend);
        let mut before = seen(&fixture);
        for index in 0.. {
            assert!(index < 400, "{name}: it never comes to an end");
            // A new server has nothing in its caches.
            let faults = fixture.remount_faulty(FaultyCalls::Looks);
            faults.fail_once(libc::EIO, index);
            let result = look(fixture.root());
            let Some(call) = faults.stop() else {
                result.unwrap_or_else(|error| panic!("{name}: it fails with no fault in its way: {error}"));
                break;
            };
            match result {
                Err(got) => {
                    assert_eq!(
                        errno(&got),
                        libc::EIO,
                        "{name}, call {index} (number {call}) failed"
                    );
                    let what = format!("{name}, after call {index} (number {call}) failed");
                    before.assert_same(&seen(&fixture), &what);
                }
                // It could do without.
                Ok(()) => {
                    drop(faults);
                    fixture = fresh(backend);
                    before = seen(&fixture);
                }
            }
        }
    }
}

fn assert_read(path: &Path, expected: &str) -> io::Result<()> {
    let content = std::fs::read(path)?;
    assert_eq!(content.escape_ascii().to_string(), expected);
    Ok(())
}

#[test]
fn failing_looks_shale_passthrough() {
    failing_looks(Backend::ShalePassthrough);
}

#[test]
fn failing_looks_shale_plain() {
    failing_looks(Backend::ShalePlain);
}

/// Of writes and syncs that fail, the program hears.
fn failing_writes(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let mut fixture = Fixture::new(backend, |lower| put(lower, "f", "0123456789"));
    let faults = fixture.remount_faulty(FaultyCalls::Changes);
    let mut file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(b"a", 0).unwrap();
    for error in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
        if backend == Backend::ShalePlain {
            faults.fail_from(error, 0);
            assert_errno(file.write_all(b"lost"), error, "write");
            faults.stop();
        }
        faults.fail_from(error, 0);
        assert_errno(file.sync_all(), error, "fsync");
        assert_errno(file.set_len(5), error, "ftruncate");
        faults.stop();
        file.sync_all().unwrap();
    }
    assert_eq!(text(&fixture.at("f")), "a123456789");
    file.write_all_at(b"b", 1).unwrap();
    drop((file, faults));
    fixture.remount();
    assert_eq!(text(&fixture.at("f")), "ab23456789");
}

#[test]
fn failing_writes_shale_passthrough() {
    failing_writes(Backend::ShalePassthrough);
}

#[test]
fn failing_writes_shale_plain() {
    failing_writes(Backend::ShalePlain);
}
