//! Cuts the power while a mount program works on a disk, and looks at what the disk holds then.
//!
//! ```text
//! act 1 ─ act 2 ─ … ─ act n          trees T0, T1, … Tn as programs saw them
//!   W W F  W F W F …                 what the disk was told: writes, flushes
//!        └─ power loss here: all before the last flush, and of what came after it any part
//!           ──► file system ──► mount again, and by overlayfs ──► a tree
//! ```
//! The tree must be one of those since the last that was promised (by fsync(2) within the mount, or because the file
//! system below committed), and what was written and synced must be there. A file that was written and not synced may
//! hold anything; a file that was only copied up may not.

mod act;
mod below;

pub use act::{Act, Then};
pub use below::Below;

use crate::disks::{BLOCK_BYTES, Disks, Image, Record};
use crate::mount::{Backend, MountGuard, MountSpec};
use crate::posix;
use crate::snapshot::{Content, Kind, Snapshot};
use crate::steps::{age, check_work, without_links};
use below::Mounted;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The number of random power losses after each flush; 1 by default.
pub const LOSSES_VARIABLE: &str = "SHALE_TESTS_POWER_LOSSES";

/// Seed of the random power losses.
pub const SEED_VARIABLE: &str = "SHALE_TESTS_SEED";

/// When an act began and ended, in records of the disk's log.
struct Span {
    began: usize,
    ended: usize,
}

/// What has been seen and recorded.
struct Recording {
    before: Image,
    log: Vec<Record>,
    trees: Vec<Snapshot>,
    /// With each tree, the files that are written somewhere.
    contents: Vec<BTreeMap<&'static str, Vec<u8>>>,
    layers: Vec<Snapshot>,
    spans: Vec<Span>,
    began_secs: i64,
}

/// What was done, where.
struct Case<'a> {
    backend: Backend,
    below: Below,
    acts: &'a [Act],
    disks: Disks,
    root: tempfile::TempDir,
}

/// Runs the acts, and cuts the power after every flush. How often.
///
/// # Panics
/// When what is there after a power loss is not what it must be.
pub fn lose_power(backend: Backend, below: Below, fill: fn(&[PathBuf]), acts: &[Act]) -> usize {
    let case = Case {
        backend,
        below,
        acts,
        disks: Disks::new().expect("make disks"),
        root: tempfile::Builder::new()
            .prefix("shale-tests-power-")
            .tempdir()
            .expect("make a directory"),
    };
    let recording = case.record(fill);
    case.replay(&recording)
}

