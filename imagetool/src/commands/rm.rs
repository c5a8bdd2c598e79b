//! `shale rm`.

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shale rm")]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        anyhow::bail!("rm: not built yet")
    }
}
