use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::index::Piece;
use crate::index::build::{Stored, Tree};
use crate::index::testing::{Shown, dump, index, meta, show};

fn bytes_of(merged: &Merged<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    merged.write(&mut bytes).unwrap();
    bytes
}

fn written(merged: &Merged<'_>) -> Index {
    let index = Index::from_bytes(bytes_of(merged)).unwrap();
    index.check().unwrap();
    assert_eq!(index.inode_count(), merged.inode_count());
    assert_eq!((index.kind(), index.layers()), (merged.kind(), merged.layers()));
    index
}

fn merged(layers: &[Index], kind: Kind) -> Index {
    written(&merge(&layers.iter().collect::<Vec<_>>(), kind).unwrap())
}

/// A layer of members: `dir`, `file`, `gone`, `opaque`, `link`, `hard TARGET`. Those that cannot be are left out.
fn layer<W: AsRef<str>, P: AsRef<str>>(number: u8, members: &[(W, P)]) -> Index {
    let mut tree = Tree::new();
    let mut links = Vec::new();
    for (at, (what, path)) in (1u8..).zip(members) {
        let (what, path) = (what.as_ref(), path.as_ref().as_bytes());
        let mut meta = meta(u32::from(at));
        let _ = match what {
            "dir" => {
                meta.xattrs.push((b"user.of".to_vec(), vec![number, at % 3]));
                tree.directory(path, meta)
            }
            "file" => {
                let content = tree.add_content(stored(number, at), 10);
                tree.file(path, meta, 10, Some(content))
            }
            "gone" => tree.whiteout(path),
            "opaque" => tree.opaque(path),
            "link" => tree.symlink(path, meta, format!("target {at}").as_bytes()),
            _ => {
                links.push((path, what.strip_prefix("hard ").unwrap().as_bytes()));
                Ok(())
            }
        };
    }
    let mut targets: Vec<&[u8]> = members
        .iter()
        .filter(|(what, _)| what.as_ref() == "file")
        .map(|(_, path)| path.as_ref().as_bytes())
        .collect();
    for (path, target) in links {
        // a link that waits for ever would be an error
        if path == target || !targets.contains(&target) && tree.file(target, meta(99), 0, None).is_err() {
            continue;
        }
        targets.push(target);
        let _ = tree.hard_link(path, target);
    }
    match tree.finish() {
        Ok(finished) => {
            let mut bytes = Vec::new();
            finished.write(&[number; 32], &mut bytes).unwrap();
            Index::from_bytes(bytes).unwrap()
        }
        Err(_) => index(Tree::new(), number),
    }
}

/// A content that some layers share.
fn stored(layer: u8, number: u8) -> Stored {
    match number % 3 {
        0 => Stored::Object { digest: [number; 32] },
        1 => Stored::Pack {
            offset: number.into(),
            sum: layer.into(),
            digest: [number; 32],
        },
        _ => Stored::Stream {
            pieces: vec![Piece {
                at: 1,
                from: number.into(),
                length: 5,
            }],
        },
    }
}

fn paths(index: &Index) -> Vec<String> {
    dump(index)
        .iter()
        .map(|(path, shown)| {
            let mark = match (shown.whiteout, shown.opaque) {
                (true, _) => "-",
                (_, true) => "=",
                _ => "",
            };
            format!("{mark}{}", String::from_utf8_lossy(path))
        })
        .collect()
}

