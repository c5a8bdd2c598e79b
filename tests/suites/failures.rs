//! An upper that fails: the error is passed on, nothing half-made is seen, and the mount goes on working.

use rustix::fs::{RenameFlags, XattrFlags};
use shale_tests::faults::{Faults, FaultyCalls};
use shale_tests::fixture::{Fixture, listed, put, put_dir, put_whiteout, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix::{self, append, assert_errno, errno};
use shale_tests::scratch::{Scratch, run};
use shale_tests::skip::{Tier, skip};
use shale_tests::snapshot::{Snapshot, check_listing};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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
    std::fs::remove_file(at.join("emptied/y")).unwrap();
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

/// A union whose upper alone is on `scratch`.
fn upper_on(scratch: &Scratch, backend: Backend, fill: impl FnOnce(&Path)) -> Fixture {
    let elsewhere = Scratch::new();
    let lower = elsewhere.directory("lower");
    fill(&lower);
    let spec = MountSpec {
        lowers: vec![lower],
        upper: Some((scratch.directory("upper"), scratch.directory("work"))),
        extra_options: vec![],
        open_files_limit: None,
    };
    Fixture::over(elsewhere, backend, spec)
}

/// The kernel refuses while anything is open for writing, and a server closes a file a little after the program.
fn make_read_only(at: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mount = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(at)
            .output()
            .expect("start mount");
        if mount.status.success() {
            return;
        }
        assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&mount.stderr));
        std::thread::yield_now();
    }
}

for_each_union! {
    /// The upper's file system becomes read-only, as ext4 does after an error, and writable again.
    fn an_upper_that_becomes_read_only(backend) {
        let scratch = Scratch::with_size_mib(64);
                let mut fixture = upper_on(&scratch, backend, |lower| {
            put(lower, "d/f", "lower");
            put(lower, "d/g", "lower");
            put_dir(lower, "empty");
        });
        append(&fixture.at("d/g"), b"!").unwrap();
        let before = seen(&fixture);
        make_read_only(scratch.path());
        let at = |path: &str| fixture.at(path);
        for (what, result) in [
            ("append to a lower file", append(&at("d/f"), b"x")),
            ("append to a copy", append(&at("d/g"), b"x")),
            ("chmod", posix::chmod(&at("d/f"), 0o600)),
            ("unlink", std::fs::remove_file(at("d/f"))),
            ("rmdir", std::fs::remove_dir(at("empty"))),
            ("create", File::create(at("new")).map(drop)),
            ("mkdir", posix::mkdir(&at("newdir"), 0o755)),
            ("rename", std::fs::rename(at("d"), at("e"))),
            ("symlink", posix::symlink("x".as_ref(), &at("s"))),
            ("link", posix::link(&at("d/f"), &at("l"))),
            ("times", posix::set_times(&at("d/g"), 1, 1)),
            ("attribute", posix::set_xattr(&at("d/g"), "user.x", b"x", XattrFlags::empty())),
        ] {
            assert_errno(result, libc::EROFS, what);
        }
        before.assert_same(&seen(&fixture), "while the upper is read-only");
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(scratch.path()));
        append(&fixture.at("d/f"), b" and more").unwrap();
        std::fs::rename(fixture.at("d"), fixture.at("e")).unwrap();
        fixture.remount();
        assert_eq!(text(&fixture.at("e/f")), "lower and more");
        assert_eq!(text(&fixture.at("e/g")), "lower!");
    }

    /// No inode is left: nothing can be made, but what is there can be removed.
    fn no_inodes_left(backend) {
        let scratch = Scratch::with_size_mib(16);
        let mut fixture = upper_on(&scratch, backend, |lower| {
            put(lower, "f", "lower");
            put(lower, "g", "lower");
            put(lower, "d/h", "lower");
        });
        std::fs::create_dir(fixture.at("full")).unwrap();
        let mut made = 0;
        let error = loop {
            match File::create(fixture.at(&format!("full/{made}"))) {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(errno(&error), libc::ENOSPC);
        assert_errno(append(&fixture.at("f"), b"x"), libc::ENOSPC, "a copy needs an inode");
        assert_errno(std::fs::rename(fixture.at("g"), fixture.at("g2")), libc::ENOSPC, "a moved file is a copy");
        assert_errno(posix::mkdir(&fixture.at("new"), 0o755), libc::ENOSPC, "mkdir");
        assert_eq!(text(&fixture.at("f")), "lower");
        assert_eq!(listed(fixture.root()), ["d", "f", "full", "g"]);
        assert_eq!(listed(&fixture.at("full")).len(), made);
        for index in 0..made {
            std::fs::remove_file(fixture.at(&format!("full/{index}"))).unwrap();
        }
        append(&fixture.at("f"), b" and more").unwrap();
        std::fs::remove_file(fixture.at("d/h")).unwrap();
        fixture.remount();
        assert_eq!(text(&fixture.at("f")), "lower and more");
        assert!(listed(&fixture.at("d")).is_empty() && listed(&fixture.at("full")).is_empty());
    }

    /// A quota of btrfs', which counts for root too.
    fn a_quota_is_reached(backend) {
        let Some(scratch) = btrfs_with_quota() else { return };
        let mut fixture = upper_on(&scratch, backend, |lower| {
            put(lower, "big", vec![b'b'; 40 << 20]);
            put(lower, "small", "small");
        });
        assert_errno(append(&fixture.at("big"), b"x"), libc::EDQUOT, "the copy is more than the quota");
        assert_eq!(fixture.at("big").metadata().unwrap().len(), 40 << 20, "the file is still the old one");
        let mut file = File::create(fixture.at("new")).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[1; 1 << 20]).and_then(|()| file.sync_data()) {
                break error;
            }
        };
        assert_eq!(errno(&error), libc::EDQUOT);
        drop(file);
        assert_eq!(text(&fixture.at("small")), "small", "reading goes on");
        run(Command::new("btrfs").args(["qgroup", "limit", "none"]).arg(scratch.path()));
        append(&fixture.at("small"), b"er").unwrap();
        append(&fixture.at("big"), b"ger").unwrap();
        fixture.remount();
        assert_eq!(text(&fixture.at("small")), "smaller");
        assert_eq!(fixture.at("big").metadata().unwrap().len(), (40 << 20) + 3);
    }
}

