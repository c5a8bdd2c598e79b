//! Reads a large file from its beginning to its end, as `cat` does.

use std::fs::File;
use std::io::Read;

use super::{Caches, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, expect, spoken};
use crate::error::{Doing, Result};

/// What cp and cat read at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// The reading, cold or warm.
pub(super) struct LargeRead(pub(super) Caches);

impl Workload for LargeRead {
    fn name(&self) -> &'static str {
        match self.0 {
            Caches::ColdCaches => "large-read-cold",
            _ => "large-read-warm",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("read {} in order", spoken(sizes.size))
    }

    fn stack(&self) -> Stack {
        Stack::Large
    }

    fn caches(&self) -> Caches {
        self.0
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let path = site.root.join("file");
        let mut file = File::open(&path).doing("open", &path)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut total = 0;
        loop {
            match file.read(&mut buffer).doing("read", &path)? {
                0 => {
                    expect("bytes read", total, site.sizes.size as usize)?;
                    return Ok(Outcome::Done);
                }
                read => total += read,
            }
        }
    }
}
