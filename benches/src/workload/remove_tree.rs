//! Removes a whole tree that lies in a layer, as `rm -r` does.

use std::fs;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, expect};
use crate::error::{Doing, Result};

/// The removal.
pub(super) struct RemoveTree;

impl Workload for RemoveTree {
    fn name(&self) -> &'static str {
        "remove-tree"
    }

    fn about(&self, _sizes: &Sizes) -> String {
        "rm -r of the tree, which lies in a layer".to_owned()
    }

    fn stack(&self) -> Stack {
        Stack::Real
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Alters
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        for entry in fs::read_dir(site.root).doing("list", site.root)? {
            let path = entry.doing("list", site.root)?.path();
            fs::remove_dir_all(&path).doing("remove", &path)?;
        }
        let left = fs::read_dir(site.root).doing("list", site.root)?.count();
        expect("entries left", left, 0)?;
        Ok(Outcome::Done)
    }
}
