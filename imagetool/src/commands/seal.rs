//! `shale seal`.

use std::path::Path;

use imagetool::container;
use imagetool::container::seal::{seal, seal_mounted};

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of a large file only the blocks that were written are copied; the rest is read from the image. That is
made up for in the background, and here at once: then other programs can read the upper directory, too.

Examples:
  shale seal web     a container, running or not
  shale seal /mnt    what `shale mount --rw` has mounted"
)]
pub(crate) struct Args {
    /// Names or ids of containers; with a slash, mount points
    #[arg(required = true, value_name = "CONTAINER|MOUNTPOINT")]
    names: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        container::reconcile(&store)?;
        for name in &self.names {
            if name.contains('/') {
                seal_mounted(Path::new(name))?;
            } else {
                seal(&store, &store.containers().get(name)?)?;
            }
            output::line(name)?;
        }
        Ok(0)
    }
}
