//! `shale run`.

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shale run")]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        anyhow::bail!("run: not built yet")
    }
}
