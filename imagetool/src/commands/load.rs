//! `shale load`.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use imagetool::load::{load_directory, load_file};
use imagetool::progress::Progress;

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale load -i debian.tar.zst
  podman save --format oci-archive debian:12 | shale load")]
pub(crate) struct Args {
    /// Docker or OCI archive (plain, gzip, bzip2, xz, zstd) or OCI layout directory [default: standard input]
    #[arg(short, long, value_name = "FILE|DIR")]
    input: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let progress = Progress::new(self.quiet);
        let input = self.input.filter(|path| path.as_os_str() != "-");
        let loaded = match &input {
            Some(path) if path.is_dir() => load_directory(&context.store()?, path, &progress)?,
            Some(path) => {
                let shown = path.display().to_string();
                let file = File::open(path).with_context(|| format!("open {shown}"))?;
                load_file(&context.store()?, &shown, file, &progress)?
            }
            None => {
                let stdin = std::io::stdin();
                if stdin.is_terminal() {
                    bail!(
                        "requested load from stdin, but stdin is empty: name a file with -i or pipe an archive in"
                    );
                }
                // a file that was redirected is as good as one that was named
                let input = stdin
                    .as_fd()
                    .try_clone_to_owned()
                    .context("open standard input")?;
                load_file(&context.store()?, "standard input", File::from(input), &progress)?
            }
        };
        for image in loaded {
            for renamed in &image.renamed {
                output::line(format!(
                    "The image {} already exists, renaming the old one with ID {} to empty string",
                    renamed.name, renamed.from
                ))?;
            }
            if image.names.is_empty() {
                output::line(format!("Loaded image ID: {}", image.id))?;
            }
            for name in &image.names {
                output::line(format!("Loaded image: {name}"))?;
            }
        }
        Ok(0)
    }
}
