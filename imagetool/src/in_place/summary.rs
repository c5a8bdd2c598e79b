//! What an archive holds: its images, their configurations, and where their layers lie. Kept as JSON beside the indexes.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ufs::index::Sha256;
use ufs::stream::{self, Base, Compression, Identity, Indexer, Options, ReadAt, Slice};

use super::cache::{self, Cache};
use super::documents::InArchive;
use super::outer::{Nested, Outer, scan_plain, scan_stream};
use super::{InPlaceError, layer, open_regular};
use crate::archive::directory::Directory;
use crate::archive::member::TarError;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::load::describe::{Described, Documents, LayerSource, describe};
use crate::manifest::{parse_config, parse_docker_archive, parse_index};
use crate::reference::Reference;

/// Name of the file in the folder of an archive.
const FILE_NAME: &str = "summary";
/// Headers of small members are read together.
const BUFFER_BYTES: usize = 128 << 10;

/// The images of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    images: Vec<ImageSummary>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageSummary {
    /// Its names.
    pub(super) names: Vec<String>,
    /// Its configuration; `None` for a bare tar.
    pub(super) config: Option<String>,
    /// The archive is a bare tar and the only layer.
    pub(super) bare: bool,
    /// Its layers, bottom first.
    pub(super) layers: Vec<LayerSummary>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerSummary {
    /// The file of a layout directory that it is, never kept; else it lies in the archive file.
    #[serde(skip)]
    pub(super) file: Option<LayoutFile>,
    /// Where it begins.
    pub(super) at: u64,
    /// Its length in bytes, as it lies there.
    pub(super) length: u64,
    /// Whether these are counted in the plain bytes of a compressed archive.
    pub(super) in_stream: bool,
    /// What the configuration says.
    #[serde(with = "digest_text")]
    pub(super) diff_id: Option<Digest>,
    /// What the manifest says of it as it lies there.
    #[serde(with = "digest_text")]
    pub(super) blob: Option<Digest>,
}

/// A file of a layout directory, as it was when it was found to lie inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayoutFile {
    /// By which it is opened. That may lead elsewhere by now, so that what was opened is compared with `identity`.
    pub(super) path: PathBuf,
    /// Which file it was.
    pub(super) identity: Identity,
    /// The key of that file.
    key: Sha256,
}

/// Digests as text.
mod digest_text {
    use super::Digest;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Option<Digest>, out: S) -> Result<S::Ok, S::Error> {
        digest.map(|digest| digest.to_string()).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Digest>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

impl std::fmt::Display for LayerSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.diff_id {
            Some(diff_id) => write!(f, "layer {}", diff_id.short()),
            None => f.write_str("archive"),
        }
    }
}

impl LayerSummary {
    /// Under which key it is kept, when this slice is where it lies.
    pub(super) fn key(&self, slice: &Slice) -> Result<Sha256, InPlaceError> {
        let base = match (&self.file, &slice.base) {
            (Some(file), _) => file.key,
            (None, Base::Stream(key)) => *key,
            (None, Base::File(path)) => {
                let metadata = path.metadata().map_err(InPlaceError::io("look at", path))?;
                cache::file_key(path, &metadata)
            }
        };
        let (diff_id, blob) = (self.diff_id.as_ref(), self.blob.as_ref());
        Ok(cache::layer_key(&base, slice.offset, slice.length, diff_id, blob))
    }

    /// What can be said of a layer that is not read: its two digests must be one.
    pub(super) fn check_plain(&self) -> Result<(), InPlaceError> {
        match (self.diff_id, self.blob) {
            (Some(diff_id), Some(blob)) if diff_id != blob => Err(InPlaceError::Invalid(format!(
                "{self}: it is not compressed, but the manifest calls it {blob} and the configuration {diff_id}"
            ))),
            _ => Ok(()),
        }
    }

    /// Compares the digests that were found with those that the documents give.
    pub(super) fn check_read(&self, blob: Option<Digest>, plain: Option<Digest>) -> Result<(), InPlaceError> {
        let differs = |expected: Option<Digest>, found: Option<Digest>| match (expected, found) {
            (Some(expected), Some(found)) if expected != found => Some((expected, found)),
            _ => None,
        };
        if let Some((expected, found)) = differs(self.blob, blob) {
            return Err(InPlaceError::Invalid(format!(
                "{self}: the manifest says {expected}, the content is {found}"
            )));
        }
        if let Some((expected, found)) = differs(self.diff_id, plain) {
            return Err(InPlaceError::Invalid(format!(
                "{self}: the content has the diff id {found}, the configuration says {expected}"
            )));
        }
        Ok(())
    }
}

