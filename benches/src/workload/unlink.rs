//! Removes many files that were created in the mount: no whiteouts are needed.

use std::fs;

use super::create::create_files;
use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, name};
use crate::error::{Doing, Result};

/// The removal.
pub(super) struct Unlink;

impl Workload for Unlink {
    fn name(&self) -> &'static str {
        "unlink"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("remove {} files of the upper", sizes.create)
    }

    fn stack(&self) -> Stack {
        Stack::Deep(1)
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        create_files(site)
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let dir = site.root.join("new");
        for number in 0..site.sizes.create {
            let path = dir.join(name(number));
            fs::remove_file(&path).doing("remove", &path)?;
        }
        // Fails unless all are gone.
        fs::remove_dir(&dir).doing("remove", &dir)?;
        Ok(Outcome::Done)
    }
}
