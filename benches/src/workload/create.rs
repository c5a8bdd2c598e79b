//! Creates many files of 1 kB in a new directory, as unpacking an archive does.

use std::fs;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, content, name};
use crate::error::{Doing, Result};

/// Length of each file.
const FILE_BYTES: usize = 1000;

/// The creation.
pub(super) struct Create;

impl Workload for Create {
    fn name(&self) -> &'static str {
        "create"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("create, write and close {} files of 1 kB", sizes.create)
    }

    fn stack(&self) -> Stack {
        Stack::Deep(1)
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        create_files(site)?;
        Ok(Outcome::Done)
    }
}

/// Makes the files, here and for those who remove them.
pub(super) fn create_files(site: Site<'_>) -> Result<()> {
    let dir = site.root.join("new");
    let content = content(0, FILE_BYTES);
    fs::create_dir(&dir).doing("make", &dir)?;
    for number in 0..site.sizes.create {
        let path = dir.join(name(number));
        fs::write(&path, &content).doing("create", &path)?;
    }
    Ok(())
}
