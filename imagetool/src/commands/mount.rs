//! `shale mount`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use imagetool::container;
use imagetool::error::StoreError;
use imagetool::mounts::{MountRecord, Records, Server, Union};
use imagetool::namespace::is_initial_user_namespace;
use imagetool::store::{ContainerId, Store};
use ufs::Lower;

use super::output;
use crate::cli::Context;

const EXAMPLES: &str = "Examples:
  shale mount debian:12 /mnt             browse an image
  shale mount --rw debian:12 /mnt        changes go to a scratch directory that umount deletes
  shale mount ./top ./bottom /mnt        directories as layers, the top one first
  shale mount debian:12 /mnt -- ls /mnt  mount, run a command, unmount
  shale mount                            list what is mounted

A plain user's mounts are seen by nobody else, so that a plain user gives the command to run.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Allow changes; they go to a scratch directory, or to --upper
    #[arg(long)]
    rw: bool,
    /// Keep the changes in this directory (and its work files in DIR.work)
    #[arg(long, value_name = "DIR", requires = "rw")]
    upper: Option<PathBuf>,
    /// An image or a container, or directories (with a slash in their name), and the place to mount at
    #[arg(value_name = "IMAGE|CONTAINER|DIR... MOUNTPOINT")]
    words: Vec<PathBuf>,
    /// A command to run while it is mounted
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let run_dir = container::run_dir(&store);
        let records = Records::open(&run_dir)?;
        if self.words.is_empty() && self.command.is_empty() {
            return list(&records);
        }
        let Some((target, sources)) = self.words.split_last().filter(|(_, sources)| !sources.is_empty())
        else {
            bail!("name what to mount and where: shale mount IMAGE /mnt");
        };
        if self.command.is_empty() && !is_initial_user_namespace() {
            bail!(
                "a plain user's mount ends with the command that makes it: give a command, \
                 as in `shale mount IMAGE {} -- sh`, or mount as root",
                target.display()
            );
        }
        // After a server was killed, its dead mount may be in the way: this cleans up.
        let living = records.living()?;
        let target = target
            .canonicalize()
            .with_context(|| format!("mount point {}", target.display()))?;
        if !target.is_dir() {
            bail!("mount point {} is not a directory", target.display());
        }
        if let Some(holder) = living.iter().find(|record| record.target == target) {
            bail!(
                "{} is already mounted there ({}): run `shale umount {0}` first",
                target.display(),
                holder.source
            );
        }
        let id = ContainerId::random()
            .context("read random bytes")?
            .short()
            .to_owned();
        let scratch = run_dir.join("mounts").join(&id);
        let union = self.union(&store, sources, &scratch)?;
        let source = sources
            .iter()
            .map(|source| source.display().to_string())
            .collect::<Vec<_>>()
            .join(" ");
        self.mount(
            &records,
            &union,
            MountPlan {
                id,
                source,
                target,
                scratch,
            },
        )
    }

    /// Starts the server; runs the command if there is one, else leaves the mount behind.
    fn mount(&self, records: &Records, union: &Union, plan: MountPlan) -> anyhow::Result<u8> {
        std::fs::create_dir_all(&plan.scratch)
            .with_context(|| format!("create {}", plan.scratch.display()))?;
        let log = plan.scratch.join("ufs.log");
        let started = Server::start(union, &plan.target, &log);
        let identity = started.as_ref().ok().and_then(Server::identity);
        let (server, identity) = match (started, identity) {
            (Ok(server), Some(identity)) => (server, identity),
            (started, _) => {
                let _ = std::fs::remove_dir_all(&plan.scratch);
                started?.finish()?;
                bail!("the mount program ended at once");
            }
        };
        let record = MountRecord {
            id: plan.id,
            target: plan.target,
            source: plan.source,
            writable: self.rw,
            server: identity,
            scratch: Some(plan.scratch),
        };
        records.add(&record)?;
        let Some((program, arguments)) = self.command.split_first() else {
            server.leave();
            output::line(record.target.display())?;
            return Ok(0);
        };
        let status = Command::new(program).args(arguments).status();
        let unmounted = server.finish();
        records.remove(&record);
        let status = status.with_context(|| format!("run {program}"))?;
        unmounted?;
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1))
    }

    fn union(&self, store: &Store, sources: &[PathBuf], scratch: &Path) -> anyhow::Result<Union> {
        let upper = match (&self.upper, self.rw) {
            (Some(upper), _) => {
                let mut work = upper.clone().into_os_string();
                work.push(".work");
                Some((absolute(upper)?, absolute(Path::new(&work))?))
            }
            (None, true) => Some((scratch.join("upper"), scratch.join("work"))),
            (None, false) => None,
        };
        for folder in upper.iter().flat_map(|(upper, work)| [upper, work]) {
            std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(Union {
            lowers: lowers(store, sources)?,
            upper,
            squash_overflow: !is_initial_user_namespace(),
            allow_other: true,
        })
    }
}

/// What is mounted, where, as what.
struct MountPlan {
    id: String,
    source: String,
    target: PathBuf,
    scratch: PathBuf,
}

/// The layers of an image, of a container (what it changed included), or the directories themselves.
fn lowers(store: &Store, sources: &[PathBuf]) -> anyhow::Result<Vec<Lower>> {
    let is_path = |source: &PathBuf| source.has_root() || source.starts_with(".") || source.starts_with("..");
    if let [source] = sources
        && !is_path(source)
    {
        let name = source
            .to_str()
            .with_context(|| format!("{}: no image has such a name", source.display()))?;
        match store.resolve_image(name) {
            Ok(image) => {
                let dirs = store.layer_dirs(&image)?;
                return Ok(dirs.into_iter().map(Lower::Directory).collect());
            }
            Err(StoreError::NoSuchImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
        return match store.containers().get(name) {
            Ok(record) => {
                let mut layers = vec![container::upper(store, &record).into()];
                layers.extend(container::lowers(store, &record)?);
                Ok(layers)
            }
            Err(StoreError::NoSuchContainer(_)) => {
                bail!("no image or container is called {name}: a directory is written ./{name}")
            }
            Err(error) => Err(error.into()),
        };
    }
    sources
        .iter()
        .map(|source| {
            let path = source
                .canonicalize()
                .with_context(|| format!("layer {}", source.display()))?;
            if path.is_dir() {
                Ok(path.into())
            } else {
                bail!("layer {} is not a directory", source.display())
            }
        })
        .collect()
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}

fn list(records: &Records) -> anyhow::Result<u8> {
    let living = records.living()?;
    let width = living
        .iter()
        .map(|record| record.target.display().to_string().chars().count())
        .max()
        .unwrap_or(0);
    let width = width.max("MOUNTPOINT".len());
    let mut text = format!("{:<12}   {:<width$}   MODE   SOURCE\n", "ID", "MOUNTPOINT");
    for record in living {
        let mode = if record.writable { "rw" } else { "ro" };
        text += &format!(
            "{:<12}   {:<width$}   {mode:<4}   {}\n",
            record.id,
            record.target.display(),
            record.source
        );
    }
    output::print(&text)?;
    Ok(0)
}
