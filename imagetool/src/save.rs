//! Writing images into one archive that is a Docker archive and an OCI archive at once, as Docker 25 and later do.
//!
//! ```text
//! blobs/sha256/HEX…   index.json   manifest.json   oci-layout
//! ```
//!
//! Manifests, configurations and layers are the bytes that came in, so a loaded image has the same id and digests. A
//! layer that is no file is put together from its parts and verified while it is written. Where compressed layers were
//! dropped from the store, plain ones and a manifest that lists them take their place.
//! What is to be written is held from before the first byte, so that a removal of the image meanwhile cuts nothing off.
//! Members are sorted and carry no time of their own: the same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::json;

use crate::archive::member::Member;
use crate::archive::write::{Writer, file_entry};
use crate::config::{LayerBlob, manifest_json, oci_layer_type};
use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, StoreError};
use crate::manifest::{Descriptor, Index, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{Blob, ImageDetails, OCI_LAYOUT, Store, name_annotations};

/// So many blobs are held open: fewer than the files that a process may have.
const OPEN_MAX: usize = 512;

/// An image to be saved and the names that go with it.
struct Selected {
    details: ImageDetails,
    names: BTreeSet<Reference>,
}

/// Writes the images of these names or ids. An image given by id is saved with no name, one given by its repository
/// alone with all tags of that repository.
pub fn save(
    store: &Store,
    names_or_ids: &[String],
    out: impl Write,
    progress: &Progress,
) -> Result<(), ImageError> {
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
            entry.names.extend(name.filter(|name| name.digest().is_none()));
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
    let staging = store.stage("save")?;
    for (diff_id, _) in selected.values().flat_map(|image| &image.details.layers) {
        // without it the layer's blob may still be there: whether anything is missing is seen below
        store.pin_layer(&staging, diff_id)?;
    }
    write(store, selected.values(), out, progress)
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

/// What an archive's blob is made from.
enum Source {
    /// The store has it, as a file or as a layer's parts.
    Stored,
    /// It was written for this archive.
    Made(Vec<u8>),
}

/// An image as it goes into an archive.
struct Shape {
    manifest: Descriptor,
    /// Bottom first.
    layers: Vec<Digest>,
    /// The manifest, when it had to be written anew.
    made: Option<Vec<u8>>,
}

/// How an image is written: with the bytes it came with; or, where compressed layers were dropped from the store, with
/// plain ones in their place and a manifest that says so. Its configuration, and so its id, is the same in any case.
fn shape(store: &Store, details: &ImageDetails) -> Result<Shape, ImageError> {
    let what = format!("manifest {}", details.manifest);
    let bytes = store.read_document(&details.manifest)?;
    let manifest = crate::manifest::parse_manifest(&what, &bytes)?;
    if details.layers.iter().all(|(_, blob)| store.has_blob(blob)) {
        let media_type = match manifest.media_type.as_str() {
            "" => OCI_MANIFEST,
            own => own,
        };
        return Ok(Shape {
            manifest: Descriptor::new(media_type, details.manifest, bytes.len() as u64),
            layers: details.layers.iter().map(|(_, blob)| *blob).collect(),
            made: None,
        });
    }
    let mut layers = Vec::new();
    for ((diff_id, blob), old) in details.layers.iter().zip(&manifest.layers) {
        layers.push(if store.has_blob(blob) {
            LayerBlob {
                media_type: oci_layer_type(&old.media_type),
                digest: *blob,
                size_bytes: store.blob_size(blob)?,
            }
        } else {
            LayerBlob {
                media_type: OCI_LAYER.to_owned(),
                digest: *diff_id,
                size_bytes: store.blob_size(diff_id)?,
            }
        });
    }
    let made = manifest_json(&details.image.config_json, &layers)?;
    Ok(Shape {
        manifest: Descriptor::new(OCI_MANIFEST, Digest::of(&made), made.len() as u64),
        layers: layers.iter().map(|layer| layer.digest).collect(),
        made: Some(made),
    })
}

fn write<'a>(
    store: &Store,
    images: impl Iterator<Item = &'a Selected>,
    out: impl Write,
    progress: &Progress,
) -> Result<(), ImageError> {
    let mut blobs: BTreeMap<Digest, Source> = BTreeMap::new();
    let mut manifests = Vec::new();
    let mut items = Vec::new();
    for Selected { details, names } in images {
        let shape = shape(store, details)?;
        if names.is_empty() {
            manifests.push(shape.manifest.clone());
        }
        for name in names {
            let annotations = Some(name_annotations(&name.canonical()));
            manifests.push(Descriptor {
                annotations,
                ..shape.manifest.clone()
            });
        }
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let layers: Vec<String> = shape.layers.iter().map(path).collect();
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        let tags = if tags.is_empty() { json!(null) } else { json!(tags) };
        items.push(json!({ "Config": path(&details.image.id), "RepoTags": tags, "Layers": layers }));
        blobs.insert(details.image.id, Source::Stored);
        blobs.extend(shape.layers.iter().map(|layer| (*layer, Source::Stored)));
        blobs.insert(
            shape.manifest.digest()?,
            shape.made.map_or(Source::Stored, Source::Made),
        );
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
    write_blobs(store, &blobs, &mut writer, progress)?;
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

fn write_blobs(
    store: &Store,
    blobs: &BTreeMap<Digest, Source>,
    writer: &mut Writer<impl Write>,
    progress: &Progress,
) -> Result<(), ImageError> {
    let mut total_bytes = 0;
    let mut open: BTreeMap<Digest, Blob> = BTreeMap::new();
    for (digest, source) in blobs {
        total_bytes += match source {
            Source::Stored => {
                let blob = store.open_blob(digest)?;
                let size_bytes = blob.size_bytes();
                // a layer's parts are pinned, a file is there as long as it is open
                if !blob.is_verified() && open.len() < OPEN_MAX {
                    open.insert(*digest, blob);
                }
                size_bytes
            }
            Source::Made(bytes) => bytes.len() as u64,
        };
    }
    let bar = progress.bytes("saving", Some(total_bytes));
    for (digest, source) in blobs {
        let name = format!("blobs/sha256/{}", digest.hex());
        let failed = ImageError::io("write", format!("archive: {name}"));
        match source {
            Source::Made(bytes) => writer
                .member(&file_entry(&name, bytes.len() as u64), &mut bytes.as_slice())
                .map_err(failed)?,
            Source::Stored => {
                let blob = open.remove(digest).map_or_else(|| store.open_blob(digest), Ok)?;
                let entry = file_entry(&name, blob.size_bytes());
                if blob.is_verified() {
                    write_blob(writer, &entry, &mut bar.wrap(blob)).map_err(failed)?;
                    continue;
                }
                let mut hashing = Hashing::new(bar.wrap(blob));
                write_blob(writer, &entry, &mut hashing).map_err(failed)?;
                if hashing.finish().0 != *digest {
                    return Err(StoreError::Damaged {
                        what: format!("blob {digest}"),
                        detail: "other content: run `shale system check --repair`".to_owned(),
                    }
                    .into());
                }
            }
        }
    }
    Ok(())
}

/// Writes a blob and reads it to its very end: only there one that is put together from a layer's parts is known to be
/// right.
fn write_blob(writer: &mut Writer<impl Write>, entry: &Member, blob: &mut dyn Read) -> io::Result<()> {
    writer.member(entry, blob)?;
    match blob.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it became longer while it was read",
        )),
    }
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
