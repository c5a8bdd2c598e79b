//! Nobody waits for a slow layer but those who read it: while a read, a copy-up or a write stands in the middle of its I/O
//! on data, everything else goes on, also in the same directory and on the same file.
//!
//! What is held is let go only when all else has ended. The deadlines are there to end a test that has failed.

mod beside;
mod stand;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, XattrFlags};
use shale_tests::mount::Backend;
use shale_tests::posix;

use beside::Act;
use stand::{
    BYTES, FAR, FIRST_BLOCK, LARGE_BYTES, LAST_BLOCK, Stand, Started, assert_longer, assert_same, content,
    crowd, far, open, part, read_far, stand, start,
};

/// A read of a file of the slow layer. Reads of its other parts do not wait either, nor does a change of its attributes.
fn a_read(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let mut stand = stand(backend, &[]);
    let path = stand.fixture.at("d/held");
    let file = Arc::new(File::open(&path).unwrap());
    let reader = Arc::clone(&file);
    let read = move || {
        let mut start = vec![0; 100];
        reader.read_exact_at(&mut start, 0).unwrap();
        start
    };
    let others = || {
        let (same, other) = (Arc::clone(&file), path.clone());
        let through = start("a read of another part, by the same descriptor,", move || {
            read_far(&same)
        });
        assert_same(&through.end(), &far(), "another part");
        let through = start("a read of another part, by another descriptor,", move || {
            read_far(&File::open(other).unwrap())
        });
        assert_same(&through.end(), &far(), "another part by another descriptor");
        let other = path.clone();
        start("chmod of the file that is read", move || {
            posix::chmod(&other, 0o600).unwrap();
        })
        .end();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    };
    let found = stand.while_held("a read", FIRST_BLOCK, read, others);
    assert_same(&found, &content("d/held", 100), "what was held");
    drop(file);
    stand.check(&content("d/held", LARGE_BYTES), "a read");
}

#[test]
fn a_read_on_shale_passthrough() {
    a_read(Backend::ShalePassthrough);
}

#[test]
fn a_read_on_shale_plain() {
    a_read(Backend::ShalePlain);
}

/// A copy-up of the whole file, however it comes to it. Who has the file open for reading goes on reading it.
fn a_copy_up(backend: Backend) {
    type Change = fn(&Path);
    let changes: [(&str, Change, Change); 3] = [
        (
            "a copy-up by a write",
            |_| {},
            |path| posix::write_at(path, 5000, b"changed").unwrap(),
        ),
        (
            "a copy-up by a write after one of the attributes",
            |path| posix::chmod(path, 0o640).unwrap(),
            |path| posix::write_at(path, 5000, b"changed").unwrap(),
        ),
        (
            "a copy-up by truncate",
            |_| {},
            |path| posix::truncate(path, LARGE_BYTES as u64 + 1).unwrap(),
        ),
    ];
    if !backend.is_available_or_skip() {
        return;
    }
    for (what, before, change) in changes {
        let mut stand = stand(backend, &[]);
        let path = stand.fixture.at("d/held");
        before(&path);
        let reader = File::open(&path).unwrap();
        let changed = path.clone();
        let others = || {
            let through = start("a read of the file that is copied up", move || read_far(&reader));
            assert_same(&through.end(), &far(), what);
        };
        stand.while_held(what, FIRST_BLOCK, move || change(&changed), others);
        let mut model = content("d/held", LARGE_BYTES);
        if what.ends_with("truncate") {
            model.push(0);
        } else {
            model[5000..5007].copy_from_slice(b"changed");
        }
        stand.check(&model, what);
    }
}

#[test]
fn a_copy_up_on_shale_passthrough() {
    a_copy_up(Backend::ShalePassthrough);
}

#[test]
fn a_copy_up_on_shale_plain() {
    a_copy_up(Backend::ShalePlain);
}

/// A change of a partial copy that needs the rest of a block from below.
struct PartialChange {
    what: &'static str,
    holds: Range<u64>,
    act: fn(&File),
    model: fn(&mut Vec<u8>),
}

const PARTIAL_CHANGES: [PartialChange; 5] = [
    PartialChange {
        what: "a write into a block that is not there",
        holds: FIRST_BLOCK,
        act: |file| file.write_all_at(b"changed", 100).unwrap(),
        model: |model| model[100..107].copy_from_slice(b"changed"),
    },
    PartialChange {
        what: "an append to a block that is not there",
        holds: LAST_BLOCK,
        act: |file| file.write_all_at(b"more", LARGE_BYTES as u64).unwrap(),
        model: |model| model.extend(b"more"),
    },
    PartialChange {
        what: "zeros punched into a block that is not there",
        holds: FIRST_BLOCK,
        act: |file| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, 100, 50).unwrap();
        },
        model: |model| model[100..150].fill(0),
    },
    PartialChange {
        what: "space reserved for a block that is not there",
        holds: FIRST_BLOCK,
        act: |file| rustix::fs::fallocate(file, FallocateFlags::empty(), 100, 50).unwrap(),
        model: |_| {},
    },
    PartialChange {
        what: "space reserved over the end, from a block that is not there",
        holds: LAST_BLOCK,
        act: |file| {
            rustix::fs::fallocate(file, FallocateFlags::empty(), LARGE_BYTES as u64 - 50, 1000).unwrap();
        },
        model: |model| model.resize(LARGE_BYTES + 950, 0),
    },
];

