//! `shale history`.

use imagetool::history::rows;

use super::{format::Format, output};
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  shale history --no-trunc debian:12")]
pub(crate) struct Args {
    /// Show commands and ids in full
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Show sizes and times for people (the default) or for programs
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    human: bool,

    /// Output: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// The image, by name or id
    image: String,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let columns = [
            ("IMAGE", "ID"),
            ("CREATED", if self.human { "CreatedSince" } else { "CreatedAt" }),
            ("CREATED BY", "CreatedBy"),
            ("SIZE", "Size"),
            ("COMMENT", "Comment"),
        ];
        let rows = rows(&store, &self.image)?;
        let values = rows.iter().map(|row| row.to_json(self.no_trunc, self.human));
        output::print(&Format::parse(self.format.as_deref(), self.quiet)?.render(&columns, values)?)?;
        Ok(0)
    }
}
