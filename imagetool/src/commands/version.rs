//! `shale version`.

use anyhow::Context as _;
use imagetool::template::Template;
use serde_json::json;

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
        match self.format.as_deref() {
            Some("json") => output::line(&both)?,
            Some(text) => output::line(text.parse::<Template>()?.render(&both)?)?,
            None => {
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
