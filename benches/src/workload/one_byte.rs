//! Writes one byte into the middle of a large lower file: the price of a whole copy, for those who make one.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{MIB, Sizes, Stack, spoken};
use crate::error::{Doing, Result};

/// The write, by the length of the file.
pub(super) enum OneByte {
    OneMib,
    SixtyFourMib,
    OneGib,
    TenGib,
}

impl OneByte {
    fn bytes(&self) -> u64 {
        MIB as u64
            * match self {
                Self::OneMib => 1,
                Self::SixtyFourMib => 64,
                Self::OneGib => 1024,
                Self::TenGib => 10 * 1024,
            }
    }
}

impl Workload for OneByte {
    fn name(&self) -> &'static str {
        match self {
            Self::OneMib => "one-byte-1m",
            Self::SixtyFourMib => "one-byte-64m",
            Self::OneGib => "one-byte-1g",
            Self::TenGib => "one-byte-10g",
        }
    }

    fn about(&self, _sizes: &Sizes) -> String {
        format!("write a byte into {} of a layer", spoken(self.bytes()))
    }

    fn stack(&self) -> Stack {
        Stack::Sized(self.bytes())
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Alters
    }

    fn only_by_name(&self) -> bool {
        matches!(self, Self::TenGib)
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let path = site.root.join("file");
        let file = OpenOptions::new().write(true).open(&path).doing("open", &path)?;
        file.write_all_at(b"x", self.bytes() / 2).doing("write", &path)?;
        Ok(Outcome::Done)
    }
}
