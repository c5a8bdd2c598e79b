//! Upper file systems that refuse for a reason of their own: read-only, without inodes, over a quota, too small for an
//! attribute. (Full ones: `no_space_left` in `limits`; every call that can fail: `failures`.)

use rustix::fs::XattrFlags;
use shale_tests::fixture::{Fixture, listed, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix::{self, append, assert_errno, errno};
use shale_tests::scratch::{Scratch, run};
use shale_tests::skip::{Tier, skip};
use shale_tests::snapshot::Snapshot;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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
        let before = Snapshot::of(fixture.root()).unwrap();
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
        before.assert_same(&Snapshot::of(fixture.root()).unwrap(), "while the upper is read-only");
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
        if backend == Backend::ShalePartial {
            append(&fixture.at("big"), b"x").expect("one block is less than the quota");
            posix::truncate(&fixture.at("big"), 40 << 20).unwrap();
        } else {
            assert_errno(append(&fixture.at("big"), b"x"), libc::EDQUOT, "the copy is more than the quota");
            assert_eq!(fixture.at("big").metadata().unwrap().len(), 40 << 20, "the file is still the old one");
        }
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
