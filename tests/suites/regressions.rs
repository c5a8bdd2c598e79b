//! Failures once found by the random tests, shrunk, each under the name of what it is about.

use shale_tests::layers::{DrawnEntry, Item, Layer};
use shale_tests::mount::Backend;
use shale_tests::ops::{Access, Op, RenameFlag, p};
use shale_tests::runner::{Plan, run_case};
use shale_tests::scratch::Scratch;
use shale_tests::strategies::Case;

fn file(path: &str, content: &str) -> DrawnEntry {
    (p(path), Item::File(content.into()), 0o644, 0, None)
}

fn directory(path: &str) -> DrawnEntry {
    (p(path), Item::Dir { opaque: false }, 0o755, 0, None)
}

/// Two names of one file: `path` with `-l<layer>-0` and `-l<layer>-1` appended.
fn linked(path: &str, content: &str) -> DrawnEntry {
    (p(path), Item::Linked(content.into()), 0o644, 0, None)
}

/// Runs the steps on everything that is there, and hands the uppers round when the layers have no links.
fn check(layers: &[&[DrawnEntry]], ops: &[Op]) {
    let layers: Vec<Layer> = layers
        .iter()
        .enumerate()
        .map(|(index, list)| Layer::from_list(index, list))
        .collect();
    let has_links = layers
        .iter()
        .flat_map(|layer| layer.entries.values())
        .any(|e| matches!(e.item, Item::Linked(_)));
    let case = Case {
        layers,
        ops: ops.to_vec(),
    };
    let mut plans: Vec<Plan> = [Backend::Kernel, Backend::ShalePassthrough, Backend::ShalePlain]
        .into_iter()
        .map(|union| Plan {
            unions: vec![union],
            readers: vec![],
            stackers: vec![],
            compare_every: 1,
        })
        .collect();
    if !has_links {
        let both = vec![Backend::KernelNoIndex, Backend::ShalePlain];
        let unions = both.clone();
        plans.push(Plan {
            unions,
            readers: both.clone(),
            stackers: both,
            compare_every: 100,
        });
    }
    for plan in plans {
        if plan.unions.iter().all(|backend| backend.is_available_or_skip()) {
            run_case(&Scratch::new(), &case, &plan).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn a_metadata_copy_is_read_after_a_remount() {
    check(
        &[&[file("c", "A")]],
        &[
            Op::Chown {
                path: p("c"),
                uid: 0,
                gid: 0,
            },
            Op::Remount,
            Op::Read { path: p("c") },
        ],
    );
}

#[test]
fn a_metadata_copy_of_a_hard_link_is_read_after_a_remount() {
    check(
        &[&[linked("a", "A")]],
        &[Op::Chmod {
            path: p("a-l0-0"),
            mode: 0o644,
        }],
    );
}

#[test]
fn a_metadata_copy_that_moved_is_read_after_a_remount() {
    let layers = [file("d/high", "high"), file("d/sub/f", "deep")];
    let rename = |from: &str, to: &str, flag| Op::Rename {
        from: p(from),
        to: p(to),
        flag,
    };
    check(&[&layers], &[rename("d/high", "d/sub/f", RenameFlag::Plain)]);
    check(&[&layers], &[rename("d/high", "d/sub/f", RenameFlag::Exchange)]);
    check(
        &[&layers],
        &[
            rename("d/sub", "sub", RenameFlag::Plain),
            rename("sub/f", "f", RenameFlag::Plain),
        ],
    );
}

#[test]
fn data_comes_to_a_metadata_copy_that_is_opened_for_writing() {
    let hold = Op::Hold {
        slot: 0,
        path: p("b"),
        access: Access::Write,
    };
    check(
        &[&[file("b", "A")]],
        &[
            Op::SetTimes {
                path: p("b"),
                secs: 1,
                nanos: 0,
            },
            hold,
        ],
    );
}

#[test]
fn a_failed_rename_of_a_lower_directory_changes_nothing() {
    let mkdir = |path: &str| Op::Mkdir {
        path: p(path),
        mode: 0o755,
    };
    let rename = Op::Rename {
        from: p("b/b"),
        to: p("a"),
        flag: RenameFlag::Plain,
    };
    check(
        &[&[directory("b"), directory("b/b"), file("b/b/a", "A")]],
        &[mkdir("a"), mkdir("a/a"), rename],
    );
}

/// Metadata copy-up by a descriptor whose path has changed since: both names stay names of one file.
#[test]
fn a_held_link_is_changed_after_its_directory_moved() {
    let hold = Op::Hold {
        slot: 2,
        path: p("t/c/n-l0-1"),
        access: Access::Read,
    };
    let rename = |flag| Op::Rename {
        from: p("t/c"),
        to: p("t/a"),
        flag,
    };
    let chmod = Op::HeldChmod { slot: 2, mode: 0o644 };
    let layer = [directory("t/a"), linked("t/c/n", "BL")];
    for flag in [RenameFlag::Exchange, RenameFlag::Plain] {
        check(&[&layer], &[hold.clone(), rename(flag), chmod.clone()]);
        check(
            &[&layer],
            &[
                hold.clone(),
                rename(flag),
                chmod.clone(),
                Op::Unlink {
                    path: p("t/a/n-l0-0"),
                },
            ],
        );
    }
}

/// The same by path, and with a write, which copies the data.
#[test]
fn a_link_is_changed_after_its_directory_moved() {
    let rename = Op::Rename {
        from: p("c"),
        to: p("b"),
        flag: RenameFlag::Plain,
    };
    let layer = [directory("c"), linked("c/n", "BL")];
    check(
        &[&layer],
        &[
            rename.clone(),
            Op::Chmod {
                path: p("b/n-l0-0"),
                mode: 0o600,
            },
        ],
    );
    check(
        &[&layer],
        &[
            rename.clone(),
            Op::Append {
                path: p("b/n-l0-1"),
                data: b"x".to_vec(),
            },
        ],
    );
    check(
        &[&layer],
        &[
            rename,
            Op::Link {
                from: p("b/n-l0-1"),
                to: p("third"),
            },
            Op::Remount,
        ],
    );
}

/// Its other name is looked for along its path in the layer, where something else is now.
#[test]
fn a_link_is_changed_where_no_directory_leads_to_its_other_name() {
    let rename = Op::Rename {
        from: p("c/d"),
        to: p("b"),
        flag: RenameFlag::Plain,
    };
    let rmdir = Op::Rmdir { path: p("c") };
    let symlink = Op::Symlink {
        target: b"b".to_vec(),
        path: p("c"),
    };
    let file = Op::Create {
        path: p("c"),
        data: b"x".to_vec(),
        exclusive: true,
    };
    let chmod = Op::Chmod {
        path: p("b/n-l0-0"),
        mode: 0o600,
    };
    let layer = [directory("c"), directory("c/d"), linked("c/d/n", "BL")];
    check(
        &[&layer],
        &[rename.clone(), rmdir.clone(), symlink, chmod.clone(), Op::Remount],
    );
    check(&[&layer], &[rename, rmdir, file, chmod, Op::Remount]);
}
