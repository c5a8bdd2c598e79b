//! `shale images`.

use anyhow::bail;
use imagetool::images::{ImageRow, ImagesFilter, rows};
use imagetool::reference::Reference;
use imagetool::store::Store;

use super::{format::Format, output};
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale images
  shale images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  shale images -q -f dangling=true")]
pub(crate) struct Args {
    /// Show images that only serve as parents too
    #[arg(short, long)]
    all: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Filter: dangling=BOOL, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,

    /// Show digests
    #[arg(long)]
    digests: bool,

    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,

    /// Output: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Only this repository
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<Reference>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let filter = self.parse_filter(&store)?;
        let mut found = rows(&store, &filter)?;
        if self.quiet && self.format.is_none() {
            // an image with several names is one image
            let mut ids = Vec::new();
            found.retain(|row| {
                !ids.contains(&row.id) && {
                    ids.push(row.id);
                    true
                }
            });
        }
        let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
        if self.digests {
            columns.push(("DIGEST", "Digest"));
        }
        columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
        let values = found.iter().map(|row: &ImageRow| row.to_json(self.no_trunc));
        let format = Format::parse(self.format.as_deref(), self.quiet)?;
        output::print(&format.render(&columns, values)?)?;
        Ok(0)
    }

    fn parse_filter(&self, store: &Store) -> anyhow::Result<ImagesFilter> {
        let mut parsed = ImagesFilter {
            all: self.all,
            reference: self.repository.clone(),
            ..ImagesFilter::default()
        };
        for filter in &self.filter {
            let Some((key, value)) = filter.split_once('=') else {
                bail!("invalid filter {filter:?}: write KEY=VALUE");
            };
            let created = |name: &str| -> anyhow::Result<i64> {
                let (id, _) = store.find_image(name)?;
                Ok(store.image_details(&id)?.created_at_s)
            };
            match key {
                "dangling" => match value {
                    "true" | "1" => parsed.dangling = Some(true),
                    "false" | "0" => parsed.dangling = Some(false),
                    _ => bail!("invalid filter 'dangling={value}': it is true or false"),
                },
                "label" => parsed.labels.push(value.to_owned()),
                "reference" => parsed.patterns.push(value.to_owned()),
                "before" => parsed.before_s = Some(created(value)?),
                "since" => parsed.since_s = Some(created(value)?),
                _ => bail!("invalid filter '{key}': know dangling, label, reference, before, since"),
            }
        }
        Ok(parsed)
    }
}
