//! Opens, reads and closes every small file of a tree, as a compiler or a grep does.

use std::fs;

use super::{Caches, Outcome, Site, Workload};
use crate::data::{Sizes, Stack};
use crate::error::{BenchError, Doing, Result};

/// The reading, cold, warm or once more.
pub(super) struct SmallFiles(pub(super) Caches);

impl Workload for SmallFiles {
    fn name(&self) -> &'static str {
        match self.0 {
            Caches::ColdCaches => "small-files-cold",
            Caches::ThirdPass => "small-files-third",
            _ => "small-files-warm",
        }
    }

    fn about(&self, _sizes: &Sizes) -> String {
        let pass = match self.0 {
            Caches::ColdCaches => "",
            Caches::ThirdPass => ", for the third time",
            _ => ", for the second time",
        };
        format!("open, read and close all small files of the tree{pass}")
    }

    fn stack(&self) -> Stack {
        Stack::Real
    }

    fn caches(&self) -> Caches {
        self.0
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        for file in &site.data.tree().small {
            let path = site.root.join(file);
            if fs::read(&path).doing("read", &path)?.is_empty() {
                return Err(BenchError::Wrong(format!("{} is empty", path.display())));
            }
        }
        Ok(Outcome::Done)
    }
}
