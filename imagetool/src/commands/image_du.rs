//! `shale image du`: what the layers of an image hold, and what of it nobody sees.

use anyhow::Context as _;
use imagetool::time::human_size;
use imagetool::waste::waste;
use imagetool::which::instructions;
use serde_json::{Value, json};
use ufs::index::Index;

use super::format::{Columns, Format};
use super::output;
use crate::cli::Context;

const COLUMNS: Columns<'static> = &[
    ("LAYER", "ID"),
    ("SIZE", "Size"),
    ("HIDDEN", "Hidden"),
    ("CREATED BY", "CreatedBy"),
];

/// Headings of the fields that the table does not show.
const HEADINGS: Columns<'static> = &[
    ("DIGEST", "Digest"),
    ("FILES", "Files"),
    ("HIDDEN FILES", "HiddenFiles"),
    ("SIZE", "SizeBytes"),
    ("HIDDEN", "HiddenBytes"),
];

/// So much of a command is shown.
const COMMAND_CHARS_MAX: usize = 45;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "HIDDEN is what later layers delete or replace: it keeps its space until the image is made anew in one \
                  piece.

Examples:
  shale image du debian:12
  shale image du --format '{{.HiddenBytes}} {{.Digest}}' debian:12"
)]
pub(super) struct Args {
    /// Show digests and commands in full
    #[arg(long)]
    no_trunc: bool,

    /// Output: table, table TEMPLATE, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// The image, by name or id
    image: String,
}

impl Args {
    pub(super) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let format = Format::parse(self.format.as_deref(), false)?;
        let store = context.store()?;
        let (id, _) = store.find_image(&self.image)?;
        let details = store.image_details(&id)?;
        let repository = store.repository();
        let mut indexes = Vec::new();
        for (diff_id, _) in &details.layers {
            let path = repository.index(diff_id.as_bytes());
            indexes.push(Index::open(&path).with_context(|| format!("layer {diff_id}"))?);
        }
        let wasted = waste(&indexes.iter().collect::<Vec<_>>())?;
        let steps = instructions(&details.image.config, wasted.len());
        let layers = details.layers.iter().zip(&wasted).zip(&steps).rev();
        let rows = layers.map(|(((diff_id, _), waste), step)| -> Value {
            let mut by = step.created_by.replace('\t', " ");
            if !self.no_trunc && by.chars().count() > COMMAND_CHARS_MAX {
                by = by.chars().take(COMMAND_CHARS_MAX - 1).chain(['…']).collect();
            }
            json!({
                "ID": if self.no_trunc { diff_id.to_string() } else { diff_id.short() },
                "Digest": diff_id.to_string(),
                "Size": human_size(waste.size_bytes),
                "SizeBytes": waste.size_bytes,
                "Files": waste.files,
                "Hidden": human_size(waste.hidden_bytes),
                "HiddenBytes": waste.hidden_bytes,
                "HiddenFiles": waste.hidden_files,
                "CreatedBy": by,
            })
        });
        output::print(&format.render(COLUMNS, HEADINGS, rows)?)?;
        Ok(0)
    }
}
