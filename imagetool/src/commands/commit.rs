//! `shale commit`.

use anyhow::bail;
use imagetool::changes::Change;
use imagetool::commit::{CommitOptions, commit};
use imagetool::progress::Progress;
use imagetool::reference::Reference;

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale commit -m 'install git' web debian-git:1
  shale commit -c 'CMD [\"nginx\"]' -c 'EXPOSE 80' web nginx")]
pub(crate) struct Args {
    /// Who made the change
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,

    /// Message for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// Apply a Dockerfile instruction to the image's configuration (CMD, ENV, USER, …)
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    change: Vec<Change>,

    /// Accepted for Docker's sake: each file is taken at one consistent moment, with no need to pause
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pause: bool,

    /// Put everything the container sees into one layer: an image that stands alone
    #[arg(long)]
    full: bool,

    /// The container, by name or id
    container: String,

    /// Name of the new image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let name = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            bail!("refusing to commit to a name with a digest");
        }
        tracing::debug!(pause = self.pause, "commit {}", self.container);
        let store = context.store()?;
        let record = store.containers().get(&self.container)?;
        let options = CommitOptions {
            author: self.author,
            message: self.message,
            changes: self.change,
            name,
            full: self.full,
        };
        output::line(commit(&store, &record, &options, &Progress::new(false))?)?;
        Ok(0)
    }
}
