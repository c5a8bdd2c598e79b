//! Asks for names that the mount has not seen yet, half of which do not exist, in one layer or in many.
//!
//! The directory exists in all layers and each holds its share of the names: the worst that a stack can do to a
//! lookup. The layers' own metadata is warm, so that the union's work shows and not the disk's.

use std::fs;
use std::io::ErrorKind;

use super::{Caches, Site, Workload};
use crate::data::{Sizes, Stack, expect, name};
use crate::error::{BenchError, Doing, Result};

/// The lookups, in the flat or the deep stack.
pub(super) struct Lookup(pub(super) Stack);

impl Workload for Lookup {
    fn name(&self) -> &'static str {
        match self.0 {
            Stack::Deep => "lookup-many-layers",
            _ => "lookup-one-layer",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        let layers = if self.0 == Stack::Deep { sizes.layers } else { 1 };
        format!(
            "stat {} new and {} missing names, layers: {layers}",
            sizes.names, sizes.names
        )
    }

    fn stack(&self) -> Stack {
        self.0
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn run(&self, site: Site<'_>) -> Result<()> {
        let dir = site.root.join("d");
        let mut found = 0;
        for number in 0..site.sizes.names {
            let path = dir.join(name(number));
            fs::symlink_metadata(&path).doing("stat", &path)?;
            found += 1;
            let path = dir.join(format!("missing-{number}"));
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).doing("stat", &path),
                Ok(_) => return Err(BenchError::Wrong(format!("{} exists", path.display()))),
            }
        }
        expect("names found", found, site.sizes.names)
    }
}