impl ImageSummary {
    /// The image id.
    fn id(&self) -> Option<Digest> {
        self.config.as_ref().map(|config| Digest::of(config.as_bytes()))
    }

    /// What it is called in messages.
    fn shown(&self) -> String {
        match (self.names.as_slice(), self.id()) {
            ([], Some(id)) => id.short(),
            ([], None) => "a bare tree".to_owned(),
            (names, _) => names.join(", "),
        }
    }

    /// Whether somebody means this one by a name or the beginning of an id.
    fn is_called(&self, wanted: &str) -> bool {
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let canonical = |name: &str| Some(name.parse::<Reference>().ok()?.or_latest().canonical());
        let called = |name: &String| name == wanted || canonical(name) == canonical(wanted);
        self.names.iter().any(called)
            || (hex.len() >= 4 && self.id().is_some_and(|id| id.hex().starts_with(hex)))
    }
}

impl Summary {
    /// What was found earlier.
    pub(super) fn load(cache: &Cache, key: &Sha256) -> Option<Self> {
        serde_json::from_slice(&cache.read(key, FILE_NAME)?).ok()
    }

    /// Keeps it.
    pub(super) fn save(&self, cache: &Cache, key: &Sha256) -> Result<(), InPlaceError> {
        cache.write(key, FILE_NAME, |out| {
            serde_json::to_writer(out, self).map_err(io::Error::from)
        })
    }

    /// Whether layers lie in the stream of the archive.
    pub(super) fn needs_stream(&self) -> bool {
        self.images
            .iter()
            .flat_map(|image| &image.layers)
            .any(|layer| layer.in_stream)
    }

    /// The image that is wanted, or the only one.
    pub(super) fn choose(&self, path: &Path, wanted: Option<&str>) -> Result<&ImageSummary, InPlaceError> {
        let names = || self.images.iter().map(ImageSummary::shown).collect();
        let path = || path.to_owned();
        match (wanted, self.images.as_slice()) {
            (None, [only]) => Ok(only),
            (None, []) => Err(InPlaceError::Invalid(format!(
                "{} holds no image",
                path().display()
            ))),
            (None, _) => Err(InPlaceError::Several {
                path: path(),
                names: names(),
            }),
            (Some(wanted), images) => {
                let found = images.iter().find(|image| image.is_called(wanted));
                found.ok_or_else(|| InPlaceError::NoSuchImage {
                    path: path(),
                    wanted: wanted.to_owned(),
                    names: names(),
                })
            }
        }
    }
}

/// The images of a layout directory. Nothing is kept: its documents are read anew each time.
pub(super) fn of_directory(path: &Path) -> Result<Summary, InPlaceError> {
    let documents = Directory::open(path).map_err(|error| wrong_document(path, error))?;
    images(path, &documents, |source| {
        let wrong = |error| wrong_document(path, error);
        let named = documents.path(&source.path).map_err(wrong)?;
        let file = documents.file(&source.path).map_err(wrong)?;
        let file = file.ok_or_else(|| InPlaceError::Invalid(format!("{} is not there", named.display())))?;
        let metadata = file.metadata().map_err(InPlaceError::io("look at", &named))?;
        Ok(LayerSummary {
            file: Some(LayoutFile {
                key: cache::file_key(&named, &metadata),
                identity: Identity::of(&metadata),
                path: named,
            }),
            at: 0,
            length: metadata.len(),
            in_stream: false,
            diff_id: None,
            blob: None,
        })
    })
}

/// The images of an archive file, or the bare tree that it is.
pub(super) fn of_file(cache: &Cache, path: &Path, key: &Sha256) -> Result<Summary, InPlaceError> {
    let scanned = scan(cache, path, key)?;
    let documents = InArchive {
        outer: &scanned.outer,
        bytes: Arc::clone(&scanned.bytes),
    };
    if !holds_images(path, &documents)? {
        return bare(cache, path, key, scanned);
    }
    let summary = images(path, &documents, |source| {
        let missing = || {
            InPlaceError::Invalid(format!(
                "{}: {} is not in the archive",
                path.display(),
                source.path
            ))
        };
        let extent = scanned.outer.find(&source.path).ok_or_else(missing)?;
        Ok(LayerSummary {
            file: None,
            at: extent.at,
            length: extent.length,
            in_stream: scanned.compressed,
            diff_id: None,
            blob: None,
        })
    })?;
    keep_nested(cache, key, &summary, scanned.outer)?;
    Ok(summary)
}

