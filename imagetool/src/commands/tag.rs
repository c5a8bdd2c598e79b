//! `shale tag`.

use anyhow::bail;
use imagetool::reference::Reference;

use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale tag debian:12 localhost:5000/debian:stable
  shale tag 3f57d9401f8d debian:previous")]
pub(crate) struct Args {
    /// An image, by name or id
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,

    /// Its further name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let target = match self.target.parse::<Reference>() {
            Ok(target) => target,
            Err(error) => bail!(
                "error parsing reference: {:?} is not a valid repository/tag: {error}",
                self.target
            ),
        };
        if target.digest().is_some() {
            bail!("refusing to create a tag with a digest reference");
        }
        if target.familiar_name() == "sha256" {
            bail!("refusing to create an ambiguous tag using digest algorithm as name");
        }
        let store = context.store()?;
        let (id, _) = store.find_image(&self.source)?;
        store.add_names(&id, &[target.or_latest()])?;
        Ok(0)
    }
}
