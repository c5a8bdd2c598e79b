//! Nobody waits for a slow layer but those who read it: while a read, a copy-up or a write stands in the middle of its I/O
//! on data, everything else goes on, also in the same directory and on the same file.
//!
//! What is held is let go only when all else has ended. The deadlines are there to end a test that has failed.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};

use rustix::fs::{FallocateFlags, XattrFlags};
use shale_tests::fixture::{Fixture, listed, put, text};
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix;
use shale_tests::scratch::Scratch;
use shale_tests::slow::{DEADLINE, SlowLayer};

/// Of the file that is held; its last block is not a whole one.
const LARGE_BYTES: usize = (2 << 20) + 100;
/// Of the others: enough to be passed through.
const BYTES: usize = 256 << 10;
/// What is held of the file.
const FIRST_BLOCK: Range<u64> = 0..4096;
const LAST_BLOCK: Range<u64> = 2 << 20..LARGE_BYTES as u64;
/// Far enough from what is held that no read-ahead leads from one to the other.
const FAR: usize = 1 << 20;
const FAR_BYTES: usize = 10_000;

const OF_SLOW: [&str; 9] = [
    "d/looked-at",
    "d/read",
    "d/tiny",
    "d/written",
    "d/cut",
    "d/removed",
    "d/marked",
    "d/renamed",
    "d/sub/inner",
];
const OF_FAST: [&str; 6] = [
    "d/fast-written",
    "d/fast-removed",
    "d/fast-chmod",
    "d/fast-renamed",
    "d/fast-linked",
    "d/fast-sub/inner",
];

/// Files that are read at once; their directory is not `d`.
fn crowd() -> Vec<String> {
    (0..64).map(|number| format!("crowd/f{number}")).collect()
}

/// A content that is another at every place and in every file.
fn content(path: &str, length: usize) -> Vec<u8> {
    let seed = path
        .bytes()
        .fold(7_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(byte));
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 9) ^ (at >> 17) ^ seed) as u8 | 1)
        .collect()
}

fn length_of(path: &str) -> usize {
    match path {
        "d/held" => LARGE_BYTES,
        "d/tiny" => 10,
        _ => BYTES,
    }
}

#[track_caller]
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let wrong = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    assert_eq!((found.len(), wrong), (expected.len(), None), "{what}");
}

/// Compares a file with what it was made with.
#[track_caller]
fn assert_original(root: &Path, path: &str) {
    let found = std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"));
    assert_same(&found, &content(path, length_of(path)), path);
}

/// Compares a file with its original and more at its end.
#[track_caller]
fn assert_longer(root: &Path, path: &str, more: &[u8]) {
    let found = std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let mut expected = content(path, length_of(path));
    expected.extend_from_slice(more);
    assert_same(&found, &expected, path);
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open for both")
}

/// A part of the held file of which nothing is held.
fn read_far(file: &File) -> Vec<u8> {
    let mut far = vec![0; FAR_BYTES];
    file.read_exact_at(&mut far, FAR as u64)
        .expect("read far from what is held");
    far
}

fn far() -> Vec<u8> {
    part(&content("d/held", LARGE_BYTES))
}

fn part(content: &[u8]) -> Vec<u8> {
    content[FAR..FAR + FAR_BYTES].to_vec()
}

/// The union: a fast layer over the slow one. The slow layer goes after the mount that uses it.
struct Stand {
    fixture: Fixture,
    slow: SlowLayer,
}

fn stand(backend: Backend, options: &[&str]) -> Stand {
    let scratch = Scratch::new();
    let fast = scratch.directory("fast");
    for path in OF_FAST {
        put(&fast, path, content(path, BYTES));
    }
    let crowd = crowd();
    let of_slow = OF_SLOW
        .into_iter()
        .chain(["d/held"])
        .chain(crowd.iter().map(String::as_str));
    let slow = SlowLayer::new(of_slow.map(|path| (path, content(path, length_of(path)))))
        .expect("mount the slow layer");
    let spec = MountSpec {
        lowers: vec![fast, slow.path().to_owned()],
        upper: Some((scratch.directory("upper"), scratch.directory("work"))),
        extra_options: options.iter().map(|option| (*option).to_owned()).collect(),
        open_files_limit: None,
    };
    Stand {
        fixture: Fixture::over(scratch, backend, spec),
        slow,
    }
}

/// Something under way in a thread of its own. What never ends is left behind.
struct Started<T> {
    what: String,
    result: Receiver<T>,
}

fn start<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> Started<T> {
    let (sender, result) = channel();
    std::thread::spawn(move || {
        let _ = sender.send(act());
    });
    Started {
        what: what.to_owned(),
        result,
    }
}

impl<T> Started<T> {
    #[track_caller]
    fn assert_waits(&self) {
        let ended = self.result.try_recv().err() != Some(TryRecvError::Empty);
        assert!(!ended, "{} ended before it was let go", self.what);
    }

    #[track_caller]
    fn end(self) -> T {
        match self.result.recv_timeout(DEADLINE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("{} has not ended within {DEADLINE:?}", self.what),
            Err(RecvTimeoutError::Disconnected) => panic!("{} went wrong", self.what),
        }
    }
}

