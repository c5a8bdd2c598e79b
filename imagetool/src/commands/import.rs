//! `shale import`.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use imagetool::changes::Change;
use imagetool::import::{ImportOptions, import};
use imagetool::ingest::widen_pipe;
use imagetool::manifest::Platform;
use imagetool::progress::Progress;
use imagetool::reference::Reference;

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale import rootfs.tar.gz debian:12
  shale import --platform linux/arm64 -m 'built elsewhere' rootfs.tar debian:arm
  mmdebstrap --variant=minbase bookworm | shale import -c 'CMD [\"bash\"]' - debian:12")]
pub(crate) struct Args {
    /// Apply a Dockerfile instruction to the image's configuration (CMD, ENV, USER, …)
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    change: Vec<Change>,

    /// Message for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// What machines the image is for, when not for this one's kind (linux/arm64, linux/arm/v7)
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    /// Archive of a root file system, plain or compressed with gzip, bzip2, xz or zstd; - reads standard input
    #[arg(value_name = "FILE|-")]
    source: PathBuf,

    /// Name of the new image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let progress = Progress::new(self.quiet);
        let name = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            bail!("cannot import digest reference");
        }
        let (archive, size): (Box<dyn Read + Send>, _) = match self.source.to_str() {
            Some("-") if std::io::stdin().is_terminal() => {
                bail!("standard input is a terminal: pipe an archive in")
            }
            Some("-") => {
                let input = std::io::stdin();
                widen_pipe(&input);
                (Box::new(input), None)
            }
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                bail!("importing from a URL is not supported yet: download {url} first and import the file")
            }
            _ => {
                let path = self.source.display();
                let file = File::open(&self.source).with_context(|| format!("open {path}"))?;
                let metadata = file.metadata().with_context(|| format!("look at {path}"))?;
                if metadata.is_dir() {
                    bail!(
                        "{path} is a directory: import takes an archive (tar -C {path} -c . | shale import - NAME)"
                    );
                }
                let size = metadata.is_file().then_some(metadata.len());
                (Box::new(file), size)
            }
        };
        let store = context.store()?;
        let bar = progress.bytes("Importing", size);
        let options = ImportOptions {
            source: self.source.display().to_string(),
            message: self.message,
            platform: self.platform,
            changes: self.change,
            name,
        };
        let id = import(&store, bar.wrap(archive), &options, &progress)?;
        drop(bar);
        output::line(id)?;
        Ok(0)
    }
}
