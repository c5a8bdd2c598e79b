//! Commits and exports of files that are partly in the upper and partly in the image.

mod common;

use std::ffi::OsStr;
use std::path::Path;

use common::{ended, file, keep_container, tar};
use imagetool::commit::{CommitOptions, commit};
use imagetool::container;
use imagetool::digest::Digest;
use imagetool::export::export;
use imagetool::import::{ImportOptions, import};
use imagetool::progress::Progress;
use imagetool::store::{ContainerRecord, ContainerStatus, Store};
use ufs::diff::Snapshot;
use ufs::fs::{Change, Fs, OpenFile, ROOT};
use ufs::idmap::IdMap;
use ufs::{Layout, UpperOptions};

const SIZE_BYTES: usize = 1 << 20;
/// `O_RDWR`.
const BOTH: u32 = 2;

fn below() -> Vec<u8> {
    (0..SIZE_BYTES)
        .map(|at| ((at * 7) ^ (at >> 10)) as u8 | 1)
        .collect()
}

struct Bed {
    _folder: tempfile::TempDir,
    store: Store,
    record: ContainerRecord,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let text = String::from_utf8(below().iter().map(|byte| byte & 0x7f).collect()).unwrap();
        let archive = tar(&[file("same", &text), file("changed", &text), file("cut", &text)]);
        let options = ImportOptions {
            source: "test".to_owned(),
            name: Some("base".parse().unwrap()),
            ..ImportOptions::default()
        };
        let base = import(&store, archive.as_slice(), &options, &Progress::none()).unwrap();
        let record = ended("box", Some((base, "base")));
        keep_container(&store, &record);
        Self {
            _folder: folder,
            store,
            record,
        }
    }

    fn open(&self) -> Fs {
        let dir = self.store.container_dir(&self.record.id);
        let layout = Layout {
            lowers: container::lowers(&self.store, &self.record).unwrap(),
            upper: Some((dir.join("upper"), dir.join("work"))),
            options: UpperOptions {
                partial_min_bytes: Some(1),
                seal_after: None,
                ..UpperOptions::default()
            },
            ..Layout::default()
        };
        Fs::open(&layout, IdMap::default()).unwrap()
    }

    /// What an image shows.
    fn contents(&self, image: &Digest) -> Vec<(String, Vec<u8>)> {
        let image = self.store.resolve_image(&image.to_string()).unwrap();
        let snapshot = Snapshot::merged(&self.store.layer_lowers(&image).unwrap()).unwrap();
        let changes = snapshot.changes().unwrap();
        let read = |change: &ufs::diff::Change| {
            let mut bytes = Vec::new();
            let content = snapshot.open_content(change).unwrap();
            std::io::Read::read_to_end(&mut content.into_reader(), &mut bytes).unwrap();
            (change.path.display().to_string(), bytes)
        };
        changes.iter().map(read).collect()
    }
}

/// Writes, cuts and grows; gives what the mount shows afterwards.
fn change(fs: &Fs) -> Vec<(String, Vec<u8>)> {
    let node = |name: &str| fs.lookup(ROOT, OsStr::new(name)).unwrap().node;
    let flags = rustix::fs::OFlags::from_bits_retain(BOTH);
    let handle = fs.open_file(node("changed"), flags, true).unwrap().handle;
    let file = OpenFile::Handle(handle);
    fs.write(file, b"first", 5).unwrap();
    fs.write(file, &[b'm'; 9000], 500_000).unwrap();
    fs.write(file, b"past the end", SIZE_BYTES as u64 + 70_000)
        .unwrap();
    fs.close(handle);
    let size = |bytes| Change {
        size_bytes: Some(bytes),
        ..Change::default()
    };
    fs.change(node("cut"), &size(300_001)).unwrap();
    fs.change(node("cut"), &size(900_000)).unwrap();
    ["changed", "cut", "same"]
        .map(|name| (name.to_owned(), read(fs, node(name))))
        .to_vec()
}

fn read(fs: &Fs, node: u64) -> Vec<u8> {
    let handle = fs
        .open_file(node, rustix::fs::OFlags::RDONLY, true)
        .unwrap()
        .handle;
    let mut bytes = vec![0; 3 * SIZE_BYTES];
    let read = fs.read(OpenFile::Handle(handle), &mut bytes, 0).unwrap();
    bytes.truncate(read);
    fs.close(handle);
    bytes
}

/// Whether `name` is a partial copy; the test would show nothing else.
fn is_partial(upper: &Path, name: &str) -> bool {
    ["trusted", "user"].iter().any(|space| {
        let mark = format!("{space}.overlay.shale.partial");
        matches!(xattr::get(upper.join(name), mark), Ok(Some(_)))
    })
}

fn assert_same(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)], what: &str) {
    let lengths = |all: &[(String, Vec<u8>)]| -> Vec<(String, usize)> {
        all.iter()
            .map(|(name, bytes)| (name.clone(), bytes.len()))
            .collect()
    };
    assert_eq!(lengths(found), lengths(expected), "{what}");
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let wrong = found
            .iter()
            .zip(expected)
            .position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "{what}: {name}");
    }
}

#[test]
fn a_commit_holds_what_the_mount_shows() {
    let mut bed = Bed::new();
    if !nix::unistd::geteuid().is_root() {
        return common::skip("whiteouts and marks need the rights of root");
    }
    let upper = container::upper(&bed.store, &bed.record);
    let fs = bed.open();
    let expected = change(&fs);
    if !is_partial(&upper, "changed") {
        return common::skip("the temporary directory is unfit for partial copies");
    }
    assert!(is_partial(&upper, "cut"));
    bed.record.status = ContainerStatus::Running;
    let options = CommitOptions::default();
    let running = commit(&bed.store, &bed.record, &options, &Progress::none()).unwrap();
    assert_same(&bed.contents(&running), &expected, "running");
    let full = CommitOptions {
        full: true,
        ..CommitOptions::default()
    };
    let running = commit(&bed.store, &bed.record, &full, &Progress::none()).unwrap();
    assert_same(&bed.contents(&running), &expected, "running, in full");
    drop(fs);
    bed.record.status = ContainerStatus::Exited;
    let exited = commit(&bed.store, &bed.record, &options, &Progress::none()).unwrap();
    assert_same(&bed.contents(&exited), &expected, "exited");
    assert!(is_partial(&upper, "changed"), "a commit changed the upper");
    // Whole or not, the same tree gives the same layer.
    let fs = bed.open();
    let report = fs.seal_all().unwrap();
    assert_eq!((report.sealed, report.left), (2, 0));
    drop(fs);
    assert!(!is_partial(&upper, "changed"));
    let sealed = commit(&bed.store, &bed.record, &options, &Progress::none()).unwrap();
    assert_same(&bed.contents(&sealed), &expected, "sealed");
}

#[test]
fn an_export_holds_what_the_mount_shows() {
    let mut bed = Bed::new();
    if !nix::unistd::geteuid().is_root() {
        return common::skip("whiteouts and marks need the rights of root");
    }
    let fs = bed.open();
    let expected = change(&fs);
    for status in [ContainerStatus::Running, ContainerStatus::Exited] {
        bed.record.status = status;
        let mut archive = Vec::new();
        export(&bed.store, &bed.record, &mut archive, &Progress::none()).unwrap();
        let image = import(
            &bed.store,
            archive.as_slice(),
            &ImportOptions::default(),
            &Progress::none(),
        );
        assert_same(&bed.contents(&image.unwrap()), &expected, &format!("{status:?}"));
    }
}
