//! `shale version`.

use anyhow::Context as _;
use serde_json::json;

use super::format::{Shown, TEMPLATE_STATUS, template_error};
use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale version
  shale version --format '{{.Client.Version}}'")]
pub(crate) struct Args {
    /// Output: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Args {
    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        let system = nix::sys::utsname::uname().context("ask for the kernel's version")?;
        let kernel = system.release().to_string_lossy().into_owned();
        let facts = json!({
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": "linux",
            "Arch": imagetool::manifest::host_architecture(),
            "KernelVersion": kernel,
        });
        // there is no server: whoever asks for one gets the same program
        let both = json!({ "Client": facts, "Server": facts });
        let shown = match Shown::parse("version", self.format.as_deref()) {
            Ok(shown) => shown,
            Err(error) => {
                eprintln!("Error: {}", template_error(&error));
                return Ok(TEMPLATE_STATUS);
            }
        };
        match shown {
            Shown::Json => output::line(&both)?,
            Shown::Template(template) => output::line(template.render(&both)?)?,
            Shown::Own => {
                output::line(format!("shale version {}", env!("CARGO_PKG_VERSION")))?;
                output::line(format!(
                    " OS/Arch:        linux/{}",
                    imagetool::manifest::host_architecture()
                ))?;
                output::line(format!(" Kernel version: {kernel}"))?;
            }
        }
        Ok(0)
    }
}