/// An archive file whose outer tar was gone through.
struct Scanned {
    outer: Outer,
    bytes: Arc<dyn ReadAt>,
    slice: Slice,
    compressed: bool,
}

fn scan(cache: &Cache, path: &Path, key: &Sha256) -> Result<Scanned, InPlaceError> {
    let file = open_regular(path)?;
    let length = file.metadata().map_err(InPlaceError::io("look at", path))?.len();
    let mut start = [0; 6];
    let count = file
        .read_at(&mut start, 0)
        .map_err(InPlaceError::io("read", path))?;
    let slice = Slice {
        base: Base::File(path.to_owned()),
        offset: 0,
        length,
    };
    let compression = layer::detect(&start[..count]);
    let (outer, bytes): (_, Arc<dyn ReadAt>) = if compression == Compression::None {
        let outer = scan_plain(BufReader::with_capacity(BUFFER_BYTES, &file));
        (
            outer.map_err(|source| tar_error(path, source))?,
            Arc::new(WholeFile(file, length)),
        )
    } else {
        cache.hold(key)?;
        // nobody said which digests the file has
        let options = Options { digests: false };
        let mut indexer = Indexer::new(cache.repository(), slice.clone(), compression, options)?;
        let outer = scan_stream(&mut indexer).map_err(|source| tar_error(path, source))?;
        indexer.finish(key)?;
        (
            outer,
            stream::open(cache.repository(), key, &layer::page_cache())?,
        )
    };
    Ok(Scanned {
        outer,
        bytes,
        slice,
        compressed: compression != Compression::None,
    })
}

/// A failure of the outer tar. What the decompressor said is an answer of its own.
fn tar_error(path: &Path, source: TarError) -> InPlaceError {
    InPlaceError::Tar {
        path: path.to_owned(),
        source,
    }
}

/// A plain file.
struct WholeFile(File, u64);

impl ReadAt for WholeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(&self.0, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn size_bytes(&self) -> u64 {
        self.1
    }
}

/// Whether a tar is an archive of images: a root file system may hold files of these names too.
fn holds_images(path: &Path, documents: &dyn Documents) -> Result<bool, InPlaceError> {
    let read = |name| {
        let document = documents.document(name);
        document.map_err(|error| wrong_document(path, error))
    };
    if read("oci-layout")?.is_some() {
        return Ok(true);
    }
    if read("index.json")?.is_some_and(|bytes| parse_index("index.json", &bytes).is_ok()) {
        return Ok(true);
    }
    Ok(read("manifest.json")?.is_some_and(|bytes| parse_docker_archive(&bytes).is_ok()))
}

fn wrong_document(path: &Path, source: ImageError) -> InPlaceError {
    InPlaceError::Document {
        path: path.to_owned(),
        source,
    }
}

/// A bare tree: the archive is the layer, and its key the layer's.
fn bare(cache: &Cache, path: &Path, key: &Sha256, scanned: Scanned) -> Result<Summary, InPlaceError> {
    let layer = LayerSummary {
        file: None,
        at: 0,
        length: scanned.slice.length,
        in_stream: false,
        diff_id: None,
        blob: None,
    };
    let tree = scanned.outer.own.map_err(|source| InPlaceError::Layer {
        what: path.display().to_string(),
        source,
    })?;
    if !scanned.outer.end_marker {
        return Err(InPlaceError::Invalid(format!(
            "{}: archive ends without its end marker: it is cut off or no tar archive",
            path.display()
        )));
    }
    if !scanned.compressed {
        cache.hold(key)?;
        stream::write_plain(cache.repository(), key, &scanned.slice)?;
    }
    layer::write(cache, key, tree, &layer)?;
    Ok(Summary {
        images: vec![ImageSummary {
            names: Vec::new(),
            config: None,
            bare: true,
            layers: vec![layer],
        }],
    })
}

/// The images that the documents describe; `locate` finds their layers.
fn images(
    path: &Path,
    documents: &dyn Documents,
    locate: impl Fn(&LayerSource) -> Result<LayerSummary, InPlaceError>,
) -> Result<Summary, InPlaceError> {
    let described = describe(documents).map_err(|error| wrong_document(path, error))?;
    let images = described.iter().map(|image| one_image(path, image, &locate));
    Ok(Summary {
        images: images.collect::<Result<_, _>>()?,
    })
}

