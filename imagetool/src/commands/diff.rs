//! `shale diff`.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context as _, bail};
use imagetool::container;
use imagetool::image_diff::{Difference, between};
use imagetool::store::Store;
use serde_json::{Value, json};
use ufs::diff::{ChangeKind, Snapshot};
use ufs::index::merge::merge;
use ufs::index::{Index, InodeId, Kind};

use super::{format::Format, output};
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A line per path: A added, C changed, D deleted. Of a removed directory only itself is listed.
Images are compared by attributes, times and the digests of contents.

Examples:
  shale diff web                        what a container changed
  shale diff debian:12 debian:hello     what is different in the second image
  shale diff --format json old new"
)]
pub(crate) struct Args {
    /// Output: text, json (one object per line), or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Name or id of a container, or of an image
    #[arg(value_name = "CONTAINER|IMAGE")]
    first: String,
    /// Name or id of the image to compare with
    #[arg(value_name = "IMAGE")]
    second: Option<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        match &self.second {
            Some(second) => self.images(&store, second),
            None => self.container(&store),
        }
    }

    fn container(&self, store: &Store) -> anyhow::Result<u8> {
        let record = match store.containers().get(&self.first) {
            Err(error) if store.resolve_image(&self.first).is_ok() => {
                return Err(anyhow::Error::from(error).context(format!(
                    "{} is an image: name a second one to compare it with",
                    self.first
                )));
            }
            found => found?,
        };
        let _pins = container::pin_layers(store, &record)?;
        let upper = container::upper(store, &record);
        let lowers = container::lowers(store, &record)?;
        let failed = || format!("read the changes of container {}", record.name);
        let changes = Snapshot::open(&upper, &lowers)
            .with_context(failed)?
            .changes()
            .with_context(failed)?;
        let mut lines = Lines::new(self.format.as_deref())?;
        for change in changes
            .iter()
            .filter(|change| !change.path.as_os_str().is_empty())
        {
            let kind = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Modified => 'C',
                ChangeKind::Deleted => 'D',
            };
            lines.add(kind, change.path.as_os_str().as_bytes(), || Ok(json!({})))?;
        }
        lines.print()
    }

    fn images(&self, store: &Store, second: &str) -> anyhow::Result<u8> {
        let old = merged(store, &self.first)?;
        let new = merged(store, second)?;
        let mut lines = Lines::new(self.format.as_deref())?;
        for difference in between(&old, &new)? {
            lines.add(difference.kind.letter(), &difference.path, || {
                details(&old, &new, &difference)
            })?;
        }
        lines.print()
    }
}

/// The merged index of an image.
fn merged(store: &Store, name: &str) -> anyhow::Result<Index> {
    let image = store.resolve_image(name)?;
    if let Some(base) = &image.base_rootfs {
        bail!(
            "{name} lies over the directory {}, whose files are in no layer: `shale commit --full` makes an image \
             that can be compared",
            base.display()
        );
    }
    let lowers = store.layer_lowers(&image)?;
    let indexes = lowers
        .iter()
        .rev()
        .map(|lower| Index::open(lower.path()))
        .collect::<Result<Vec<_>, _>>()?;
    match <[Index; 1]>::try_from(indexes) {
        Ok([only]) => Ok(only),
        Err(indexes) => {
            let all: Vec<&Index> = indexes.iter().collect();
            let mut bytes = Vec::new();
            merge(&all, Kind::Chain)?
                .write(&mut bytes)
                .context("merge the layers")?;
            Ok(Index::from_bytes(bytes)?)
        }
    }
}

/// Both sides of a difference, for `--format`.
fn details(old: &Index, new: &Index, difference: &Difference) -> anyhow::Result<Value> {
    let side = |index: &Index, id: Option<InodeId>| -> anyhow::Result<Value> {
        let Some(id) = id else {
            return Ok(Value::Null);
        };
        let inode = index.inode(id)?;
        let digest = match inode.file_type() {
            ufs::attr::FileType::Regular => imagetool::which::content_digest(index, id)?,
            _ => None,
        };
        Ok(json!({
            "Mode": format!("{:06o}", inode.mode),
            "Uid": inode.uid,
            "Gid": inode.gid,
            "Size": inode.size_bytes,
            "ModTime": imagetool::time::Timestamp { seconds: inode.mtime.secs, nanos: inode.mtime.nanos }.to_rfc3339(),
            "Content": digest.map(|digest| digest.to_string()),
        }))
    };
    Ok(json!({ "Old": side(old, difference.old)?, "New": side(new, difference.new)? }))
}

/// The output: names of files need not be text.
struct Lines {
    format: Option<Format>,
    text: Vec<u8>,
    rows: Vec<Value>,
}

impl Lines {
    fn new(format: Option<&str>) -> anyhow::Result<Self> {
        let format = match format {
            None | Some("" | "text" | "table") => None,
            Some(format) => Some(Format::parse(Some(format), false)?),
        };
        Ok(Self {
            format,
            text: Vec::new(),
            rows: Vec::new(),
        })
    }

    fn add(
        &mut self,
        kind: char,
        path: &[u8],
        details: impl FnOnce() -> anyhow::Result<Value>,
    ) -> anyhow::Result<()> {
        if self.format.is_some() {
            let mut row = details()?;
            row["Kind"] = json!(kind.to_string());
            row["Path"] = json!(format!("/{}", String::from_utf8_lossy(path)));
            self.rows.push(row);
        } else {
            self.text.extend([kind as u8, b' ', b'/']);
            self.text.extend(path);
            self.text.push(b'\n');
        }
        Ok(())
    }

    fn print(self) -> anyhow::Result<u8> {
        match self.format {
            Some(format) => {
                let columns = [("KIND", "Kind"), ("PATH", "Path")];
                output::print(&format.render(&columns, &[], self.rows.into_iter())?)?;
            }
            None => output::bytes(&self.text)?,
        }
        Ok(0)
    }
}
