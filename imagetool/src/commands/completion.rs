//! `shale completion`.

use clap::CommandFactory;

use super::output;
use crate::cli::{Cli, Context};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  shale completion bash > /etc/bash_completion.d/shale")]
pub(crate) struct Args {
    /// The shell to write for
    shell: clap_complete::Shell,
}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "shale", &mut script);
        output::bytes(&script)?;
        Ok(0)
    }
}
