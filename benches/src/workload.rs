//! What is timed: one file per idea.
//!
//! ```text
//!              mount ──► prepare ──► caches set ──► run (timed) ──► unmount
//! ColdCaches                         dropped
//! WarmMount               run once   written out
//! ThirdPass              run twice   written out
//! WarmLayers   layers read before    written out
//! ```
//!
//! A workload checks that it did all its work, as far as that costs next to nothing, and fails otherwise: a quick
//! wrong answer is no result.

mod clients;
mod copy_up;
mod create;
mod exec;
mod find;
mod gcc;
mod git;
mod large_read;
mod layers;
mod memory;
mod one_byte;
mod package;
mod page_cache;
mod random;
mod remove_tree;
mod rename;
mod small_files;
mod unlink;
mod untar;
mod walk;
mod write;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::{Data, Sizes, Stack};
use crate::error::Result;
use crate::images::tools::which;
use crate::random_io::RandomIo;

/// What is known to the kernel when the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caches {
    /// Nothing: neither of the mount nor of the layers below it.
    ColdCaches,
    /// The workload has run once on the same mount.
    WarmMount,
    /// The workload has run twice on the same mount.
    ThirdPass,
    /// The layers have been read from below; the mount is new.
    WarmLayers,
}

/// What a workload does to its layers: from it follows what a plain directory needs in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It reads.
    Nothing,
    /// It makes files of its own and leaves those of the layers alone.
    Adds,
    /// It changes or removes files of the layers.
    Alters,
}

/// What a sample is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Time.
    Seconds,
    /// Memory.
    Bytes,
}

/// What came of a workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// It is done: the time that passed is the sample.
    Done,
    /// The sample.
    Value(f64),
}

/// Where a workload works.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Root of the merged tree, which can be written to unless the workload only reads.
    pub root: &'a Path,
    /// The roots of all mounts, where a workload asked for several: the first is `root`.
    pub roots: &'a [PathBuf],
    /// How much to do.
    pub sizes: &'a Sizes,
    /// The layers below, and what is in them.
    pub data: &'a Data,
    /// The server's process, if there is one.
    pub server: Option<u32>,
    /// How random reads and writes are made.
    pub random_io: &'a RandomIo,
}

/// What the machine and the caller allow.
#[derive(Debug, Clone, Copy)]
pub struct Ability {
    /// The machine's root.
    pub root: bool,
    /// A root file system was given.
    pub rootfs: bool,
}

/// Which kind of file system a workload is asked to judge.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// It is served by a process.
    pub served: bool,
    /// It can be written to.
    pub writable: bool,
    /// It is a mount at all.
    pub mounted: bool,
}

/// Something to be timed.
pub trait Workload {
    /// Short name: row of the table, and how it is chosen.
    fn name(&self) -> &'static str;

    /// What is done, in a few words, with its numbers.
    fn about(&self, sizes: &Sizes) -> String;

    /// The layers that it needs.
    fn stack(&self) -> Stack;

    /// The state that it starts in.
    fn caches(&self) -> Caches;

    /// What it does to its layers.
    fn change(&self) -> Change {
        Change::Nothing
    }

    /// What its samples are.
    fn unit(&self) -> Unit {
        Unit::Seconds
    }

    /// How many mounts of the same layers it needs at a time.
    fn mounts(&self) -> usize {
        1
    }

    /// Whether it is run only when its whole name is given.
    fn only_by_name(&self) -> bool {
        false
    }

    /// Bytes that it needs on the disk beside its layers.
    fn extra_bytes(&self, _sizes: &Sizes) -> u64 {
        0
    }

    /// Why it cannot be run here, if so.
    fn obstacle(&self, _ability: Ability) -> Option<String> {
        None
    }

    /// Why it says nothing about a kind of file system, if so.
    fn unfit(&self, _kind: Kind) -> Option<&'static str> {
        None
    }

    /// Makes what is needed in the mount, before the clock starts.
    ///
    /// # Errors
    /// When it cannot be made.
    fn prepare(&self, _site: Site<'_>) -> Result<()> {
        Ok(())
    }

    /// Does what is timed.
    ///
    /// # Errors
    /// When a step fails, or less was done than should be.
    fn run(&self, site: Site<'_>) -> Result<Outcome>;
}

/// What a workload says that needs a program which is not there.
fn needs(program: &str) -> Option<String> {
    which(program)
        .is_none()
        .then(|| format!("{program} is not installed"))
}

