//! A container's changes become a layer, and with it an image.
//!
//! ```text
//! upper over lowers ──► changes ──► layer (see `layer`) ──► published
//! ```
//!
//! Only the upper is walked, and nothing is done whose cost grows with the image. Changes of the configuration alone
//! add no layer.
//!
//! An image committed from `run --rootfs DIR` names DIR as what lies below its layer, in the local database only; with
//! `full` the whole merged tree becomes the one layer of an image that needs nothing else.

mod layer;

use serde_json::json;
use ufs::Lower;
use ufs::diff::{Change as FileChange, Snapshot};

use crate::changes::Change;
use crate::config::{ConfigBuilder, HistoryEntry, LayerBlob, manifest_json, oci_layer_type};
use crate::container::{self, ContainerConfig};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{OCI_LAYER, parse_manifest};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{ContainerRecord, ContainerStatus, ImageDetails, NewImage, Staging, Store};
use crate::time;

/// What `commit` is told beside the container.
#[derive(Debug, Default)]
pub struct CommitOptions {
    /// Who made the change.
    pub author: Option<String>,
    /// Commit message.
    pub message: Option<String>,
    /// Instructions applied to the configuration.
    pub changes: Vec<Change>,
    /// The new image's name.
    pub name: Option<Reference>,
    /// Put everything the container sees into one layer.
    pub full: bool,
}

/// Commits a container; gives the image's id.
pub fn commit(
    store: &Store,
    record: &ContainerRecord,
    options: &CommitOptions,
    progress: &Progress,
) -> Result<Digest, ImageError> {
    let staging = store.stage("commit")?;
    container::mounted::write_back(store, record)?;
    let parent = match record.image_id {
        Some(id) => Some(store.image_details(&id)?),
        None => None,
    };
    let base_rootfs = match (&record.rootfs, &parent) {
        (Some(rootfs), _) => Some(rootfs.clone()),
        (None, Some(parent)) => parent.image.base_rootfs.clone(),
        (None, None) => None,
    };
    let (snapshot, changes) = read_changes(store, record, options.full)?;
    let layer = if changes.is_empty() {
        None
    } else {
        let total: u64 = changes
            .iter()
            .filter_map(|change| change.node.as_ref())
            .map(|node| node.size_bytes)
            .sum();
        let bar = progress.bytes("committing", Some(total));
        staging.expect(total);
        let in_use = record.status != ContainerStatus::Exited;
        Some(layer::make(&staging, &snapshot, &changes, in_use, &bar)?)
    };
    let (mut layers, mut layer_blobs) = match &parent {
        Some(parent) if !options.full => inherited(store, &staging, parent)?,
        _ => (Vec::new(), Vec::new()),
    };
    let diff_id = layer.as_ref().map(|new| new.staged.diff_id);
    if let Some(new) = &layer {
        // the blob is the plain tar, which need not be a file: compression is left to those who send it
        layers.push((new.staged.diff_id, new.staged.diff_id));
        layer_blobs.push(LayerBlob {
            media_type: OCI_LAYER.to_owned(),
            digest: new.staged.diff_id,
            size_bytes: new.tar_bytes,
        });
    }
    let now = time::now();
    let config_json = configuration(record, parent.as_ref(), options, diff_id, now)?;
    let config = staging.add_blob(config_json.as_bytes())?;
    let manifest = staging.add_blob(&manifest_json(&config_json, &layer_blobs)?)?;
    let image = NewImage {
        manifest: manifest.digest,
        layers,
        parent: record.image_id.filter(|_| !options.full),
        base_rootfs: base_rootfs.filter(|_| !options.full),
        created: Some(now),
        config_json,
        origin: None,
    };
    let id = config.digest;
    let staged: Vec<_> = layer.into_iter().map(|new| new.staged).collect();
    let names: Vec<Reference> = options.name.iter().map(|name| name.clone().or_latest()).collect();
    staging.hand_over();
    store.publish(&staging, &[config, manifest], &staged, &image, &names)?;
    Ok(id)
}

/// What the container changed; or, with `full`, everything it sees apart from its init layer.
fn read_changes(
    store: &Store,
    record: &ContainerRecord,
    full: bool,
) -> Result<(Snapshot, Vec<FileChange>), ImageError> {
    let upper = container::upper(store, record);
    let lowers = container::lowers(store, record)?;
    let snapshot = if full {
        let all: Vec<Lower> = std::iter::once(upper.into())
            .chain(lowers.into_iter().skip(1))
            .collect();
        Snapshot::merged(&all)
    } else {
        Snapshot::open(&upper, &lowers)
    };
    let snapshot = snapshot.map_err(|error| ImageError::Changes(Box::new(error)))?;
    let changes = snapshot
        .changes()
        .map_err(|error| ImageError::Changes(Box::new(error)))?;
    Ok((snapshot, changes))
}

/// The parent's layers, kept from deletion until the commit is over.
type Inherited = (Vec<(Digest, Digest)>, Vec<LayerBlob>);

fn inherited(store: &Store, staging: &Staging, parent: &ImageDetails) -> Result<Inherited, ImageError> {
    for (diff_id, _) in &parent.layers {
        if !store.pin_layer(staging, diff_id)? {
            return Err(ImageError::Invalid(format!(
                "layer {} was removed meanwhile",
                diff_id.short()
            )));
        }
    }
    let what = format!("manifest {}", parent.manifest.short());
    let manifest = parse_manifest(&what, &store.read_document(&parent.manifest)?)?;
    let mut blobs = Vec::new();
    for layer in &manifest.layers {
        blobs.push(LayerBlob {
            media_type: oci_layer_type(&layer.media_type),
            digest: layer.digest()?,
            size_bytes: layer.size_bytes,
        });
    }
    Ok((parent.layers.clone(), blobs))
}

/// The new configuration: the parent's, with what the container was started with, and the caller's instructions.
fn configuration(
    record: &ContainerRecord,
    parent: Option<&ImageDetails>,
    options: &CommitOptions,
    diff_id: Option<Digest>,
    now: time::Timestamp,
) -> Result<String, ImageError> {
    let mut config = match parent {
        Some(parent) => ConfigBuilder::from_parent(&parent.image.config_json)?,
        None => ConfigBuilder::scratch(),
    };
    if options.full {
        config.forget_layers();
    }
    take_over(&mut config, &ContainerConfig::of(record));
    config.apply(&options.changes);
    config.created(now, options.author.as_deref());
    let entry = HistoryEntry {
        created_by: Some(record.command.join(" ")),
        comment: options.message.clone(),
        author: options.author.clone(),
        empty_layer: diff_id.is_none(),
    };
    config.push(now, &entry, diff_id);
    Ok(config.finish())
}

/// As `docker commit` does, the image starts as the container was started.
fn take_over(config: &mut ConfigBuilder, container: &ContainerConfig) {
    let target = config.container_config();
    let own = |variable: &&String| !variable.starts_with("HOSTNAME=") && !variable.starts_with("TERM=");
    let env: Vec<&String> = container.env.iter().filter(own).collect();
    let lists = [
        ("Env", json!(env)),
        ("Cmd", json!(container.cmd)),
        ("Entrypoint", json!(container.entrypoint)),
    ];
    for (key, list) in lists {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            target.insert(key.to_owned(), list);
        } else {
            target.remove(key);
        }
    }
    for (key, text) in [("User", &container.user), ("WorkingDir", &container.working_dir)] {
        if !text.is_empty() {
            target.insert(key.to_owned(), json!(text));
        }
    }
    if !container.labels.is_empty() {
        target.insert("Labels".to_owned(), json!(container.labels));
    }
}
