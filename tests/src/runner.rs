//! Runs one random case on the model and on mounted unions, and compares after every step.
//!
//! ```text
//! layers ─┬─► Model ─────────────────┐ answers of each step, the whole tree every few steps
//!         ├─► kernel overlayfs ──────┤
//!         └─► shale-ufs ─────────────┘ then: remount, and the upper mounted by another program
//! ```

use crate::model::Model;
use crate::mount::{Backend, MountGuard, MountSpec};
use crate::ops::{Op, Outcome};
use crate::real::RealTree;
use crate::scratch::Scratch;
use crate::snapshot::{Snapshot, check_listing};
use crate::strategies::{Case, Shape, case};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// What to run a case on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each runs the whole case beside the model.
    pub unions: Vec<Backend>,
    /// Afterwards these mount the upper that each of `unions` has written, and must see the same.
    pub readers: Vec<Backend>,
    /// Afterwards these mount that upper as a read-only layer above the others, as an image built from it
    /// would, and must see the same.
    pub stackers: Vec<Backend>,
    /// The whole tree is compared every so many steps, and at the end.
    pub compare_every: usize,
}

/// A union under test with its tree.
struct Subject {
    backend: Backend,
    spec: MountSpec,
    mount_point: PathBuf,
    guard: Option<MountGuard>,
    tree: RealTree,
}

impl Subject {
    fn start(home: &Path, lowers: &[PathBuf], backend: Backend) -> Result<Subject, String> {
        let home = home.join(format!("{backend:?}"));
        let make = |name: &str| -> Result<PathBuf, String> {
            let path = home.join(name);
            std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
            Ok(path)
        };
        let spec = MountSpec {
            lowers: lowers.to_vec(),
            upper: Some((make("upper")?, make("work")?)),
            extra_options: vec![],
            open_files_limit: None,
        };
        let mount_point = make("merged")?;
        let tree = RealTree::new(&mount_point);
        let mut subject = Subject {
            backend,
            spec,
            mount_point,
            guard: None,
            tree,
        };
        subject.mount_as(backend)?;
        Ok(subject)
    }

    fn mount_as(&mut self, backend: Backend) -> Result<(), String> {
        let guard = MountGuard::mount(backend, &self.spec, &self.mount_point)
            .map_err(|error| format!("{backend:?} cannot mount: {error}"))?;
        self.guard = Some(guard);
        Ok(())
    }

    /// Mounts the upper as the top one of the layers, read-only.
    fn mount_stacked_as(&mut self, backend: Backend) -> Result<(), String> {
        let mut spec = self.spec.clone();
        let (upper, _) = spec.upper.take().expect("subjects have an upper");
        spec.lowers.insert(0, upper);
        let guard = MountGuard::mount(backend, &spec, &self.mount_point)
            .map_err(|error| format!("{backend:?} cannot mount the upper as a layer: {error}"))?;
        self.guard = Some(guard);
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        self.tree.close_all();
        let Some(guard) = self.guard.take() else {
            return Ok(());
        };
        let backend = self.backend;
        guard
            .unmount()
            .map_err(|error| format!("{backend:?} cannot unmount: {error}"))
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        Snapshot::of(&self.mount_point)
            .map_err(|error| format!("{:?}: the tree cannot be read: {error}", self.backend))
    }

    fn compare(&self, expected: &Snapshot, when: &str) -> Result<(), String> {
        let lines = expected.diff(&self.snapshot()?);
        if !lines.is_empty() {
            return Err(format!(
                "{:?} {when}: the tree differs:\n  {}",
                self.backend,
                lines.join("\n  ")
            ));
        }
        let wrong = check_listing(&self.mount_point);
        if !wrong.is_empty() {
            return Err(format!(
                "{:?} {when}: listing and lstat differ:\n  {}",
                self.backend,
                wrong.join("\n  ")
            ));
        }
        Ok(())
    }
}

/// Runs `case` once; the error tells the step, what was expected and what came.
pub fn run_case(scratch: &Scratch, case: &Case, plan: &Plan) -> Result<(), String> {
    run_relay(scratch, case, plan, &[])
}

