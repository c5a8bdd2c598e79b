//! `shale mount`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use imagetool::container::{self, ProcessIdentity};
use imagetool::in_place::cache;
use imagetool::mounts::shown::{self, Part, Shown, Wish};
use imagetool::mounts::source::{self, Source};
use imagetool::mounts::{MountError, MountRecord, Pins, Records, Server, Union};
use imagetool::namespace::is_initial_user_namespace;
use imagetool::store::{ContainerId, Store};
use ufs::Lower;

use super::{format::Format, output};
use crate::cli::Context;

const EXAMPLES: &str =
    "What is mounted: an image or a container by name or id; with a slash in its name, a file is an
archive (docker save, an OCI archive, a bare tar; plain or compressed: nothing is imported), a
directory with an oci-layout is that, any other is a layer, and several lie over each other.

Examples:
  shale mount debian:12 /mnt               browse an image
  shale mount ./image.tar.gz /mnt          browse an archive where it lies
  shale mount --image web ./many.tar /mnt  one image of several in an archive
  shale mount --layers debian:12 /mnt      each layer in a directory: /mnt/0-sha256-…
  shale mount --rw debian:12 /mnt          changes go to a scratch directory that umount deletes
  shale mount --upper ./up debian:12 /mnt  changes are kept in ./up
  shale mount ./top ./bottom /mnt          directories as layers, the top one first
  shale mount debian:12 /mnt -- ls /mnt    mount, run a command, unmount
  shale mount                              list what is mounted
  getfattr -n user.shale.layer /mnt/etc    which layer a file comes from

A plain user's mounts are seen by nobody else, so that a plain user gives the command to run.";

/// Columns of the list.
const COLUMNS: [(&str, &str); 4] = [
    ("ID", "ID"),
    ("MOUNTPOINT", "Mountpoint"),
    ("MODE", "Mode"),
    ("SOURCE", "Source"),
];

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Allow changes; they go to a scratch directory that umount deletes
    #[arg(long)]
    rw: bool,
    /// Allow changes, and keep them in this directory (with work files in DIR.work)
    #[arg(long, value_name = "DIR")]
    upper: Option<PathBuf>,
    /// Show one layer alone; 0 is the bottom one
    #[arg(long, value_name = "N", conflicts_with = "layers")]
    layer: Option<usize>,
    /// Show all layers side by side, deletion markers as `.wh.` files
    #[arg(long)]
    layers: bool,
    /// Which image of an archive, by name or id
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Stay until it is unmounted; ctrl-C unmounts
    #[arg(long)]
    foreground: bool,
    /// Output of the list: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the ids of mounts only
    #[arg(short, long)]
    quiet: bool,
    /// What to mount, and the place to mount at
    #[arg(value_name = "IMAGE|CONTAINER|ARCHIVE|LAYOUT|DIR... MOUNTPOINT")]
    words: Vec<PathBuf>,
    /// A command to run while it is mounted
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "foreground")]
    command: Vec<OsString>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let run_dir = container::run_dir(&store);
        let records = Records::open(&run_dir)?;
        if self.words.is_empty() && self.command.is_empty() {
            return self.list(&records);
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
        let source = source::recognise(sources)?;
        let target = free_target(&records, target)?;
        let id = ContainerId::random()
            .context("read random bytes")?
            .short()
            .to_owned();
        let mut pins = Pins::none();
        let plan = Plan {
            source: describe(sources, &source, self.image.as_deref()),
            scratch: records.scratch(&id, &mut pins)?,
            target,
            id,
        };
        let outcome = self.mount(&store, &records, source, &plan, pins);
        if outcome.is_err() && !records.path_of(&plan.id).exists() {
            let _ = std::fs::remove_dir_all(&plan.scratch);
        }
        outcome
    }

    /// Starts the server; runs the command if there is one, waits, or leaves the mount behind.
    fn mount(
        &self,
        store: &Store,
        records: &Records,
        source: Source,
        plan: &Plan,
        mut pins: Pins,
    ) -> anyhow::Result<u8> {
        let part = match (self.layer, self.layers) {
            (Some(number), _) => Part::Layer(number),
            (None, true) => Part::Layers,
            (None, false) => Part::Whole,
        };
        let wish = Wish {
            source,
            image: self.image.as_deref(),
            part,
        };
        let mut shown = shown::find(store, &wish, &plan.scratch)?;
        let mut union = self.union(&shown.lowers, &plan.scratch)?;
        pins.extend(std::mem::take(&mut shown.pins));
        let writable = union.upper.is_some();
        let image = shown.image.as_ref().map(ToString::to_string);
        let upper = self.upper.as_deref().map(absolute).transpose()?;
        let mut record = None;
        let mut note = |server| {
            let new = record.insert(MountRecord {
                id: plan.id.clone(),
                target: plan.target.clone(),
                source: plan.source.clone(),
                writable,
                server,
                scratch: Some(plan.scratch.clone()),
                image: image.clone(),
                upper: upper.clone(),
            });
            records.add(new)
        };
        let server = start(&mut union, &shown, plan, &pins, &mut note).inspect_err(|_| {
            let _ = std::fs::remove_file(records.path_of(&plan.id));
        })?;
        let Some(record) = record else {
            server.finish()?;
            bail!("the mount program ended at once");
        };
        if shown.is_archive {
            bound_cache(store);
        }
        if self.foreground {
            output::line(record.target.display())?;
            let ended = server.wait();
            records.remove(&record);
            ended?;
            return Ok(0);
        }
        let Some((program, arguments)) = self.command.split_first() else {
            server.leave();
            output::line(record.target.display())?;
            return Ok(0);
        };
        let status = Command::new(program).args(arguments).status();
        let unmounted = server.finish();
        records.remove(&record);
        let status = status.with_context(|| format!("run {}", program.display()))?;
        unmounted?;
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1))
    }

    fn union(&self, lowers: &[Lower], scratch: &Path) -> anyhow::Result<Union> {
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
            lowers: lowers.to_vec(),
            // A directory of the user's own is read, or changed, by who knows what.
            partial: self.upper.is_none() && lowers.iter().all(|lower| matches!(lower, Lower::Index { .. })),
            upper,
            squash_overflow: !is_initial_user_namespace(),
            allow_other: true,
            // On the machine itself, not in a container: an image's set-user-id programs are not root's.
            no_suid: true,
        })
    }

    fn list(&self, records: &Records) -> anyhow::Result<u8> {
        let format = Format::parse(self.format.as_deref(), self.quiet)?;
        let living = records.living()?;
        output::print(&format.render(&COLUMNS, &[], living.iter().map(MountRecord::to_json))?)?;
        Ok(0)
    }
}

