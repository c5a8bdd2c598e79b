//! `shale version`.

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shale version")]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        println!("shale version {}", env!("CARGO_PKG_VERSION"));
        Ok(0)
    }
}