/// As [`run_case`]; at a remount, the next of `round` mounts the upper, or who mounted it before where that is empty.
fn run_relay(scratch: &Scratch, case: &Case, plan: &Plan, round: &[Backend]) -> Result<(), String> {
    let home = tempfile::Builder::new()
        .prefix("case-")
        .tempdir_in(scratch.path())
        .map_err(|error| format!("make a directory: {error}"))?;
    let mut lowers = Vec::new();
    for (index, layer) in case.layers.iter().enumerate() {
        let lower = home.path().join(format!("l{index}"));
        std::fs::create_dir(&lower).map_err(|error| error.to_string())?;
        layer
            .build(&lower)
            .map_err(|error| format!("build layer {index}: {error}"))?;
        lowers.push(lower);
    }
    let digest = || -> Result<Vec<Snapshot>, String> {
        lowers
            .iter()
            .map(|lower| Snapshot::digest(lower).map_err(|error| error.to_string()))
            .collect()
    };
    let before = digest()?;
    let mut subjects = Vec::new();
    for backend in &plan.unions {
        subjects.push(Subject::start(home.path(), &lowers, *backend)?);
    }
    let result = run_steps(case, plan, round, &mut subjects);
    for subject in &mut subjects {
        let unmounted = subject.unmount();
        if result.is_ok() {
            unmounted?;
        }
    }
    drop(subjects);
    result?;
    for (index, (before, after)) in before.iter().zip(digest()?).enumerate() {
        let lines = before.diff(&after);
        if !lines.is_empty() {
            return Err(format!("lower layer {index} changed:\n  {}", lines.join("\n  ")));
        }
    }
    Ok(())
}

fn run_steps(case: &Case, plan: &Plan, round: &[Backend], subjects: &mut [Subject]) -> Result<(), String> {
    let mut turn = round.iter().cycle().skip(1);
    let mut model = Model::of_layers(&case.layers);
    for subject in &*subjects {
        subject.compare(&model.snapshot(), "at first")?;
    }
    let has_tmpfile = subjects.iter().all(|subject| subject.tree.has_tmpfile());
    for (index, op) in case.ops.iter().enumerate() {
        if matches!(op, Op::TmpfileLink { .. }) && !has_tmpfile {
            continue;
        }
        let expected = model.apply(op);
        for subject in &mut *subjects {
            if *op == Op::Remount {
                subject.backend = turn.next().copied().unwrap_or(subject.backend);
                subject.unmount()?;
                subject.mount_as(subject.backend)?;
                continue;
            }
            let backend = subject.backend;
            let got = subject.tree.apply(op);
            if !expected.contains(&got) {
                return Err(format!(
                    "{backend:?} step {index} {op:?}: expected {}, got {got:?}",
                    show(&expected)
                ));
            }
        }
        if (index + 1) % plan.compare_every == 0 || index + 1 == case.ops.len() {
            for subject in &*subjects {
                subject.compare(&model.snapshot(), &format!("after step {index} {op:?}"))?;
            }
        }
    }
    let expected = model.snapshot();
    for subject in subjects {
        let own = subject.backend;
        subject.unmount()?;
        subject.mount_as(own)?;
        subject.compare(&expected, "after a remount")?;
        for reader in &plan.readers {
            subject.unmount()?;
            subject.mount_as(*reader)?;
            subject.compare(&expected, &format!("its upper mounted by {reader:?}"))?;
        }
        for stacker in &plan.stackers {
            subject.unmount()?;
            subject.mount_stacked_as(*stacker)?;
            subject.compare(&expected, &format!("its upper as a layer by {stacker:?}"))?;
        }
    }
    Ok(())
}

