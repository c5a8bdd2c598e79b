//! A container's whole file system as one flat archive, without any configuration.

use std::io::Write;

use ufs::Lower;
use ufs::diff::Snapshot;

use crate::container;
use crate::error::ImageError;
use crate::layer_tar::{Files, write_changes};
use crate::progress::Progress;
use crate::store::{ContainerRecord, ContainerStatus, Store};

/// Writes everything a container sees, apart from its volumes, as a tar stream.
pub fn export(
    store: &Store,
    record: &ContainerRecord,
    out: impl Write,
    progress: &Progress,
) -> Result<(), ImageError> {
    // what is written is whole, also when the container and its image are removed meanwhile
    let _pins = container::pin_layers(store, record)?;
    container::mounted::write_back(store, record)?;
    let upper = container::upper(store, record);
    let layers: Vec<Lower> = std::iter::once(upper.into())
        .chain(container::lowers(store, record)?)
        .collect();
    let snapshot = Snapshot::merged(&layers).map_err(|error| ImageError::Changes(Box::new(error)))?;
    let changes = snapshot
        .changes()
        .map_err(|error| ImageError::Changes(Box::new(error)))?;
    let folder = store.root().join("tmp");
    let files = if record.status == ContainerStatus::Running {
        Files::InUse(&folder)
    } else {
        Files::AtRest
    };
    let total_bytes = changes
        .iter()
        .filter_map(|change| change.node.as_ref())
        .map(|node| node.size_bytes);
    let bar = progress.bytes("exporting", Some(total_bytes.sum()));
    write_changes(&snapshot, &changes, files, bar.wrap_write(out))
}