/// A btrfs that takes 16 MiB.
fn btrfs_with_quota() -> Option<Scratch> {
    let program = shale_tests::programs::system_binary;
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if program("mkfs.btrfs").is_none() || !known.lines().any(|line| line.ends_with("\tbtrfs")) {
        skip(
            Tier::Feature,
            "no btrfs here, for its quotas; install btrfs-progs",
        );
        return None;
    }
    let scratch = Scratch::made_by(256, &["mkfs.btrfs", "-q", "-f"]);
    run(Command::new("btrfs")
        .args(["quota", "enable"])
        .arg(scratch.path()));
    run(Command::new("btrfs")
        .args(["qgroup", "limit", "16M"])
        .arg(scratch.path()));
    Some(scratch)
}

/// An attribute that the upper's file system has no room for: the file cannot be changed, but read.
#[test]
fn a_lower_attribute_that_does_not_fit_above() {
    for backend in [
        Backend::Kernel,
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
    ] {
        if !backend.is_available_or_skip() {
            continue;
        }
        let layers_at = Scratch::made_by(64, &["mkfs.ext4", "-q", "-F", "-O", "ea_inode"]);
        let scratch = Scratch::new();
        let lower = layers_at.directory("lower");
        put(&lower, "f", "lower");
        posix::set_xattr(
            &lower.join("f"),
            "user.large",
            &[b'v'; 50_000],
            XattrFlags::empty(),
        )
        .unwrap();
        let upper = Some((scratch.directory("upper"), scratch.directory("work")));
        let spec = MountSpec {
            lowers: vec![lower],
            upper,
            extra_options: vec![],
            open_files_limit: None,
        };
        let fixture = Fixture::over(scratch, backend, spec);
        assert_errno(append(&fixture.at("f"), b"x"), libc::ENOSPC, "copy-up");
        assert_errno(
            posix::chmod(&fixture.at("f"), 0o600),
            libc::ENOSPC,
            "copy-up of metadata",
        );
        assert_eq!(text(&fixture.at("f")), "lower");
        assert_eq!(
            posix::get_xattr(&fixture.at("f"), "user.large").unwrap(),
            [b'v'; 50_000]
        );
        std::fs::remove_file(fixture.at("f")).unwrap();
        assert!(listed(fixture.root()).is_empty());
    }
}
