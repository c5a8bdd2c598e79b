//! `shale ps`.

use imagetool::container::display::{Filter, Row, passes};
use imagetool::store::{ContainerRecord, ContainerStatus, Store};
use imagetool::system::disk;

use super::format::{Columns, Format};
use super::output;
use crate::cli::Context;

/// Headers of the table and the fields below them.
const COLUMNS: Columns<'static> = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];

/// Headings of the fields that the table does not show.
const HEADINGS: Columns<'static> = &[
    ("CREATED AT", "CreatedAt"),
    ("STATE", "State"),
    ("SIZE", "Size"),
    ("LABELS", "Labels"),
    ("MOUNTS", "Mounts"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("NETWORKS", "Networks"),
];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'
  shale ps -a --format 'table {{.ID}}\\t{{.Image}}\\t{{.Label \"stage\"}}'")]
pub(crate) struct Args {
    /// Show stopped containers as well
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show containers that fit: id, name, label, ancestor, status, exited
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<super::filter::Filter>,
    /// Output: table, table TEMPLATE, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show ids and commands whole
    #[arg(long)]
    no_trunc: bool,
    /// Show so many of the containers made last, stopped ones too
    #[arg(short = 'n', long, value_name = "NUMBER", allow_negative_numbers = true)]
    last: Option<i64>,
    /// Show the container made last, stopped or not
    #[arg(short, long)]
    latest: bool,
    /// Show what containers take on disk
    #[arg(short, long)]
    size: bool,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let filters: Vec<Filter> = self
            .filter
            .iter()
            .map(|filter| Filter::parse(&filter.to_string()).map_err(anyhow::Error::msg))
            .collect::<Result<_, _>>()?;
        let own = matches!(self.format.as_deref(), None | Some("" | "table"));
        if self.quiet && !own {
            eprintln!("WARNING: Ignoring custom format, because both --format and --quiet are set.");
        }
        // As in Docker, -q has the last word.
        let format = Format::parse(self.format.as_deref().filter(|_| !self.quiet), self.quiet)?;
        let most = match self.last {
            _ if self.latest => Some(1),
            Some(number) => usize::try_from(number).ok(),
            None => None,
        };
        let all = self.all || most.is_some() || filters.iter().any(Filter::shows_stopped);
        let sized = self.size
            || (!own
                && self
                    .format
                    .as_deref()
                    .is_some_and(|format| format.contains(".Size")));
        let store = context.store()?;
        imagetool::container::reconcile(&store)?;
        let now_s = imagetool::time::now().seconds;
        let records = store.containers().list()?;
        let shown = records
            .iter()
            .filter(|record| all || record.status == ContainerStatus::Running)
            .filter(|record| passes(&filters, record))
            .take(most.unwrap_or(usize::MAX));
        let mut rows = Vec::new();
        for record in shown {
            let row = Row::of(record, now_s, self.no_trunc);
            rows.push(
                if sized {
                    with_size(&store, record, row)
                } else {
                    row
                }
                .to_json(),
            );
        }
        let mut columns = COLUMNS.to_vec();
        if self.size {
            columns.push(("SIZE", "Size"));
        }
        output::print(&format.render(&columns, HEADINGS, rows.into_iter())?)?;
        Ok(0)
    }
}

/// Sizes are for looking at: what is removed meanwhile counts nothing.
fn with_size(store: &Store, record: &ContainerRecord, row: Row) -> Row {
    let upper = store.container_dir(&record.id).join("upper");
    let image = record.image_id.and_then(|id| store.image_details(&id).ok());
    row.with_size(
        disk::of_tree(&upper).unwrap_or(0),
        image.map_or(0, |details| details.size_bytes),
    )
}