/// Starts the server. When a merged index was deleted before it was opened, since its image was removed, the layers take
/// its place, which are pinned.
fn start(
    union: &mut Union,
    shown: &Shown,
    plan: &Plan,
    pins: &Pins,
    note: &mut dyn FnMut(ProcessIdentity) -> Result<(), MountError>,
) -> Result<Server, MountError> {
    let log = plan.scratch.join("ufs.log");
    let started = Server::start_noted(union, &plan.target, &log, pins, note);
    let is_gone = |lower: &Lower| matches!(lower, Lower::Index { path, .. } if !path.exists());
    match started {
        Err(MountError::Refused { .. }) if !shown.apart.is_empty() && union.lowers.iter().any(is_gone) => {
            union.lowers.clone_from(&shown.apart);
            Server::start_noted(union, &plan.target, &log, pins, note)
        }
        started => started,
    }
}

/// What is mounted, where, as what.
struct Plan {
    id: String,
    source: String,
    target: PathBuf,
    scratch: PathBuf,
}

/// The mount point, when it can be one.
fn free_target(records: &Records, target: &Path) -> anyhow::Result<PathBuf> {
    // After a server was killed, its dead mount may be in the way: this cleans up.
    let living = records.living()?;
    let target = target
        .canonicalize()
        .with_context(|| format!("mount point {}", target.display()))?;
    if !target.is_dir() {
        bail!("mount point {} is not a directory", target.display());
    }
    if target.parent().is_none() {
        // It would lie over the root of all and be seen by nobody.
        bail!("/ is no place to mount at: name a directory below it");
    }
    if let Some(holder) = living.iter().find(|record| record.target == target) {
        bail!(
            "{} is already mounted there ({}): run `shale umount {0}` first",
            target.display(),
            holder.source
        );
    }
    Ok(target)
}

/// The source in the list of mounts.
fn describe(words: &[PathBuf], source: &Source, image: Option<&str>) -> String {
    let mut text = match source {
        Source::Archive(path) | Source::Layout(path) => path.display().to_string(),
        Source::Name { .. } | Source::Directories(_) => words
            .iter()
            .map(|word| word.display().to_string())
            .collect::<Vec<_>>()
            .join(" "),
    };
    if let Some(image) = image {
        text += &format!(" ({image})");
    }
    text
}

/// Keeps what is known of archives within its limit.
fn bound_cache(store: &Store) {
    if let Err(error) = cache::prune(store.root(), cache::KEPT_BYTES_MAX) {
        tracing::warn!("tidy the indexes of archives: {error}");
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}