impl Case<'_> {
    fn spec(&self) -> MountSpec {
        let on = |name: &str| self.root.path().join("disk").join(name);
        MountSpec {
            lowers: vec![on("l0"), on("l1")],
            upper: Some((on("upper"), on("work"))),
            // Copies are sealed when an act says so.
            extra_options: match self.backend {
                Backend::ShalePartial => vec!["seal=off".to_owned()],
                _ => vec![],
            },
            open_files_limit: None,
        }
    }

    fn merged(&self) -> PathBuf {
        let at = self.root.path().join("merged");
        std::fs::create_dir_all(&at).expect("make a mount point");
        at
    }

    fn record(&self, fill: fn(&[PathBuf])) -> Recording {
        let number = self.disks.add(Image::new(self.below.size_bytes()));
        self.below.make(&self.disks.path(number));
        let disk = Mounted::new(
            &self.disks.path(number),
            &self.root.path().join("disk"),
            self.below,
        );
        let spec = self.spec();
        let (upper, work) = spec.upper.as_ref().expect("an upper");
        for dir in spec.lowers.iter().chain([upper, work, &disk.0.join("commits")]) {
            std::fs::create_dir(dir).expect("make a directory on the disk");
        }
        fill(&spec.lowers);
        for lower in &spec.lowers {
            age(lower).expect("age a layer");
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let began_secs = i64::try_from(since.as_secs()).expect("before 2262") - 2;
        let guard = MountGuard::mount(self.backend, &spec, &self.merged()).expect("mount the union");
        let layers = digests(&spec.lowers);
        rustix::fs::syncfs(File::open(&disk.0).expect("open the disk")).expect("sync the disk");
        let before = self.disks.record(number);
        let mut trees = vec![tree(guard.path(), began_secs)];
        let contents_now = || {
            let written = self.acts.iter().filter_map(|act| act.writes);
            let read = |path| Some((path, std::fs::read(guard.path().join(path)).ok()?));
            written.filter_map(read).collect()
        };
        let mut contents = vec![contents_now()];
        let mut spans = Vec::new();
        for (index, act) in self.acts.iter().enumerate() {
            let began = self.disks.recorded(number);
            (act.run)(guard.path()).unwrap_or_else(|error| panic!("act {index}: {error}"));
            if act.then == Then::Committed {
                commit(&disk.0.join("commits").join(index.to_string())).expect("commit");
            }
            let ended = self.disks.recorded(number);
            spans.push(Span { began, ended });
            trees.push(tree(guard.path(), began_secs));
            contents.push(contents_now());
        }
        let log = self.disks.take_log(number);
        guard.unmount().expect("unmount the union");
        disk.unmount();
        Recording {
            before,
            log,
            trees,
            contents,
            layers,
            spans,
            began_secs,
        }
    }

    /// Makes the disks of all power losses and looks at them.
    fn replay(&self, recording: &Recording) -> usize {
        let losses = std::env::var(LOSSES_VARIABLE)
            .ok()
            .and_then(|value| value.parse().ok())
            .unwrap_or(1);
        let seed = std::env::var(SEED_VARIABLE)
            .ok()
            .and_then(|value| value.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        println!("{SEED_VARIABLE}={seed}");
        let mut random = Random(seed);
        let mut safe = recording.before.clone();
        let mut since = 0;
        let mut count = 0;
        let flushes = recording
            .log
            .iter()
            .enumerate()
            .filter(|(_, record)| matches!(record, Record::Flush));
        let mut ends: Vec<usize> = flushes.map(|(at, _)| at).collect();
        ends.push(recording.log.len());
        // `since` records are safe; those up to `end` may be.
        for end in ends {
            let open = &recording.log[since..end];
            let blocks = || blocks_of(open);
            for loss in 0..=losses {
                let mut image = safe.clone();
                // Nothing of what is open first; then any part.
                for (offset, data) in blocks().filter(|_| loss > 0 && random.next().is_multiple_of(2)) {
                    image.write(offset, data);
                }
                if loss > 0 && open.is_empty() {
                    continue;
                }
                let reach = if loss == 0 { since } else { end };
                let context = format!(
                    "power loss with {since} records safe and {} of {} (seed {seed})",
                    if loss == 0 { "nothing" } else { "parts" },
                    end - since
                );
                self.check(recording, image, since, reach, count % 2 == 0, &context);
                count += 1;
            }
            for (offset, data) in blocks() {
                safe.write(offset, data);
            }
            since = (end + 1).min(recording.log.len());
        }
        count
    }

    /// Looks at one disk: the first `safe` records are on it, and nothing beyond `reach`.
    fn check(
        &self,
        recording: &Recording,
        image: Image,
        safe: usize,
        reach: usize,
        kernel_first: bool,
        context: &str,
    ) {
        let allowed = Allowed::at(self.acts, recording, safe, reach);
        let number = self.disks.add(image);
        let disk = Mounted::new(
            &self.disks.path(number),
            &self.root.path().join("disk"),
            self.below,
        );
        let spec = self.spec();
        let left = posix::names(&spec.upper.as_ref().expect("an upper").1.join("work")).unwrap_or_default();
        let are_parted = left.iter().any(|name| name.starts_with(b"links")) && kernel_first;
        let other = match self.backend {
            // The kernel does not see what is in a partial copy.
            Backend::ShalePartial => Backend::ShalePlain,
            _ => Backend::KernelNoIndex,
        };
        let mut readers = [self.backend, other];
        if kernel_first {
            readers.reverse();
        }
        for reader in readers {
            let context = format!(
                "{context}, acts {}..={}, read by {reader:?}",
                allowed.first, allowed.last
            );
            let guard = MountGuard::mount(reader, &spec, &self.merged())
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            if !reader.is_kernel() {
                check_work(&spec.upper.as_ref().expect("an upper").1, &context);
            }
            let seen = tree(guard.path(), recording.began_secs);
            if self.backend == Backend::ShalePartial {
                allowed.check_bytes(recording, guard.path(), &context);
            }
            allowed.check(recording, &seen, are_parted, &context);
            let new = guard.path().join("after the power loss");
            std::fs::write(&new, "new")
                .and_then(|()| std::fs::remove_file(&new))
                .unwrap_or_else(|error| panic!("{context}: going on: {error}"));
            guard
                .unmount()
                .unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        for ((lower, before), after) in spec
            .lowers
            .iter()
            .zip(&recording.layers)
            .zip(digests(&spec.lowers))
        {
            before.assert_same(
                &after,
                &format!("{context}: the lower layer {} changed", lower.display()),
            );
        }
        disk.unmount();
        self.disks.clear(number);
    }
}

/// What may be seen after a power loss.
struct Allowed {
    /// Trees from this number on.
    first: usize,
    /// Up to this one.
    last: usize,
    /// Files that were written and not synced.
    open: Vec<&'static str>,
    /// The copy that was getting its content.
    filled: Option<&'static str>,
}

impl Allowed {
    fn at(acts: &[Act], recording: &Recording, safe: usize, reach: usize) -> Allowed {
        // An act has kept its promise when nothing was flushed between what is safe and its end.
        let is_kept = |span: &Span| {
            let last_flush = recording.log[..span.ended]
                .iter()
                .rposition(|record| matches!(record, Record::Flush));
            last_flush.is_none_or(|at| at < safe)
        };
        let (mut first, mut last, mut filled) = (0, 0, None);
        let mut open: Vec<&'static str> = Vec::new();
        for (index, (act, span)) in acts.iter().zip(&recording.spans).enumerate() {
            // What it changed was told to the disk after it began.
            if span.began >= reach {
                break;
            }
            last = index + 1;
            filled = act.fills;
            if act.then != Then::Nothing && is_kept(span) {
                first = index + 1;
            }
            open.extend(act.writes);
            if let Some(path) = act.syncs
                && is_kept(span)
            {
                open.retain(|known| *known != path);
            }
        }
        Allowed {
            first,
            last,
            open,
            filled,
        }
    }

    /// Of a partial copy that was written and not synced, each byte is one that was there before or was written.
    fn check_bytes(&self, recording: &Recording, root: &Path, context: &str) {
        for path in &self.open {
            let Ok(found) = std::fs::read(root.join(path)) else {
                continue;
            };
            let versions: Vec<&Vec<u8>> = recording.contents[..=self.last]
                .iter()
                .filter_map(|contents| contents.get(path))
                .collect();
            // What lies past the end of a version is zeros when the file grows.
            let is_known = |(at, byte): (usize, &u8)| {
                versions
                    .iter()
                    .any(|version| version.get(at).copied().unwrap_or(0) == *byte)
            };
            let wrong = found.iter().enumerate().position(|byte| !is_known(byte));
            assert_eq!(wrong, None, "{context}: a byte of {path} that never was");
        }
    }

    fn check(&self, recording: &Recording, seen: &Snapshot, are_parted: bool, context: &str) {
        let mut wrong = String::new();
        for number in self.first..=self.last {
            let mut expected = recording.trees[number].clone();
            let mut seen = seen.clone();
            if are_parted {
                (expected, seen) = (without_links(&expected), without_links(&seen));
            }
            for (path, entry) in &mut seen.entries {
                let Some(wanted) = expected.entries.get_mut(path) else {
                    continue;
                };
                if entry.kind == Kind::Dir
                    || self
                        .filled
                        .is_some_and(|filled| filled.as_bytes() == entry.link_group)
                {
                    entry.mtime = wanted.mtime;
                }
                let is_open = self.open.iter().any(|open| open.as_bytes() == path);
                if is_open && entry.kind == Kind::File && wanted.kind == Kind::File {
                    for entry in [&mut *entry, wanted] {
                        entry.content = Content::Bytes(Vec::new());
                        entry.size_bytes = 0;
                        entry.mtime = None;
                    }
                }
            }
            let lines = expected.diff(&seen);
            if lines.is_empty() {
                return;
            }
            let _ = write!(wrong, "\n not the tree {number}:\n  {}", lines.join("\n  "));
        }
        panic!("{context}: a tree that never was, or not what was promised:{wrong}");
    }
}

/// Makes the journal of the file system below commit, by syncing a file that has nothing to do with the upper.
fn commit(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(b"commit")?;
    file.sync_all()
}

/// What was written, in blocks.
fn blocks_of(records: &[Record]) -> impl Iterator<Item = (u64, &[u8])> {
    let writes = records.iter().filter_map(|record| match record {
        Record::Write(offset, data) => Some((*offset, data)),
        Record::Flush => None,
    });
    writes.flat_map(|(offset, data)| {
        let blocks = data.chunks(BLOCK_BYTES).enumerate();
        blocks.map(move |(index, block)| (offset + (index * BLOCK_BYTES) as u64, block))
    })
}

fn tree(root: &Path, began_secs: i64) -> Snapshot {
    let mut tree = Snapshot::of(root).unwrap_or_else(|error| panic!("read the tree: {error}"));
    for entry in tree.entries.values_mut() {
        if entry.mtime.is_some_and(|(secs, _)| secs >= began_secs) {
            entry.mtime = Some((i64::MAX, 0));
        }
    }
    tree
}

fn digests(lowers: &[PathBuf]) -> Vec<Snapshot> {
    lowers
        .iter()
        .map(|lower| Snapshot::digest(lower).expect("digest a layer"))
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed on paper makes the same losses again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
