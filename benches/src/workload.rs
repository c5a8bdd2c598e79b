//! What is timed: one file per idea.
//!
//! ```text
//!              mount ──► prepare ──► caches set ──► run (timed) ──► unmount
//! ColdCaches                         dropped
//! WarmMount              run once    written out
//! WarmLayers   layers read before    written out
//! ```
//!
//! A workload checks that it did all its work, as far as that costs next to nothing, and fails otherwise: a quick
//! wrong answer is no result.

mod copy_up;
mod create;
mod exec;
mod large_read;
mod lookup;
mod one_byte;
mod remove_tree;
mod small_files;
mod unlink;
mod walk;
mod write;

use std::path::Path;

use crate::data::{Sizes, Stack};
use crate::error::Result;

/// What is known to the kernel when the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caches {
    /// Nothing: neither of the mount nor of the layers below it.
    ColdCaches,
    /// The workload has run once on the same mount.
    WarmMount,
    /// The layers have been read from below; the mount is new.
    WarmLayers,
}

/// Where a workload works.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Root of the merged tree, which can be written to.
    pub root: &'a Path,
    /// How much to do.
    pub sizes: &'a Sizes,
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
    fn run(&self, site: Site<'_>) -> Result<()>;
}

/// All workloads, in the order of the table.
#[must_use]
pub fn all() -> Vec<Box<dyn Workload>> {
    use Caches::{ColdCaches, WarmMount};
    vec![
        Box::new(walk::Walk(ColdCaches)),
        Box::new(walk::Walk(WarmMount)),
        Box::new(small_files::SmallFiles(ColdCaches)),
        Box::new(small_files::SmallFiles(WarmMount)),
        Box::new(large_read::LargeRead(ColdCaches)),
        Box::new(large_read::LargeRead(WarmMount)),
        Box::new(write::Write),
        Box::new(create::Create),
        Box::new(unlink::Unlink),
        Box::new(copy_up::CopyUp::Metadata),
        Box::new(copy_up::CopyUp::Content),
        Box::new(one_byte::OneByte),
        Box::new(remove_tree::RemoveTree),
        Box::new(exec::Exec),
        Box::new(lookup::Lookup(Stack::Flat)),
        Box::new(lookup::Lookup(Stack::Deep)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Data;
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

    /// Runs each workload on a plain copy of its layers: no mount and no rights needed.
    #[test]
    fn workloads_do_all_their_work_in_a_plain_directory() {
        for workload in all() {
            let scratch = tempfile::tempdir().unwrap();
            let root = scratch.path().join("l");
            let data = Data::make(&root, &tiny()).unwrap();
            let lowers = data.lowers(workload.stack());
            for lower in &lowers[1..] {
                for entry in std::fs::read_dir(lower.join("d")).unwrap() {
                    let entry = entry.unwrap();
                    std::fs::rename(entry.path(), lowers[0].join("d").join(entry.file_name())).unwrap();
                }
            }
            let sizes = tiny();
            let site = Site {
                root: &lowers[0],
                sizes: &sizes,
            };
            let name = workload.name();
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
        let data = Data::make(&scratch.path().join("l"), &tiny()).unwrap();
        let tree = &data.lowers(Stack::Tree)[0];
        std::fs::remove_file(tree.join(tiny().tree_file(0))).unwrap();
        let sizes = tiny();
        let error = walk::Walk(Caches::WarmMount)
            .run(Site {
                root: tree,
                sizes: &sizes,
            })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "wrong result: entries walked: 37 instead of 38"
        );
    }
}
