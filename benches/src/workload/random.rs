//! Random reads and writes of 4 KiB in large files: of a layer, of the upper, and of a layer's file that was written
//! to before.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{MIB, Sizes, Stack, content, spoken};
use crate::error::{Doing, Result};

/// Reads from a file of a layer, cold or warm.
pub(super) struct Read(pub(super) Caches);

impl Workload for Read {
    fn name(&self) -> &'static str {
        match self.0 {
            Caches::ColdCaches => "random-read-cold",
            _ => "random-read-warm",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "{} random reads of 4 KiB from {}",
            self.count(sizes),
            spoken(sizes.size)
        )
    }

    fn stack(&self) -> Stack {
        Stack::Large
    }

    fn caches(&self) -> Caches {
        match self.0 {
            // read in order from below: random reads alone would leave most of it cold
            Caches::WarmMount => Caches::WarmLayers,
            caches => caches,
        }
    }

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        if self.0 == Caches::WarmMount {
            let path = site.root.join("file");
            let mut file = fs::File::open(&path).doing("open", &path)?;
            std::io::copy(&mut file, &mut std::io::sink()).doing("read", &path)?;
        }
        Ok(())
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        site.random_io
            .read(&site.root.join("file"), self.count(site.sizes))
    }
}

impl Read {
    /// From a disk a tenth of them takes as long.
    fn count(&self, sizes: &Sizes) -> usize {
        match self.0 {
            Caches::ColdCaches => sizes.random.div_ceil(10),
            _ => sizes.random,
        }
    }
}

/// Writes, by what they go to.
pub(super) enum Write {
    /// A file that was created in the mount.
    Upper,
    /// A file of a layer: the copy-up is part of it.
    Lower,
    /// A file of a layer that has been written to: a full copy, or one in parts.
    Touched,
}

impl Write {
    fn path(&self, site: Site<'_>) -> PathBuf {
        site.root.join(match self {
            Self::Upper => "new",
            Self::Lower | Self::Touched => "file",
        })
    }

    /// How long the file of the upper is.
    fn upper_bytes(sizes: &Sizes) -> u64 {
        sizes.size.min(256 * MIB as u64)
    }
}

impl Workload for Write {
    fn name(&self) -> &'static str {
        match self {
            Self::Upper => "random-write",
            Self::Lower => "random-write-lower",
            Self::Touched => "random-write-touched",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        let count = sizes.random;
        match self {
            Self::Upper => format!(
                "{count} random writes of 4 KiB to {} of the upper",
                spoken(Self::upper_bytes(sizes))
            ),
            Self::Lower => format!(
                "{count} random writes of 4 KiB to {} of a layer, the copy-up included",
                spoken(sizes.size)
            ),
            Self::Touched => format!(
                "{count} random writes of 4 KiB to {} of a layer, after a first one",
                spoken(sizes.size)
            ),
        }
    }

    fn stack(&self) -> Stack {
        match self {
            Self::Upper => Stack::Programs,
            Self::Lower | Self::Touched => Stack::Large,
        }
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        match self {
            Self::Upper => Change::Adds,
            Self::Lower | Self::Touched => Change::Alters,
        }
    }

    fn extra_bytes(&self, sizes: &Sizes) -> u64 {
        match self {
            Self::Upper => Self::upper_bytes(sizes),
            Self::Lower | Self::Touched => 0,
        }
    }

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        let path = self.path(site);
        match self {
            Self::Upper => {
                let mut file = fs::File::create_new(&path).doing("create", &path)?;
                let part = content(0, 128 * 1024);
                let mut left = Self::upper_bytes(site.sizes);
                while left > 0 {
                    let length = left.min(part.len() as u64);
                    file.write_all(&part[..length as usize]).doing("write", &path)?;
                    left -= length;
                }
                Ok(())
            }
            Self::Lower => Ok(()),
            Self::Touched => {
                let file = OpenOptions::new().write(true).open(&path).doing("open", &path)?;
                file.write_all_at(b"x", 0).doing("write", &path)
            }
        }
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let path = self.path(site);
        match self {
            // the clock of fio does not count the opening, in which the copy is made
            Self::Lower => site.random_io.write_from_open(&path, site.sizes.random),
            Self::Upper | Self::Touched => site.random_io.write(&path, site.sizes.random),
        }
    }
}
