//! `shale export`.

use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;

use anyhow::bail;
use imagetool::export::export;
use imagetool::progress::Progress;
use imagetool::save::save_to_file;

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale export -o rootfs.tar web
  shale export web | tar -t")]
pub(crate) struct Args {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The container, by name or id
    container: String,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let progress = Progress::new(false);
        let record = store.containers().get(&self.container)?;
        match self.output {
            Some(path) => save_to_file(&path, |out| export(&store, &record, out, &progress))?,
            None => {
                let stdout = std::io::stdout();
                if stdout.is_terminal() {
                    bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
                }
                export(
                    &store,
                    &record,
                    BufWriter::with_capacity(256 << 10, stdout.lock()),
                    &progress,
                )?;
            }
        }
        Ok(0)
    }
}
