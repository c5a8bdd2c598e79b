//! How much of the page cache one file takes that several mounts of the same layers read: once for all, or once for each.
//!
//! The file is in the cache when the mounts are made. What they add, together with its length, is the result: below a
//! loop device the pages lie a second time, but they did so before.

use std::fs::File;
use std::path::Path;

use super::{Caches, Kind, Outcome, Site, Unit, Workload};
use crate::data::{Sizes, Stack, expect, spoken};
use crate::error::{BenchError, Doing, Result};

/// The reading, by the number of mounts.
pub(super) enum PageCache {
    One,
    Two,
    Four,
    Eight,
}

impl Workload for PageCache {
    fn name(&self) -> &'static str {
        match self {
            Self::One => "page-cache-1",
            Self::Two => "page-cache-2",
            Self::Four => "page-cache-4",
            Self::Eight => "page-cache-8",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "page cache for one file of {}, mounts that read it: {}",
            spoken(sizes.shared_size),
            self.mounts()
        )
    }

    fn stack(&self) -> Stack {
        Stack::Shared
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn unit(&self) -> Unit {
        Unit::Bytes
    }

    fn mounts(&self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    fn unfit(&self, kind: Kind) -> Option<&'static str> {
        (!kind.mounted).then_some("nothing is mounted")
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let before = cached()?;
        for root in site.roots {
            let path = root.join("file");
            let mut file = File::open(&path).doing("open", &path)?;
            let read = std::io::copy(&mut file, &mut std::io::sink()).doing("read", &path)?;
            expect("bytes read", read as usize, site.sizes.shared_size as usize)?;
        }
        let growth = (cached()? - before).max(0.0);
        Ok(Outcome::Value(site.sizes.shared_size as f64 + growth))
    }
}

/// Bytes in the page cache of the machine.
fn cached() -> Result<f64> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).doing("read", path)?;
    let value = text.lines().find_map(|line| line.strip_prefix("Cached:"));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let missing = || BenchError::Wrong("/proc/meminfo has no line `Cached`".to_owned());
    Ok(kib.ok_or_else(missing)? * 1024.0)
}
