//! Asks for names that the mount has not seen yet, half of which do not exist, in one layer or in many.
//!
//! The directory exists in all layers and each holds its share of the names: the worst that a stack can do to a
//! lookup. The layers' own metadata is warm, so that the union's work shows and not the disk's.

use std::fs;
use std::io::ErrorKind;

use super::{Caches, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, expect, name};
use crate::error::{BenchError, Doing, Result};

/// The lookups, by the number of layers.
pub(super) enum Layers {
    One,
    Sixteen,
    SixtyFour,
    /// As many as Docker allows.
    HundredTwentySeven,
}

impl Layers {
    fn count(&self) -> usize {
        match self {
            Self::One => 1,
            Self::Sixteen => 16,
            Self::SixtyFour => 64,
            Self::HundredTwentySeven => 127,
        }
    }
}

impl Workload for Layers {
    fn name(&self) -> &'static str {
        match self {
            Self::One => "layers-1",
            Self::Sixteen => "layers-16",
            Self::SixtyFour => "layers-64",
            Self::HundredTwentySeven => "layers-127",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "stat {} new and {} missing names, layers: {}",
            sizes.names,
            sizes.names,
            self.count()
        )
    }

    fn stack(&self) -> Stack {
        Stack::Deep(self.count())
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
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
        expect("names found", found, site.sizes.names)?;
        Ok(Outcome::Done)
    }
}
