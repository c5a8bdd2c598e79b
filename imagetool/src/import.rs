//! A root file system archive becomes an image of one layer.

use std::io::Read;

use crate::changes::Change;
use crate::config::{ConfigBuilder, HistoryEntry, LayerBlob, manifest_json};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::ingest::ingest;
use crate::manifest::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{NewImage, Store};
use crate::time;

/// What `import` is told beside the archive.
#[derive(Debug, Default)]
pub struct ImportOptions {
    /// Where the archive comes from, for the history; `-` is standard input.
    pub source: String,
    /// Commit message.
    pub message: Option<String>,
    /// Instructions applied to the configuration.
    pub changes: Vec<Change>,
    /// What machines it is for, when not for this one's kind: `linux/arm64`, `linux/arm/v7`.
    pub platform: Option<Platform>,
    /// The new image's name.
    pub name: Option<Reference>,
}

/// Imports a tar stream, plain or compressed; gives the image's id.
pub fn import(
    store: &Store,
    archive: impl Read + Send,
    options: &ImportOptions,
    progress: &Progress,
) -> Result<Digest, ImageError> {
    let staging = store.stage("import")?;
    let shown = match options.source.as_str() {
        "-" => "standard input",
        path => path,
    };
    let ingested = ingest(&staging, shown, archive)?;
    if !ingested.end_marker {
        let text = format!("{shown}: archive ends without its end marker: it is cut off or no tar archive");
        return Err(ImageError::Invalid(text));
    }
    for warning in &ingested.warnings {
        progress.warn(warning);
    }
    let now = time::now();
    let mut config = ConfigBuilder::scratch();
    if let Some(platform) = &options.platform {
        config.platform(platform);
    }
    config.apply(&options.changes);
    config.created(now, None);
    let comment = options
        .message
        .clone()
        .unwrap_or_else(|| format!("Imported from {}", options.source));
    let entry = HistoryEntry {
        comment: Some(comment),
        ..HistoryEntry::default()
    };
    config.push(now, &entry, Some(ingested.layer.diff_id));
    let config_json = config.finish();
    let layer = LayerBlob {
        media_type: ingested.blob.media_type.to_owned(),
        digest: ingested.blob.digest,
        size_bytes: ingested.blob.size_bytes,
    };
    let manifest = staging.add_blob(&manifest_json(&config_json, &[layer])?)?;
    let image = NewImage {
        manifest: manifest.digest,
        layers: vec![(ingested.layer.diff_id, ingested.blob.digest)],
        parent: None,
        base_rootfs: None,
        created: Some(now),
        config_json,
        origin: None,
    };
    let mut blobs = vec![staging.add_blob(image.config_json.as_bytes())?, manifest];
    blobs.extend(ingested.blob.staged);
    let names: Vec<Reference> = options.name.iter().map(|name| name.clone().or_latest()).collect();
    staging.hand_over();
    store.publish(&staging, &blobs, &[ingested.layer], &image, &names)?;
    Ok(Digest::of(image.config_json.as_bytes()))
}
