//! Layers taken in: the right tree in any order, and the exact tar stream back.

mod common;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::{Entry, Tree, dir, entry, file, link, tar, tree_of_index};
use imagetool::archive::member::{Kind, Member};
use imagetool::digest::Digest;
use imagetool::error::ImageError;
use imagetool::import::{ImportOptions, import};
use imagetool::ingest::{Ingested, ingest};
use imagetool::progress::Progress;
use imagetool::store::{Staging, Store};
use proptest::prelude::*;
use ufs::index::{Index, InodeId};
use ufs::repository::hex;

/// A layer that was taken in and is staged still.
struct Taken {
    ingested: Ingested,
    staging: Staging,
    _store: Store,
    _folder: tempfile::TempDir,
}

impl Taken {
    fn index(&self) -> Index {
        let index = Index::open(&self.ingested.layer.path.join("index")).unwrap();
        index.check().unwrap();
        index
    }

    fn object(&self, digest: &ufs::index::Sha256) -> PathBuf {
        self.staging.path().join("objects").join(hex(digest))
    }

    fn tree(&self) -> Tree {
        let pack = self.ingested.layer.path.join("pack");
        tree_of_index(&self.index(), &pack, &|digest| self.object(digest))
    }

    fn find(&self, path: &str) -> (Index, InodeId) {
        let index = self.index();
        let found = index.find(path.as_bytes()).unwrap().unwrap().inode.unwrap();
        (index, found)
    }
}

fn taken(entries: &[Entry]) -> Result<Taken, ImageError> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let staging = store.stage("test").unwrap();
    let ingested = ingest(&staging, "layer", tar(entries).as_slice())?;
    Ok(Taken {
        ingested,
        staging,
        _store: store,
        _folder: folder,
    })
}

/// The refusal of a layer, with its cause.
fn refused(entries: &[Entry]) -> String {
    match taken(entries) {
        Ok(_) => panic!("the layer was taken in"),
        Err(ImageError::Layer { source, .. }) => source.to_string(),
        Err(error) => error.to_string(),
    }
}

fn tree_of(entries: &[Entry]) -> Tree {
    taken(entries).unwrap().tree()
}

fn kind_of<'a>(tree: &'a Tree, path: &str) -> &'a str {
    tree.get(path.as_bytes()).map_or("nothing", |text| {
        text.split_once(' ').map_or(text.as_str(), |(kind, _)| kind)
    })
}

#[test]
fn entries_that_lead_outside_are_refused() {
    let cases = [
        file("../outside", "x"),
        file("a/../../outside", "x"),
        link("l", Kind::HardLink, "../outside"),
        link("l", Kind::HardLink, "/../../outside"),
        link("l", Kind::HardLink, "/etc/passwd"),
        dir(".."),
        file(".wh.", ""),
        file(".wh..", ""),
        file("a/.wh...", ""),
        file(".wh.x/y", ""),
    ];
    for case in cases {
        let shown = String::from_utf8_lossy(&case.0.path).into_owned();
        assert!(taken(&[case]).is_err(), "{shown}");
    }
}

#[test]
fn links_are_followed_inside_the_layer_only() {
    for target in ["/", "..", "../..", "/..", "../../../../tmp"] {
        let result = taken(&[
            link("way", Kind::Symlink, target),
            file("way/outside", "overwritten"),
        ]);
        // the root of the layer is where such a link ends; a missing directory is an error
        if let Ok(taken) = result {
            assert_eq!(kind_of(&taken.tree(), "outside"), "file", "{target}");
        }
    }
    let tree = tree_of(&[
        dir("real"),
        link("alias", Kind::Symlink, "/real"),
        file("alias/inside", "x"),
        link("hard", Kind::HardLink, "alias/inside"),
    ]);
    assert_eq!(kind_of(&tree, "real/inside"), "file");
    assert!(tree[&b"hard"[..]].starts_with("file 2"));
}

#[test]
fn a_link_that_is_replaced_does_not_lead_writes_away() {
    let entries = [
        link("x", Kind::Symlink, "../outside"),
        file("x", "file"),
        link("y", Kind::Symlink, "/"),
        dir("y"),
    ];
    let tree = tree_of(&entries);
    assert_eq!((kind_of(&tree, "x"), kind_of(&tree, "y")), ("file", "dir"));
}