fn one_image(
    path: &Path,
    described: &Described,
    locate: impl Fn(&LayerSource) -> Result<LayerSummary, InPlaceError>,
) -> Result<ImageSummary, InPlaceError> {
    let id = Digest::of(&described.config);
    let what = format!("configuration {}", id.short());
    let parsed = parse_config(&what, &described.config);
    let (_, diff_ids) = parsed.map_err(|error| wrong_document(path, error.into()))?;
    let config = String::from_utf8(described.config.clone());
    let config = config.map_err(|_| InPlaceError::Invalid(format!("{what} is no UTF-8 text")))?;
    if diff_ids.len() != described.layers.len() {
        return Err(InPlaceError::Invalid(format!(
            "{}: image {} has {} layers in its manifest and {} in its configuration",
            path.display(),
            id.short(),
            described.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    for (source, diff_id) in described.layers.iter().zip(diff_ids) {
        let mut layer = locate(source)?;
        layer.diff_id = Some(diff_id);
        if let Some(expected) = &source.expected {
            layer.blob = Some(expected.digest);
            if layer.length != expected.size_bytes {
                return Err(InPlaceError::Invalid(format!(
                    "{layer}: the manifest says {} bytes, {} are there",
                    expected.size_bytes, layer.length
                )));
            }
        }
        layers.push(layer);
    }
    Ok(ImageSummary {
        names: described.names.iter().map(Reference::familiar).collect(),
        config: Some(config),
        bare: false,
        layers,
    })
}

/// Keeps the layers that were indexed on the way.
fn keep_nested(cache: &Cache, archive: &Sha256, summary: &Summary, outer: Outer) -> Result<(), InPlaceError> {
    let mut nested = outer.nested;
    for layer in summary.images.iter().flat_map(|image| &image.layers) {
        let Some(Nested { tree, digest }) = nested.remove(&layer.at) else {
            continue;
        };
        layer.check_plain()?;
        layer.check_read(None, Some(digest))?;
        let slice = Slice {
            base: Base::Stream(*archive),
            offset: layer.at,
            length: layer.length,
        };
        let key = layer.key(&slice)?;
        cache.hold(&key)?;
        stream::write_plain(cache.repository(), &key, &slice)?;
        layer::write(cache, &key, tree, layer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], config: Option<&str>) -> ImageSummary {
        ImageSummary {
            names: names.iter().map(ToString::to_string).collect(),
            config: config.map(str::to_owned),
            bare: config.is_none(),
            layers: vec![LayerSummary {
                file: None,
                at: 1,
                length: 2,
                in_stream: true,
                diff_id: Some(Digest::of(b"a")),
                blob: None,
            }],
        }
    }

    #[test]
    fn the_image_is_chosen_by_name_or_id() {
        let both = Summary {
            images: vec![
                image(&["debian:12", "debian:latest"], Some("{}")),
                image(&[], Some("[]")),
            ],
        };
        let choose = |wanted| both.choose(Path::new("/x"), wanted);
        let id = Digest::of(b"[]");
        let (long, short) = (id.to_string(), id.short());
        for (wanted, expected) in [
            ("debian", 0),
            ("docker.io/library/debian:12", 0),
            (long.as_str(), 1),
            (short.as_str(), 1),
        ] {
            assert_eq!(choose(Some(wanted)).unwrap(), &both.images[expected], "{wanted}");
        }
        let several = choose(None).unwrap_err().to_string();
        assert!(
            several.contains("debian:12, debian:latest") && several.contains(&short),
            "{several}"
        );
        assert!(matches!(
            choose(Some("alpine")),
            Err(InPlaceError::NoSuchImage { .. })
        ));
        let one = Summary {
            images: vec![image(&[], None)],
        };
        assert!(one.choose(Path::new("/x"), None).unwrap().bare);
    }

    #[test]
    fn a_summary_reads_back() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let summary = Summary {
            images: vec![image(&["a"], Some("{}")), image(&[], None)],
        };
        summary.save(&cache, &[3; 32]).unwrap();
        assert_eq!(Summary::load(&cache, &[3; 32]), Some(summary));
        cache
            .write(&[3; 32], FILE_NAME, |out| io::Write::write_all(out, b"{"))
            .unwrap();
        assert_eq!(Summary::load(&cache, &[3; 32]), None);
    }
}
