//! Writes a new large file and waits until it is on the disk.

use std::fs::File;
use std::io::Write as _;

use super::{Caches, Site, Workload};
use crate::data::{MIB, Sizes, Stack, content};
use crate::error::{Doing, Result};

/// What cp and dd bs=128k write at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// The writing.
pub(super) struct Write;

impl Workload for Write {
    fn name(&self) -> &'static str {
        "write-fsync"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "write {} MiB to a new file, one fsync at the end",
            sizes.write_mib
        )
    }

    fn stack(&self) -> Stack {
        Stack::Large
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn run(&self, site: Site<'_>) -> Result<()> {
        let path = site.root.join("new");
        let chunk = content(0, CHUNK_BYTES);
        let mut file = File::create_new(&path).doing("create", &path)?;
        for _ in 0..site.sizes.write_mib * MIB / CHUNK_BYTES {
            file.write_all(&chunk).doing("write", &path)?;
        }
        file.sync_all().doing("sync", &path)
    }
}
