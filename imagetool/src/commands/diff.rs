//! `shale diff`.

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shale diff")]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        anyhow::bail!("diff: not built yet")
    }
}
