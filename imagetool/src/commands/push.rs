//! `shale push`.

use imagetool::push::{PushOptions, push};
use imagetool::reference::Reference;
use imagetool::transfer::{Board, Lines, UPLOADS_DEFAULT};

use super::output;
use super::registry_options::RegistryArgs;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "An image that was pulled keeps its digest. Layers that the registry has are not sent again.

Examples:
  shale push localhost:5000/tool:1.0
  shale push -a localhost:5000/tool           all tags"
)]
pub(crate) struct Args {
    /// All tags of the repository
    #[arg(short, long)]
    all_tags: bool,

    /// Print the reference only
    #[arg(short, long)]
    quiet: bool,

    /// So many layers at once
    #[arg(long, value_name = "NUMBER", default_value_t = UPLOADS_DEFAULT)]
    max_concurrent_uploads: usize,

    #[command(flatten)]
    registry: RegistryArgs,

    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    name: Reference,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let options = PushOptions {
            all_tags: self.all_tags,
            uploads_max: self.max_concurrent_uploads,
            ..PushOptions::default()
        };
        let lines = if self.quiet { Lines::None } else { Lines::Output };
        let registries = self.registry.registries()?;
        push(
            &context.store()?,
            &registries,
            &self.name,
            &options,
            &Board::new(lines),
        )?;
        if self.quiet {
            output::line(match self.all_tags {
                true => self.name.canonical(),
                false => self.name.or_latest().canonical(),
            })?;
        }
        Ok(0)
    }
}
