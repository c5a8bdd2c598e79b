//! Layers unpacked into directories: the right tree in any order, and nothing outside it.

mod common;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Entry, Tree, dir, entry, file, link, tar, tree};
use imagetool::archive::member::{Kind, Member};
use imagetool::unpack::{UnpackError, Unpacked, unpack};
use proptest::prelude::*;

fn unpacked(entries: &[Entry]) -> Result<(tempfile::TempDir, Unpacked), UnpackError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("diff")).unwrap();
    std::fs::write(folder.path().join("outside"), "untouched").unwrap();
    let outcome = unpack(tar(entries).as_slice(), &folder.path().join("diff"));
    assert_eq!(
        std::fs::read(folder.path().join("outside")).unwrap(),
        b"untouched"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        2,
        "something was made outside"
    );
    outcome.map(|unpacked| (folder, unpacked))
}

fn tree_of(entries: &[Entry]) -> Tree {
    tree(&unpacked(entries).unwrap().0.path().join("diff"))
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
        assert!(unpacked(&[case]).is_err(), "{shown}");
    }
}

#[test]
fn links_are_followed_inside_the_layer_only() {
    for target in ["/", "..", "../..", "/..", "../../../../tmp"] {
        let result = unpacked(&[
            link("way", Kind::Symlink, target),
            file("way/outside", "overwritten"),
        ]);
        // the root of the layer is where such a link ends; a missing directory is an error
        if let Ok((folder, _)) = result {
            assert_eq!(
                std::fs::read(folder.path().join("diff/outside")).unwrap(),
                b"overwritten",
                "{target}"
            );
        }
    }
    let (folder, _) = unpacked(&[
        dir("real"),
        link("alias", Kind::Symlink, "/real"),
        file("alias/inside", "x"),
        link("hard", Kind::HardLink, "alias/inside"),
    ])
    .unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("diff/real/inside")).unwrap(),
        b"x"
    );
    assert_eq!(folder.path().join("diff/hard").metadata().unwrap().nlink(), 2);
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
    let (folder, _) =
        unpacked(&[file("closed/a", "x"), (closed, Vec::new()), file("closed/b", "x")]).unwrap();
    let metadata = folder.path().join("diff/closed").metadata().unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()),
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
    let (folder, _) = unpacked(&entries).unwrap();
    let diff = folder.path().join("diff");
    assert_eq!(diff.join("setuid").metadata().unwrap().mode() & 0o7777, 0o6755);
    let tree = tree(&diff);
    assert!(
        kind_of(&tree, "pipe").starts_with("fifo")
            && tree.contains_key(&long[..])
            && tree.contains_key(&b"\xff\xfe \n*"[..])
    );
    let error = unpacked(&[file([b'n'; 256], "x")]).unwrap_err();
    assert!(
        format!("{error:?}").contains("ENAMETOOLONG") || format!("{error:?}").contains("36"),
        "{error:?}"
    );
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
    let (folder, unpacked) = unpacked(&[(folder_entry, Vec::new())]).unwrap();
    let path = folder.path().join("diff/d");
    let names: Vec<_> = xattr::list(&path)
        .unwrap()
        .filter(|name| name != "security.selinux")
        .collect();
    if names.is_empty() {
        return common::skip("the temporary directory keeps no user attributes");
    }
    assert_eq!(names, ["user.kept"]);
    assert_eq!(xattr::get(&path, "user.kept").unwrap().unwrap(), b"\n\0=");
    assert_eq!(
        unpacked.warnings,
        ["reserved extended attribute dropped (4 times)"]
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
    assert!(unpacked(&[link("a", Kind::HardLink, "b"), link("b", Kind::HardLink, "a")]).is_err());
    assert!(unpacked(&[dir("d"), link("a", Kind::HardLink, "d")]).is_err());
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
    let (folder, unpacked) = unpacked(&[(sparse, b"abc".to_vec())]).unwrap();
    let metadata = folder.path().join("diff/s").metadata().unwrap();
    assert_eq!((metadata.len(), unpacked.size_bytes), (64 << 20, 64 << 20));
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn a_deep_path_is_no_stack_overflow() {
    let deep = "d/".repeat(1500) + "f";
    assert_eq!(tree_of(&[file(&deep, "x")]).len(), 1502);
    let too_deep = "d/".repeat(3000) + "f";
    assert!(unpacked(&[file(&too_deep, "x")]).is_err());
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
        let _ = unpacked(&entries);
    }
}

#[test]
fn owners_that_are_no_ids_are_refused() {
    let (member, content) = file("a", "x");
    let huge = Member {
        uid: u64::from(u32::MAX),
        ..member
    };
    assert!(
        unpacked(&[(huge, content)])
            .unwrap_err()
            .to_string()
            .contains("no valid id")
    );
}

#[test]
fn the_names_of_errors_are_the_archives() {
    let error = unpacked(&[file("../x", "")]).unwrap_err().to_string();
    assert_eq!(error, "entry \"../x\": leads outside the archive");
    let error = unpacked(&[file("f", ""), file("f/x", "")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "entry \"f/x\": stands below something that is no directory"
    );
    assert_eq!(Path::new("x").as_os_str().as_bytes(), b"x");
}