/// What others do meanwhile, and that it does what it should.
type Act = fn(&Path);

/// In this order, each by a thread of its own.
const BESIDE: [(&str, Act); 23] = [
    ("stat of a file of the slow layer", |root| {
        assert_eq!(root.join("d/looked-at").metadata().unwrap().len(), BYTES as u64);
    }),
    ("stat of the held file", |root| {
        assert!(root.join("d/held").metadata().unwrap().len() >= LARGE_BYTES as u64);
    }),
    ("lookup of names that are not there", |root| {
        for name in ["d/none", "d/nothing", "d/sub/none"] {
            posix::assert_errno(root.join(name).symlink_metadata(), libc::ENOENT, name);
        }
    }),
    ("listing of the directory", |root| {
        let names = |paths: &[&str]| {
            paths
                .iter()
                .filter_map(|path| path.strip_prefix("d/")?.split('/').next().map(String::from))
                .collect::<Vec<_>>()
        };
        let mut expected = [names(&OF_SLOW), names(&OF_FAST), vec!["held".into()]].concat();
        expected.sort();
        assert_eq!(listed(&root.join("d")), expected);
        // With the attributes of each name.
        for entry in std::fs::read_dir(root.join("d")).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    }),
    ("statfs", |root| {
        assert!(rustix::fs::statfs(&root.join("d")).unwrap().f_blocks > 0);
    }),
    ("create, write, sync", |root| {
        let file = File::create(root.join("d/new")).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(text(&root.join("d/new")), "new");
    }),
    ("rename of the new file", |root| {
        std::fs::rename(root.join("d/new"), root.join("d/newer")).unwrap();
        posix::assert_errno(
            root.join("d/new").symlink_metadata(),
            libc::ENOENT,
            "the old name",
        );
    }),
    ("unlink of the new file", |root| {
        std::fs::remove_file(root.join("d/newer")).unwrap();
        posix::assert_errno(
            root.join("d/newer").symlink_metadata(),
            libc::ENOENT,
            "the removed name",
        );
    }),
    ("unlink of a file of each layer", |root| {
        for name in ["d/fast-removed", "d/removed"] {
            std::fs::remove_file(root.join(name)).unwrap();
            posix::assert_errno(root.join(name).symlink_metadata(), libc::ENOENT, name);
        }
    }),
    ("chmod of a file", |root| {
        posix::chmod(&root.join("d/fast-chmod"), 0o600).unwrap();
        assert_eq!(
            root.join("d/fast-chmod").metadata().unwrap().mode() & 0o7777,
            0o600
        );
    }),
    ("chmod of the directory", |root| {
        posix::chmod(&root.join("d"), 0o711).unwrap();
        assert_eq!(root.join("d").metadata().unwrap().mode() & 0o7777, 0o711);
    }),
    ("attributes of a file of the slow layer", |root| {
        posix::set_xattr(&root.join("d/marked"), "user.note", b"here", XattrFlags::empty()).unwrap();
        assert_eq!(
            posix::get_xattr(&root.join("d/marked"), "user.note").unwrap(),
            b"here"
        );
        assert_eq!(posix::list_xattrs(&root.join("d/marked")).unwrap(), ["user.note"]);
    }),
    ("attributes of the directory", |root| {
        posix::set_xattr(&root.join("d"), "user.note", b"here", XattrFlags::empty()).unwrap();
        assert_eq!(posix::get_xattr(&root.join("d"), "user.note").unwrap(), b"here");
    }),
    ("attributes of the held file", |root| {
        posix::assert_errno(
            posix::get_xattr(&root.join("d/held"), "user.none"),
            libc::ENODATA,
            "none",
        );
    }),
    ("copy-up of a fast file", |root| {
        posix::append(&root.join("d/fast-written"), b"more").unwrap();
        assert_longer(root, "d/fast-written", b"more");
    }),
    ("copy-up of another file of the slow layer", |root| {
        posix::append(&root.join("d/written"), b"more").unwrap();
        assert_longer(root, "d/written", b"more");
    }),
    ("truncate of another file of the slow layer", |root| {
        posix::truncate(&root.join("d/cut"), 5).unwrap();
        assert_same(
            &std::fs::read(root.join("d/cut")).unwrap(),
            &content("d/cut", 5),
            "d/cut",
        );
    }),
    ("read of other files of the slow layer", |root| {
        for path in ["d/read", "d/tiny", "d/sub/inner"] {
            assert_original(root, path);
        }
    }),
    ("mkdir and rmdir", |root| {
        posix::mkdir(&root.join("d/made"), 0o755).unwrap();
        put(root, "d/made/inner", "inner");
        std::fs::remove_file(root.join("d/made/inner")).unwrap();
        std::fs::remove_dir(root.join("d/made")).unwrap();
    }),
    ("rename of files of both layers", |root| {
        for (from, to) in [("d/renamed", "d/was-renamed"), ("d/fast-renamed", "elsewhere")] {
            std::fs::rename(root.join(from), root.join(to)).unwrap();
            assert_same(&std::fs::read(root.join(to)).unwrap(), &content(from, BYTES), to);
        }
    }),
    ("link and symlink", |root| {
        posix::link(&root.join("d/fast-linked"), &root.join("d/link")).unwrap();
        assert_eq!(root.join("d/fast-linked").metadata().unwrap().nlink(), 2);
        posix::symlink("tiny".as_ref(), &root.join("d/symlink")).unwrap();
        assert_original_under(root, "d/symlink", "d/tiny");
    }),
    ("rename of directories", |root| {
        for (from, to) in [("d/sub", "d/sub-renamed"), ("d/fast-sub", "sub-elsewhere")] {
            std::fs::rename(root.join(from), root.join(to)).unwrap();
        }
        assert_original_under(root, "d/sub-renamed/inner", "d/sub/inner");
    }),
    ("stat of the held file, once more", |root| {
        let held = root.join("d/held");
        assert!(File::open(&held).unwrap().metadata().unwrap().len() >= LARGE_BYTES as u64);
    }),
];

