use super::*;
use crate::index::testing::{Shown, dump, index, meta, show};
use crate::index::{ContentId, Index, InodeId, Kind};

mod properties;

fn tree_of(members: &[(&str, &str)]) -> Result<Index, BuildError> {
    let mut tree = Tree::new();
    for (number, (what, path)) in (1..).zip(members) {
        add(&mut tree, number, what, path)?;
    }
    tree.finish()?; // errors
    let mut tree = Tree::new();
    for (number, (what, path)) in (1..).zip(members) {
        add(&mut tree, number, what, path)?;
    }
    Ok(index(tree, 1))
}

/// Adds a member: `dir`, `file`, `fifo`, `gone`, `opaque`, `link TARGET`, `hard TARGET`.
fn add(tree: &mut Tree, number: u32, what: &str, path: &str) -> Result<(), BuildError> {
    let path = path.as_bytes();
    match what.split_once(' ') {
        Some(("link", target)) => tree.symlink(path, meta(number), target.as_bytes()),
        Some(("hard", target)) => tree.hard_link(path, target.as_bytes()),
        _ => match what {
            "dir" => tree.directory(path, meta(number)),
            "file" => tree.file(path, meta(number), 0, None),
            "fifo" => tree.special(path, meta(number), FileType::Fifo, 0),
            "gone" => tree.whiteout(path),
            "opaque" => tree.opaque(path),
            _ => unreachable!("{what}"),
        },
    }
}

fn shown(index: &Index, path: &str) -> Option<Shown> {
    dump(index).remove(path.as_bytes())
}

fn paths(index: &Index) -> Vec<String> {
    dump(index)
        .keys()
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect()
}

