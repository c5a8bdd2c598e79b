//! `shale ps`.

use std::io::Write;

use anyhow::bail;
use imagetool::container::display::{Filter, Row, passes};
use imagetool::store::ContainerStatus;

use crate::cli::Context;

const TABLE: &str =
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

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
    /// A template ("{{.ID}} {{.Names}}"), "table TEMPLATE", or "json"
    #[arg(long)]
    format: Option<String>,
    /// Show ids and commands whole
    #[arg(long)]
    no_trunc: bool,
}

/// A piece of a template.
enum Piece {
    Text(String),
    Field(String),
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let filters: Vec<Filter> = self
            .filter
            .iter()
            .map(|text| Filter::parse(text).map_err(anyhow::Error::msg))
            .collect::<Result<_, _>>()?;
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
        let format = match &self.format {
            _ if self.quiet => "{{.ID}}",
            Some(format) if format == "table" => TABLE,
            Some(format) => format,
            None => TABLE,
        };
        // A reader that has seen enough (`| head`) is no failure.
        let _ = std::io::stdout().write_all(render(format, &rows)?.as_bytes());
        Ok(0)
    }
}

/// All rows in the format, with a newline each.
fn render(format: &str, rows: &[Row]) -> anyhow::Result<String> {
    if format == "json" {
        return Ok(rows.iter().map(|row| row.to_json() + "\n").collect());
    }
    let (is_table, template) = match format.strip_prefix("table ") {
        Some(template) => (true, template),
        None => (false, format),
    };
    let pieces = parse(&template.replace("\\t", "\t"))?;
    let mut lines = Vec::new();
    if is_table {
        lines.push(fill(&pieces, |name| Some(heading(name)))?);
    }
    for row in rows {
        lines.push(fill(&pieces, |name| row.get(name))?);
    }
    Ok(if is_table {
        align(&lines)
    } else {
        lines.iter().map(|line| format!("{line}\n")).collect()
    })
}

fn parse(template: &str) -> anyhow::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let Some((field, tail)) = after.split_once("}}") else {
            bail!("template {template:?}: {{{{ is not closed")
        };
        let Some(name) = field.trim().strip_prefix('.') else {
            bail!("template {template:?}: {field:?} is no field, such as .ID")
        };
        pieces.push(Piece::Text(text.to_owned()));
        pieces.push(Piece::Field(name.to_owned()));
        rest = tail;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

fn fill<'a>(pieces: &'a [Piece], value: impl Fn(&'a str) -> Option<&'a str>) -> anyhow::Result<String> {
    let mut line = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => line.push_str(text),
            Piece::Field(name) => match value(name) {
                Some(value) => line.push_str(value),
                None => bail!(
                    "containers have no field {name:?}: use .ID .Image .Command .Status .Names and the like"
                ),
            },
        }
    }
    Ok(line)
}

fn heading(field: &str) -> &str {
    match field {
        "ID" => "CONTAINER ID",
        "Image" => "IMAGE",
        "Command" => "COMMAND",
        "CreatedAt" => "CREATED AT",
        "RunningFor" => "CREATED",
        "Ports" => "PORTS",
        "State" => "STATE",
        "Status" => "STATUS",
        "Names" => "NAMES",
        "Labels" => "LABELS",
        "Mounts" => "MOUNTS",
        "Networks" => "NETWORKS",
        other => other,
    }
}

/// Columns (between tabs) padded to their widest cell and three spaces, as Docker does.
fn align(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let width = |column: usize| {
        cells
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut text = String::new();
    for row in &cells {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', width(column) + 3 - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_tables() {
        assert_eq!(
            render(TABLE, &[]).unwrap(),
            "CONTAINER ID   IMAGE   COMMAND   CREATED   STATUS   PORTS   NAMES\n"
        );
        assert_eq!(render("{{.ID}}", &[]).unwrap(), "");
        assert_eq!(render("json", &[]).unwrap(), "");
        for bad in ["{{.ID", "{{ID}}"] {
            assert!(render(bad, &[]).is_err(), "{bad}");
        }
        assert_eq!(
            align(&["a\tb".to_owned(), "longer\tc".to_owned()]),
            "a        b\nlonger   c\n"
        );
    }
}
