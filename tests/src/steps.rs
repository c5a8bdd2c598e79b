//! Kills the mount program at each change it makes to its upper during an operation, and looks at what it left.
//!
//! ```text
//! once:      mount, prepare, step 1, step 2 …        the trees S0, S1, S2 …, as they are without a crash
//! kill at n: mount, prepare, steps … SIGKILL at the n-th change
//!            ├─ copy of upper and work ──► kernel overlayfs ──► tree
//!            └─ mount again              ──► tree, work directory, the steps left, a round of other operations
//! ```
//! n goes up until the steps are over before the n-th change. When i steps were answered before the kill, each tree
//! must be S(i) or S(i+1), and nothing in a lower layer may have changed.

use crate::fixture::listed;
use crate::mount::{Backend, MountGuard, MountSpec};
use crate::posix;
use crate::scratch::{Scratch, run};
use crate::snapshot::{Kind, Snapshot, Untouched, check_listing};
use crate::tracer::{Tracer, Watched};
use std::fmt::Write;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files of layers are this old; what a scenario does is younger.
const OLD_SECS: i64 = 1_000_000_000;

/// No operation makes more changes: a loop that does not end is a fault.
const CHANGES_MAX: usize = 400;

/// Something a program does in the mount, given its root. Between two steps the tree is one that can be seen.
pub type Step = fn(&Path) -> io::Result<()>;

/// What to do, and on what.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Number of lower layers.
    pub layers: usize,
    /// Fills them, top first.
    pub fill: fn(&[PathBuf]),
    /// Done in the mount before it is watched.
    pub prepare: fn(&Path),
    /// What is watched.
    pub steps: &'static [Step],
}

/// What a run has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// At how many points the server was killed.
    pub kills: usize,
}

/// One scenario on one kind of mount.
struct Trial<'a> {
    scenario: Scenario,
    backend: Backend,
    scratch: &'a Scratch,
    lowers: Vec<PathBuf>,
    layers: Untouched,
    /// The tree before the steps and after each.
    trees: Vec<Snapshot>,
    began_secs: i64,
}

/// Kills the server of `backend` at every change that it makes in the steps of `scenario`.
///
/// # Panics
/// When a tree is none of those it may be, and when anything else is not as it must be after a crash.
pub fn kill_at_every_change(backend: Backend, scenario: Scenario) -> Tally {
    let scratch = Scratch::new();
    let lowers: Vec<PathBuf> = (0..scenario.layers)
        .map(|i| scratch.directory(&format!("l{i}")))
        .collect();
    (scenario.fill)(&lowers);
    for lower in &lowers {
        age(lower).expect("age a layer");
    }
    let began = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let mut trial = Trial {
        scenario,
        backend,
        scratch: &scratch,
        layers: Untouched::watch(&lowers),
        lowers,
        trees: Vec::new(),
        // The clock of files goes in coarse steps.
        began_secs: i64::try_from(began.as_secs()).expect("before 2262") - 2,
    };
    trial.reference();
    for kill_at in 1..CHANGES_MAX {
        if trial.killed_at(kill_at) {
            return Tally { kills: kill_at };
        }
    }
    panic!("the operation made {CHANGES_MAX} changes and was not over");
}

