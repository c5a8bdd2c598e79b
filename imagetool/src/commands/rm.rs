//! `shale rm`.

use imagetool::container;
use imagetool::error::StoreError;

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shale rm -f web db")]
pub(crate) struct Args {
    /// Kill running containers first
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes as well (there are none yet)
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        container::reconcile(&store)?;
        let mut status = 0;
        for name in &self.containers {
            match container::remove(&store, name, self.force) {
                Ok(()) => output::line(name)?,
                // As in Docker: forcing away what is not there is fine.
                Err(container::ContainerError::Store(error @ StoreError::NoSuchContainer(_)))
                    if self.force =>
                {
                    eprintln!("Error: {error}");
                }
                Err(error) => {
                    eprintln!("Error: {:#}", anyhow::Error::from(error));
                    status = 1;
                }
            }
        }
        Ok(status)
    }
}
