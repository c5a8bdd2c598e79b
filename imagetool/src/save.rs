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
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
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
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let shown = path.display().to_string();
    let is_special = path.metadata().is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        let file = File::options()
            .write(true)
            .open(path)
            .map_err(ImageError::io("open", shown))?;
        return write(&mut io::BufWriter::with_capacity(256 << 10, file));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.is_dir() {
        // Docker's words
        let text = format!(
            "invalid output path: directory {:?} does not exist",
            folder.display()
        );
        return Err(ImageError::Invalid(text));
    }
    let file = Nascent::create(folder).map_err(ImageError::io("create a file beside", shown.clone()))?;
    let mut out = io::BufWriter::with_capacity(256 << 10, file.writer());
    write(&mut out)?;
    out.flush().map_err(ImageError::io("write", shown.clone()))?;
    drop(out);
    file.writer()
        .sync_data()
        .map_err(ImageError::io("write", shown.clone()))?;
    file.publish(folder, path)
        .map_err(ImageError::io("rename to", shown))
}

/// How names of files begin that are not whole yet.
const NASCENT_PREFIX: &str = ".shale-";

/// A file that gets its name when it is whole.
enum Nascent {
    /// It has no name, so that nothing is left when we are killed.
    Unnamed(File),
    /// Where the file system cannot do that (NFS, older overlayfs), it has another name.
    Named(tempfile::NamedTempFile),
}

impl Nascent {
    fn create(folder: &Path) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, Mode::from_raw_mode(FILE_MODE)) {
            Ok(file) => return Ok(Self::Unnamed(file.into())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let named = tempfile::Builder::new()
            .prefix(NASCENT_PREFIX)
            .tempfile_in(folder)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE & !umask());
        named.as_file().set_permissions(mode)?;
        Ok(Self::Named(named))
    }

    fn writer(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }

    /// Gives the file its name, in the place of what had it.
    fn publish(self, folder: &Path, path: &Path) -> io::Result<()> {
        let file = match self {
            Self::Named(file) => return file.persist(path).map(drop).map_err(|error| error.error),
            Self::Unnamed(file) => file,
        };
        // A link cannot take the place of a file, a rename can.
        let link = |name: &Path| {
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, file, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
        };
        let named = tempfile::Builder::new()
            .prefix(NASCENT_PREFIX)
            .make_in(folder, link)?;
        named.persist(path).map(drop).map_err(|error| error.error)
    }
}

/// Less what the umask forbids.
const FILE_MODE: u32 = 0o644;

/// The process's file mode creation mask, read without changing it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|value| u32::from_str_radix(value.trim(), 8).ok())
        .unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_no_name_until_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        fs::write(&path, "before").unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().count();
        for text in ["first", "second"] {
            save_to_file(&path, |out| {
                out.write_all(text.as_bytes()).unwrap();
                // the one of before
                assert_eq!(names(), 1);
                Ok(())
            })
            .unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names()), (text, 1));
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, FILE_MODE & !umask());
        }
        let failed = save_to_file(&path, |_| Err(ImageError::Invalid("no".to_owned())));
        assert!(failed.is_err());
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), names()),
            ("second", 1)
        );
    }

    #[test]
    fn a_file_with_another_name_takes_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        let named = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        Nascent::Named(named).publish(folder.path(), &path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(path.exists());
    }
}