/// All workloads, in the order of the table.
#[must_use]
pub fn all() -> Vec<Box<dyn Workload>> {
    use Caches::{ColdCaches, ThirdPass, WarmMount};
    vec![
        Box::new(walk::Walk(ColdCaches)),
        Box::new(walk::Walk(WarmMount)),
        Box::new(find::Find),
        Box::new(small_files::SmallFiles(ColdCaches)),
        Box::new(small_files::SmallFiles(WarmMount)),
        Box::new(small_files::SmallFiles(ThirdPass)),
        Box::new(large_read::LargeRead(ColdCaches)),
        Box::new(large_read::LargeRead(WarmMount)),
        Box::new(random::Read(ColdCaches)),
        Box::new(random::Read(WarmMount)),
        Box::new(random::Write::Upper),
        Box::new(random::Write::Lower),
        Box::new(random::Write::Touched),
        Box::new(write::Write),
        Box::new(create::Create),
        Box::new(unlink::Unlink),
        Box::new(rename::Rename),
        Box::new(copy_up::CopyUp::Metadata),
        Box::new(copy_up::CopyUp::Content),
        Box::new(one_byte::OneByte::OneMib),
        Box::new(one_byte::OneByte::SixtyFourMib),
        Box::new(one_byte::OneByte::OneGib),
        Box::new(one_byte::OneByte::TenGib),
        Box::new(remove_tree::RemoveTree),
        Box::new(exec::Exec),
        Box::new(gcc::Gcc),
        Box::new(git::Git),
        Box::new(untar::Untar),
        Box::new(package::Package),
        Box::new(layers::Layers::One),
        Box::new(layers::Layers::Sixteen),
        Box::new(layers::Layers::SixtyFour),
        Box::new(layers::Layers::HundredTwentySeven),
        Box::new(clients::Clients::One),
        Box::new(clients::Clients::Two),
        Box::new(clients::Clients::Four),
        Box::new(clients::Clients::Eight),
        Box::new(memory::Memory::Known),
        Box::new(memory::Memory::Forgotten),
        Box::new(page_cache::PageCache::One),
        Box::new(page_cache::PageCache::Two),
        Box::new(page_cache::PageCache::Four),
        Box::new(page_cache::PageCache::Eight),
    ]
}

/// Those that were asked for, by their names or else by what their names begin with (`walk` is `walk-cold` and
/// `walk-warm`); all but the most expensive without any.
///
/// # Errors
/// The first name that fits none.
pub fn chosen(names: &[String]) -> std::result::Result<Vec<Box<dyn Workload>>, String> {
    let is_whole = |name: &str| all().iter().any(|workload| workload.name() == name);
    let fits = |name: &str, workload: &dyn Workload| {
        let rest = workload.name().strip_prefix(name);
        match rest {
            Some("") => true,
            Some(rest) => rest.starts_with('-') && !workload.only_by_name() && !is_whole(name),
            None => false,
        }
    };
    let mut workloads = all();
    if let Some(name) = names
        .iter()
        .find(|name| !workloads.iter().any(|workload| fits(name, &**workload)))
    {
        return Err(name.clone());
    }
    workloads.retain(|workload| match names.is_empty() {
        true => !workload.only_by_name(),
        false => names.iter().any(|name| fits(name, &**workload)),
    });
    Ok(workloads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::tiny;

    #[test]
    fn names_are_unique_and_easy_to_type() {
        let mut names: Vec<_> = all().iter().map(|workload| workload.name()).collect();
        assert!(names.iter().all(|name| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        }));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn workloads_are_chosen_by_name_and_by_group() {
        let names = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            let chosen = chosen(&words)?;
            Ok::<_, String>(chosen.iter().map(|workload| workload.name()).collect::<Vec<_>>())
        };
        assert_eq!(names(&["walk"]).unwrap(), ["walk-cold", "walk-warm"]);
        assert_eq!(names(&["random-write"]).unwrap(), ["random-write"]);
        assert_eq!(names(&["one-byte-10g"]).unwrap(), ["one-byte-10g"]);
        assert!(!names(&["one-byte"]).unwrap().contains(&"one-byte-10g"));
        assert!(!names(&[]).unwrap().contains(&"one-byte-10g"));
        assert_eq!(names(&["create", "wal"]), Err("wal".to_owned()));
    }

    fn data(root: &Path, stack: Stack) -> Data {
        let mut data = Data::new(&root.join("l"), &tiny(), None).unwrap();
        data.make(stack).unwrap();
        data.look_at(stack).unwrap();
        data
    }

    fn site<'a>(data: &'a Data, sizes: &'a Sizes, roots: &'a [PathBuf]) -> Site<'a> {
        Site {
            root: &roots[0],
            roots,
            sizes,
            data,
            server: Some(std::process::id()),
            random_io: &RandomIo::BuiltIn,
        }
    }

    /// Runs each workload on its layers themselves: no mount and no rights needed.
    #[test]
    fn workloads_do_all_their_work_in_a_plain_directory() {
        let ability = Ability {
            root: false,
            rootfs: false,
        };
        for workload in all() {
            let name = workload.name();
            if let Some(why) = workload.obstacle(ability) {
                eprintln!("SKIP {name}: {why}");
                continue;
            }
            if matches!(workload.stack(), Stack::Sized(bytes) if bytes > 1 << 20) {
                continue;
            }
            let scratch = tempfile::tempdir().unwrap();
            let data = data(scratch.path(), workload.stack());
            let lowers = data.lowers(workload.stack());
            for lower in &lowers[1..] {
                for entry in std::fs::read_dir(lower.join("d")).unwrap() {
                    let entry = entry.unwrap();
                    std::fs::rename(entry.path(), lowers[0].join("d").join(entry.file_name())).unwrap();
                }
            }
            let sizes = tiny();
            let roots = vec![lowers[0].clone(); workload.mounts()];
            let site = site(&data, &sizes, &roots);
            workload
                .prepare(site)
                .unwrap_or_else(|error| panic!("prepare {name}: {error}"));
            workload
                .run(site)
                .unwrap_or_else(|error| panic!("run {name}: {error}"));
        }
    }

    #[test]
    fn less_work_than_promised_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let data = data(scratch.path(), Stack::Tree);
        let tree = data.lowers(Stack::Tree);
        std::fs::remove_file(tree[0].join(Sizes::tree_file(0))).unwrap();
        let sizes = tiny();
        let error = walk::Walk(Caches::WarmMount)
            .run(site(&data, &sizes, &tree))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "wrong result: entries walked: 27 instead of 28"
        );
    }
}
