//! `shale ps`.

use imagetool::container::display::{Filter, Row, passes};
use imagetool::store::ContainerStatus;

use super::{format::Format, output};
use crate::cli::Context;

/// Headers of the table and the fields below them.
const COLUMNS: [(&str, &str); 7] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shale ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'")]
pub(crate) struct Args {
    /// Show stopped containers as well
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show containers that fit: id, name, label, ancestor, status, exited
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Output: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show ids and commands whole
    #[arg(long)]
    no_trunc: bool,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let filters: Vec<Filter> = self
            .filter
            .iter()
            .map(|text| Filter::parse(text).map_err(anyhow::Error::msg))
            .collect::<Result<_, _>>()?;
        // As in Docker, -q has the last word.
        let format = Format::parse(self.format.as_deref().filter(|_| !self.quiet), self.quiet)?;
        let all = self.all || filters.iter().any(Filter::shows_stopped);
        let store = context.store()?;
        imagetool::container::reconcile(&store)?;
        let now_s = imagetool::time::now().seconds;
        let rows: Vec<Row> = store
            .containers()
            .list()?
            .iter()
            .filter(|record| all || record.status == ContainerStatus::Running)
            .filter(|record| passes(&filters, record))
            .map(|record| Row::of(record, now_s, self.no_trunc))
            .collect();
        output::print(&format.render(&COLUMNS, rows.iter().map(Row::to_json))?)?;
        Ok(0)
    }
}
