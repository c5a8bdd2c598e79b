//! Writes a new large file and waits until it is on the disk.

use std::fs::File;
use std::io::Write as _;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, content, spoken};
use crate::error::{Doing, Result};

/// What cp and dd bs=128k write at once.
const CHUNK_BYTES: u64 = 128 * 1024;

/// The writing.
pub(super) struct Write;

impl Workload for Write {
    fn name(&self) -> &'static str {
        "write-fsync"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "write {} to a new file, one fsync at the end",
            spoken(sizes.write_size)
        )
    }

    fn stack(&self) -> Stack {
        Stack::Programs
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn extra_bytes(&self, sizes: &Sizes) -> u64 {
        sizes.write_size
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let path = site.root.join("new");
        let chunk = content(0, CHUNK_BYTES as usize);
        let mut file = File::create_new(&path).doing("create", &path)?;
        let mut left = site.sizes.write_size;
        while left > 0 {
            let part = left.min(CHUNK_BYTES);
            file.write_all(&chunk[..part as usize]).doing("write", &path)?;
            left -= part;
        }
        file.sync_all().doing("sync", &path)?;
        Ok(Outcome::Done)
    }
}
