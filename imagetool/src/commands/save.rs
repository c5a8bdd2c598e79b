//! `shale save`.

use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;

use anyhow::bail;
use imagetool::progress::Progress;
use imagetool::save::{save, save_to_file};

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale save -o debian.tar debian:12
  shale save -o all.tar debian nginx:1        every tag of debian, and one of nginx
  shale save debian:12 | podman load")]
pub(crate) struct Args {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let progress = Progress::new(false);
        match self.output {
            Some(path) => save_to_file(&path, |out| save(&store, &self.images, out, &progress))?,
            None => {
                let stdout = std::io::stdout();
                if stdout.is_terminal() {
                    bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
                }
                save(
                    &store,
                    &self.images,
                    BufWriter::with_capacity(256 << 10, stdout.lock()),
                    &progress,
                )?;
            }
        }
        Ok(0)
    }
}
