//! A union over a slow layer, its contents, and what is under way on it.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};

use shale_tests::fixture::{Fixture, listed, put};
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::scratch::Scratch;
use shale_tests::slow::{DEADLINE, SlowLayer};

use crate::beside::{BESIDE, LEFT};

/// Of the file that is held; its last block is not a whole one.
pub(crate) const LARGE_BYTES: usize = (2 << 20) + 100;
/// Of the others: enough to be passed through.
pub(crate) const BYTES: usize = 256 << 10;
/// What is held of the file.
pub(crate) const FIRST_BLOCK: Range<u64> = 0..4096;
pub(crate) const LAST_BLOCK: Range<u64> = 2 << 20..LARGE_BYTES as u64;
/// Far enough from what is held that no read-ahead leads from one to the other.
pub(crate) const FAR: usize = 1 << 20;
pub(crate) const FAR_BYTES: usize = 10_000;

pub(crate) const OF_SLOW: [&str; 9] = [
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
pub(crate) const OF_FAST: [&str; 6] = [
    "d/fast-written",
    "d/fast-removed",
    "d/fast-chmod",
    "d/fast-renamed",
    "d/fast-linked",
    "d/fast-sub/inner",
];

/// Files that are read at once; their directory is not `d`.
pub(crate) fn crowd() -> Vec<String> {
    (0..64).map(|number| format!("crowd/f{number}")).collect()
}

/// A content that is another at every place and in every file.
pub(crate) fn content(path: &str, length: usize) -> Vec<u8> {
    let seed = path
        .bytes()
        .fold(7_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(byte));
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 9) ^ (at >> 17) ^ seed) as u8 | 1)
        .collect()
}

pub(crate) fn length_of(path: &str) -> usize {
    match path {
        "d/held" => LARGE_BYTES,
        "d/tiny" => 10,
        _ => BYTES,
    }
}

#[track_caller]
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let wrong = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    assert_eq!((found.len(), wrong), (expected.len(), None), "{what}");
}

/// Compares a file with what it was made with.
#[track_caller]
pub(crate) fn assert_original(root: &Path, path: &str) {
    let found = std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"));
    assert_same(&found, &content(path, length_of(path)), path);
}

/// Compares a file with its original and more at its end.
#[track_caller]
pub(crate) fn assert_longer(root: &Path, path: &str, more: &[u8]) {
    let found = std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let mut expected = content(path, length_of(path));
    expected.extend_from_slice(more);
    assert_same(&found, &expected, path);
}

pub(crate) fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open for both")
}

/// A part of the held file of which nothing is held.
pub(crate) fn read_far(file: &File) -> Vec<u8> {
    let mut far = vec![0; FAR_BYTES];
    file.read_exact_at(&mut far, FAR as u64)
        .expect("read far from what is held");
    far
}

pub(crate) fn far() -> Vec<u8> {
    part(&content("d/held", LARGE_BYTES))
}

pub(crate) fn part(content: &[u8]) -> Vec<u8> {
    content[FAR..FAR + FAR_BYTES].to_vec()
}

/// The union: a fast layer over the slow one. The slow layer goes after the mount that uses it.
pub(crate) struct Stand {
    pub(crate) fixture: Fixture,
    pub(crate) slow: SlowLayer,
}

pub(crate) fn stand(backend: Backend, options: &[&str]) -> Stand {
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
pub(crate) struct Started<T> {
    what: String,
    result: Receiver<T>,
}

pub(crate) fn start<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> Started<T> {
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
    pub(crate) fn assert_waits(&self) {
        let ended = self.result.try_recv().err() != Some(TryRecvError::Empty);
        assert!(!ended, "{} ended before it was let go", self.what);
    }

    #[track_caller]
    pub(crate) fn end(self) -> T {
        match self.result.recv_timeout(DEADLINE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("{} has not ended within {DEADLINE:?}", self.what),
            Err(RecvTimeoutError::Disconnected) => panic!("{} went wrong", self.what),
        }
    }
}

impl Stand {
    /// Holds these bytes of `d/held`, starts what needs it, has everything else done, and only then lets go.
    /// Answers what came of it.
    pub(crate) fn while_held<T: Send + 'static>(
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
    pub(crate) fn beside(&self, what: &str) {
        for (name, act) in BESIDE {
            let root = self.fixture.root().to_owned();
            start(&format!("{name}, beside {what},"), move || act(&root)).end();
        }
    }

    /// Compares the tree with what was done, as it is now and after a remount.
    #[track_caller]
    pub(crate) fn check(&mut self, held: &[u8], what: &str) {
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
