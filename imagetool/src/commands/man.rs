//! `shale man`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory;

use crate::cli::{Cli, Context};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  shale man /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// Directory to write shale.1 and shale-VERB.1 into
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        let shown = self.folder.display();
        std::fs::create_dir_all(&self.folder).with_context(|| format!("create {shown}"))?;
        clap_mangen::generate_to(Cli::command(), &self.folder)
            .with_context(|| format!("write pages to {shown}"))?;
        Ok(0)
    }
}
