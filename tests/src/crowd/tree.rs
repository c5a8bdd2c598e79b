//! The part of a member in which random operations run beside the reference model.

use std::path::{Path, PathBuf};
use std::vec;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::Member;
use super::status::Status;
use crate::layers::Layer;
use crate::model::Model;
use crate::ops::Op;
use crate::real::RealTree;
use crate::snapshot::Snapshot;
use crate::strategies::{Case, Shape, case};

/// How many layers the trees lie in.
pub(super) const LAYERS_MAX: usize = 3;

const SHAPE: Shape = Shape {
    max_layers: LAYERS_MAX,
    max_entries: 10,
    max_ops: 80,
    lower_links: true,
    one_user: false,
};

/// One member's tree.
pub(super) struct Tree {
    root: PathBuf,
    model: Model,
    real: RealTree,
    runner: TestRunner,
    ops: vec::IntoIter<Op>,
}

fn runner(seed: u64, index: usize) -> TestRunner {
    let mut bytes = [0x6b_u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(index as u64).to_le_bytes());
    TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
    )
}

fn draw(runner: &mut TestRunner) -> Case {
    let drawn = case(SHAPE).new_tree(runner).expect("nothing is filtered");
    drawn.current()
}

fn name(index: usize) -> String {
    format!("t{index}")
}

/// Builds the layers of member `index`.
pub(super) fn fill(layers: &[PathBuf], seed: u64, index: usize) {
    let drawn: Vec<Layer> = draw(&mut runner(seed, index)).layers;
    for (level, lower) in layers.iter().enumerate() {
        let own = lower.join(name(index));
        std::fs::create_dir(&own).expect("make a directory in a layer");
        if let Some(layer) = drawn.get(level) {
            layer.build(&own).expect("build a layer");
        }
    }
}

impl Tree {
    pub(super) fn new(member: &Member) -> Tree {
        let root = member.mount.join(name(member.index));
        let mut runner = runner(member.seed, member.index);
        let Case { layers, ops } = draw(&mut runner);
        Tree {
            model: Model::of_layers(&layers),
            real: RealTree::new(&root),
            root,
            runner,
            ops: ops.into_iter(),
        }
    }

    /// Runs the next operation; when a sequence is at its end, compares the whole tree and draws another.
    pub(super) fn step(&mut self, status: &mut Status) -> Result<(), String> {
        let Some(op) = self.ops.next() else {
            self.check(status)?;
            self.ops = draw(&mut self.runner).ops.into_iter();
            return Ok(());
        };
        // Those belong to the whole mount, or are not everywhere.
        if matches!(op, Op::TmpfileLink { .. } | Op::Remount | Op::DropCaches) {
            return Ok(());
        }
        status.begin(format!("tree {op:?}"));
        let expected = self.model.apply(&op);
        let got = self.real.apply(&op);
        if expected.contains(&got) {
            Ok(())
        } else {
            Err(format!("expected one of {expected:?}, got {got:?}"))
        }
    }

    /// Compares the whole tree with the model.
    pub(super) fn check(&self, status: &mut Status) -> Result<(), String> {
        status.begin("tree compare");
        let expected = self.model.snapshot();
        let mut seen = snapshot(&self.root)?;
        // The member's root is a merged directory here and the upper's root in the model.
        seen.entries
            .insert(Vec::new(), expected.entries[&Vec::new()].clone());
        let lines = expected.diff(&seen);
        if lines.is_empty() {
            Ok(())
        } else {
            Err(format!("the tree differs:\n  {}", lines.join("\n  ")))
        }
    }
}

fn snapshot(root: &Path) -> Result<Snapshot, String> {
    Snapshot::of(root).map_err(|error| format!("walk the tree: {error}"))
}
