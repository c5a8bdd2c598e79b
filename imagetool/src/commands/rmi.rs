//! `shale rmi`.

use imagetool::error::StoreError;
use imagetool::store::RemoveOptions;

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale rmi debian:12
  shale rmi debian@sha256:0a1b…          the image that has this digest in that repository
  shale rmi -f $(shale images -q -f dangling=true)")]
pub(crate) struct Args {
    /// Remove names that stopped containers use, and all names of an id; an image that is not there is no failure
    #[arg(short, long)]
    force: bool,

    /// Keep parents that have no name
    #[arg(long)]
    no_prune: bool,

    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let options = RemoveOptions {
            force: self.force,
            keep_parents: self.no_prune,
        };
        let mut status = 0;
        let missing = |error: &StoreError| matches!(error, StoreError::NoSuchImage(_));
        for image in &self.images {
            match store.remove_image(image, options) {
                Ok(lines) => {
                    for line in lines {
                        output::line(line)?;
                    }
                }
                Err(error) => {
                    // with --force an image that is not there is told, but is no failure
                    let status_of = u8::from(!(self.force && missing(&error)));
                    eprintln!("Error: {:#}", anyhow::Error::from(error));
                    status |= status_of;
                }
            }
        }
        Ok(status)
    }
}