#[test]
fn a_marker_hides_lower_layers_only() {
    let tree = tree_of(&[
        file("both", "x"),
        file(".wh.both", ""),
        dir("folder"),
        file("folder/own", "x"),
        file(".wh.folder", ""),
        file("gone/.wh.name", ""),
        file("late/a", "x"),
        file("late/.wh..wh..opq", ""),
        file("late/b", "x"),
        file(".wh..wh.plnk/1", "x"),
    ]);
    assert_eq!(kind_of(&tree, "both"), "file");
    assert!(tree[&b"folder"[..]].starts_with("dir opaque") && tree[&b"late"[..]].starts_with("dir opaque"));
    assert_eq!(tree[&b"gone/name"[..]], "char 0 0");
    assert!(tree.contains_key(&b"late/a"[..]) && tree.contains_key(&b"late/b"[..]));
    assert!(!tree.keys().any(|path| path.starts_with(b".wh.")));
}

#[test]
fn the_last_of_two_members_counts() {
    let tree = tree_of(&[
        file("a", "1"),
        file("a", "2"),
        dir("d"),
        file("d/x", "x"),
        file("d", "now a file"),
    ]);
    assert!(tree[&b"a"[..]].contains("\"2\"") && kind_of(&tree, "d") == "file" && tree.len() == 3);
    let tree = tree_of(&[file("d", "a file"), dir("d"), file("d/x", "x"), dir("d")]);
    assert!(kind_of(&tree, "d") == "dir" && tree.contains_key(&b"d/x"[..]));
}

#[test]
fn a_directory_keeps_its_own_time_and_mode() {
    let (mut closed, _) = dir("closed");
    closed.mode = 0o500;
    closed.mtime = (1_500_000_000, 123_456_789);
    let taken = taken(&[file("closed/a", "x"), (closed, Vec::new()), file("closed/b", "x")]).unwrap();
    let (index, inode) = taken.find("closed");
    let inode = index.inode(inode).unwrap();
    assert_eq!(
        (inode.mode & 0o7777, inode.mtime.secs, inode.mtime.nanos),
        (0o500, 1_500_000_000, 123_456_789)
    );
}

#[test]
fn special_bits_pipes_and_odd_names() {
    let (mut setuid, content) = file("setuid", "x");
    setuid.mode = 0o6755;
    let long = [b'n'; 255];
    let entries = [
        (setuid, content),
        entry("pipe", Kind::Fifo),
        file(long, "x"),
        file(b"\xff\xfe \n*", "x"),
    ];
    let tree = tree_of(&entries);
    assert!(tree[&b"setuid"[..]].ends_with(" 6755"));
    assert!(
        kind_of(&tree, "pipe").starts_with("fifo")
            && tree.contains_key(&long[..])
            && tree.contains_key(&b"\xff\xfe \n*"[..])
    );
    assert!(taken(&[file([b'n'; 256], "x")]).is_err());
}

#[test]
fn attributes_of_the_overlay_never_come_from_an_archive() {
    let (mut folder_entry, _) = dir("d");
    for name in [
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "trusted.overlay.redirect",
        "user.fuseoverlayfs.opaque",
    ] {
        folder_entry
            .xattrs
            .push((name.as_bytes().to_vec(), b"y".to_vec()));
    }
    folder_entry
        .xattrs
        .push((b"user.kept".to_vec(), b"\n\0=".to_vec()));
    let taken = taken(&[(folder_entry, Vec::new())]).unwrap();
    let (index, inode) = taken.find("d");
    assert_eq!(index.xattrs(inode).unwrap(), [(&b"user.kept"[..], &b"\n\0="[..])]);
    assert!(!index.inode(inode).unwrap().opaque);
    assert_eq!(
        taken.ingested.warnings,
        ["reserved extended attribute dropped (4 times)"]
    );
}

#[test]
fn devices_and_owners_are_kept_as_they_are() {
    let (mut device, _) = entry("dev/null", Kind::CharDevice);
    (device.device, device.uid, device.gid) = ((1, 3), 4_000_000_000, 5);
    let taken = taken(&[(device, Vec::new())]).unwrap();
    let (index, inode) = taken.find("dev/null");
    let inode = index.inode(inode).unwrap();
    assert_eq!(
        (inode.rdev, inode.uid, inode.gid),
        (libc::makedev(1, 3), 4_000_000_000, 5)
    );
}

