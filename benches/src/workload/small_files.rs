//! Opens, reads and closes every small file of a tree, as a compiler or a grep does.

use std::fs;

use super::{Caches, Site, Workload};
use crate::data::{Sizes, Stack};
use crate::error::{BenchError, Doing, Result};

/// The reading, cold or warm.
pub(super) struct SmallFiles(pub(super) Caches);

impl Workload for SmallFiles {
    fn name(&self) -> &'static str {
        match self.0 {
            Caches::ColdCaches => "small-files-cold",
            _ => "small-files-warm",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("open, read and close {} files", sizes.tree_files())
    }

    fn stack(&self) -> Stack {
        Stack::Tree
    }

    fn caches(&self) -> Caches {
        self.0
    }

    fn run(&self, site: Site<'_>) -> Result<()> {
        for number in 0..site.sizes.tree_files() {
            let path = site.root.join(site.sizes.tree_file(number));
            if fs::read(&path).doing("read", &path)?.is_empty() {
                return Err(BenchError::Wrong(format!("{} is empty", path.display())));
            }
        }
        Ok(())
    }
}
