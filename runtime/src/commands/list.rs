//! `list`.

use serde_json::Value;

use super::state::{describe, owner};
use super::{Global, print};
use crate::error::Result;

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    Table,
    Json,
}

/// `list`.
#[derive(Debug, clap::Args)]
pub struct List {
    /// form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    format: Form,
    /// names only
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    /// Prints the containers.
    pub fn run(self, global: &Global) -> Result<i32> {
        let containers = global.store().list()?;
        let states: Vec<Value> = containers.iter().map(describe).collect();
        if self.quiet {
            let names = states.iter().filter_map(|state| state["id"].as_str());
            print(&names.fold(String::new(), |text, name| text + name + "\n"))?;
        } else if self.format == Form::Json {
            print(&format!("{}\n", Value::Array(states)))?;
        } else {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            for (state, container) in states.iter().zip(&containers) {
                let text = |key: &str| {
                    state[key]
                        .as_str()
                        .map_or_else(|| state[key].to_string(), str::to_owned)
                };
                let owner = match owner(container.state.owner_uid) {
                    name if name.is_empty() => "root".to_owned(),
                    name => name,
                };
                rows.push([
                    text("id"),
                    text("pid"),
                    text("status"),
                    text("bundle"),
                    text("created"),
                    owner,
                ]);
            }
            print(&table(&rows))?;
        }
        Ok(0)
    }
}

/// Columns as wide as their widest entry and three spaces.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            + 3
    };
    let mut text = String::new();
    for row in rows {
        let line: String = row
            .iter()
            .enumerate()
            .map(|(n, cell)| format!("{cell:<0$}", width(n)))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
