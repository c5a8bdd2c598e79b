//! Writing images into one archive that is a Docker archive and an OCI archive at once, as Docker 25 and later do.
//!
//! ```text
//! blobs/sha256/HEX…   index.json   manifest.json   oci-layout
//! ```
//!
//! Manifests, configurations and layers are the bytes that came in, so a loaded image has the same id and digests.
//! Members are sorted and carry no time of their own: the same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::json;

use crate::archive::write::{Writer, file_entry};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Descriptor, Index, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use crate::store::{ImageDetails, OCI_LAYOUT, Store, name_annotations};

/// An image to be saved and the names that go with it.
struct Selected {
    details: ImageDetails,
    names: BTreeSet<Reference>,
}

/// Writes the images of these names or ids. An image given by id is saved with no name, one given by its repository
/// alone with all tags of that repository.
pub fn save(store: &Store, names_or_ids: &[String], out: impl Write) -> Result<(), ImageError> {
    let mut selected: BTreeMap<Digest, Selected> = BTreeMap::new();
    for text in names_or_ids {
        for (id, name) in select(store, text)? {
            let entry = match selected.entry(id) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Selected {
                    details: store.image_details(&id)?,
                    names: BTreeSet::new(),
                }),
            };
            entry.names.extend(name);
        }
    }
    for image in selected.values() {
        if let Some(base) = &image.details.image.base_rootfs {
            return Err(ImageError::Invalid(format!(
                "image {} lies on the directory {}, which is not part of it: commit its container with --full to make \
                 an image that stands alone",
                image.details.image.id.short(),
                base.display()
            )));
        }
    }
    write(store, selected.values(), out)
}

/// The images that one argument means, as Docker reads it.
fn select(store: &Store, text: &str) -> Result<Vec<(Digest, Option<Reference>)>, ImageError> {
    if let Ok(name) = text.parse::<Reference>()
        && name.tag().is_none()
        && name.digest().is_none()
    {
        let tags = store.names_in_repository(&name)?;
        if !tags.is_empty() {
            return Ok(tags.into_iter().map(|(name, id)| (id, Some(name))).collect());
        }
    }
    Ok(vec![store.find_image(text)?])
}

fn write<'a>(
    store: &Store,
    images: impl Iterator<Item = &'a Selected>,
    out: impl Write,
) -> Result<(), ImageError> {
    let mut blobs: BTreeSet<Digest> = BTreeSet::new();
    let mut manifests = Vec::new();
    let mut items = Vec::new();
    for Selected { details, names } in images {
        let size = store.blob_size(&details.manifest)?;
        let descriptor = Descriptor::new(
            media_type(store, &details.manifest)?.as_str(),
            details.manifest,
            size,
        );
        if names.is_empty() {
            manifests.push(descriptor.clone());
        }
        for name in names {
            let annotations = Some(name_annotations(&name.canonical()));
            manifests.push(Descriptor {
                annotations,
                ..descriptor.clone()
            });
        }
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let layers: Vec<String> = details.layers.iter().map(|(_, blob)| path(blob)).collect();
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        let tags = if tags.is_empty() { json!(null) } else { json!(tags) };
        items.push(json!({ "Config": path(&details.image.id), "RepoTags": tags, "Layers": layers }));
        blobs.extend([details.image.id, details.manifest]);
        blobs.extend(details.layers.iter().map(|(_, blob)| *blob));
    }
    let index = Index {
        schema_version: 2,
        media_type: OCI_INDEX.to_owned(),
        manifests,
    };
    let index = serde_json::to_vec(&index)
        .map_err(|error| ImageError::Invalid(format!("write index.json: {error}")))?;
    let items = json!(items).to_string();
    let failed = |what: &str| ImageError::io("write", format!("archive: {what}"));
    let mut writer = Writer::new(out);
    for folder in ["blobs", "blobs/sha256"] {
        writer.directory(folder).map_err(failed(folder))?;
    }
    for blob in &blobs {
        let size = store.blob_size(blob)?;
        let name = format!("blobs/sha256/{}", blob.hex());
        let file = store.open_blob(blob)?;
        writer
            .member(&file_entry(&name, size), &mut file.take(size))
            .map_err(failed(&name))?;
    }
    let files = [
        ("index.json", index.as_slice()),
        ("manifest.json", items.as_bytes()),
        ("oci-layout", OCI_LAYOUT.as_bytes()),
    ];
    for (name, bytes) in files {
        writer
            .member(&file_entry(name, bytes.len() as u64), &mut &*bytes)
            .map_err(failed(name))?;
    }
    writer
        .finish()
        .and_then(|mut out| out.flush())
        .map_err(failed("end"))
}

/// The media type that a manifest gives itself.
fn media_type(store: &Store, manifest: &Digest) -> Result<String, ImageError> {
    let bytes = store.read_document(manifest)?;
    let manifest = crate::manifest::parse_manifest(&format!("manifest {manifest}"), &bytes)?;
    Ok(if manifest.media_type.is_empty() {
        OCI_MANIFEST.to_owned()
    } else {
        manifest.media_type
    })
}

/// Writes to a file that appears whole or not at all.
pub fn save_to_file(
    path: &std::path::Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let shown = path.display().to_string();
    let is_special = path.metadata().is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        let file = std::fs::File::options()
            .write(true)
            .open(path)
            .map_err(ImageError::io("open", shown))?;
        return write(&mut io::BufWriter::with_capacity(256 << 10, file));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    if !folder.is_dir() {
        // Docker's words
        let text = format!(
            "invalid output path: directory {:?} does not exist",
            folder.display()
        );
        return Err(ImageError::Invalid(text));
    }
    let temporary = tempfile::Builder::new().prefix(".shale-").tempfile_in(folder);
    let temporary = temporary.map_err(ImageError::io("create a file beside", shown.clone()))?;
    let mut out = io::BufWriter::with_capacity(256 << 10, temporary);
    write(&mut out)?;
    let temporary = out
        .into_inner()
        .map_err(|error| ImageError::io("write", shown.clone())(error.into_error()))?;
    temporary
        .as_file()
        .sync_data()
        .map_err(ImageError::io("write", shown.clone()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644 & !umask());
    temporary
        .as_file()
        .set_permissions(mode)
        .map_err(ImageError::io("write", shown.clone()))?;
    temporary
        .persist(path)
        .map_err(|error| ImageError::io("rename to", shown)(error.error))?;
    Ok(())
}

/// The process's file mode creation mask, read without changing it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|value| u32::from_str_radix(value.trim(), 8).ok())
        .unwrap_or(0o022)
}
