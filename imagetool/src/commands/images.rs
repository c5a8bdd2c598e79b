//! `shale images`.

use anyhow::bail;
use imagetool::images::{ImageRow, ImagesFilter, rows};
use imagetool::store::Store;
use imagetool::system::filter::moment;
use serde_json::json;

use super::filter::Filter;
use super::format::{Columns, Format};
use super::output;
use crate::cli::Context;

/// Headings of all fields of an image.
pub(super) const HEADINGS: Columns<'static> = &[
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("DIGEST", "Digest"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED AT", "CreatedAt"),
    ("SIZE", "Size"),
    ("SIZE", "VirtualSize"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale images
  shale images 'me/*'
  shale images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  shale images --format 'table {{.ID}}\\t{{.CreatedAt}}' --filter since=debian:12
  shale images -q -f dangling=true")]
pub(crate) struct Args {
    /// Show images that only serve as parents too
    #[arg(short, long)]
    all: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Filter: dangling=BOOL, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE, until=TIME
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<Filter>,

    /// Show digests
    #[arg(long)]
    digests: bool,

    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,

    /// Output: table, table TEMPLATE, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Only this repository; a pattern (*, ?, [a-z]) is taken too
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let format = Format::parse(self.format.as_deref(), self.quiet)?;
        let store = context.store()?;
        let filter = self.parse_filter(&store)?;
        let asked = self.format.as_deref();
        let digests = self.digests || asked.is_some_and(|format| format.contains("Digest"));
        let found = rows(&store, &filter, digests)?;
        let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
        if self.digests {
            columns.push(("DIGEST", "Digest"));
        }
        columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
        let is_table = matches!(format, Format::Table);
        let values = found.iter().map(|row: &ImageRow| {
            let mut value = row.to_json(self.no_trunc);
            if is_table && value["CreatedSince"] == "" {
                value["CreatedSince"] = json!("N/A");
            }
            value
        });
        output::print(&format.render(&columns, HEADINGS, values)?)?;
        Ok(0)
    }

    fn parse_filter(&self, store: &Store) -> anyhow::Result<ImagesFilter> {
        let mut parsed = ImagesFilter {
            all: self.all,
            patterns: self.repository.iter().cloned().collect(),
            ..ImagesFilter::default()
        };
        let created = |name: &str| -> anyhow::Result<i64> {
            let (id, _) = store.find_image(name)?;
            Ok(store.image_details(&id)?.created_at_s)
        };
        let mut before = |moment: i64| {
            parsed.before_s = Some(parsed.before_s.map_or(moment, |known| known.min(moment)));
        };
        for Filter { key, value } in &self.filter {
            match key.as_str() {
                "dangling" => match value.as_str() {
                    "true" | "1" => parsed.dangling = Some(true),
                    "false" | "0" => parsed.dangling = Some(false),
                    _ => bail!("invalid filter 'dangling={value}': it is true or false"),
                },
                "label" => parsed.labels.push(value.clone()),
                "reference" => parsed.patterns.push(value.clone()),
                "before" => before(created(value)?),
                "until" => before(moment(value).map_err(anyhow::Error::msg)?),
                "since" => {
                    let moment = created(value)?;
                    parsed.since_s = Some(parsed.since_s.map_or(moment, |known| known.max(moment)));
                }
                _ => {
                    bail!("invalid filter '{key}': use dangling, label, reference, before, since or until")
                }
            }
        }
        Ok(parsed)
    }
}
