//! `shale pull`.

use imagetool::platform::Wanted;
use imagetool::pull::{PullOptions, pull};
use imagetool::reference::Reference;
use imagetool::transfer::{Board, DOWNLOADS_DEFAULT, Lines};

use super::output;
use super::registry_options::RegistryArgs;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale pull debian:12
  shale pull --platform linux/arm64 debian:12
  shale pull debian@sha256:…                  exactly this one
  shale pull -a localhost:5000/tool           all tags")]
pub(crate) struct Args {
    /// All tags of the repository
    #[arg(short, long)]
    all_tags: bool,

    /// Print the reference only
    #[arg(short, long)]
    quiet: bool,

    /// For another platform than this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Wanted>,

    /// So many layers at once
    #[arg(long, value_name = "NUMBER", default_value_t = DOWNLOADS_DEFAULT)]
    max_concurrent_downloads: usize,

    #[command(flatten)]
    registry: RegistryArgs,

    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: Reference,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let options = PullOptions {
            platform: self.platform,
            all_tags: self.all_tags,
            downloads_max: self.max_concurrent_downloads,
        };
        let lines = if self.quiet { Lines::None } else { Lines::Output };
        let registries = self.registry.registries()?;
        pull(
            &context.store()?,
            &registries,
            &self.name,
            &options,
            &Board::new(lines),
        )?;
        output::line(match (self.name.digest(), self.all_tags) {
            (Some(digest), _) => self.name.with_digest(digest).canonical(),
            (None, true) => self.name.canonical(),
            (None, false) => self.name.or_latest().canonical(),
        })?;
        Ok(0)
    }
}
