use super::*;
use ufs::index::build::{Meta, Tree};

fn index(number: u8, fill: impl FnOnce(&mut Tree)) -> Index {
    let mut tree = Tree::new();
    fill(&mut tree);
    let mut bytes = Vec::new();
    tree.finish().unwrap().write(&[number; 32], &mut bytes).unwrap();
    Index::from_bytes(bytes).unwrap()
}

fn file(tree: &mut Tree, path: &str) {
    tree.file(path.as_bytes(), Meta::default(), 0, None).unwrap();
}

/// The layer and state of each version, with a letter for what the layer says.
fn summary(layers: &[&Index], path: &str) -> Vec<(usize, char, State)> {
    let answer = which(layers, path.as_bytes()).unwrap();
    let letter = |says: &Says| match says {
        Says::Here(..) => 'h',
        Says::Deleted(_) => 'd',
        Says::Opaque(_) => 'o',
        Says::Covered(_) => 'c',
    };
    let one = |version: &Version| (version.layer, letter(&version.says), version.state);
    answer.versions.iter().map(one).collect()
}

#[test]
fn the_topmost_version_is_shown_and_hides_the_others() {
    let bottom = index(1, |tree| file(tree, "etc/x"));
    let middle = index(2, |tree| file(tree, "usr/y"));
    let top = index(3, |tree| file(tree, "etc/x"));
    let layers = [&bottom, &middle, &top];
    assert_eq!(
        summary(&layers, "/etc//x"),
        [(2, 'h', State::Shown), (0, 'h', State::Hidden)]
    );
    assert_eq!(summary(&layers, "usr/y"), [(1, 'h', State::Shown)]);
    assert_eq!(summary(&layers, "usr/z"), []);
    let directories = [(2, 'h', State::Shown), (0, 'h', State::Merged)];
    assert_eq!(summary(&layers, "etc"), directories);
    assert_eq!(summary(&layers, "/").len(), 3);
}

#[test]
fn removals_hide_what_is_below() {
    let bottom = index(1, |tree| {
        file(tree, "a/x");
        file(tree, "b/x");
        file(tree, "c/x");
        file(tree, "d/x");
    });
    let top = index(2, |tree| {
        tree.whiteout(b"a/x").unwrap();
        tree.whiteout(b"b").unwrap();
        tree.directory(b"c", Meta::default()).unwrap();
        tree.opaque(b"c").unwrap();
        file(tree, "d");
    });
    let layers = [&bottom, &top];
    for (path, letter) in [("a/x", 'd'), ("b/x", 'd'), ("c/x", 'o'), ("d/x", 'c')] {
        let expected = [(1, letter, State::Removal), (0, 'h', State::Hidden)];
        assert_eq!(summary(&layers, path), expected, "{path}");
        assert!(which(&layers, path.as_bytes()).unwrap().shown().is_none());
    }
    let answer = which(&layers, b"b/x").unwrap();
    assert_eq!(answer.versions[0].says, Says::Deleted(b"b".to_vec()));
    assert_eq!(
        which(&layers, b"c/x").unwrap().versions[0].says,
        Says::Opaque(b"c".to_vec())
    );
    // an opaque directory is no part of what lies below
    let opaque = [(1, 'h', State::Shown), (0, 'h', State::Hidden)];
    assert_eq!(summary(&layers, "c"), opaque);
}

#[test]
fn a_file_in_a_deleted_and_remade_place_is_shown() {
    let bottom = index(1, |tree| file(tree, "a/x"));
    let middle = index(2, |tree| tree.whiteout(b"a").unwrap());
    let top = index(3, |tree| file(tree, "a/x"));
    let expected = [
        (2, 'h', State::Shown),
        (1, 'd', State::Hidden),
        (0, 'h', State::Hidden),
    ];
    assert_eq!(summary(&[&bottom, &middle, &top], "a/x"), expected);
    // the directory of the top layer lies over nothing
    let expected = [
        (2, 'h', State::Shown),
        (1, 'd', State::Removal),
        (0, 'h', State::Hidden),
    ];
    assert_eq!(summary(&[&bottom, &middle, &top], "a"), expected);
}

#[test]
fn links_on_the_way_are_followed() {
    let bottom = index(1, |tree| {
        file(tree, "usr/bin/sh");
        tree.symlink(b"bin", Meta::default(), b"usr/bin").unwrap();
        tree.symlink(b"usr/loop", Meta::default(), b"/usr/loop").unwrap();
    });
    let top = index(2, |tree| {
        tree.symlink(b"usr/up", Meta::default(), b"../../bin").unwrap();
    });
    let layers = [&bottom, &top];
    for path in ["bin/sh", "usr/up/sh", "usr/../bin/./sh"] {
        assert_eq!(
            which(&layers, path.as_bytes()).unwrap().path,
            b"usr/bin/sh",
            "{path}"
        );
    }
    assert_eq!(which(&layers, b"bin").unwrap().path, b"bin");
    assert!(matches!(which(&layers, b"usr/loop/x"), Err(WhichError::Links(_))));
}

#[test]
fn steps_without_a_layer_are_passed_over() {
    let text = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "history":[{"created_by":"ADD x"},{"created_by":"ENV a=b","empty_layer":true},{"comment":"by hand"}]}"#;
    let (config, _) = crate::manifest::parse_config("c", text.as_bytes()).unwrap();
    let shown: Vec<String> = instructions(&config, 3).iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["ADD x", "by hand", "an unknown step"]);
    assert_eq!(instructions(&config, 1).len(), 1);
}

#[test]
fn only_regular_files_have_a_content() {
    let index = index(1, |tree| {
        file(tree, "d/empty");
        tree.symlink(b"d/link", Meta::default(), b"empty").unwrap();
    });
    let content = |path: &str| match &which(&[&index], path.as_bytes()).unwrap().versions[0].says {
        Says::Here(id, _) => content_digest(&index, *id).unwrap(),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(content("d/empty"), Some(Digest::of(b"")));
    for path in ["", "d", "d/link"] {
        assert_eq!(content(path), None, "{path}");
    }
}
