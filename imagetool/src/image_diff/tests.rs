use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use ufs::index::build::{Meta, Stored, Tree};
use ufs::index::merge::merge;

/// A path and its content; `None` is a directory.
type Files = BTreeMap<String, Option<u8>>;

fn layer(number: u8, fill: impl FnOnce(&mut Tree)) -> Index {
    let mut tree = Tree::new();
    fill(&mut tree);
    let mut bytes = Vec::new();
    tree.finish().unwrap().write(&[number; 32], &mut bytes).unwrap();
    Index::from_bytes(bytes).unwrap()
}

fn chain(layers: &[&Index]) -> Index {
    let mut bytes = Vec::new();
    let merged = merge(layers, ufs::index::Kind::Chain).unwrap();
    merged.write(&mut bytes).unwrap();
    Index::from_bytes(bytes).unwrap()
}

fn file(tree: &mut Tree, path: &str, content: u8) {
    let digest = [content; 32];
    let content = tree.add_content(Stored::Object { digest }, 100_000);
    tree.file(path.as_bytes(), Meta::default(), 100_000, Some(content))
        .unwrap();
}

fn fill(files: &Files) -> impl FnOnce(&mut Tree) + '_ {
    move |tree| {
        for (path, content) in files {
            match content {
                Some(content) => file(tree, path, *content),
                None => tree
                    .directory(
                        path.as_bytes(),
                        Meta {
                            mode: 0o755,
                            ..Meta::default()
                        },
                    )
                    .unwrap(),
            }
        }
    }
}

fn lines(old: &Index, new: &Index) -> Vec<String> {
    let line = |difference: Difference| {
        let path = String::from_utf8(difference.path).unwrap();
        format!("{} /{path}", difference.kind.letter())
    };
    between(old, new).unwrap().into_iter().map(line).collect()
}

#[test]
fn each_change_is_listed_after_its_directories() {
    let base = layer(1, |tree| {
        file(tree, "etc/a", 1);
        file(tree, "etc/b", 2);
        file(tree, "usr/share/doc/x", 3);
        file(tree, "same/deep/file", 4);
    });
    let top = layer(2, |tree| {
        file(tree, "etc/a", 9);
        file(tree, "etc/new/c", 5);
        tree.whiteout(b"usr/share/doc").unwrap();
    });
    let (old, new) = (chain(&[&base]), chain(&[&base, &top]));
    let expected = [
        "C /etc",
        "C /etc/a",
        "A /etc/new",
        "A /etc/new/c",
        "C /usr",
        "C /usr/share",
        "D /usr/share/doc",
    ];
    assert_eq!(lines(&old, &new), expected);
    assert_eq!(lines(&old, &old), [""; 0]);
    let back = [
        "C /etc",
        "C /etc/a",
        "D /etc/new",
        "C /usr",
        "C /usr/share",
        "A /usr/share/doc",
        "A /usr/share/doc/x",
    ];
    assert_eq!(lines(&new, &old), back);
}

#[test]
fn attributes_and_types_count_and_times_of_directories_do_not() {
    let time = |secs| ufs::attr::Time { secs, nanos: 0 };
    let make = |number, secs, mode, target: &'static [u8], value: &'static [u8]| {
        layer(number, move |tree| {
            let meta = || Meta {
                mtime: time(secs),
                ..Meta::default()
            };
            tree.directory(b"dir", meta()).unwrap();
            tree.file(b"time", meta(), 0, None).unwrap();
            tree.file(
                b"mode",
                Meta {
                    mode,
                    ..Meta::default()
                },
                0,
                None,
            )
            .unwrap();
            tree.symlink(b"link", Meta::default(), target).unwrap();
            let xattrs = vec![(b"user.a".to_vec(), value.to_vec())];
            tree.file(
                b"xattr",
                Meta {
                    xattrs,
                    ..Meta::default()
                },
                0,
                None,
            )
            .unwrap();
        })
    };
    let (one, other) = (make(1, 1, 0o644, b"a", b"1"), make(2, 2, 0o600, b"b", b"2"));
    assert_eq!(lines(&one, &other), ["C /link", "C /mode", "C /time", "C /xattr"]);
    assert_eq!(lines(&one, &make(3, 1, 0o644, b"a", b"1")), [""; 0]);
    let as_file = layer(4, |tree| file(tree, "dir", 1));
    let as_dir = layer(5, |tree| file(tree, "dir/in", 1));
    assert_eq!(lines(&as_dir, &as_file), ["C /dir"]);
    assert_eq!(lines(&as_file, &as_dir), ["C /dir", "A /dir/in"]);
}

/// The same answer by sets of paths.
fn expected(old: &Files, new: &Files) -> BTreeMap<String, char> {
    let mut found = BTreeMap::new();
    let parents = |path: &str| -> Vec<String> {
        path.match_indices('/')
            .map(|(at, _)| path[..at].to_owned())
            .collect()
    };
    for (path, content) in new {
        match old.get(path) {
            None => found.insert(path.clone(), 'A'),
            Some(before) if before != content => found.insert(path.clone(), 'C'),
            Some(_) => None,
        };
    }
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        // of a removed directory only itself is told, and nothing of one that is a file now
        if parents(path).iter().all(|parent| new.get(parent) == Some(&None)) {
            found.insert(path.clone(), 'D');
        }
    }
    for path in found.keys().cloned().collect::<Vec<_>>() {
        for parent in parents(&path) {
            found.entry(parent).or_insert('C');
        }
    }
    found
}

fn files() -> impl Strategy<Value = Files> {
    let name = prop_oneof![Just("a"), Just("b"), Just("b.c")];
    let path = proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    proptest::collection::vec((path, 0u8..3), 0..8).prop_map(|list| {
        let mut files = Files::new();
        for (path, content) in list {
            let is_under_file = path
                .match_indices('/')
                .any(|(at, _)| matches!(files.get(&path[..at]), Some(Some(_))));
            let has_children = files.keys().any(|known| known.starts_with(&format!("{path}/")));
            if is_under_file || has_children {
                continue;
            }
            for (at, _) in path.match_indices('/') {
                files.insert(path[..at].to_owned(), None);
            }
            files.insert(path, Some(content));
        }
        files
    })
}

proptest! {
    #[test]
    fn agrees_with_a_comparison_of_sets(old in files(), new in files()) {
        let (one, other) = (layer(1, fill(&old)), layer(2, fill(&new)));
        let found: Vec<(String, char)> = between(&one, &other).unwrap().into_iter()
            .filter(|difference| !difference.path.is_empty())
            .map(|difference| (String::from_utf8(difference.path).unwrap(), difference.kind.letter())).collect();
        let as_map: BTreeMap<String, char> = found.iter().cloned().collect();
        prop_assert_eq!(as_map.len(), found.len());
        prop_assert_eq!(as_map, expected(&old, &new));
    }
}
