//! `shale diff`.

use std::os::unix::ffi::OsStrExt;

use anyhow::Context as _;
use imagetool::container;
use ufs::diff::{ChangeKind, Snapshot};

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "A line per path: A added, C changed, D deleted.\n\nExample:\n  shale diff web")]
pub(crate) struct Args {
    /// Name or id
    container: String,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let record = store.containers().get(&self.container)?;
        let upper = container::upper(&store, &record);
        let lowers = container::lowers(&store, &record)?;
        let failed = || format!("read the changes of container {}", record.name);
        let changes = Snapshot::open(&upper, &lowers)
            .with_context(failed)?
            .changes()
            .with_context(failed)?;
        let mut text = Vec::new();
        for change in changes
            .iter()
            .filter(|change| !change.path.as_os_str().is_empty())
        {
            text.extend(match change.kind {
                ChangeKind::Added => b"A /",
                ChangeKind::Modified => b"C /",
                ChangeKind::Deleted => b"D /",
            });
            text.extend(change.path.as_os_str().as_bytes());
            text.push(b'\n');
        }
        output::bytes(&text)?;
        Ok(0)
    }
}
