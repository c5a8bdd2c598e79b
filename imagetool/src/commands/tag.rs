//! `shale tag`.

use anyhow::bail;
use imagetool::reference::Reference;

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  shale tag debian:12 localhost:5000/debian:stable")]
pub(crate) struct Args {
    /// An image, by name or id
    source: String,

    /// Its further name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    target: Reference,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        if self.target.digest().is_some() {
            bail!("refusing to create a tag with a digest reference");
        }
        let store = context.store()?;
        let (id, _) = store.find_image(&self.source)?;
        store.add_names(&id, &[self.target.or_latest()])?;
        Ok(0)
    }
}
