//! The tree against a model made of paths, and against itself with its members in another order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::add;
use crate::index::build::Tree;
use crate::index::testing::{Shown, dump};

/// What the model has at a path.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    /// Number of the member that described it, 0: none.
    Dir(u32, bool),
    /// Number of the member that made the file: hard links share it.
    File(u32),
    Waiting(String),
    Whiteout,
}

type Model = BTreeMap<String, Item>;

/// Makes the directories that a path lies in. `None`: something there is no directory.
fn make_parents(model: &mut Model, path: &str) -> Option<()> {
    for (at, _) in path.match_indices('/') {
        let item = model.entry(path[..at].to_owned()).or_insert(Item::Dir(0, false));
        if !matches!(item, Item::Dir(..)) {
            return None;
        }
    }
    Some(())
}

fn put(model: &mut Model, path: &str, item: Item) {
    let below = format!("{path}/");
    model.retain(|other, _| other != path && !other.starts_with(&below));
    model.insert(path.to_owned(), item);
}

/// What the members make; `None` when they are to be refused.
fn model_of(members: &[(String, String)]) -> Option<Model> {
    let mut model = Model::new();
    let (mut whiteouts, mut opaques) = (Vec::new(), Vec::new());
    for (number, (what, path)) in (1..).zip(members) {
        match what.as_str() {
            "gone" => whiteouts.push(path),
            "opaque" => opaques.push(path),
            _ => {
                make_parents(&mut model, path)?;
                member(&mut model, number, what, path)?;
            }
        }
    }
    resolve(&mut model)?;
    whiteouts.sort();
    opaques.sort();
    for path in whiteouts {
        if make_parents(&mut model, path).is_some() {
            match model.get_mut(path) {
                None => {
                    model.insert(path.clone(), Item::Whiteout);
                }
                Some(Item::Dir(_, opaque)) => *opaque = true,
                Some(_) => {}
            }
        }
    }
    for path in opaques {
        if make_parents(&mut model, &format!("{path}/")).is_some()
            && let Some(Item::Dir(_, opaque)) = model.get_mut(path)
        {
            *opaque = true;
        }
    }
    Some(model)
}

fn member(model: &mut Model, number: u32, what: &str, path: &str) -> Option<()> {
    if let Some(target) = what.strip_prefix("hard ") {
        match model.get(target).cloned() {
            Some(Item::Dir(..)) => return None,
            _ if target == path && model.contains_key(path) => {}
            Some(item @ Item::File(_)) => put(model, path, item),
            _ => put(model, path, Item::Waiting(target.to_owned())),
        }
    } else if what == "dir" {
        match model.get_mut(path) {
            Some(Item::Dir(old, _)) => *old = number,
            _ => put(model, path, Item::Dir(number, false)),
        }
    } else {
        put(model, path, Item::File(number));
    }
    Some(())
}

fn resolve(model: &mut Model) -> Option<()> {
    loop {
        let waiting: Vec<(String, String)> = model
            .iter()
            .filter_map(|(path, item)| match item {
                Item::Waiting(target) => Some((path.clone(), target.clone())),
                _ => None,
            })
            .collect();
        if waiting.is_empty() {
            return Some(());
        }
        let mut resolved = false;
        for (path, target) in waiting {
            if let Some(item @ Item::File(_)) = model.get(&target).cloned() {
                model.insert(path, item);
                resolved = true;
            }
        }
        if !resolved {
            return None;
        }
    }
}

/// What the tree makes, in the model's terms.
fn built(members: &[(String, String)]) -> Option<(Model, BTreeMap<Vec<u8>, Shown>)> {
    let mut tree = Tree::new();
    for (number, (what, path)) in (1..).zip(members) {
        add(&mut tree, number, what, path).ok()?;
    }
    let mut bytes = Vec::new();
    tree.finish().ok()?.write(&[1; 32], &mut bytes).unwrap();
    let index = crate::index::Index::from_bytes(bytes).unwrap();
    index.check().unwrap();
    let shown = dump(&index);
    let items = shown.iter().map(|(path, shown)| {
        let item = if shown.whiteout {
            Item::Whiteout
        } else if shown.mode & libc::S_IFMT == libc::S_IFDIR {
            Item::Dir(shown.owner.0, shown.opaque)
        } else {
            Item::File(shown.owner.0)
        };
        (String::from_utf8_lossy(path).into_owned(), item)
    });
    Some((items.collect(), shown))
}

fn path() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[abc](/[abc]){0,2}").unwrap()
}

fn what() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("dir".to_owned()),
        4 => Just("file".to_owned()),
        1 => Just("fifo".to_owned()),
        2 => path().prop_map(|target| format!("hard {target}")),
        1 => Just("gone".to_owned()),
        1 => Just("opaque".to_owned()),
    ]
}

/// Members whose order has no part in the outcome: one for each path, and nothing below what is no directory.
fn without_clashes() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::btree_map(path(), what(), 1..14).prop_map(|members| {
        let is_file = |what: &str| !matches!(what, "dir" | "gone" | "opaque");
        let below_file = |path: &str| {
            path.match_indices('/')
                .any(|(at, _)| members.get(&path[..at]).is_some_and(|what| is_file(what)))
        };
        members
            .iter()
            .filter(|(path, _)| !below_file(path))
            .map(|(path, what)| (what.clone(), path.clone()))
            .collect()
    })
}

/// The same files, whatever number their members had.
fn without_numbers(
    built: Option<(Model, BTreeMap<Vec<u8>, Shown>)>,
    members: &[(String, String)],
) -> Option<Vec<(String, Shown)>> {
    let path_of = |number: u32| match number {
        0 => String::new(),
        number => members[number as usize - 1].1.clone(),
    };
    Some(
        built?
            .1
            .into_iter()
            .map(|(path, mut shown)| {
                let made_by = path_of(shown.owner.0);
                shown.owner.0 = 0;
                shown.mtime.1 = 0;
                (format!("{} by {made_by}", String::from_utf8_lossy(&path)), shown)
            })
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_tree_is_what_the_model_says(members in proptest::collection::vec((what(), path()), 0..16)) {
        let found = built(&members);
        let expected = model_of(&members);
        prop_assert_eq!(found.as_ref().map(|found| &found.0), expected.as_ref());
        for (path, shown) in found.map(|found| found.1).unwrap_or_default() {
            prop_assert!(shown.whiteout || shown.names.contains(&path));
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        (members, shuffled) in without_clashes().prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle()))
    ) {
        prop_assert_eq!(without_numbers(built(&members), &members), without_numbers(built(&shuffled), &shuffled));
    }
}

#[test]
fn the_model_refuses_what_it_should() {
    let members = |members: &[(&str, &str)]| {
        members
            .iter()
            .map(|(what, path)| ((*what).to_owned(), (*path).to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(model_of(&members(&[("file", "a"), ("file", "a/b")])), None);
    assert_eq!(model_of(&members(&[("hard b", "a"), ("hard a", "b")])), None);
}