#[track_caller]
fn assert_original_under(root: &Path, path: &str, origin: &str) {
    assert_same(
        &std::fs::read(root.join(path)).unwrap(),
        &content(origin, length_of(origin)),
        path,
    );
}

/// What `d` holds after all of it.
const LEFT: [&str; 14] = [
    "cut",
    "fast-chmod",
    "fast-linked",
    "fast-written",
    "held",
    "link",
    "looked-at",
    "marked",
    "read",
    "sub-renamed",
    "symlink",
    "tiny",
    "was-renamed",
    "written",
];

impl Stand {
    /// Holds these bytes of `d/held`, starts what needs it, has everything else done, and only then lets go.
    /// Answers what came of it.
    fn while_held<T: Send + 'static>(
        &self,
        what: &str,
        bytes: Range<u64>,
        act: impl FnOnce() -> T + Send + 'static,
        more: impl FnOnce(),
    ) -> T {
        let held = self.slow.hold("d/held", bytes);
        let waiting = start(what, act);
        held.wait_for(1);
        self.beside(what);
        more();
        waiting.assert_waits();
        assert!(held.count() >= 1);
        drop(held);
        waiting.end()
    }

    /// Has everything done that does not concern what is held.
    #[track_caller]
    fn beside(&self, what: &str) {
        for (name, act) in BESIDE {
            let root = self.fixture.root().to_owned();
            start(&format!("{name}, beside {what},"), move || act(&root)).end();
        }
    }

    /// Compares the tree with what was done, as it is now and after a remount.
    #[track_caller]
    fn check(&mut self, held: &[u8], what: &str) {
        for when in ["now", "after a remount"] {
            let found = std::fs::read(self.fixture.at("d/held")).unwrap();
            assert_same(&found, held, &format!("{what}, {when}"));
            assert_eq!(listed(&self.fixture.at("d")), LEFT, "{what}, {when}");
            assert_longer(self.fixture.root(), "d/written", b"more");
            assert_longer(self.fixture.root(), "d/fast-written", b"more");
            self.fixture.remount();
        }
        self.fixture.assert_layers_untouched();
    }
}

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
            posix::chmod(&other, 0o600).unwrap()
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
            posix::append(path, b"more").unwrap()
        }),
        ("chmod of the file that is sealed", |path| {
            posix::chmod(path, 0o600).unwrap()
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

/// How many reads the server may have to wait for while it still answers: one thread less than it has, which by default
/// are as many as the machine has processors, but at least 4 and at most 8.
fn held_by_the_server() -> usize {
    std::thread::available_parallelism()
        .map_or(4, std::num::NonZero::get)
        .clamp(4, 8)
        - 1
}

/// Reads of many files are held at once.
fn many_reads(backend: Backend, count: usize) {
    if !backend.is_available_or_skip() {
        return;
    }
    let mut stand = stand(backend, &[]);
    let files = &crowd()[..count];
    let held: Vec<_> = files
        .iter()
        .map(|path| stand.slow.hold(path, FIRST_BLOCK))
        .collect();
    let mut waiting = Vec::new();
    for (path, held) in files.iter().zip(&held) {
        let (root, path) = (stand.fixture.root().to_owned(), path.clone());
        waiting.push(start(&format!("the read of {path}"), move || {
            assert_original(&root, &path)
        }));
        held.wait_for(1);
    }
    stand.beside(&format!("{count} reads"));
    waiting.iter().for_each(Started::assert_waits);
    drop(held);
    waiting.into_iter().for_each(Started::end);
    stand.check(&content("d/held", LARGE_BYTES), "many reads");
}

/// The kernel reads by itself what is passed through: no number of reads can take all of the server's threads.
#[test]
fn many_reads_on_shale_passthrough() {
    many_reads(Backend::ShalePassthrough, crowd().len());
}

#[test]
fn many_reads_on_shale_plain() {
    many_reads(Backend::ShalePlain, held_by_the_server());
}
