//! `shale logout`.

use imagetool::registry::{Options, Registries, Server};

use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  shale logout registry.example:5000")]
pub(crate) struct Args {
    /// The registry [default: Docker Hub]
    #[arg(value_name = "HOST[:PORT]")]
    server: Option<String>,
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<u8> {
        let server = Server::parse(self.server.as_deref())?;
        output::line(format!("Removing login credentials for {server}"))?;
        Registries::from_environment(&Options::default())?.logout(&server)?;
        Ok(0)
    }
}