impl Trial<'_> {
    fn spec(&self, within: &Path) -> MountSpec {
        MountSpec {
            lowers: self.lowers.clone(),
            upper: Some((within.join("upper"), within.join("work"))),
            extra_options: vec![],
            open_files_limit: None,
        }
    }

    fn fresh(&self, name: &str) -> (PathBuf, MountSpec) {
        let within = self.scratch.directory(name);
        for part in ["upper", "work"] {
            let _ = self.scratch.directory(&format!("{name}/{part}"));
        }
        let spec = self.spec(&within);
        (within, spec)
    }

    fn mount(&self, backend: Backend, spec: &MountSpec) -> MountGuard {
        let at = self.scratch.directory("merged");
        MountGuard::mount(backend, spec, &at).unwrap_or_else(|error| panic!("mount by {backend:?}: {error}"))
    }

    /// Records the trees that may be seen, and that overlayfs sees the last one.
    fn reference(&mut self) {
        let (within, spec) = self.fresh("reference");
        let guard = self.mount(self.backend, &spec);
        (self.scenario.prepare)(guard.path());
        self.trees.push(self.tree(guard.path()));
        for (number, step) in self.scenario.steps.iter().enumerate() {
            step(guard.path()).unwrap_or_else(|error| panic!("step {number} without a crash: {error}"));
            self.trees.push(self.tree(guard.path()));
        }
        guard.unmount().expect("unmount");
        let last = self.trees.len() - 1;
        for reader in [Backend::KernelNoIndex, self.backend] {
            let guard = self.mount(reader, &spec);
            let tree = self.tree(guard.path());
            let what = format!("{reader:?} sees another tree than was made");
            let tree = relaxed(&tree, &self.trees[last], &self.trees);
            self.trees[last].assert_same(&tree, &what);
            guard.unmount().expect("unmount");
        }
        remove(&within);
    }

    /// One run. Whether the steps were over before the kill.
    fn killed_at(&self, kill_at: usize) -> bool {
        let (within, spec) = self.fresh("trial");
        let mut guard = self.mount(self.backend, &spec);
        (self.scenario.prepare)(guard.path());
        let (watched, answered) = self.run_watched(&mut guard, kill_at);
        drop(guard);
        let context = format!("change {kill_at} ({watched:?}), {answered} steps answered");
        let is_over = matches!(watched, Watched::Finished { .. });
        let allowed: &[usize] = if is_over {
            &[self.trees.len() - 1]
        } else {
            &[answered, answered + 1]
        };
        if is_over {
            assert_eq!(answered, self.scenario.steps.len(), "{context}");
        }
        self.check_by_kernel(&within, allowed, &context);
        self.check_again(&spec, allowed, &context);
        self.layers.check(&context);
        remove(&within);
        is_over
    }

    /// Runs the steps on a thread while this one watches the server. How many of them were answered.
    fn run_watched(&self, guard: &mut MountGuard, kill_at: usize) -> (Watched, usize) {
        let is_over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let tracer = Tracer::seize(guard.server_pid().expect("a server")).expect("trace the server");
        let worker = {
            let (root, steps) = (guard.path().to_owned(), self.scenario.steps);
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            std::thread::spawn(move || {
                for step in steps {
                    match step(&root) {
                        Ok(()) => answered.fetch_add(1, Ordering::AcqRel),
                        Err(error) => {
                            is_over.store(true, Ordering::Release);
                            let _ = root.join("no such name").symlink_metadata();
                            return Some(error);
                        }
                    };
                }
                is_over.store(true, Ordering::Release);
                // Wakes the server, so that it is seen that all is over.
                let _ = root.join("no such name").symlink_metadata();
                None
            })
        };
        let watched = tracer.watch(kill_at, &is_over).expect("watch the server");
        guard.kill_server();
        let error = worker.join().expect("the worker");
        if let Some(error) = error {
            let of_the_kill = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO];
            assert!(
                matches!(watched, Watched::Killed(_)) && of_the_kill.contains(&posix::errno(&error)),
                "change {kill_at}, {watched:?}: {error}"
            );
        }
        (watched, answered.load(Ordering::Acquire))
    }

    /// Mounts a copy of what is left by overlayfs, which cleans the work directory in its own way.
    fn check_by_kernel(&self, within: &Path, allowed: &[usize], context: &str) {
        let copy = self.scratch.path().join("copy");
        run(Command::new("cp").arg("-a").arg(within).arg(&copy));
        // Names of a file that is being copied up with them part in overlayfs, as they do at its own copy-ups.
        let staged = posix::names(&copy.join("work/work")).expect("list work");
        let are_parted = staged.iter().any(|name| name.starts_with(b"links"));
        let guard = self.mount(Backend::KernelNoIndex, &self.spec(&copy));
        let mut tree = self.tree(guard.path());
        if are_parted {
            tree = without_links(&tree);
        }
        let context = format!("{context}, read by overlayfs");
        self.match_tree(&tree, allowed, are_parted, &context);
        // Not compared: the inode numbers that overlayfs lists, which without `xino` are now the upper's, now its own.
        guard.unmount().expect("unmount overlayfs");
        remove(&copy);
    }

    /// Mounts what is left again, finishes the steps, and goes on.
    fn check_again(&self, spec: &MountSpec, allowed: &[usize], context: &str) {
        let guard = self.mount(self.backend, spec);
        let (_, work) = spec.upper.as_ref().expect("an upper");
        check_work(work, context);
        let found = self.check_tree(guard.path(), allowed, &format!("{context}, mounted again"));
        for step in &self.scenario.steps[found..] {
            step(guard.path()).unwrap_or_else(|error| panic!("{context}: step after the crash: {error}"));
        }
        let end = self.trees.len() - 1;
        self.check_tree(
            guard.path(),
            &[end],
            &format!("{context}, finished after the crash"),
        );
        go_on(guard.path()).unwrap_or_else(|error| panic!("{context}: going on: {error}"));
        self.check_tree(guard.path(), &[end], &format!("{context}, gone on"));
        guard
            .unmount()
            .unwrap_or_else(|error| panic!("{context}: {error}"));
    }

    /// Which of the allowed trees this is, the first if several.
    fn check_tree(&self, root: &Path, allowed: &[usize], context: &str) -> usize {
        let found = self.match_tree(&self.tree(root), allowed, false, context);
        check_listing_of(root, context);
        found
    }

    fn match_tree(&self, tree: &Snapshot, allowed: &[usize], are_parted: bool, context: &str) -> usize {
        let within = allowed.iter().filter(|index| **index < self.trees.len());
        let candidates: Vec<(usize, Snapshot)> = within
            .map(|index| (*index, self.trees[*index].clone()))
            .map(|(index, tree)| (index, if are_parted { without_links(&tree) } else { tree }))
            .collect();
        let all: Vec<Snapshot> = candidates.iter().map(|(_, tree)| tree.clone()).collect();
        let mut wrong = String::new();
        for (index, candidate) in &candidates {
            let lines = candidate.diff(&relaxed(tree, candidate, &all));
            if lines.is_empty() {
                return *index;
            }
            let _ = write!(wrong, "\n not the tree {index}:\n  {}", lines.join("\n  "));
        }
        panic!("{context}: a tree that never was:{wrong}");
    }

    /// The tree, all times since the scenario began being one.
    fn tree(&self, root: &Path) -> Snapshot {
        let mut tree = Snapshot::of(root).unwrap_or_else(|error| panic!("read the tree: {error}"));
        for entry in tree.entries.values_mut() {
            if entry.mtime.is_some_and(|(secs, _)| secs >= self.began_secs) {
                entry.mtime = Some((i64::MAX, 0));
            }
        }
        tree
    }
}

