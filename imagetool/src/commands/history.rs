//! `shale history`.

use imagetool::history::rows;

use super::format::{Columns, Format};
use super::output;
use crate::cli::Context;

/// Headings of all fields of a step.
const HEADINGS: Columns<'static> = &[
    ("IMAGE", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED AT", "CreatedAt"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale history --no-trunc debian:12
  shale history --format '{{.Size}}\\t{{.CreatedBy}}' debian:12")]
pub(crate) struct Args {
    /// Show commands and ids in full
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Show sizes and times for people (the default) or, with false, for programs
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = super::boolean, value_name = "BOOL")]
    human: bool,

    /// Output: table, table TEMPLATE, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// The image, by name or id
    image: String,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let format = Format::parse(self.format.as_deref(), self.quiet)?;
        let store = context.store()?;
        let columns = [
            ("IMAGE", "ID"),
            (if self.human { "CREATED" } else { "CREATED AT" }, "CreatedSince"),
            ("CREATED BY", "CreatedBy"),
            ("SIZE", "Size"),
            ("COMMENT", "Comment"),
        ];
        let rows = rows(&store, &self.image)?;
        let values = rows.iter().map(|row| row.to_json(self.no_trunc, self.human));
        output::print(&format.render(&columns, HEADINGS, values)?)?;
        Ok(0)
    }
}
