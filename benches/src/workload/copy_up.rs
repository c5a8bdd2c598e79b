//! Changes small files of a layer for the first time: their mode only, or their content.
//!
//! overlayfs and Shale sync a copy before it takes the place of the lower file; fuse-overlayfs does not, so that its
//! time is that of a weaker promise: after a crash its copy may be empty. By metadata, Shale copies no content, which
//! overlayfs does as well when it is mounted with `metacopy=on`; here it runs with the kernel's defaults.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack};
use crate::error::{Doing, Result};

/// What is changed.
pub(super) enum CopyUp {
    /// The mode.
    Metadata,
    /// A byte is appended.
    Content,
}

impl Workload for CopyUp {
    fn name(&self) -> &'static str {
        match self {
            Self::Metadata => "copy-up-metadata",
            Self::Content => "copy-up-content",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        let count = sizes.copied_files().count();
        match self {
            Self::Metadata => format!("chmod of {count} small lower files"),
            Self::Content => format!("append a byte to {count} small lower files"),
        }
    }

    fn stack(&self) -> Stack {
        Stack::Tree
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Alters
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        for file in site.sizes.copied_files() {
            let path = site.root.join(file);
            match self {
                Self::Metadata => {
                    fs::set_permissions(&path, Permissions::from_mode(0o600))
                        .doing("change mode of", &path)?;
                }
                Self::Content => {
                    let mut file = OpenOptions::new().append(true).open(&path).doing("open", &path)?;
                    file.write_all(b"x").doing("append to", &path)?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}
