//! How often the kernel asks: every request is a round trip, so one more is a regression that needs no clock to be
//! seen. The bounds are those of Linux 6.18; a kernel that asks less passes too.
//!
//! What cannot be less: the kernel looks a new name up before it makes it (LOOKUP); it forgets a directory's attributes
//! when its entries change and asks again before it checks the next permission (GETATTR); it asks for
//! `security.capability` before the first write to a file (GETXATTR), and with passthrough before the first write of every
//! open, for the answer may be kept only where a file system promises to drop set-id bits itself, which one that passes
//! writes through to another cannot.

use shale_tests::fixture::{Fixture, listed, put};
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix;
use shale_tests::scratch::Scratch;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Requests by kind.
type Counts = BTreeMap<String, u64>;

fn counts(mount: &Path) -> Counts {
    let text = posix::get_xattr(mount, ufs::fs::COUNTERS).expect("the server's counters");
    let counters: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let requests = counters["requests"].as_object().expect("requests").clone();
    requests
        .into_iter()
        .map(|(kind, counted)| (kind, counted["count"].as_u64().expect("a count")))
        .collect()
}

/// The counts when all that was opened is released, and how many GETXATTR it takes to read them. Nobody waits for a
/// release, and the kernel sends it when it likes. Without passthrough, opens are refused for good, and there is nothing to
/// release; of directories neither.
fn at_rest(fixture: &Fixture) -> (Counts, u64) {
    let mount = fixture.root();
    let opens_files = fixture.backend() == Backend::ShalePassthrough;
    let of = |counts: &Counts, kind: &str| *counts.get(kind).unwrap_or(&0);
    let mut last = counts(mount);
    loop {
        let now = counts(mount);
        let opened = of(&now, "open") + of(&now, "create") - of(&now, "release");
        if opened == 0 || !opens_files {
            let own = of(&now, "getxattr") - of(&last, "getxattr");
            return (now, own);
        }
        last = now;
    }
}

/// The requests that `work` causes. FORGET is left out: nobody waits for it, and it comes whenever the kernel likes.
fn requests_of(fixture: &Fixture, work: impl FnOnce()) -> Counts {
    // The first counts may not name GETXATTR yet.
    counts(fixture.root());
    let (before, own) = at_rest(fixture);
    work();
    let after = counts(fixture.root());
    after
        .into_iter()
        .map(|(kind, count)| {
            let own = if kind == "getxattr" { own } else { 0 };
            let caused = count - before.get(&kind).unwrap_or(&0) - own;
            (kind, caused)
        })
        .filter(|(kind, count)| kind != "forget" && *count > 0)
        .collect()
}

#[track_caller]
fn assert_at_most(limit: u64, fixture: &Fixture, what: &str, work: impl FnOnce()) {
    let caused = requests_of(fixture, work);
    let total: u64 = caused.values().sum();
    println!("{what}: {total} of at most {limit}: {caused:?}");
    assert!(
        total <= limit,
        "{what}: {total} requests instead of {limit}: {caused:?}"
    );
}

fn read(fixture: &Fixture, path: &str) {
    std::fs::read(fixture.at(path)).expect("read");
}

fn create(fixture: &Fixture, path: &str) {
    let mut file = File::create_new(fixture.at(path)).expect("create");
    file.write_all(&[b'x'; 1000]).expect("write");
}

fn fill(lower: &Path) {
    for i in 0..40 {
        put(lower, &format!("d/f{i}"), "a small file");
    }
}

/// Nothing can change: what the kernel knows it need never ask again.
#[test]
fn a_read_only_image_is_asked_once() {
    let backend = Backend::ShaleImage;
    if !backend.is_available_or_skip() {
        return;
    }
    let scratch = Scratch::new();
    let lowers = vec![scratch.directory("lower")];
    fill(&lowers[0]);
    let spec = MountSpec {
        lowers,
        upper: None,
        extra_options: vec![],
        open_files_limit: None,
    };
    let fixture = Fixture::over(scratch, backend, spec);
    let scan = || {
        for name in listed(&fixture.at("d")) {
            fixture
                .at(&format!("d/{name}"))
                .symlink_metadata()
                .expect("lstat");
        }
    };
    // The first round teaches the kernel, and what it need not ask; the second lets it list from its own memory.
    for _ in 0..2 {
        scan();
        read(&fixture, "d/f7");
    }
    assert_at_most(0, &fixture, "scan of a known directory", scan);
    assert_at_most(0, &fixture, "open, read and close of a cached file", || {
        read(&fixture, "d/f7");
    });
    assert_at_most(0, &fixture, "stat of a known file", || {
        fixture.at("d/f8").metadata().expect("stat");
    });
    assert_at_most(1, &fixture, "an unknown name", || {
        fixture.at("d/none").metadata().expect_err("no such file");
    });
    assert_at_most(0, &fixture, "a name known to be absent", || {
        fixture.at("d/none").metadata().expect_err("no such file");
    });
}

fn writable(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    // Opened and released there, but the kernel writes by itself.
    let [read_known, append] = match backend {
        Backend::ShalePassthrough => [2, 4],
        _ => [0, 2],
    };
    let fixture = Fixture::new(backend, fill);
    let scan = || {
        for name in listed(&fixture.at("d")) {
            fixture
                .at(&format!("d/{name}"))
                .symlink_metadata()
                .expect("lstat");
        }
    };
    // The first scan makes the time of access old, the second asks for it.
    for _ in 0..2 {
        scan();
        at_rest(&fixture);
    }
    assert_at_most(0, &fixture, "scan of a known directory", scan);
    // The first read makes the time of access old, the second asks for it.
    for _ in 0..2 {
        read(&fixture, "d/f7");
    }
    assert_at_most(
        read_known,
        &fixture,
        "open, read and close of a cached file",
        || {
            read(&fixture, "d/f7");
        },
    );
    assert_at_most(0, &fixture, "stat of a known file", || {
        fixture.at("d/f8").metadata().expect("stat");
    });
    create(&fixture, "d/new0");
    assert_at_most(5, &fixture, "create, write and close", || {
        create(&fixture, "d/new1");
    });
    assert_at_most(append, &fixture, "append and close", || {
        posix::append(&fixture.at("d/new1"), b"more").expect("append");
    });
    assert_at_most(append, &fixture, "append to a file of a layer and close", || {
        posix::append(&fixture.at("d/f9"), b"more").expect("append");
    });
    assert_at_most(2, &fixture, "unlink", || {
        std::fs::remove_file(fixture.at("d/new1")).expect("unlink");
    });
    assert_at_most(2, &fixture, "unlink of a file of a layer", || {
        std::fs::remove_file(fixture.at("d/f9")).expect("unlink");
    });
    assert_at_most(3, &fixture, "mkdir", || {
        posix::mkdir(&fixture.at("d/sub"), 0o755).expect("mkdir");
    });
    assert_at_most(2, &fixture, "rmdir", || {
        std::fs::remove_dir(fixture.at("d/sub")).expect("rmdir");
    });
    assert_at_most(3, &fixture, "rename", || {
        std::fs::rename(fixture.at("d/new0"), fixture.at("d/moved")).expect("rename");
    });
}

#[test]
fn a_writable_mount_is_asked_seldom_shale_passthrough() {
    writable(Backend::ShalePassthrough);
}

#[test]
fn a_writable_mount_is_asked_seldom_shale_plain() {
    writable(Backend::ShalePlain);
}

#[test]
fn a_writable_mount_is_asked_seldom_shale_image() {
    writable(Backend::ShaleImage);
}