#[test]
fn the_topmost_counts_and_directories_merge() {
    let layers = [
        layer(
            1,
            &[
                ("dir", "d"),
                ("file", "d/low"),
                ("file", "d/both"),
                ("file", "gone"),
                ("file", "was file/x"),
            ],
        ),
        layer(
            2,
            &[
                ("dir", "d"),
                ("file", "d/both"),
                ("file", "d/high"),
                ("gone", "gone"),
                ("file", "was file"),
            ],
        ),
        layer(3, &[("dir", "was file"), ("file", "was file/y")]),
    ];
    let chain = merged(&layers, Kind::Chain);
    let expected = ["d", "d/both", "d/high", "d/low", "was file", "was file/y"];
    assert_eq!(paths(&chain), expected);
    assert_eq!(chain.layers(), [[1; 32], [2; 32], [3; 32]]);
    let both = chain.find(b"d/both").unwrap().unwrap().inode.unwrap();
    let inode = chain.inode(both).unwrap();
    assert_eq!(inode.layer, 1);
    let own = layers[1].find(b"d/both").unwrap().unwrap().inode.unwrap();
    assert_eq!(inode.origin, own.0);
    // of the lower layer's file that is hidden no content is left
    let used: Vec<_> = dump(&chain)
        .into_values()
        .map(|shown| shown.place)
        .filter(|place| !place.is_empty())
        .collect();
    assert_eq!(chain.content_count() as usize, used.len());
    let run = merged(&layers, Kind::Run);
    let expected = [
        "-gone",
        "=was file",
        "d",
        "d/both",
        "d/high",
        "d/low",
        "was file/y",
    ];
    let mut found = paths(&run);
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn markers_are_kept_only_where_they_may_hide_something() {
    let layers = [
        layer(
            1,
            &[
                ("dir", "d"),
                ("opaque", "d"),
                ("gone", "d/x"),
                ("gone", "y"),
                ("file", "z"),
            ],
        ),
        layer(
            2,
            &[("gone", "d/z"), ("dir", "y"), ("gone", "y/inside"), ("gone", "z")],
        ),
    ];
    assert_eq!(paths(&merged(&layers, Kind::Run)), ["=d", "=y", "-z"]);
    assert_eq!(paths(&merged(&layers, Kind::Chain)), ["d", "y"]);
}

#[test]
fn an_opaque_root_hides_all_below() {
    let layers = [
        layer(1, &[("file", "a")]),
        layer(2, &[("opaque", ""), ("file", "b"), ("gone", "c")]),
    ];
    assert_eq!(paths(&merged(&layers, Kind::Chain)), ["b"]);
    let run = merged(&layers, Kind::Run);
    assert_eq!(paths(&run), ["b"]);
    assert!(run.inode(InodeId::ROOT).unwrap().opaque);
}

#[test]
fn hard_links_stay_one_file_as_far_as_they_show() {
    let layers = [
        layer(1, &[("file", "a"), ("dir", "d")]),
        layer(2, &[("file", "x"), ("hard x", "a"), ("hard x", "d/y")]),
        layer(3, &[("gone", "x")]),
    ];
    let chain = merged(&layers, Kind::Chain);
    let names = dump(&chain).remove(&b"a"[..]).unwrap().names;
    assert_eq!(names, [b"a".to_vec(), b"d/y".to_vec()]);
}

#[test]
fn no_layers_are_an_empty_root() {
    let chain = merged(&[], Kind::Chain);
    let root = chain.inode(InodeId::ROOT).unwrap();
    assert_eq!(
        (chain.inode_count(), root.mode, root.origin),
        (1, 0o40_755, crate::index::NO_ORIGIN)
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let chain = merged(&[layer(1, &[("file", "a")])], Kind::Chain);
    let top = layer(2, &[("file", "b")]);
    assert!(merge(&[&top, &chain], Kind::Chain).is_err());
    assert!(merge(&[&chain, &top], Kind::Run).is_err());
    assert!(merge(&[&top], Kind::Layer).is_err());
    assert_eq!(
        paths(&written(&merge(&[&chain, &top], Kind::Chain).unwrap())),
        ["a", "b"]
    );
}

#[test]
fn layers_side_by_side_show_their_markers() {
    let lower = layer(
        1,
        &[("dir", "d"), ("file", "d/a"), ("file", "b"), ("hard b", "c")],
    );
    let upper = layer(
        2,
        &[
            ("gone", "b"),
            ("opaque", "d"),
            ("gone", "d/z"),
            ("file", "d/-"),
            ("file", "d/x"),
        ],
    );
    let merged = side_by_side(&[(b"1-upper".to_vec(), &upper), (b"0-lower".to_vec(), &lower)]).unwrap();
    let chain = written(&merged);
    let expected = [
        "0-lower",
        "0-lower/b",
        "0-lower/c",
        "0-lower/d",
        "0-lower/d/a",
        "1-upper",
        "1-upper/.wh.b",
        "1-upper/d",
        "1-upper/d/-",
        "1-upper/d/.wh..wh..opq",
        "1-upper/d/.wh.z",
        "1-upper/d/x",
    ];
    assert_eq!(paths(&chain), expected);
    assert_eq!(dump(&chain)[&b"0-lower/b"[..]].names.len(), 2);
    let marker = &dump(&chain)[&b"1-upper/.wh.b"[..]];
    assert_eq!(
        (marker.mode, marker.size, marker.place.as_str()),
        (0o100_644, 0, "empty")
    );
    for names in [["a", "a"], ["a", "b/c"], ["a", ".."]] {
        let parts = names.map(|name| (name.as_bytes().to_vec(), &upper));
        assert!(side_by_side(&parts).is_err(), "{names:?}");
    }
    assert_eq!(paths(&written(&side_by_side(&[]).unwrap())), Vec::<String>::new());
}

/// Layers applied one after another: the oracle.
fn applied(layers: &[Index]) -> BTreeMap<Vec<u8>, (usize, Shown)> {
    let mut state: BTreeMap<Vec<u8>, (usize, Shown)> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        if layer.inode(InodeId::ROOT).unwrap().opaque {
            state.clear();
        }
        for (path, mut shown) in dump(layer) {
            let dir = |shown: &Shown| shown.mode & libc::S_IFMT == libc::S_IFDIR;
            let merges = dir(&shown) && !shown.opaque && state.get(&path).is_some_and(|there| dir(&there.1));
            if !merges {
                let below = [&path[..], b"/"].concat();
                state.retain(|other, _| *other != path && !other.starts_with(&below));
            }
            if !shown.whiteout {
                shown.opaque = false;
                state.insert(path, (number, shown));
            }
        }
    }
    // only names that show
    let all = state.clone();
    for (number, shown) in state.values_mut() {
        shown
            .names
            .retain(|name| all.get(name).is_some_and(|there| there.0 == *number));
    }
    state
}

fn members() -> impl Strategy<Value = Vec<(String, String)>> {
    let path = || proptest::string::string_regex("[abc](/[abc]){0,2}").unwrap();
    let what = prop_oneof![
        4 => Just("dir".to_owned()),
        4 => Just("file".to_owned()),
        1 => Just("link".to_owned()),
        2 => path().prop_map(|target| format!("hard {target}")),
        3 => Just("gone".to_owned()),
        2 => Just("opaque".to_owned()),
    ];
    let path = prop_oneof![20 => path(), 1 => Just(String::new())];
    proptest::collection::vec((what, path), 0..8)
}

fn layers() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(members(), 0..6).prop_map(|layers| {
        (1u8..)
            .zip(&layers)
            .map(|(number, members)| layer(number, members))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_chain_is_its_layers_applied_one_after_another(layers in layers()) {
        let chain = merged(&layers, Kind::Chain);
        let found = dump(&chain);
        let expected = applied(&layers);
        for (path, (layer, shown)) in &expected {
            prop_assert_eq!(Some(shown), found.get(path), "{:?}", String::from_utf8_lossy(path));
            let id = chain.find(path).unwrap().unwrap().inode.unwrap();
            let inode = chain.inode(id).unwrap();
            prop_assert_eq!(usize::from(inode.layer), *layer);
            let own = &layers[*layer];
            let own_name = own.inode(InodeId(inode.origin)).unwrap().entry;
            prop_assert!(own.links(InodeId(inode.origin)).unwrap().contains(&own_name));
            prop_assert_eq!(own.inode(InodeId(inode.origin)).unwrap().uid, inode.uid);
        }
        prop_assert_eq!(found.len(), expected.len());
        if let Some(top) = layers.last() {
            let root = |index: &Index| Shown { opaque: false, ..show(index, Some(InodeId::ROOT)) };
            prop_assert_eq!(root(&chain), root(top));
        }
    }

    #[test]
    fn merging_runs_gives_what_merging_all_gives(layers in layers(), at in 0usize..6, kind in prop_oneof![Just(Kind::Chain), Just(Kind::Run)]) {
        let (lower, upper) = layers.split_at(at.min(layers.len()));
        let all = merge(&layers.iter().collect::<Vec<_>>(), kind).unwrap();
        let lower = merged(lower, kind);
        let upper = merged(upper, Kind::Run);
        let parts: Vec<&Index> = [&lower, &upper].into_iter().filter(|run| !run.layers().is_empty()).collect();
        prop_assert_eq!(bytes_of(&all), bytes_of(&merge(&parts, kind).unwrap()));
    }
}
