//! `shale which`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::bail;
use imagetool::error::StoreError;
use imagetool::in_place::{self, Cache};
use imagetool::mounts::layers::Layers;
use imagetool::mounts::source::{self, Source};
use imagetool::store::Store;
use imagetool::time::{Timestamp, human_size};
use imagetool::which::{Answer, Instruction, Says, State, Version, content_digest, instructions, which};
use serde_json::{Value, json};
use ufs::index::Index;

use super::{format::Format, output};
use crate::cli::Context;

const EXAMPLES: &str =
    "One line per layer that has the path or removes it, the top one first: the first is what
programs see, what it hides stands below. Symbolic links on the way are followed.

Examples:
  shale which debian:12 /etc/passwd
  shale which ./image.tar /bin/sh          in an archive where it lies
  shale which --format json web /etc/hosts
  shale which --format '{{.Layer}} {{.CreatedBy}}' web /etc/hosts";

const COLUMNS: [(&str, &str); 7] = [
    ("STATE", "State"),
    ("LAYER", "Number"),
    ("LAYER DIGEST", "ShortLayer"),
    ("SIZE", "HumanSize"),
    ("MODIFIED", "Modified"),
    ("CONTENT", "ShortContent"),
    ("CREATED BY", "CreatedBy"),
];

/// The longest instruction in the table, in characters.
const STEP_CHARS: usize = 60;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Output: table, json (one object per line), or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show digests and instructions in full
    #[arg(long)]
    no_trunc: bool,
    /// Which image of an archive, by name or id
    #[arg(long = "image", value_name = "NAME")]
    chosen: Option<String>,
    /// Name or id of an image, or an archive or layout with a slash in its name
    #[arg(value_name = "IMAGE|ARCHIVE|LAYOUT")]
    image: PathBuf,
    /// A path in it
    path: OsString,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let format = Format::parse(self.format.as_deref(), false)?;
        let store = context.store()?;
        // what is read of an archive is held until the end
        let cache = Cache::open(store.root())?;
        let layers = self.layers(&store, &cache)?;
        let indexes = layers.open()?;
        let steps = match &layers.config {
            Some(config) => instructions(config, indexes.len()),
            None => vec![Instruction::default(); indexes.len()],
        };
        let all: Vec<&Index> = indexes.iter().collect();
        let answer = which(&all, self.path.as_bytes())?;
        let rows = answer
            .versions
            .iter()
            .map(|version| self.row(&answer, version, &layers, &indexes, &steps))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if !rows.is_empty() {
            output::print(&format.render(&COLUMNS, &[], rows.into_iter())?)?;
        }
        self.judge(&answer, &layers, &steps)
    }

    fn layers(&self, store: &Store, cache: &Cache) -> anyhow::Result<Layers> {
        let path = match source::recognise(std::slice::from_ref(&self.image))? {
            Source::Archive(path) | Source::Layout(path) => path,
            Source::Directories(_) => bail!("{} is a directory, it has no layers", self.image.display()),
            Source::Name { name, is_path_too } => match store.resolve_image(&name) {
                Ok(image) => return Ok(Layers::of_image(store, &image)?),
                Err(StoreError::NoSuchImage(_)) if is_path_too && name.contains('/') => self.image.clone(),
                Err(error) => return Err(error.into()),
            },
        };
        let image = in_place::open(cache, &path, self.chosen.as_deref())?;
        Ok(Layers::of_archive(cache, &image))
    }

    fn row(
        &self,
        answer: &Answer,
        version: &Version,
        layers: &Layers,
        indexes: &[Index],
        steps: &[Instruction],
    ) -> anyhow::Result<Value> {
        let index = &indexes[version.layer];
        let digest = layers.layers[version.layer].digest;
        let step = &steps[version.layer];
        let mut row = json!({
            "Number": version.layer,
            "Layer": digest.map(|digest| digest.to_string()),
            "ShortLayer": digest.map_or_else(|| "-".to_owned(), |digest| match self.no_trunc {
                true => digest.to_string(),
                false => digest.short(),
            }),
            "CreatedBy": self.step(step),
            "Comment": step.comment,
            "State": state(version),
            "Path": shown(&answer.path),
            "HumanSize": "-", "Modified": "-", "ShortContent": "-",
        });
        match &version.says {
            Says::Here(id, inode) => {
                let content = content_digest(index, *id)?;
                let modified = Timestamp {
                    seconds: inode.mtime.secs,
                    nanos: inode.mtime.nanos,
                };
                row["Type"] = json!(type_name(inode.mode));
                row["Mode"] = json!(format!("{:04o}", inode.mode & 0o7777));
                row["Uid"] = json!(inode.uid);
                row["Gid"] = json!(inode.gid);
                row["Opaque"] = json!(inode.opaque);
                row["Size"] = json!(inode.size_bytes);
                row["ModTime"] = json!(modified.to_rfc3339());
                row["Modified"] = json!(Timestamp { nanos: 0, ..modified }.to_rfc3339());
                if !inode.is_dir() {
                    row["HumanSize"] = json!(human_size(inode.size_bytes));
                }
                if inode.file_type() == ufs::attr::FileType::Symlink {
                    row["Target"] = json!(String::from_utf8_lossy(index.link_target(*id)?));
                }
                if let Some(content) = content {
                    row["Content"] = json!(content.to_string());
                    row["ShortContent"] = json!(match self.no_trunc {
                        true => content.to_string(),
                        false => content.short(),
                    });
                }
            }
            Says::Deleted(at) | Says::Opaque(at) | Says::Covered(at) => row["At"] = json!(shown(at)),
        }
        Ok(row)
    }

    /// The instruction, cut for the table.
    fn step(&self, step: &Instruction) -> String {
        let text = match (step.created_by.is_empty(), step.comment.is_empty()) {
            (true, false) => step.comment.clone(),
            _ => step.created_by.clone(),
        };
        let whole = self.no_trunc || self.format.as_ref().is_some_and(|format| format != "table");
        if whole || text.chars().count() <= STEP_CHARS {
            return text;
        }
        text.chars().take(STEP_CHARS - 1).chain(['…']).collect()
    }

    /// The exit status; an error for a path that is not to be seen.
    fn judge(&self, answer: &Answer, layers: &Layers, steps: &[Instruction]) -> anyhow::Result<u8> {
        if answer.shown().is_some() {
            return Ok(0);
        }
        let path = shown(&answer.path);
        let image = self.image.display();
        let Some(top) = answer.versions.first() else {
            match &layers.base_rootfs {
                Some(base) => bail!(
                    "no layer of {image} has {path}; what lies below them is the directory {}",
                    base.display()
                ),
                None => bail!("no layer of {image} has {path}"),
            }
        };
        let digest = layers.layers[top.layer].digest;
        let layer = match digest {
            Some(digest) => format!("layer {} ({digest})", top.layer),
            None => format!("layer {}", top.layer),
        };
        let how = match &top.says {
            Says::Deleted(at) if *at == answer.path => "deleted".to_owned(),
            Says::Deleted(at) => format!("deleted with {}", shown(at)),
            Says::Opaque(at) => format!("hidden by a new {}", shown(at)),
            Says::Covered(at) => format!("replaced by {}, which is no directory,", shown(at)),
            Says::Here(..) => "hidden".to_owned(),
        };
        bail!("{path} is not in {image}: {how} in {layer}: {}", steps[top.layer])
    }
}

/// What becomes of a version, in a word.
fn state(version: &Version) -> &'static str {
    match (&version.says, version.state) {
        (_, State::Hidden) => "hidden",
        (_, State::Merged) => "merged",
        (Says::Deleted(_), _) => "deleted",
        (Says::Opaque(_), _) => "opaque",
        (Says::Covered(_), _) => "covered",
        (Says::Here(..), _) => "shown",
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn type_name(mode: u32) -> &'static str {
    use ufs::attr::FileType;
    match FileType::from_mode(mode) {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
    }
}
