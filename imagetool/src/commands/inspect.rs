//! `shale inspect` and `shale image inspect`.

use imagetool::inspect::{Kind, inspect};
use imagetool::shape::{IMAGE, to_json};
use serde_json::Value;

use super::format::{Shown, TEMPLATE_STATUS, template_error};
use super::output;
use crate::cli::Context;

/// Blanks that Docker indents a level by.
const INDENT: usize = 4;

/// The values of `--type`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Type {
    Image,
    Container,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale inspect debian:12
  shale inspect -f '{{json .RootFS.Layers}}' debian:12
  shale inspect -f '{{range .Config.Env}}{{println .}}{{end}}' debian:12")]
pub(crate) struct Args {
    /// Output for each object: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,

    /// Only objects of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Type>,

    /// Accepted for Docker's sake: `ps --size` and `system df -v` show the sizes of containers
    #[arg(short, long)]
    size: bool,

    /// Images and containers, by name or id
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale image inspect debian:12
  shale image inspect -f '{{.Config.Cmd}} {{.Size}}' debian:12 debian:13")]
pub(crate) struct ImageArgs {
    /// Output for each image: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,

    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let kind = self.kind.map(|kind| match kind {
            Type::Image => Kind::Image,
            Type::Container => Kind::Container,
        });
        if self.size {
            eprintln!("warning: --size is ignored: `shale system df -v` shows the sizes of containers");
        }
        describe(context, self.format.as_deref(), kind, &self.names)
    }
}

impl ImageArgs {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        describe(context, self.format.as_deref(), Some(Kind::Image), &self.images)
    }
}

/// Prints what is found, and tells what is not; the status is 1 when anything was not.
fn describe(
    context: &Context,
    format: Option<&str>,
    kind: Option<Kind>,
    names: &[String],
) -> anyhow::Result<u8> {
    let shown = match Shown::parse("", format) {
        Ok(shown) => shown,
        Err(error) => {
            eprintln!("Error: {}", template_error(&error));
            return Ok(TEMPLATE_STATUS);
        }
    };
    let store = context.store()?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match inspect(&store, name, kind) {
            Ok(value) => found.push(value),
            Err(error) => errors.push(anyhow::Error::from(error)),
        }
    }
    let text = match shown {
        Shown::Template(template) => {
            let mut text = String::new();
            for value in &found {
                match template.render(value) {
                    Ok(filled) => text += &format!("{filled}\n"),
                    Err(error) => errors.push(template_error(&error)),
                }
            }
            // as Docker does where there is nothing to print
            if text.is_empty() {
                text.push('\n');
            }
            text
        }
        Shown::Json => to_json(IMAGE, &Value::Array(found), None) + "\n",
        Shown::Own => to_json(IMAGE, &Value::Array(found), Some(INDENT)) + "\n",
    };
    output::print(&text)?;
    for error in &errors {
        eprintln!("Error: {error:#}");
    }
    Ok(u8::from(!errors.is_empty()))
}