fn refused(members: &[(&str, &str)]) -> String {
    match tree_of(members) {
        Ok(index) => panic!("accepted: {:?}", paths(&index)),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_empty_tree_is_a_root() {
    let index = index(Tree::new(), 7);
    assert_eq!((index.kind(), index.layers()), (Kind::Layer, &[[7; 32]][..]));
    assert_eq!((index.inode_count(), index.entry_count()), (1, 1));
    let root = index.inode(InodeId::ROOT).unwrap();
    assert_eq!((root.mode, root.nlink), (0o40_755, 2));
    assert_eq!(index.entries(InodeId::ROOT).unwrap().count(), 0);
}

#[test]
fn everything_that_is_said_of_a_file_reads_back() {
    let mut tree = Tree::new();
    let pack = tree.add_content(
        Stored::Pack {
            offset: 5,
            sum: 6,
            digest: [1; 32],
        },
        7,
    );
    let object = tree.add_content(Stored::Object { digest: [2; 32] }, 1 << 40);
    let pieces = vec![
        Piece {
            at: 0,
            from: 512,
            length: 10,
        },
        Piece {
            at: 100,
            from: 522,
            length: 5,
        },
    ];
    let stream = tree.add_content(
        Stored::Stream {
            pieces: pieces.clone(),
        },
        200,
    );
    let unnamed = tree.add_content(Stored::Object { digest: [3; 32] }, 9);
    assert_eq!(
        tree.add_content(Stored::Object { digest: [2; 32] }, 1 << 40),
        object
    );
    assert_eq!((tree.known(&[1; 32]), tree.known(&[9; 32])), (Some(pack), None));

    let mut with_xattrs = meta(1);
    with_xattrs.mode = 0o106_755;
    for (name, value) in [
        (&b"user.b"[..], &b"1"[..]),
        (b"user.a", b"\0\xff"),
        (b"user.b", b"2"),
        (b"user.overlay.opaque", b"y"),
        (b"user.shale.x", b"y"),
    ] {
        with_xattrs.xattrs.push((name.to_vec(), value.to_vec()));
    }
    tree.file(b"dir/packed", with_xattrs, 7, Some(pack)).unwrap();
    assert_eq!(tree.dropped_xattrs(), 2);
    tree.file(b"object", meta(2), 1 << 40, Some(object)).unwrap();
    tree.file(b"stream", meta(3), 200, Some(stream)).unwrap();
    tree.file(b"hole", meta(4), 1000, None).unwrap();
    tree.symlink(b"link", meta(5), b"../some/where").unwrap();
    tree.special(b"device", meta(6), FileType::BlockDevice, 0x0801)
        .unwrap();
    let index = index(tree, 3);

    let packed = shown(&index, "dir/packed").unwrap();
    assert_eq!((packed.mode, packed.size), (0o106_755, 7));
    assert_eq!((packed.owner, packed.mtime), ((1, 2), (-3, 1)));
    assert_eq!(packed.place, "pack of 3 5 6 1");
    let xattr = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    assert_eq!(
        packed.xattrs,
        [xattr(b"user.a", b"\0\xff"), xattr(b"user.b", b"2")]
    );
    assert_eq!(shown(&index, "object").unwrap().place, "object 2");
    assert_eq!(
        shown(&index, "stream").unwrap().place,
        format!("stream of 3 {pieces:?}")
    );
    let hole = shown(&index, "hole").unwrap();
    assert_eq!((hole.place.as_str(), hole.size), ("empty", 1000));
    let link = shown(&index, "link").unwrap();
    assert_eq!((&link.target[..], link.mode), (&b"../some/where"[..], 0o120_777));
    let device = shown(&index, "device").unwrap();
    assert_eq!((device.rdev, device.size, device.mode), (0x0801, 0, 0o60_644));
    let implied = shown(&index, "dir").unwrap();
    assert_eq!((implied.mode, implied.owner), (0o40_755, (0, 0)));

    assert_eq!(index.content_count(), 4);
    let (place, size) = index.content(unnamed).unwrap();
    assert!(matches!(place, crate::index::Place::Object { digest } if *digest == [3; 32]) && size == 9);
    let objects: Vec<u8> = index.objects().map(|digest| digest.unwrap()[0]).collect();
    assert_eq!(objects, [2, 3]);
    assert!(index.has_object(&[2; 32]).unwrap() && !index.has_object(&[1; 32]).unwrap());
}

#[test]
fn stretches_are_found_by_their_place() {
    let mut tree = Tree::new();
    let pieces = [(0, 10), (20, 10), (30, 5)].map(|(at, length)| Piece {
        at,
        from: 1000 + at,
        length,
    });
    let content = tree.add_content(
        Stored::Stream {
            pieces: pieces.to_vec(),
        },
        50,
    );
    tree.file(b"f", meta(1), 50, Some(content)).unwrap();
    let index = index(tree, 1);
    let crate::index::Place::Stream { pieces, .. } = index.content(content).unwrap().0 else {
        panic!("another place");
    };
    for (at, first) in [
        (0, Some(0)),
        (9, Some(0)),
        (10, Some(20)),
        (29, Some(20)),
        (30, Some(30)),
        (35, None),
    ] {
        assert_eq!(pieces.from(at).next().map(|piece| piece.at), first, "{at}");
    }
}

#[test]
fn a_marker_hides_lower_layers_only() {
    let index = tree_of(&[
        ("file", "both"),
        ("gone", "both"),
        ("gone", "folder"),
        ("file", "folder/own"),
        ("gone", "gone/name"),
        ("file", "late/a"),
        ("opaque", "late"),
        ("file", "late/b"),
        ("gone", "a/b"),
        ("gone", "a"),
        ("opaque", "both"),
    ])
    .unwrap();
    assert_eq!(
        paths(&index),
        [
            "a",
            "both",
            "folder",
            "folder/own",
            "gone",
            "gone/name",
            "late",
            "late/a",
            "late/b"
        ]
    );
    let shown = |path| shown(&index, path).unwrap();
    assert!(shown("folder").opaque && shown("late").opaque && !shown("gone").opaque);
    assert!(shown("gone/name").whiteout && shown("a").whiteout && !shown("both").whiteout);
}

#[test]
fn the_last_of_two_members_counts() {
    let index = tree_of(&[
        ("file", "a"),
        ("fifo", "a"),
        ("dir", "d"),
        ("file", "d/x"),
        ("file", "d"),
        ("file", "e"),
        ("dir", "e"),
        ("file", "e/x"),
        ("dir", "e"),
        ("dir", ""),
    ])
    .unwrap();
    assert_eq!(paths(&index), ["a", "d", "e", "e/x"]);
    let shown = |path| shown(&index, path).unwrap();
    assert_eq!(
        (shown("a").mode, shown("d").owner.0, shown("e").owner.0),
        (0o10_644, 5, 9)
    );
    assert_eq!(show(&index, Some(InodeId::ROOT)).owner.0, 10);
}

#[test]
fn hard_links_in_any_order() {
    let index = tree_of(&[
        ("hard b", "c"),
        ("hard a", "b"),
        ("file", "a"),
        ("hard a", "a"),
        ("hard c", "d/e"),
    ])
    .unwrap();
    for path in ["a", "b", "c", "d/e"] {
        let names = shown(&index, path).unwrap().names;
        assert_eq!(
            names,
            [b"a".to_vec(), b"b".to_vec(), b"c".to_vec(), b"d/e".to_vec()]
        );
    }
    // a file lives on when the directory that it was linked from is replaced
    let index = tree_of(&[("file", "d/x"), ("hard d/x", "l"), ("file", "d")]).unwrap();
    assert_eq!(shown(&index, "l").unwrap().names, [b"l".to_vec()]);
    // a link that waits in a directory that is replaced is gone with it
    assert_eq!(
        paths(&tree_of(&[("hard none", "d/x"), ("file", "d")]).unwrap()),
        ["d"]
    );
    // … even if it could not have been made
    let replaced = [("hard a", "b/c/a"), ("file", "b"), ("dir", "a")];
    assert_eq!(paths(&tree_of(&replaced).unwrap()), ["a", "b"]);
    assert_eq!(
        refused(&[("hard b", "a"), ("hard a", "b")]),
        "entry \"a\": is a hard link to \"b\", which is not in the archive"
    );
    assert_eq!(
        refused(&[("dir", "d"), ("hard d", "a")]),
        "entry \"a\": is a hard link to the directory \"d\""
    );
    assert!(refused(&[("hard d", "a"), ("dir", "d")]).contains("to the directory"));
    assert!(refused(&[("hard gone", "a"), ("gone", "gone")]).contains("not in the archive"));
    assert!(refused(&[("hard ", "a")]).contains("to the directory \"/\""));
}

#[test]
fn links_on_the_way_are_followed_inside_the_layer() {
    let index = tree_of(&[
        ("dir", "real/deep"),
        ("link /real", "alias"),
        ("file", "alias/inside"),
        ("link ../../real/./deep", "real/way"),
        ("file", "alias/way/file"),
        ("hard alias/way/file", "hard"),
        ("link /../..", "up"),
        ("file", "up/at the root"),
        ("gone", "alias/hidden"),
        ("opaque", "alias/way"),
        ("file", "alias/way/made/here"),
    ])
    .unwrap();
    let expected = [
        "alias",
        "at the root",
        "hard",
        "real",
        "real/deep",
        "real/deep/file",
        "real/deep/made",
        "real/deep/made/here",
        "real/hidden",
        "real/inside",
        "real/way",
        "up",
    ];
    assert_eq!(paths(&index), expected);
    assert!(shown(&index, "real/deep").unwrap().opaque && shown(&index, "real/hidden").unwrap().whiteout);
    assert!(refused(&[("link nowhere", "l"), ("file", "l/x")]).contains("points to nothing"));
    assert!(
        refused(&[("link b", "a"), ("link a", "b"), ("file", "a/x")]).contains("too many symbolic links")
    );
    // what took a link's place is no way any more
    let index = tree_of(&[
        ("dir", "real"),
        ("link real", "l"),
        ("file", "l/a"),
        ("dir", "l"),
        ("file", "l/b"),
    ])
    .unwrap();
    assert_eq!(paths(&index), ["l", "l/b", "real", "real/a"]);
}

#[test]
fn what_cannot_be_is_refused() {
    assert_eq!(
        refused(&[("file", "f"), ("file", "f/x")]),
        "entry \"f/x\": stands below something that is no directory"
    );
    assert!(refused(&[("file", "")]).contains("the root of a layer must be a directory"));
    assert!(refused(&[("gone", "")]).contains("cannot be removed"));
    for path in ["/a", "a/", "a//b", ".", "a/..", "a\0"] {
        assert!(refused(&[("file", path)]).contains("is no clean path"), "{path}");
        assert!(refused(&[("gone", path)]).contains("is no clean path"), "{path}");
    }
    assert!(refused(&[("file", &"n".repeat(256))]).contains("more than 255 bytes"));
    assert!(tree_of(&[("file", &"n".repeat(255))]).is_ok());
    assert!(tree_of(&[("file", &("d/".repeat(1500) + "f"))]).is_ok());
    assert!(refused(&[("file", &("d/".repeat(3000) + "f"))]).contains("too long"));
    assert!(refused(&[("link ", "l")]).contains("to nothing"));

    let mut tree = Tree::new();
    let nobody = Meta {
        uid: u32::MAX,
        ..meta(1)
    };
    assert!(tree.file(b"a", nobody, 0, None).is_err());
    assert!(tree.file(b"a", meta(1), 0, Some(ContentId(0))).is_err());
    assert!(tree.special(b"a", meta(1), FileType::Regular, 0).is_err());
    let long = Meta {
        xattrs: vec![(b"user.a".to_vec(), vec![0; 65537])],
        ..meta(1)
    };
    assert!(tree.file(b"a", long, 0, None).is_err());
}

#[test]
fn a_device_zero_is_a_whiteout() {
    let mut tree = Tree::new();
    tree.special(b"a/b", meta(1), FileType::CharDevice, 0).unwrap();
    tree.special(b"c", meta(1), FileType::CharDevice, 0x0103).unwrap();
    let index = index(tree, 1);
    assert!(shown(&index, "a/b").unwrap().whiteout);
    assert_eq!(shown(&index, "c").unwrap().rdev, 0x0103);
}

#[test]
fn contents_that_make_no_sense_are_told_at_the_end() {
    let piece = |at, length| Piece { at, from: 0, length };
    for pieces in [
        vec![piece(0, 11)],
        vec![piece(5, 2), piece(6, 2)],
        vec![piece(0, 0)],
        vec![piece(u64::MAX, 2)],
    ] {
        let mut tree = Tree::new();
        tree.add_content(Stored::Stream { pieces }, 10);
        assert!(matches!(
            tree.finish(),
            Err(BuildError::Content { number: 0, .. })
        ));
    }
}
