//! Lists every directory and asks for the attributes of every entry, as `find -size +1` does.

use std::fs;
use std::path::Path;

use super::{Caches, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, expect};
use crate::error::{Doing, Result};

/// The walk, cold or warm.
pub(super) struct Walk(pub(super) Caches);

impl Workload for Walk {
    fn name(&self) -> &'static str {
        match self.0 {
            Caches::ColdCaches => "walk-cold",
            _ => "walk-warm",
        }
    }

    fn about(&self, _sizes: &Sizes) -> String {
        "list and stat everything in the tree".to_owned()
    }

    fn stack(&self) -> Stack {
        Stack::Real
    }

    fn caches(&self) -> Caches {
        self.0
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        expect("entries walked", walk(site.root)?, site.data.tree().entries)?;
        Ok(Outcome::Done)
    }
}

/// Counts what lies below a directory, with the attributes of each.
pub(super) fn walk(dir: &Path) -> Result<usize> {
    let mut entries = 0;
    for entry in fs::read_dir(dir).doing("list", dir)? {
        let entry = entry.doing("list", dir)?;
        entries += 1;
        // Relative to the open directory, without following links.
        if entry.metadata().doing("stat an entry of", dir)?.is_dir() {
            entries += walk(&entry.path())?;
        }
    }
    Ok(entries)
}
