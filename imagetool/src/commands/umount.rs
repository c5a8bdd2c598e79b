//! `shale umount`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use imagetool::container;
use imagetool::mounts::{MountRecord, Records, unmount};

use crate::cli::Context;

/// How long a server has to finish once its mount is gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  shale umount /mnt\n  shale umount 3f2a91c04d1b /srv/web\n  shale umount --all"
)]
pub(crate) struct Args {
    /// Detach a busy mount; it ends when nothing uses it any more
    #[arg(short, long)]
    lazy: bool,
    /// Mount points or ids, as `shale mount` lists them
    #[arg(required_unless_present = "all", value_name = "MOUNTPOINT|ID")]
    mounts: Vec<PathBuf>,
    /// Unmount all that `shale mount` lists
    #[arg(short, long)]
    all: bool,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let records = Records::open(&container::run_dir(&store))?;
        let known = records.all()?;
        let wanted = if self.all {
            known.iter().map(|record| record.target.clone()).collect()
        } else {
            self.mounts
        };
        let mut status = 0;
        for name in wanted {
            let ended = match known.iter().find(|record| names(record, &name)) {
                Some(record) => end(&records, record, self.lazy),
                None => Err(anyhow::anyhow!(
                    "{} is not mounted by shale: `shale mount` lists what is",
                    name.display()
                )),
            };
            if let Err(error) = ended {
                eprintln!("Error: {error:#}");
                status = 1;
            }
        }
        Ok(status)
    }
}

/// Whether this is the mount that the caller means. Its own root is not asked: it may be dead.
fn names(record: &MountRecord, name: &Path) -> bool {
    let absolute = std::path::absolute(name).unwrap_or_else(|_| name.to_owned());
    let through_links = absolute
        .parent()
        .and_then(|parent| Some(parent.canonicalize().ok()?.join(absolute.file_name()?)));
    record.id == name.as_os_str().to_string_lossy()
        || record.target == absolute
        || through_links.is_some_and(|path| path == record.target)
        || name.canonicalize().is_ok_and(|path| path == record.target)
}

fn end(records: &Records, record: &MountRecord, lazy: bool) -> anyhow::Result<()> {
    if !record.server.is_alive() {
        records.forget(record);
        return Ok(());
    }
    unmount(&record.target, lazy)?;
    let deadline = Instant::now() + END_TIMEOUT;
    while record.server.is_alive() {
        if lazy || Instant::now() >= deadline {
            // Whoever lists mounts after its end deletes the record.
            if !lazy {
                bail!(
                    "the server of {} (process {}) has not ended yet",
                    record.target.display(),
                    record.server.pid
                );
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    records.remove(record);
    Ok(())
}