#[test]
fn a_device_zero_is_a_whiteout() {
    let tree = tree_of(&[
        entry("a/b", Kind::CharDevice),
        entry("c", Kind::CharDevice),
        file("c", "own"),
    ]);
    assert_eq!((kind_of(&tree, "a/b"), kind_of(&tree, "c")), ("char", "file"));
}

#[test]
fn hard_links_in_any_order() {
    let entries = [
        link("c", Kind::HardLink, "b"),
        link("b", Kind::HardLink, "a"),
        file("a", "x"),
    ];
    let tree = tree_of(&entries);
    assert!(
        ["a", "b", "c"]
            .iter()
            .all(|name| tree[name.as_bytes()].starts_with("file 3"))
    );
    assert!(taken(&[link("a", Kind::HardLink, "b"), link("b", Kind::HardLink, "a")]).is_err());
    assert!(taken(&[dir("d"), link("a", Kind::HardLink, "d")]).is_err());
    assert_eq!(
        kind_of(&tree_of(&[file("a", "x"), link("a", Kind::HardLink, "a")]), "a"),
        "file"
    );
}

#[test]
fn sparse_files_stay_sparse() {
    let (mut sparse, _) = file("s", "");
    sparse.size_bytes = 64 << 20;
    sparse.segments = Some(vec![(1 << 20, 3)]);
    let taken = taken(&[(sparse, b"abc".to_vec())]).unwrap();
    assert_eq!(taken.ingested.layer.size_bytes, 64 << 20);
    let mut expanded = vec![0; 64 << 20];
    expanded[1 << 20..(1 << 20) + 3].copy_from_slice(b"abc");
    let object = taken.object(Digest::of(&expanded).as_bytes());
    let metadata = object.metadata().unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn a_deep_path_is_no_stack_overflow() {
    let deep = "d/".repeat(1500) + "f";
    assert_eq!(tree_of(&[file(&deep, "x")]).len(), 1502);
    // deeper than the kernel takes in one path: an error or a tree, but no crash
    let _ = taken(&[file("d/".repeat(100_000) + "f", "x")]);
}

/// Members whose names do not clash, markers among them.
fn members() -> Vec<Entry> {
    vec![
        dir("d"),
        dir("d/e"),
        file("d/e/f", "1"),
        link("d/hard", Kind::HardLink, "d/e/f"),
        file("d/.wh.gone", ""),
        file("d/e/.wh..wh..opq", ""),
        file(".wh.d2", ""),
        dir("d2"),
        file("d2/x", "2"),
        file(".wh.file", ""),
        file("file", "3"),
        link("sym", Kind::Symlink, "d"),
        file("implied/deep/x", "4"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_order_of_members_does_not_matter(shuffled in Just(members()).prop_shuffle()) {
        let without_time = |tree: Tree| -> Tree {
            // a directory that no member describes has the time at which it was made
            tree.into_iter().filter(|(path, _)| !path.is_empty() && !path.starts_with(b"implied")).collect()
        };
        let (expected, found) = (tree_of(&members()), tree_of(&shuffled));
        prop_assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        prop_assert_eq!(without_time(expected), without_time(found));
    }

    #[test]
    fn whatever_an_archive_holds_stays_inside(names in proptest::collection::vec("(\\.\\./|/|a/|b/|\\./|\\.wh\\.){0,4}(a|b|\\.wh\\.a|outside|\\.\\.)", 1..12), kinds in proptest::collection::vec(0usize..5, 12), targets in proptest::collection::vec("(\\.\\./|/|a/){0,3}(a|b|outside)", 12)) {
        let entries: Vec<Entry> = names.iter().zip(&kinds).zip(&targets).map(|((name, kind), target)| match kind {
            0 => dir(name),
            1 => link(name, Kind::Symlink, target),
            2 => link(name, Kind::HardLink, target),
            _ => file(name, "overwritten"),
        }).collect();
        let _ = taken(&entries);
    }
}

#[test]
fn owners_that_are_no_ids_are_refused() {
    let (member, content) = file("a", "x");
    let huge = Member {
        uid: u64::from(u32::MAX),
        ..member
    };
    assert!(refused(&[(huge, content)]).contains("no valid id"));
}

#[test]
fn the_names_of_errors_are_the_archives() {
    assert_eq!(
        refused(&[file("../x", "")]),
        "entry \"../x\": leads outside the archive"
    );
    assert_eq!(
        refused(&[file("f", ""), file("f/x", "")]),
        "entry \"f/x\": stands below something that is no directory"
    );
}

/// Imports an archive into a new store and compares the plain tar that comes back.
fn assert_comes_back(what: &str, plain: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let id = import(&store, plain, &ImportOptions::default(), &Progress::none())
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let layer = store.image_details(&id).unwrap().layers[0].0;
    assert_eq!(layer, Digest::of(plain), "{what}");
    let mut stream = store.open_layer_stream(&layer).unwrap();
    assert_eq!(stream.size_bytes(), plain.len() as u64, "{what}");
    let mut back = Vec::new();
    stream
        .read_to_end(&mut back)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(back == plain, "{what}: other bytes came back");
    let blob = store.open_blob(&layer).unwrap();
    assert_eq!(blob.size_bytes(), plain.len() as u64, "{what}");
}

#[test]
fn archives_come_back_byte_for_byte() {
    let big = "content ".repeat(100_000);
    let mut entries = members();
    entries.extend([
        file("small", "a few bytes"),
        file("again", "a few bytes"),
        file("big", &big),
        file("same", &big),
        file("overridden", "its content is still in the stream"),
        file("overridden", "by this"),
        file(".wh.marker", "markers may have contents that mean nothing"),
        file("n".repeat(200), "a long name"),
    ]);
    let (mut sparse, _) = file("sparse", "");
    sparse.size_bytes = 3 << 20;
    sparse.segments = Some(vec![(0, 512), (1 << 20, 1024), (2 << 20, 7)]);
    entries.push((sparse, vec![b's'; 1543]));
    let (mut hole, _) = file("hole", "");
    hole.size_bytes = 1 << 30;
    hole.segments = Some(Vec::new());
    entries.push((hole, Vec::new()));
    let plain = tar(&entries);
    assert_comes_back("ours", &plain);
    assert_comes_back("padded to a record", &[&plain[..], &[0; 9216]].concat());
    assert_comes_back(
        "with something behind",
        &[&plain[..], b"trailing rubbish"].concat(),
    );
    assert_comes_back("empty", &[0; 1024]);
    let mut dirty = plain.clone();
    let at = plain
        .windows(11)
        .position(|bytes| bytes == b"a few bytes")
        .unwrap();
    dirty[at + 11..at + 400].fill(b'p');
    assert_comes_back("padding that is not zero", &dirty);
}

#[test]
fn archives_of_other_programs_come_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("d/e")).unwrap();
    std::fs::write(tree.join("d/small"), "small").unwrap();
    std::fs::write(tree.join("d/e/big"), "big ".repeat(50_000)).unwrap();
    std::fs::write(tree.join(format!("d/{}", "n".repeat(180))), "").unwrap();
    std::fs::hard_link(tree.join("d/small"), tree.join("hard")).unwrap();
    std::os::unix::fs::symlink("d/small", tree.join("link")).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5 << 20).unwrap();
    sparse.set_len(8 << 20).unwrap();
    let programs: [(&str, &[&str]); 9] = [
        ("tar", &["--format=gnu"]),
        ("tar", &["--format=pax"]),
        ("tar", &["--format=ustar", "--exclude=n*"]),
        ("tar", &["--format=gnu", "-S"]),
        ("tar", &["--format=pax", "-S"]),
        ("tar", &["--format=pax", "-S", "--sparse-version=0.1"]),
        ("bsdtar", &[]),
        ("bsdtar", &["--format=gnutar"]),
        ("busybox", &["tar"]),
    ];
    for (program, options) in programs {
        let what = format!("{program} {options:?}");
        let mut command = std::process::Command::new(program);
        let output = command
            .args(options)
            .args(["-cf", "-", "-C"])
            .arg(&tree)
            .arg(".")
            .output();
        match output {
            Ok(output) if output.status.success() => assert_comes_back(&what, &output.stdout),
            _ => common::skip(&format!("{what} cannot be run")),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_archive_that_is_taken_in_comes_back(contents in proptest::collection::vec((0usize..5, 0usize..40_000), 0..12), tail in 0usize..3000) {
        let entries: Vec<Entry> = contents.iter().map(|(name, size)| {
            let byte = char::from(b'a' + (size % 7) as u8);
            file(format!("f{name}"), &byte.to_string().repeat(*size))
        }).collect();
        let mut plain = tar(&entries);
        plain.resize(plain.len() + tail, 0);
        assert_comes_back("random", &plain);
    }
}