/// A change of a partial copy. Its other blocks can be read, those of the upper as well as those below.
fn a_partial_change(change: &PartialChange) {
    let mut stand = stand(Backend::ShalePartial, &["seal=off"]);
    let path = stand.fixture.at("d/held");
    let mut model = content("d/held", LARGE_BYTES);
    let file = open(&path);
    file.write_all_at(b"there", FAR as u64 + 5000).unwrap();
    model[FAR + 5000..FAR + 5005].copy_from_slice(b"there");
    let (act, what) = (change.act, change.what);
    let others = || {
        let path = path.clone();
        let read = start("a read of other blocks", move || {
            read_far(&File::open(path).unwrap())
        });
        assert_same(&read.end(), &part(&model), what);
    };
    stand.while_held(what, change.holds.clone(), move || act(&file), others);
    (change.model)(&mut model);
    stand.check(&model, what);
}

#[test]
fn changes_of_partial_copies() {
    if !Backend::ShalePartial.is_available_or_skip() {
        return;
    }
    PARTIAL_CHANGES.iter().for_each(a_partial_change);
}

/// A partial copy is made whole in the background: it is read, written and changed meanwhile like any other file.
#[test]
fn sealing() {
    if !Backend::ShalePartial.is_available_or_skip() {
        return;
    }
    let mut stand = stand(Backend::ShalePartial, &["seal=off"]);
    let path = stand.fixture.at("d/held");
    let mut model = content("d/held", LARGE_BYTES);
    posix::write_at(&path, FAR as u64 + 5000, b"there").unwrap();
    model[FAR + 5000..FAR + 5005].copy_from_slice(b"there");
    let held = stand.slow.hold("d/held", FIRST_BLOCK);
    posix::set_xattr(stand.fixture.root(), "user.shale.seal", b"1", XattrFlags::empty()).unwrap();
    held.wait_for(1);
    stand.beside("sealing");
    let of_file: [(&str, Act); 4] = [
        ("a read of the file that is sealed", |path| {
            read_far(&File::open(path).unwrap());
        }),
        ("a write to the file that is sealed", |path| {
            posix::write_at(path, FAR as u64 + 7000, b"written").unwrap();
        }),
        ("an append to the file that is sealed", |path| {
            posix::append(path, b"more").unwrap();
        }),
        ("chmod of the file that is sealed", |path| {
            posix::chmod(path, 0o600).unwrap();
        }),
    ];
    for (what, act) in of_file {
        let path = path.clone();
        start(what, move || act(&path)).end();
    }
    model[FAR + 7000..FAR + 7007].copy_from_slice(b"written");
    model.extend(b"more");
    assert!(held.count() >= 1);
    drop(held);
    stand.check(&model, "sealing");
}

/// How many requests may wait while the server still answers: one less than it has threads, which by default are as many as
/// the machine has processors, but at least 4 and at most 8.
fn held_by_the_server() -> usize {
    std::thread::available_parallelism()
        .map_or(4, std::num::NonZero::get)
        .clamp(4, 8)
        - 1
}

/// So many files of one directory are used at once, and all of them are held.
fn many(backend: Backend, options: &[&str], count: usize, what: &str, act: Act) -> Option<Stand> {
    if !backend.is_available_or_skip() {
        return None;
    }
    let stand = stand(backend, options);
    let files = &crowd()[..count];
    let held: Vec<_> = files
        .iter()
        .map(|path| stand.slow.hold(path, FIRST_BLOCK))
        .collect();
    let mut waiting = Vec::new();
    for (path, held) in files.iter().zip(&held) {
        let path = stand.fixture.at(path);
        waiting.push(start(&format!("{what} of {}", path.display()), move || {
            act(&path);
        }));
        held.wait_for(1);
    }
    stand.beside(&format!("{count} times {what}"));
    waiting.iter().for_each(Started::assert_waits);
    drop(held);
    waiting.into_iter().for_each(Started::end);
    Some(stand)
}

fn many_reads(backend: Backend, options: &[&str], count: usize) {
    let read = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let expected = content(&format!("crowd/{name}"), BYTES);
        assert_same(&std::fs::read(path).unwrap(), &expected, name);
    };
    if let Some(mut stand) = many(backend, options, count, "a read", read) {
        stand.check(&content("d/held", LARGE_BYTES), "many reads");
    }
}

fn many_copy_ups(backend: Backend) {
    let count = held_by_the_server();
    let append = |path: &Path| posix::append(path, b"more").unwrap();
    if let Some(mut stand) = many(backend, &[], count, "a copy-up", append) {
        for path in &crowd()[..count] {
            assert_longer(stand.fixture.root(), path, b"more");
        }
        stand.check(&content("d/held", LARGE_BYTES), "many copy-ups");
    }
}

/// The kernel reads by itself what is passed through: no number of reads can take all threads of the server.
#[test]
fn many_reads_on_shale_passthrough() {
    many_reads(Backend::ShalePassthrough, &[], crowd().len());
}

#[test]
fn many_reads_on_shale_plain() {
    many_reads(Backend::ShalePlain, &[], held_by_the_server());
}

#[test]
fn more_reads_on_more_threads() {
    many_reads(Backend::ShalePlain, &["threads=16"], 15);
}

#[test]
fn many_copy_ups_on_shale_passthrough() {
    many_copy_ups(Backend::ShalePassthrough);
}

#[test]
fn many_copy_ups_on_shale_plain() {
    many_copy_ups(Backend::ShalePlain);
}
