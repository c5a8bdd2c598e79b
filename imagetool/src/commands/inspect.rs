//! `shale inspect`.

use anyhow::Context as _;
use imagetool::inspect::{Kind, inspect};
use imagetool::template::Template;
use serde_json::Value;

use super::output;
use crate::cli::Context;

/// The values of `--type`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Type {
    Image,
    Container,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale inspect debian:12
  shale inspect -f '{{json .RootFS.Layers}}' debian:12")]
pub(crate) struct Args {
    /// Output for each object: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,

    /// Only objects of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Type>,

    /// Images and containers, by name or id
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let template = match self.format.as_deref() {
            None | Some("json") => None,
            Some(text) => Some(
                text.parse::<Template>()
                    .with_context(|| format!("--format {text:?}"))?,
            ),
        };
        let kind = self.kind.map(|kind| match kind {
            Type::Image => Kind::Image,
            Type::Container => Kind::Container,
        });
        let store = context.store()?;
        let (mut found, mut status) = (Vec::new(), 0);
        for name in &self.names {
            match inspect(&store, name, kind) {
                Ok(value) => found.push(value),
                Err(error) => {
                    eprintln!("Error: {:#}", anyhow::Error::from(error));
                    status = 1;
                }
            }
        }
        match template {
            Some(template) => {
                for value in &found {
                    output::line(template.render(value)?)?;
                }
            }
            None if self.format.is_some() => output::line(Value::Array(found))?,
            None => output::line(serde_json::to_string_pretty(&found).context("write JSON")?)?,
        }
        Ok(status)
    }
}
