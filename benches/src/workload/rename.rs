//! Gives many files that were created in the mount another name in the same directory.

use std::fs;

use super::create::create_files;
use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, expect, name};
use crate::error::{Doing, Result};

/// The renaming.
pub(super) struct Rename;

impl Workload for Rename {
    fn name(&self) -> &'static str {
        "rename"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("rename {} files of the upper", sizes.create)
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

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        create_files(site)
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let dir = site.root.join("new");
        for number in 0..site.sizes.create {
            let path = dir.join(name(number));
            fs::rename(&path, dir.join(format!("r{number:05}"))).doing("rename", &path)?;
        }
        let renamed = fs::read_dir(&dir).doing("list", &dir)?.flatten();
        let renamed = renamed.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"r"));
        expect("files renamed", renamed.count(), site.sizes.create)?;
        Ok(Outcome::Done)
    }
}
