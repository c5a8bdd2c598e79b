//! Writes one byte into the middle of a large lower file: the price of a whole copy, for those who make one.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::{Caches, Site, Workload};
use crate::data::{MIB, Sizes, Stack};
use crate::error::{Doing, Result};

/// The write.
pub(super) struct OneByte;

impl Workload for OneByte {
    fn name(&self) -> &'static str {
        "one-byte"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("write a byte into {} MiB of a layer", sizes.large_mib)
    }

    fn stack(&self) -> Stack {
        Stack::Large
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn run(&self, site: Site<'_>) -> Result<()> {
        let path = site.root.join("file");
        let file = OpenOptions::new().write(true).open(&path).doing("open", &path)?;
        let middle = (site.sizes.large_mib * MIB / 2) as u64;
        file.write_all_at(b"x", middle).doing("write", &path)
    }
}