/// The tree with those times forgotten that a kill may leave as at another allowed moment: directories show the time of
/// a copy-up within them until it is put back, and so does a metadata-only copy that is being filled.
fn relaxed(tree: &Snapshot, expected: &Snapshot, allowed: &[Snapshot]) -> Snapshot {
    let mut tree = tree.clone();
    for (path, entry) in &mut tree.entries {
        let Some(wanted) = expected.entries.get(path) else {
            continue;
        };
        let is_now = entry.mtime == Some((i64::MAX, 0));
        let mut others = allowed.iter().filter_map(|other| other.entries.get(path));
        if entry.kind == Kind::Dir && is_now || others.any(|other| other.mtime == entry.mtime) {
            entry.mtime = wanted.mtime;
        }
    }
    tree
}

/// The tree, each name a file of its own.
#[must_use]
pub fn without_links(tree: &Snapshot) -> Snapshot {
    let mut tree = tree.clone();
    for (path, entry) in &mut tree.entries {
        entry.nlink = 1;
        entry.link_group.clone_from(path);
    }
    tree
}

fn check_listing_of(root: &Path, context: &str) {
    let wrong = check_listing(root);
    assert!(wrong.is_empty(), "{context}: {wrong:?}");
}

/// Fails when something of an operation that was cut off is left where the next one prepares its own.
///
/// # Panics
/// When it is so.
pub fn check_work(work: &Path, context: &str) {
    assert_eq!(listed(work), ["work"], "{context}: the work directory");
    for entry in std::fs::read_dir(work.join("work")).expect("list work") {
        let entry = entry.expect("an entry");
        let file_type = entry.file_type().expect("its type");
        let left = entry.path();
        // The one that all others will be links of.
        assert!(
            file_type.is_char_device(),
            "{context}: {} is left",
            left.display()
        );
    }
    assert_eq!(listed(&work.join("work")).len(), 1, "{context}: leftovers");
}

/// Some of everything, undone at the end.
fn go_on(root: &Path) -> io::Result<()> {
    let (one, two, dir) = (root.join("going on"), root.join("gone on"), root.join("going"));
    std::fs::write(&one, "on")?;
    posix::link(&one, &two)?;
    posix::mkdir(&dir, 0o755)?;
    posix::rename(&two, &dir.join("on"), rustix::fs::RenameFlags::NOREPLACE)?;
    posix::rename(&one, &dir.join("on too"), rustix::fs::RenameFlags::empty())?;
    std::fs::remove_dir_all(&dir)?;
    for name in listed(root) {
        let path = root.join(name);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.symlink_metadata()?.permissions());
        if path.symlink_metadata()?.is_dir() {
            // A change that changes nothing, but for a copy-up.
            posix::chmod(&path, mode & 0o7777)?;
            std::fs::write(path.join("going on"), "on")?;
            std::fs::remove_file(path.join("going on"))?;
        }
    }
    Ok(())
}

/// Gives everything in a layer an old time.
pub fn age(root: &Path) -> io::Result<()> {
    for name in posix::names(root)? {
        let path = root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
            &name,
        ));
        if path.symlink_metadata()?.is_dir() {
            age(&path)?;
        } else {
            posix::set_times(&path, OLD_SECS, 123)?;
        }
    }
    posix::set_times(root, OLD_SECS, 456)
}

fn remove(within: &Path) {
    std::fs::remove_dir_all(within).expect("remove a trial");
}