/// Runs several cases at once in one union, each in a directory of its own, each beside its own model.
pub fn run_together(scratch: &Scratch, cases: &[Case], backend: Backend) -> Result<(), String> {
    let home = tempfile::Builder::new()
        .prefix("together-")
        .tempdir_in(scratch.path())
        .map_err(|error| format!("make a directory: {error}"))?;
    let depth = cases.iter().map(|case| case.layers.len()).max().unwrap_or(1);
    let mut lowers = Vec::new();
    for level in 0..depth {
        let lower = home.path().join(format!("l{level}"));
        for (index, case) in cases.iter().enumerate() {
            let own = lower.join(format!("t{index}"));
            std::fs::create_dir_all(&own).map_err(|error| error.to_string())?;
            if let Some(layer) = case.layers.get(level) {
                layer
                    .build(&own)
                    .map_err(|error| format!("build layer {level}: {error}"))?;
            }
        }
        lowers.push(lower);
    }
    let mut subject = Subject::start(home.path(), &lowers, backend)?;
    let results: Vec<Result<Model, String>> = std::thread::scope(|scope| {
        let mount_point = &subject.mount_point;
        let threads: Vec<_> = cases
            .iter()
            .enumerate()
            .map(|(index, case)| {
                scope.spawn(move || run_one_of_many(&mount_point.join(format!("t{index}")), case))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".into())))
            .collect()
    });
    let mut models = Vec::new();
    for (index, result) in results.into_iter().enumerate() {
        models.push(result.map_err(|error| format!("{backend:?} case {index} beside others: {error}"))?);
    }
    for round in ["afterwards", "after a remount"] {
        for (index, model) in models.iter().enumerate() {
            let at = subject.mount_point.join(format!("t{index}"));
            let mut seen = Snapshot::of(&at).map_err(|error| error.to_string())?;
            // The case's root is a merged directory here and the upper's root in the model.
            seen.entries
                .insert(Vec::new(), model.snapshot().entries[&Vec::new()].clone());
            let lines = model.snapshot().diff(&seen);
            if !lines.is_empty() {
                return Err(format!(
                    "{backend:?} case {index} {round}: the tree differs:\n  {}",
                    lines.join("\n  ")
                ));
            }
        }
        subject.unmount()?;
        subject.mount_as(backend)?;
    }
    subject.unmount()
}

fn run_one_of_many(root: &Path, case: &Case) -> Result<Model, String> {
    let mut model = Model::of_layers(&case.layers);
    let mut tree = RealTree::new(root);
    for (index, op) in case.ops.iter().enumerate() {
        if matches!(op, Op::TmpfileLink { .. } | Op::Remount | Op::DropCaches) {
            continue;
        }
        let expected = model.apply(op);
        let got = tree.apply(op);
        if !expected.contains(&got) {
            return Err(format!(
                "step {index} {op:?}: expected {}, got {got:?}",
                show(&expected)
            ));
        }
    }
    Ok(model)
}

/// Draws sets of cases for [`run_together`].
pub fn run_random_together(shape: Shape, threads: usize, backend: Backend, default_cases: u32) {
    let (mut runner, scratch) = (runner(default_cases), RefCell::new(Scratch::new()));
    let result = runner.run(&proptest::collection::vec(case(shape), threads), |cases| {
        run_together(&scratch.borrow(), &cases, backend).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, cases)) => {
            let shown: Vec<String> = cases.iter().map(describe).collect();
            panic!("{reason}\nminimal cases:\n{}", shown.join("\n"));
        }
        Err(TestError::Abort(reason)) => panic!("aborted: {reason}"),
    }
}

fn show(outcomes: &[Outcome]) -> String {
    let shown: Vec<String> = outcomes.iter().map(|outcome| format!("{outcome:?}")).collect();
    shown.join(" or ")
}

/// Draws cases and shrinks the first failure to a small one.
///
/// The seed is fixed unless `SHALE_TESTS_SEED` is set; `SHALE_TESTS_CASES` sets the number of cases.
pub fn run_random(shape: Shape, plan: &Plan, default_cases: u32) {
    for_random_cases(shape, default_cases, |scratch, case| {
        run_case(scratch, case, plan)
    });
}

/// As [`run_random`], on one upper whose program is the next one of `round` after every remount, of which there are
/// some more than drawn. At the end each of `round` and of `stackers` must see the same.
pub fn run_random_relay(shape: Shape, round: &[Backend], stackers: &[Backend], default_cases: u32) {
    let plan = Plan {
        unions: vec![round[0]],
        readers: round.to_vec(),
        stackers: stackers.to_vec(),
        compare_every: 3,
    };
    for_random_cases(shape, default_cases, |scratch, case| {
        let mut case = case.clone();
        case.ops.retain(|op| !matches!(op, Op::TmpfileLink { .. }));
        let every = (case.ops.len() / 4).max(2);
        for at in (every..case.ops.len()).step_by(every).rev() {
            case.ops.insert(at, Op::Remount);
        }
        run_relay(scratch, &case, &plan, round)
    });
}

/// Draws cases for `run` and shrinks the first failure to a small one, as [`run_random`].
pub fn for_random_cases(
    shape: Shape,
    default_cases: u32,
    run: impl Fn(&Scratch, &Case) -> Result<(), String>,
) {
    let (mut runner, scratch) = (runner(default_cases), RefCell::new(Scratch::new()));
    let result = runner.run(&case(shape), |case| {
        run(&scratch.borrow(), &case).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\nminimal case:\n{}", describe(&case)),
        Err(TestError::Abort(reason)) => panic!("aborted: {reason}"),
    }
}

fn runner(default_cases: u32) -> TestRunner {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u32>().ok())
    };
    let config = Config {
        cases: number("SHALE_TESTS_CASES").unwrap_or(default_cases),
        failure_persistence: None,
        max_shrink_iters: 400,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut seed = [0x5a_u8; 32];
    seed[..4].copy_from_slice(&number("SHALE_TESTS_SEED").unwrap_or(1).to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

/// A case in few lines.
#[must_use]
pub fn describe(case: &Case) -> String {
    let mut text = String::new();
    for (index, layer) in case.layers.iter().enumerate() {
        text.push_str(&format!(
            "  layer {index}{}:\n",
            if index == 0 { " (top)" } else { "" }
        ));
        for (path, entry) in &layer.entries {
            let (mode, owner) = (entry.mode, entry.owner);
            text.push_str(&format!(
                "    {path:?} {:?} mode {mode:o} owner {owner}\n",
                entry.item
            ));
        }
    }
    for (index, op) in case.ops.iter().enumerate() {
        text.push_str(&format!("  step {index}: {op:?}\n"));
    }
    text
}
