//! `shale system info`.

use imagetool::system::info::info;
use imagetool::time::human_size;
use serde_json::Value;

use super::format::{Shown, TEMPLATE_STATUS, template_error};
use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale system info
  shale system info --format '{{.BackingFilesystem}}'")]
pub(super) struct Args {
    /// Output: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Args {
    pub(super) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let shown = match Shown::parse("", self.format.as_deref()) {
            Ok(shown) => shown,
            Err(error) => {
                eprintln!("Error: {}", template_error(&error));
                return Ok(TEMPLATE_STATUS);
            }
        };
        let store = context.store()?;
        imagetool::container::reconcile(&store)?;
        let info = info(&store)?;
        match shown {
            Shown::Template(template) => {
                output::line(template.render(&info).map_err(|error| template_error(&error))?)?;
            }
            Shown::Json => output::line(info)?,
            Shown::Own => output::print(&text(&info))?,
        }
        Ok(0)
    }
}

fn text(info: &Value) -> String {
    let shown = |key: &str| match &info[key] {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    let bytes = |key: &str| human_size(info[key].as_u64().unwrap_or(0));
    let mut text = format!(
        "Containers: {}\n Running: {}\n Stopped: {}\nImages: {}\nLayers: {}\nObjects: {}\n",
        shown("Containers"),
        shown("ContainersRunning"),
        shown("ContainersStopped"),
        shown("Images"),
        shown("Layers"),
        shown("Objects")
    );
    text += &format!(
        "Storage Root: {}\n Backing Filesystem: {}\n Free: {} of {}\n Reflink: {}\n",
        shown("DockerRootDir"),
        shown("BackingFilesystem"),
        bytes("FreeBytes"),
        bytes("TotalBytes"),
        shown("Reflink")
    );
    text += &format!(
        "FUSE: {}\n Passthrough: {}\n",
        shown("Fuse"),
        shown("Passthrough")
    );
    text += &format!(
        "Rootless: {}\nKernel Version: {}\nArchitecture: {}\nCPUs: {}\nVersion: {}\n",
        shown("Rootless"),
        shown("KernelVersion"),
        shown("Architecture"),
        shown("NCPU"),
        shown("ServerVersion")
    );
    let mounts = info["Mounts"].as_array().cloned().unwrap_or_default();
    text += &format!("Mounts: {}\n", mounts.len());
    for mount in mounts {
        let field = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
        text += &format!(
            " {} ({}): {}\n",
            field("Mountpoint"),
            field("Mode"),
            field("Source")
        );
        if let Some(nodes) = mount["Counters"]["nodes"].as_u64() {
            text += &format!("  Files in memory: {nodes}\n");
        }
        if let Some(counters) = mount["Counters"]["page_cache"].as_object() {
            let all: Vec<String> = counters
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            text += &format!("  Page cache: {}\n", all.join(", "));
        }
    }
    text
}
