//! One upper, many programs: what each writes is the same tree for all the others.

use shale_tests::fixture::{Fixture, listed, put, text};
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::ops::Op;
use shale_tests::posix::{self, append};
use shale_tests::real::RealTree;
use shale_tests::runner::{for_random_cases, run_random_relay};
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::{Kind, Snapshot};
use shale_tests::strategies::{Case, Shape};
use std::path::PathBuf;

const KERNEL: Backend = Backend::KernelNoIndex;

fn are_there(backends: &[Backend]) -> bool {
    backends.iter().all(|backend| backend.is_available_or_skip())
}

/// Hard links of a layer are held together by an index that each program keeps its own way.
fn travelling() -> Shape {
    Shape {
        lower_links: false,
        ..Shape::default()
    }
}

/// Random steps on one upper, whose program changes at every remount; each step's answer and every tree are the model's.
#[test]
fn one_upper_is_handed_round_between_the_kernel_and_shale() {
    let round = [KERNEL, Backend::ShalePassthrough, KERNEL, Backend::ShalePlain];
    if are_there(&round) {
        run_random_relay(travelling(), &round, &[], 60);
    }
}

/// The same where hard links of layers may break at copy-up: Shale alone, in all its forms.
#[test]
fn one_upper_is_handed_round_between_the_forms_of_shale() {
    let round = [Backend::ShalePlain, Backend::ShalePassthrough];
    if are_there(&round) {
        run_random_relay(Shape::default(), &round, &[], 40);
    }
}

/// Marks and notes that only their writer knows, and times, which fuse-overlayfs does not keep over copy-up.
fn without_notes(mut snapshot: Snapshot) -> Snapshot {
    for entry in snapshot.entries.values_mut() {
        entry
            .xattrs
            .retain(|name, _| !name.starts_with(b"user.fuseoverlayfs."));
    }
    snapshot.without_times()
}

/// fuse-overlayfs follows no redirect and reads no copy without content: such changes are left out.
fn for_fuse_overlayfs(mut case: Case) -> Case {
    case.ops.retain(|op| {
        !matches!(
            op,
            Op::Rename { .. } | Op::Remount | Op::DropCaches | Op::Mknod { .. }
        )
    });
    case
}

/// Random steps by `writer`, then the tree as it shows it after a remount of its own and as `reader` does.
fn random_uppers_travel(writer: Backend, reader: Backend, cases: u32) {
    if !are_there(&[writer, reader]) {
        return;
    }
    for_random_cases(travelling(), cases, |scratch: &Scratch, case: &Case| {
        let case = for_fuse_overlayfs(case.clone());
        let home = tempfile::tempdir_in(scratch.path()).map_err(|error| error.to_string())?;
        let make = |name: String| -> Result<PathBuf, String> {
            let path = home.path().join(name);
            std::fs::create_dir(&path).map_err(|error| error.to_string())?;
            Ok(path)
        };
        let mut lowers = Vec::new();
        for (index, layer) in case.layers.iter().enumerate() {
            let lower = make(format!("l{index}"))?;
            layer.build(&lower).map_err(|error| error.to_string())?;
            lowers.push(lower);
        }
        let extra_options = if writer.is_shale() {
            vec!["metacopy=off".into()]
        } else {
            vec![]
        };
        let upper = Some((make("upper".into())?, make("work".into())?));
        let spec = MountSpec {
            lowers,
            upper,
            extra_options,
            open_files_limit: None,
        };
        let at = make("merged".into())?;
        let shown_by = |backend: Backend, ops: &[Op]| -> Result<Snapshot, String> {
            let guard = MountGuard::mount(backend, &spec, &at).map_err(|error| error.to_string())?;
            let mut tree = RealTree::new(&at);
            for op in ops {
                // Whether it is right is asked elsewhere.
                let _ = tree.apply(op);
            }
            tree.close_all();
            let shown = Snapshot::of(&at).map_err(|error| format!("{backend:?}: {error}"))?;
            guard.unmount().map_err(|error| error.to_string())?;
            Ok(without_notes(shown))
        };
        shown_by(writer, &case.ops)?;
        let lines = shown_by(writer, &[])?.diff(&shown_by(reader, &[])?);
        if lines.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{writer:?} read by {reader:?}:\n  {}",
            lines.join("\n  ")
        ))
    });
}

#[test]
fn random_uppers_of_shale_read_by_fuse_overlayfs() {
    random_uppers_travel(Backend::ShalePassthrough, Backend::FuseOverlayfs, 40);
}

#[test]
fn random_uppers_of_fuse_overlayfs_read_by_shale() {
    random_uppers_travel(Backend::FuseOverlayfs, Backend::ShalePlain, 40);
}

