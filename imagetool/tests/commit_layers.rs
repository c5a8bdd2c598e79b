//! The layer that a commit makes: the same as if it had been saved and loaded, and of running containers whole files only.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{dir, ended, file, keep_container, tar};
use imagetool::commit::{CommitOptions, commit};
use imagetool::digest::Digest;
use imagetool::import::{ImportOptions, import};
use imagetool::load::load_archive;
use imagetool::progress::Progress;
use imagetool::save::save;
use imagetool::store::{ContainerRecord, ContainerStatus, Store};
use ufs::diff::Snapshot;

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    record: ContainerRecord,
    upper: PathBuf,
}

impl Fixture {
    /// A container on an image of a few files, with an empty upper.
    fn new(status: ContainerStatus) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let archive = tar(&[
            dir("etc"),
            file("etc/kept", "kept"),
            file("etc/gone", "gone"),
            dir("data"),
        ]);
        let options = ImportOptions {
            source: "test".to_owned(),
            name: Some("base".parse().unwrap()),
            ..ImportOptions::default()
        };
        let base = import(&store, archive.as_slice(), &options, &Progress::none()).unwrap();
        let record = ContainerRecord {
            status,
            ..ended("one", Some((base, "base")))
        };
        let dir = keep_container(&store, &record);
        let upper = dir.join("upper");
        Self {
            folder,
            store,
            record,
            upper,
        }
    }

    fn commit(&self) -> Digest {
        commit(
            &self.store,
            &self.record,
            &CommitOptions::default(),
            &Progress::none(),
        )
        .unwrap()
    }

    /// The contents of the regular files in a directory of the committed image.
    fn contents(&self, image: &Digest, dir: &str) -> Vec<(String, Vec<u8>)> {
        let image = self.store.image(image).unwrap();
        let snapshot = Snapshot::merged(&self.store.layer_lowers(&image).unwrap()).unwrap();
        let mut contents = Vec::new();
        for change in snapshot.changes().unwrap() {
            let is_file = change
                .node
                .as_ref()
                .is_some_and(|node| node.file_type == ufs::attr::FileType::Regular);
            if is_file && change.path.starts_with(dir) {
                let mut bytes = Vec::new();
                snapshot
                    .open_content(&change)
                    .unwrap()
                    .into_reader()
                    .read_to_end(&mut bytes)
                    .unwrap();
                contents.push((change.path.display().to_string(), bytes));
            }
        }
        contents
    }
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// Files of all kinds and sizes around the limits at which they are stored in another way.
fn fill(upper: &Path) {
    fs::create_dir(upper.join("etc")).unwrap();
    for size in [
        0,
        1,
        511,
        512,
        8 << 10,
        (8 << 10) + 1,
        70_000,
        1 << 20,
        (1 << 20) + 1,
        3_000_000,
    ] {
        fs::write(upper.join(format!("etc/{size}")), noise(size as u64, size)).unwrap();
        fs::write(upper.join(format!("etc/{size}-again")), noise(size as u64, size)).unwrap();
    }
    fs::hard_link(upper.join("etc/70000"), upper.join("etc/link")).unwrap();
    fs::hard_link(upper.join("etc/511"), upper.join("a-link")).unwrap();
    symlink("etc/1", upper.join("symlink")).unwrap();
    fs::write(upper.join(format!("etc/{}", "long".repeat(60))), "long").unwrap();
    for (name, at) in [("sparse", 8u64 << 20), ("sparse-small", 30_000)] {
        let sparse = fs::File::create(upper.join(name)).unwrap();
        sparse.write_at(b"begin", 0).unwrap();
        sparse.write_at(b"end", at).unwrap();
    }
    fs::File::create(upper.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::File::create(upper.join("hole-small"))
        .unwrap()
        .set_len(20_000)
        .unwrap();
    nix::unistd::mkfifo(&upper.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    xattr::set(upper.join("etc/1"), "user.note", b"\0\n").unwrap();
}

#[test]
fn a_committed_layer_is_the_one_that_loading_it_makes() {
    for status in [ContainerStatus::Exited, ContainerStatus::Running] {
        let fixture = Fixture::new(status);
        fill(&fixture.upper);
        let id = fixture.commit();
        let mut archive = Vec::new();
        save(&fixture.store, &[id.to_string()], &mut archive, &Progress::none()).unwrap();
        let other = Store::open(&fixture.folder.path().join("other")).unwrap();
        let loaded = load_archive(&other, "archive", archive.as_slice(), &Progress::none()).unwrap();
        assert_eq!(loaded[0].id, id);
        let diff_id = fixture.store.image_details(&id).unwrap().layers[1].0;
        for part in ["index", "pack", "recipe"] {
            let read =
                |store: &Store| fs::read(store.repository().layer(diff_id.as_bytes()).join(part)).unwrap();
            assert!(
                read(&fixture.store) == read(&other),
                "{part} is another one ({status:?})"
            );
        }
        let objects = |store: &Store| -> BTreeSet<_> {
            let folders = fs::read_dir(store.root().join("objects")).unwrap();
            folders
                .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
                .map(|object| object.unwrap().file_name())
                .collect()
        };
        assert_eq!(objects(&fixture.store), objects(&other));
        let again: Vec<_> = fixture
            .contents(&id, "etc")
            .into_iter()
            .filter(|(path, _)| path.ends_with("again"))
            .collect();
        assert_eq!(again.len(), 10);
        for (path, bytes) in again {
            let size: usize = path["etc/".len()..path.len() - "-again".len()].parse().unwrap();
            assert!(bytes == noise(size as u64, size), "{path}");
        }
    }
}

#[test]
fn the_upper_stays_as_it_is() {
    let fixture = Fixture::new(ContainerStatus::Exited);
    fill(&fixture.upper);
    let before = common::tree(&fixture.upper);
    let id = fixture.commit();
    assert_eq!(common::tree(&fixture.upper), before);
    // nothing is shared by which one could change the other
    let large = fixture.upper.join("etc/3000000");
    fs::File::options()
        .write(true)
        .open(&large)
        .unwrap()
        .write_all_at(b"changed", 0)
        .unwrap();
    let kept = fixture
        .contents(&id, "etc")
        .into_iter()
        .find(|(path, _)| path == "etc/3000000")
        .unwrap();
    assert!(kept.1 == noise(3_000_000, 3_000_000));
    assert_eq!(large.metadata().unwrap().nlink(), 1);
}

/// A version of a file: its number, noise that follows from it, and the digest of both.
fn version(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(noise(number.wrapping_mul(7), size));
    let digest = Digest::of(&bytes);
    bytes.extend(digest.as_bytes());
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some(at) = bytes.len().checked_sub(32) else {
        return false;
    };
    Digest::of(&bytes[..at]).as_bytes()[..] == bytes[at..]
}

/// Says that it is over when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_running_container_is_committed_without_torn_files() {
    let fixture = Fixture::new(ContainerStatus::Running);
    let data = fixture.upper.join("data");
    fs::create_dir(&data).unwrap();
    let sizes = [1000usize, 5000, 40_000, 200_000];
    for size in sizes {
        for kind in ["replaced", "rewritten"] {
            fs::write(data.join(format!("{kind}-{size}")), version(0, size)).unwrap();
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1u64.. {
                for size in sizes {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let bytes = version(number, size);
                    let aside = data.join(".new");
                    fs::write(&aside, &bytes).unwrap();
                    fs::rename(&aside, data.join(format!("replaced-{size}"))).unwrap();
                    let path = data.join(format!("rewritten-{size}"));
                    let file = fs::File::options().write(true).open(path).unwrap();
                    // one call: the kernel lets nobody see half of it who asks in the right way
                    assert_eq!(file.write_at(&bytes, 0).unwrap(), bytes.len());
                    let gone = data.join(format!("short-lived-{}", number % 10));
                    fs::write(&gone, version(number, 100)).unwrap();
                    fs::remove_file(&gone).unwrap();
                }
            }
        });
        // Also when the test fails: the writer would write for ever.
        let _end = Ends(&done);
        let mut versions = BTreeSet::new();
        for _ in 0..15 {
            let id = fixture.commit();
            let contents = fixture.contents(&id, "data");
            for (path, bytes) in contents
                .iter()
                .filter(|(path, _)| !path.contains("short-lived") && !path.contains(".new"))
            {
                assert!(is_whole(bytes), "{path} is torn");
                versions.insert((path.clone(), bytes[..8].to_vec()));
            }
            let lasting = contents.iter().filter(|(path, _)| path.contains("re")).count();
            assert!(lasting >= 2 * sizes.len(), "only {lasting} files");
        }
        assert!(
            versions.len() > 4 * sizes.len(),
            "the files hardly changed: {}",
            versions.len()
        );
    });
}
