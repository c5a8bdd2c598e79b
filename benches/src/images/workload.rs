//! What is measured: one file per idea.

mod archives;
mod commit;
mod disk;
mod import;
mod mount;
mod page_cache;
mod registry;
mod trees;

use super::Bench;
use super::measure::Measure;
use crate::error::Result;

/// Something to be measured.
pub struct Workload {
    /// Short name: how it is chosen.
    pub name: &'static str,
    /// What is done, in a few words.
    pub about: &'static str,
    /// Does it all.
    pub run: fn(&Bench) -> Result<Vec<Measure>>,
}

/// All workloads, in the order of the report.
#[must_use]
pub fn all() -> Vec<Workload> {
    let workload = |name, about, run| Workload { name, about, run };
    vec![
        workload(
            "import",
            "load an image of five layers, plain and gzip",
            import::import,
        ),
        workload(
            "large-layer",
            "import one layer of 10 GiB from a pipe",
            import::large_layer,
        ),
        workload(
            "pull",
            "pull an image of five gzip layers from a registry",
            registry::pull,
        ),
        workload(
            "push",
            "push an image with one small new layer to a registry",
            registry::push,
        ),
        workload("commit", "commit 2,000 files of 100 MB", commit::commit),
        workload(
            "commit-one",
            "commit one file of a large image",
            commit::commit_one,
        ),
        workload("mount", "mount an image and list its root", mount::mount),
        workload(
            "walk-many",
            "walk a large image; the server's memory",
            mount::walk_many,
        ),
        workload("walk", "walk the root file system, cold and warm", trees::walk),
        workload(
            "small-files",
            "read all small files, cold and warm",
            trees::small_files,
        ),
        workload("lookups", "names in one layer and in many", trees::lookups),
        workload("archives", "mount archives where they lie", archives::mount),
        workload("archive-reads", "random reads of a gzip archive", archives::reads),
        workload("disk", "what seven related images take", disk::disk),
        workload(
            "page-cache",
            "one file read through many mounts",
            page_cache::page_cache,
        ),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = super::all().iter().map(|workload| workload.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