/// A union over a union: the inner one's layer is a directory of the outer one, its upper lies beside it. (An upper
/// within a union is refused by overlayfs and by Shale: no whiteout can be made there.)
#[test]
fn a_union_over_a_union() {
    let directories = [KERNEL, Backend::ShalePassthrough, Backend::ShalePlain];
    for outer in directories {
        for inner in directories {
            if !are_there(&[outer, inner]) {
                continue;
            }
            let fixture = Fixture::with_layers(outer, 2, |layers| {
                put(&layers[1], "root/d/f", "f");
                put(&layers[1], "root/d/g", vec![b'g'; 100_000]);
                put(&layers[0], "root/d/h", "h");
            });
            append(&fixture.at("root/d/f"), b" of the outer").unwrap();
            std::fs::remove_file(fixture.at("root/d/h")).unwrap();
            let beside = |name: &str| fixture.scratch().directory(name);
            let spec = MountSpec {
                lowers: vec![fixture.at("root")],
                upper: Some((beside("inner-upper"), beside("inner-work"))),
                extra_options: vec![],
                open_files_limit: None,
            };
            let at = beside("inner");
            for round in 0..2 {
                let guard = MountGuard::mount(inner, &spec, &at).unwrap();
                if round == 0 {
                    assert_eq!(std::fs::read(at.join("d/g")).unwrap(), vec![b'g'; 100_000]);
                    append(&at.join("d/g"), b"more").unwrap();
                    append(&at.join("d/f"), b" and inner").unwrap();
                    std::fs::rename(at.join("d"), at.join("e")).unwrap();
                    posix::mkdir(&at.join("d"), 0o755).unwrap();
                }
                assert_eq!(listed(&at.join("e")), ["f", "g"], "{inner:?} over {outer:?}");
                assert_eq!(
                    listed(&at.join("d")),
                    Vec::<String>::new(),
                    "{inner:?} over {outer:?}"
                );
                assert_eq!(
                    text(&at.join("e/f")),
                    "f of the outer and inner",
                    "{inner:?} over {outer:?}"
                );
                assert_eq!(
                    std::fs::read(at.join("e/g")).unwrap().len(),
                    100_004,
                    "{inner:?} over {outer:?}"
                );
                guard.unmount().unwrap();
            }
            assert_eq!(listed(&fixture.at("root/d")), ["f", "g"]);
            assert_eq!(text(&fixture.at("root/d/f")), "f of the outer");
        }
    }
}

/// Each program goes on where the one before it stopped.
#[test]
fn programs_take_turns() {
    type Turn = fn(&Fixture);
    let turns: [Turn; 6] = [
        |fixture| {
            append(&fixture.at("d/f"), b" one").unwrap();
            std::fs::rename(fixture.at("tree"), fixture.at("moved")).unwrap();
        },
        |fixture| {
            posix::chmod(&fixture.at("moved/sub/deep"), 0o600).unwrap();
            std::fs::remove_file(fixture.at("d/gone")).unwrap();
            std::fs::rename(fixture.at("moved/sub"), fixture.at("sub")).unwrap();
        },
        |fixture| {
            append(&fixture.at("sub/deep"), b" more").unwrap();
            posix::mkdir(&fixture.at("tree"), 0o755).unwrap();
            std::fs::write(fixture.at("d/gone"), "again").unwrap();
        },
        |fixture| {
            std::fs::rename(fixture.at("moved"), fixture.at("tree/inner")).unwrap();
            std::fs::remove_dir_all(fixture.at("whole")).unwrap();
            posix::link(&fixture.at("d/f"), &fixture.at("linked")).unwrap();
        },
        |fixture| {
            posix::mkdir(&fixture.at("whole"), 0o755).unwrap();
            posix::rename(
                &fixture.at("sub"),
                &fixture.at("tree/inner"),
                rustix::fs::RenameFlags::EXCHANGE,
            )
            .unwrap();
            append(&fixture.at("linked"), b" two").unwrap();
        },
        |fixture| {
            std::fs::rename(fixture.at("tree"), fixture.at("whole/tree")).unwrap();
            std::fs::remove_file(fixture.at("d/f")).unwrap();
        },
    ];
    for order in [
        [KERNEL, Backend::ShalePassthrough],
        [Backend::ShalePlain, KERNEL],
        [Backend::ShalePassthrough, Backend::ShalePlain],
    ] {
        if !are_there(&order) {
            continue;
        }
        let mut fixture = Fixture::with_layers(order[0], 2, |layers| {
            put(&layers[1], "d/f", "f");
            put(&layers[1], "d/gone", "x");
            put(&layers[1], "tree/sub/deep", "deep");
            put(&layers[0], "tree/high", "high");
            put(&layers[1], "whole/x", "x");
        });
        for (index, turn) in turns.iter().enumerate() {
            turn(&fixture);
            let shown = Snapshot::of(fixture.root()).unwrap();
            for reader in [order[index % 2], order[(index + 1) % 2]] {
                fixture.remount_as(reader);
                let seen = Snapshot::of(fixture.root()).unwrap();
                shown.assert_same(&seen, &format!("{order:?}, turn {index}, read by {reader:?}"));
            }
        }
        assert_eq!(listed(&fixture.at("whole/tree/inner")), ["deep"]);
        assert_eq!(text(&fixture.at("whole/tree/inner/deep")), "deep more");
        assert_eq!(text(&fixture.at("linked")), "f one two");
        assert_eq!(listed(&fixture.at("sub")), ["high"]);
        assert!(
            Snapshot::of(fixture.root())
                .unwrap()
                .entries
                .values()
                .all(|entry| entry.kind != Kind::CharDevice)
        );
        fixture.assert_layers_untouched();
    }
}
