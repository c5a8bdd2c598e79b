//! Unpacks an archive of many small files with `tar`, as a build does with sources.

use std::process::Command;

use super::{Ability, Caches, Change, Outcome, Site, Workload, needs};
use crate::data::{Sizes, Stack};
use crate::error::{Doing, Result};
use crate::scratch;

/// The unpacking.
pub(super) struct Untar;

impl Workload for Untar {
    fn name(&self) -> &'static str {
        "untar"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("tar -x of {} small files", sizes.files)
    }

    fn stack(&self) -> Stack {
        Stack::Tree
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn obstacle(&self, _ability: Ability) -> Option<String> {
        needs("tar")
    }

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        let archive = site.data.outside().join("untar.tar");
        if !archive.exists() {
            let tree = site.data.lowers(Stack::Tree).swap_remove(0);
            let mut tar = Command::new("tar");
            tar.arg("--create").arg("--file").arg(&archive);
            scratch::run(tar.arg("--directory").arg(tree).arg("."))?;
        }
        // into the page cache, for every system alike
        std::fs::read(&archive).doing("read", &archive)?;
        let dir = site.root.join("unpacked");
        std::fs::create_dir(&dir).doing("make", &dir)
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let mut tar = Command::new("tar");
        tar.arg("--extract")
            .arg("--file")
            .arg(site.data.outside().join("untar.tar"));
        scratch::run(tar.arg("--directory").arg(site.root.join("unpacked")))?;
        let last = site
            .root
            .join("unpacked")
            .join(Sizes::tree_file(site.sizes.files - 1));
        std::fs::metadata(&last).doing("find", &last)?;
        Ok(Outcome::Done)
    }
}
