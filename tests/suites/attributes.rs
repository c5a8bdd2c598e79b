//! Extended attributes of every namespace and size, and time stamps.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use shale_tests::fixture::{Fixture, put, put_dir};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::posix::{self, append, assert_errno, get_xattr, list_xattrs, remove_xattr, set_xattr};
use shale_tests::scratch::{Scratch, run};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const ANY: XattrFlags = XattrFlags::empty();

fn names(path: &Path) -> Vec<String> {
    let names = list_xattrs(path).expect("list the attributes");
    names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// One second and nanosecond for both times.
fn at(secs: i64, nanos: i64) -> Timespec {
    Timespec {
        tv_sec: secs,
        tv_nsec: nanos,
    }
}

fn set_both(path: &Path, atime: Timespec, mtime: Timespec) -> io::Result<()> {
    let times = Timestamps {
        last_access: atime,
        last_modification: mtime,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

type Times = ((i64, i64), (i64, i64), (i64, i64));

/// Access, modification and change time.
fn times(path: &Path) -> Times {
    let meta = path.symlink_metadata().expect("stat");
    (
        (meta.atime(), meta.atime_nsec()),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    )
}

/// Waits until the clock that file systems take their times from has moved on.
fn wait_for_the_next_tick(scratch: &Path) {
    let probe = scratch.join("clock");
    std::fs::write(&probe, "").expect("write");
    let first = times(&probe).2;
    while times(&probe).2 == first {
        posix::chmod(&probe, 0o600).expect("chmod");
    }
}

for_each_union! {
    fn every_namespace_is_kept(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "born", "x");
            put_dir(lower, "dir");
            posix::symlink("to".as_ref(), &lower.join("link")).unwrap();
            for (path, name) in [
                ("born", "user.born"), ("born", "trusted.born"), ("born", "security.born"),
                ("dir", "user.born"), ("dir", "trusted.born"), ("link", "trusted.born"), ("link", "security.born"),
            ] {
                set_xattr(&lower.join(path), name, b"lower", ANY).unwrap();
            }
        });
        std::fs::write(fixture.at("new"), "x").unwrap();
        for path in ["born", "dir", "new", "link"] {
            for name in ["user.x", "trusted.x", "security.x"] {
                let result = set_xattr(&fixture.at(path), name, b"\0binary\xff", ANY);
                if path == "link" && name == "user.x" {
                    assert_errno(result, libc::EPERM, "user.* on a symbolic link");
                } else {
                    result.unwrap_or_else(|error| panic!("{path} {name}: {error}"));
                }
            }
        }
        for round in ["at once", "after a remount"] {
            assert_eq!(
                names(&fixture.at("born")),
                ["security.born", "security.x", "trusted.born", "trusted.x", "user.born", "user.x"],
                "{round}",
            );
            assert_eq!(names(&fixture.at("dir")), ["security.x", "trusted.born", "trusted.x", "user.born", "user.x"]);
            assert_eq!(names(&fixture.at("link")), ["security.born", "security.x", "trusted.born", "trusted.x"]);
            assert_eq!(names(&fixture.at("new")), ["security.x", "trusted.x", "user.x"]);
            assert_eq!(get_xattr(&fixture.at("born"), "security.born").unwrap(), b"lower");
            assert_eq!(get_xattr(&fixture.at("link"), "trusted.x").unwrap(), b"\0binary\xff");
            fixture.remount();
        }
        // Removed ones stay away, those of the layer too.
        for name in ["user.born", "trusted.born", "security.born"] {
            remove_xattr(&fixture.at("born"), name).unwrap();
            assert_errno(remove_xattr(&fixture.at("born"), name), libc::ENODATA, "removed twice");
        }
        for name in ["trusted.born", "security.born", "trusted.x"] {
            remove_xattr(&fixture.at("link"), name).unwrap();
            assert_errno(remove_xattr(&fixture.at("link"), name), libc::ENODATA, "removed twice");
        }
        fixture.remount();
        assert_eq!(names(&fixture.at("link")), ["security.x"]);
        assert_eq!(names(&fixture.at("born")), ["security.x", "trusted.x", "user.x"]);
        assert_errno(get_xattr(&fixture.at("born"), "trusted.born"), libc::ENODATA, "a removed attribute");
    }

    fn names_that_no_file_system_takes(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "x"));
        let set = |name: &str| set_xattr(&fixture.at("f"), name, b"x", ANY);
        for name in ["nonsense.x", "os2.x", "x"] {
            assert_errno(set(name), libc::EOPNOTSUPP, name);
            assert_errno(get_xattr(&fixture.at("f"), name), libc::EOPNOTSUPP, name);
        }
        assert_errno(set(""), libc::ERANGE, "no name");
        assert_errno(set("user."), libc::EINVAL, "no name in a namespace");
        assert_errno(set(&format!("user.{}", "n".repeat(251))), libc::ERANGE, "256 bytes");
        let longest = format!("user.{}", "n".repeat(250));
        set(&longest).unwrap();
        assert_eq!(names(&fixture.at("f")), [longest]);
        // Nothing was copied up for what is refused.
        assert_errno(remove_xattr(&fixture.at("f"), "user.none"), libc::ENODATA, "what is not there");
    }

    fn create_and_replace(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "f", "x");
            set_xattr(&lower.join("f"), "user.born", b"1", ANY).unwrap();
        });
        let set = |name: &str, flags| set_xattr(&fixture.at("f"), name, b"2", flags);
        assert_errno(set("user.born", XattrFlags::CREATE), libc::EEXIST, "CREATE of one of the layer");
        assert_errno(set("user.new", XattrFlags::REPLACE), libc::ENODATA, "REPLACE of none");
        assert_eq!(get_xattr(&fixture.at("f"), "user.born").unwrap(), b"1");
        set("user.born", XattrFlags::REPLACE).unwrap();
        set("user.new", XattrFlags::CREATE).unwrap();
        assert_errno(set("user.new", XattrFlags::CREATE), libc::EEXIST, "CREATE twice");
        assert_eq!(get_xattr(&fixture.at("f"), "user.born").unwrap(), b"2");
        assert_eq!(names(&fixture.at("f")), ["user.born", "user.new"]);
    }

    fn symbolic_links_have_them_too(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            std::os::unix::fs::symlink("nowhere", lower.join("link")).unwrap();
            set_xattr(&lower.join("link"), "trusted.below", b"1", ANY).unwrap();
        });
        let link = fixture.at("link");
        assert_errno(remove_xattr(&link, "trusted.none"), libc::ENODATA, "one that is not set");
        set_xattr(&link, "trusted.new", b"2", ANY).unwrap();
        assert_eq!(get_xattr(&link, "trusted.below").unwrap(), b"1", "the copy has it");
        remove_xattr(&link, "trusted.below").unwrap();
        fixture.remount();
        assert_errno(get_xattr(&link, "trusted.below"), libc::ENODATA, "it was removed");
        assert_eq!(get_xattr(&link, "trusted.new").unwrap(), b"2");
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("nowhere"));
    }

    fn buffers_that_are_too_small(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "f", "x");
            set_xattr(&lower.join("f"), "user.value", b"0123456789", ANY).unwrap();
        });
        for round in ["of the layer", "of the copy"] {
            let mut small = [0_u8; 9];
            let path = fixture.at("f");
            let got = rustix::fs::lgetxattr(&path, "user.value", &mut small[..]).map_err(io::Error::from);
            assert_errno(got, libc::ERANGE, &format!("9 bytes for 10, {round}"));
            let listed = rustix::fs::llistxattr(&path, &mut small[..]).map_err(io::Error::from);
            assert_errno(listed, libc::ERANGE, &format!("9 bytes for a list of 11, {round}"));
            posix::chmod(&path, 0o600).unwrap();
        }
    }

    fn values_up_to_the_limits(backend) {
        let scratch = Scratch::made_by(256, &["mkfs.ext4", "-q", "-F", "-O", "ea_inode"]);
        let mut fixture = Fixture::in_scratch(scratch, backend, 1, |layers| {
            put(&layers[0], "f", "x");
            set_xattr(&layers[0].join("f"), "user.large", &[b'l'; 65_536], ANY).unwrap();
            set_xattr(&layers[0].join("f"), "user.none", b"", ANY).unwrap();
        });
        let path = fixture.at("f");
        assert_eq!(get_xattr(&path, "user.large").unwrap(), [b'l'; 65_536]);
        for size in [0, 1, 255, 4096, 65_535, 65_536] {
            set_xattr(&path, &format!("user.{size}"), &vec![b's'; size], ANY).unwrap();
        }
        assert_errno(set_xattr(&path, "user.more", &[0; 65_537], ANY), libc::E2BIG, "more than 64 KiB");
        for round in ["at once", "after a remount"] {
            for size in [0, 1, 255, 4096, 65_535, 65_536] {
                assert_eq!(get_xattr(&path, format!("user.{size}")).unwrap(), vec![b's'; size], "{size} {round}");
            }
            assert_eq!(get_xattr(&path, "user.large").unwrap(), [b'l'; 65_536], "copied up, {round}");
            assert_eq!(get_xattr(&path, "user.none").unwrap(), b"", "copied up, {round}");
            fixture.remount();
        }
    }

    /// ext4 without large attributes keeps all of a file's in one block.
    fn no_room_for_a_value(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "x"));
        let path = fixture.at("f");
        assert_errno(set_xattr(&path, "user.large", &[0; 20_000], ANY), libc::ENOSPC, "more than a block");
        set_xattr(&path, "user.some", &[b's'; 2_000], ANY).unwrap();
        assert_errno(set_xattr(&path, "user.some", &[b't'; 20_000], ANY), libc::ENOSPC, "in place of another");
        assert_eq!(get_xattr(&path, "user.some").unwrap(), [b's'; 2_000], "the old value stays");
        let mut count = 0;
        while set_xattr(&path, &format!("user.n{count:03}"), b"v", ANY).is_ok() {
            count += 1;
        }
        assert!(count > 20, "{count} small attributes");
        assert_eq!(names(&path).len(), count + 1);
    }

    /// What looks like a mark and is set by a program is its own, on every kind of file.
    fn attributes_that_look_like_marks(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "f", "x");
            put_dir(lower, "d");
        });
        for path in ["f", "d"] {
            for name in ["trusted.overlay.opaque", "trusted.overlay.metacopy", "user.overlay.redirect"] {
                set_xattr(&fixture.at(path), name, b"mine", ANY).unwrap();
            }
        }
        for round in ["at once", "after a remount"] {
            for path in ["f", "d"] {
                let path = fixture.at(path);
                assert_eq!(
                    names(&path),
                    ["trusted.overlay.metacopy", "trusted.overlay.opaque", "user.overlay.redirect"],
                    "{round}"
                );
                assert_eq!(get_xattr(&path, "trusted.overlay.opaque").unwrap(), b"mine", "{round}");
            }
            fixture.remount();
        }
        remove_xattr(&fixture.at("f"), "trusted.overlay.metacopy").unwrap();
        assert_eq!(names(&fixture.at("f")), ["trusted.overlay.opaque", "user.overlay.redirect"]);
    }

    fn times_to_the_nanosecond(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "f", "x");
            put_dir(lower, "d");
            posix::symlink("to".as_ref(), &lower.join("s")).unwrap();
            for path in ["f", "d", "s"] {
                set_both(&lower.join(path), at(1_000_000_000, 111_111_111), at(1_100_000_000, 222_222_222)).unwrap();
            }
        });
        std::fs::write(fixture.at("new"), "x").unwrap();
        let (keep, now) = (at(0, UTIME_OMIT), at(0, UTIME_NOW));
        for path in ["f", "d", "s", "new"] {
            let path = fixture.at(path);
            set_both(&path, keep, at(1_200_000_000, 333_333_333)).unwrap();
            assert_eq!(times(&path).1, (1_200_000_000, 333_333_333));
            // The index of an image knows no access times, as the tars it is made of: it shows the modification time.
            if !path.ends_with("new") && backend != Backend::ShaleImage {
                assert_eq!(times(&path).0, (1_000_000_000, 111_111_111), "the other time stays");
            }
            set_both(&path, at(1_300_000_000, 1), keep).unwrap();
            assert_eq!((times(&path).0, times(&path).1), ((1_300_000_000, 1), (1_200_000_000, 333_333_333)));
            let before = times(&path);
            set_both(&path, keep, keep).unwrap();
            assert_eq!(times(&path), before, "nothing asked, nothing changed");
            let start = times(&path).2;
            wait_for_the_next_tick(fixture.scratch().path());
            set_both(&path, now, keep).unwrap();
            assert!(times(&path).0 > start && times(&path).1 == before.1, "now, and the other time stays");
            set_both(&path, at(1, 999_999_999), now).unwrap();
            assert!(times(&path).1 > start && times(&path).0 == (1, 999_999_999));
        }
        // Before 1970 and after 2038.
        for (secs, nanos) in [(-1_000_000_000, 5), (4_000_000_000, 999_999_999), (-1, 999_999_999), (0, 0)] {
            for path in ["f", "d", "new"] {
                set_both(&fixture.at(path), at(secs, nanos), at(secs, nanos)).unwrap();
                fixture.remount();
                assert_eq!((times(&fixture.at(path)).0, times(&fixture.at(path)).1), ((secs, nanos), (secs, nanos)));
            }
        }
    }

    /// A copy has the times of the file it is one of, but for what the change itself touches.
    fn copy_up_keeps_times(backend) {
        let fixture = Fixture::new(backend, |lower| {
            for path in ["d/chmod", "d/append", "d/rename", "d/link"] {
                put(lower, path, "x");
                set_both(&lower.join(path), at(1_000_000_000, 1), at(1_100_000_000, 2)).unwrap();
            }
            set_both(&lower.join("d"), at(1_200_000_000, 3), at(1_300_000_000, 4)).unwrap();
        });
        posix::chmod(&fixture.at("d/chmod"), 0o600).unwrap();
        append(&fixture.at("d/append"), b"y").unwrap();
        // The index of an image knows no access times and shows the modification time.
        let read = if backend == Backend::ShaleImage { (1_100_000_000, 2) } else { (1_000_000_000, 1) };
        let (atime, mtime, _) = times(&fixture.at("d/chmod"));
        assert_eq!((atime, mtime), (read, (1_100_000_000, 2)), "chmod");
        let (atime, mtime, _) = times(&fixture.at("d/append"));
        assert_eq!(atime, read, "a write does not read");
        assert!(mtime.0 > 1_600_000_000, "a write changes the content");
        assert_eq!(times(&fixture.at("d")).1, (1_300_000_000, 4), "copies are no change of the directory");
        posix::link(&fixture.at("d/link"), &fixture.at("linked")).unwrap();
        std::fs::rename(fixture.at("d/rename"), fixture.at("renamed")).unwrap();
        for path in ["linked", "renamed"] {
            let (atime, mtime, _) = times(&fixture.at(path));
            assert_eq!((atime, mtime), (read, (1_100_000_000, 2)), "{path}");
        }
    }

    /// Every change of a directory's names moves its times, and every change of a file its change time.
    fn changes_move_the_times_they_should(backend) {
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            for path in ["d/gone", "d/moved", "d/one", "other/o", "f", "replaced", "d/replacing"] {
                put(&layers[1], path, "x");
            }
            put_dir(&layers[0], "d");
            put_dir(&layers[1], "d/empty");
            put_dir(&layers[1], "sub");
        });
        type Change = (&'static str, &'static [&'static str], fn(&Path) -> io::Result<()>);
        let changes: [Change; 13] = [
            ("create", &["d"], |root| File::create_new(root.join("d/new")).map(drop)),
            ("mkdir", &["d"], |root| posix::mkdir(&root.join("d/newdir"), 0o755)),
            ("symlink", &["d"], |root| posix::symlink("x".as_ref(), &root.join("d/link"))),
            ("mkfifo", &["d"], |root| posix::mkfifo(&root.join("d/fifo"))),
            ("link", &["d"], |root| posix::link(&root.join("f"), &root.join("d/f"))),
            ("unlink of a lower file", &["d"], |root| std::fs::remove_file(root.join("d/gone"))),
            ("unlink of a new file", &["d"], |root| std::fs::remove_file(root.join("d/new"))),
            ("rmdir of a lower directory", &["d"], |root| std::fs::remove_dir(root.join("d/empty"))),
            ("rmdir of a new directory", &["d"], |root| std::fs::remove_dir(root.join("d/newdir"))),
            ("rename within", &["d"], |root| std::fs::rename(root.join("d/moved"), root.join("d/moved2"))),
            ("rename to elsewhere", &["d", "other"], |root| std::fs::rename(root.join("d/moved2"), root.join("other/m"))),
            ("rename onto", &["d"], |root| std::fs::rename(root.join("d/replacing"), root.join("d/one"))),
            ("rename of a directory", &["other"], |root| std::fs::rename(root.join("sub"), root.join("other/sub"))),
        ];
        for (what, touched, change) in changes {
            let before: Vec<Times> = touched.iter().map(|path| times(&fixture.at(path))).collect();
            wait_for_the_next_tick(fixture.scratch().path());
            change(fixture.root()).unwrap_or_else(|error| panic!("{what}: {error}"));
            for (path, before) in touched.iter().zip(before) {
                let after = times(&fixture.at(path));
                assert!(after.1 > before.1 && after.2 > before.2, "{what}: {path}: {before:?} then {after:?}");
                assert_eq!(after.0, before.0, "{what}: the access time of {path}");
            }
        }
        type FileChange = (&'static str, bool, fn(&Path) -> io::Result<()>);
        let changes: [FileChange; 9] = [
            ("chmod", false, |file| posix::chmod(file, 0o640)),
            ("chown", false, |file| posix::lchown(file, 5, 6)),
            ("attribute", false, |file| set_xattr(file, "user.x", b"x", ANY)),
            ("attribute removed", false, |file| remove_xattr(file, "user.x")),
            ("link", false, |file| posix::link(file, &file.with_extension("link"))),
            ("unlink of another name", false, |file| std::fs::remove_file(file.with_extension("link"))),
            ("write", true, |file| append(file, b"more")),
            ("truncate", true, |file| posix::truncate(file, 1)),
            ("emptied", true, |file| std::fs::write(file, "")),
        ];
        for path in ["f", "other/o"] {
            for (what, is_content, change) in changes {
                let file = fixture.at(path);
                let before = times(&file);
                wait_for_the_next_tick(fixture.scratch().path());
                change(&file).unwrap_or_else(|error| panic!("{what} of {path}: {error}"));
                let after = times(&file);
                assert!(after.2 > before.2, "{what} of {path}: {before:?} then {after:?}");
                assert_eq!(after.1 > before.1, is_content, "{what} of {path}: the modification time");
            }
        }
    }
}

/// Which access times a read moves, on an upper and a layer that are mounted with `option`: of the copy and of the
/// lower file, as the union shows them afterwards.
fn reads_that_count(backend: Backend, option: &str) -> Option<(bool, bool)> {
    if !backend.is_available_or_skip() {
        return None;
    }
    let scratch = Scratch::new();
    run(Command::new("mount")
        .args(["-o", &format!("remount,{option}")])
        .arg(scratch.path()));
    let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
    put(&lower, "lower", "content");
    put(&upper, "upper", "content");
    let old = self::at(1_000_000_000, 0);
    for path in [lower.join("lower"), upper.join("upper")] {
        set_both(&path, old, old).unwrap();
    }
    let spec = MountSpec {
        lowers: vec![lower.clone()],
        upper: Some((upper, scratch.directory("work"))),
        extra_options: vec![],
        open_files_limit: None,
    };
    // No fixture: it would read the layers to compare them.
    let at = scratch.directory("merged");
    let guard = MountGuard::mount(backend, &spec, &at).unwrap();
    // Only now: an image was made of the layer first.
    let in_layer = times(&lower.join("lower"));
    for path in ["upper", "lower"] {
        assert_eq!(std::fs::read(at.join(path)).unwrap(), b"content");
    }
    guard.unmount().unwrap();
    // Before the next mount, which makes an image anew.
    assert_eq!(
        times(&lower.join("lower")),
        in_layer,
        "a read writes nothing into a layer: {backend:?} {option}"
    );
    let guard = MountGuard::mount(backend, &spec, &at).unwrap();
    let moved = |path: &str| times(&at.join(path)).0 != (1_000_000_000, 0);
    let moved = (moved("upper"), moved("lower"));
    guard.unmount().unwrap();
    Some(moved)
}

/// Access times of a layer never move. Those of the upper move as its mount says on Shale; overlayfs takes a mount of
/// its own of the upper, on which they move as they do on the union (`ovl_get_upper` in fs/overlayfs/super.c).
#[test]
fn reads_move_access_times_of_the_upper_only() {
    for backend in [
        Backend::Kernel,
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
    ] {
        for option in ["atime,relatime", "strictatime", "noatime"] {
            if let Some(moved) = reads_that_count(backend, option) {
                let expected = option != "noatime" || backend.is_kernel();
                assert_eq!(moved, (expected, false), "{backend:?} {option}");
            }
        }
    }
}
