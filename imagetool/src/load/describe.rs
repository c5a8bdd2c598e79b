//! What images an archive says it holds, in either of its two languages.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Index, host_architecture, parse_docker_archive,
    parse_index, parse_manifest, pick_platform,
};
use crate::reference::Reference;

/// An index in an index in an index…
const NESTING_LIMIT: usize = 4;

/// Where the documents of an archive are read from, by their paths in it.
pub(crate) trait Documents {
    /// The bytes of a document; `None` when there is no such file.
    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError>;
}

/// An image as its archive describes it.
#[derive(Debug)]
pub(crate) struct Described {
    /// The configuration's bytes.
    pub(crate) config: Vec<u8>,
    /// The manifest's bytes, when the archive has an OCI manifest.
    pub(crate) manifest: Option<Vec<u8>>,
    /// The layers, bottom first.
    pub(crate) layers: Vec<LayerSource>,
    /// Its names.
    pub(crate) names: Vec<Reference>,
}

/// Where a layer is, and what its manifest says of it.
#[derive(Debug)]
pub(crate) struct LayerSource {
    pub(crate) path: String,
    pub(crate) expected: Option<Expected>,
}

/// Digest and size of a blob as a manifest states them.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

/// The images of an archive: those of `index.json` when it is there, else those of `manifest.json`.
pub(crate) fn describe(contents: &dyn Documents) -> Result<Vec<Described>, ImageError> {
    if let Some(bytes) = contents.document("index.json")? {
        let index = parse_index("index.json", &bytes)?;
        return oci(contents, &index);
    }
    if let Some(bytes) = contents.document("manifest.json")? {
        return docker(contents, &bytes);
    }
    Err(ImageError::Invalid(
        "neither index.json nor manifest.json in the archive: it holds no image (import takes a root file system)"
            .to_owned(),
    ))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a document by its digest and verifies it.
fn verified(contents: &dyn Documents, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let digest = descriptor.digest()?;
    let path = blob_path(&digest);
    let bytes = contents.document(&path)?;
    let bytes = bytes.ok_or_else(|| ImageError::Invalid(format!("{path} is not in the archive")))?;
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(ImageError::Invalid(format!(
            "{path}: the content has the digest {found}"
        )));
    }
    Ok(bytes)
}

fn oci(contents: &dyn Documents, index: &Index) -> Result<Vec<Described>, ImageError> {
    let mut names_by_config = docker_names(contents)?;
    // one image may be listed once per name
    let mut found: Vec<(Digest, Described)> = Vec::new();
    for descriptor in &index.manifests {
        let name = name_of(descriptor);
        let Some((digest, manifest)) = manifest_of(contents, descriptor.clone())? else {
            continue;
        };
        if let Some((_, known)) = found.iter_mut().find(|(known, _)| *known == digest) {
            known.names.extend(name);
            continue;
        }
        let parsed = parse_manifest(&format!("manifest {}", digest.short()), &manifest)?;
        if !parsed.config.media_type.is_empty() && !parsed.config.media_type.ends_with("json") {
            continue; // an artifact, not an image
        }
        let config = verified(contents, &parsed.config)?;
        let mut layers = Vec::new();
        for layer in &parsed.layers {
            let digest = layer.digest()?;
            let expected = Some(Expected {
                digest,
                size_bytes: layer.size_bytes,
            });
            layers.push(LayerSource {
                path: blob_path(&digest),
                expected,
            });
        }
        let mut names: Vec<Reference> = name.into_iter().collect();
        names.extend(names_by_config.remove(&Digest::of(&config)).unwrap_or_default());
        found.push((
            digest,
            Described {
                config,
                manifest: Some(manifest),
                layers,
                names,
            },
        ));
    }
    if found.is_empty() && !index.manifests.is_empty() {
        let text = format!("the archive has no image for linux/{}", host_architecture());
        return Err(ImageError::Invalid(text));
    }
    let mut images: Vec<Described> = found.into_iter().map(|(_, image)| image).collect();
    for image in &mut images {
        image.names.sort();
        image.names.dedup();
    }
    Ok(images)
}

/// Follows indexes to the manifest for this machine; `None` when there is none for it.
fn manifest_of(
    contents: &dyn Documents,
    descriptor: Descriptor,
) -> Result<Option<(Digest, Vec<u8>)>, ImageError> {
    let mut descriptor = descriptor;
    for _ in 0..NESTING_LIMIT {
        let bytes = verified(contents, &descriptor)?;
        // the media type may be missing or wrong: an index is what has manifests
        let has_manifests = serde_json::from_slice::<serde_json::Value>(&bytes)
            .is_ok_and(|document| document.get("manifests").is_some() && document.get("config").is_none());
        if !has_manifests {
            return Ok(Some((descriptor.digest()?, bytes)));
        }
        let index = parse_index(&descriptor.digest_text, &bytes)?;
        match pick_platform(&index, host_architecture()) {
            Some(next) => descriptor = next.clone(),
            None => return Ok(None),
        }
    }
    Err(ImageError::Invalid(format!(
        "indexes are nested more than {NESTING_LIMIT} deep"
    )))
}

/// The name that annotations give. A tag alone (`latest`) is no name.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let full = descriptor.annotation(ANNOTATION_IMAGE_NAME);
    let short = descriptor
        .annotation(ANNOTATION_REF_NAME)
        .filter(|name| name.contains([':', '/']));
    let name: Reference = full.or(short)?.parse().ok()?;
    name.digest().is_none().then(|| name.or_latest())
}

/// The names in a `manifest.json` that stands beside `index.json`, by configuration.
fn docker_names(contents: &dyn Documents) -> Result<BTreeMap<Digest, Vec<Reference>>, ImageError> {
    let mut names = BTreeMap::new();
    let Some(bytes) = contents.document("manifest.json")? else {
        return Ok(names);
    };
    for item in parse_docker_archive(&bytes)? {
        let Some(config) = contents.document(&item.config)? else {
            continue;
        };
        let list: &mut Vec<Reference> = names.entry(Digest::of(&config)).or_default();
        list.extend(repo_tags(item.repo_tags)?);
    }
    Ok(names)
}

fn repo_tags(tags: Option<Vec<String>>) -> Result<Vec<Reference>, ImageError> {
    let parse = |tag: &String| Ok(tag.parse::<Reference>()?.or_latest());
    tags.unwrap_or_default()
        .iter()
        .filter(|tag| *tag != "<none>:<none>")
        .map(parse)
        .collect()
}

fn docker(contents: &dyn Documents, manifest: &[u8]) -> Result<Vec<Described>, ImageError> {
    let mut images = Vec::new();
    for item in parse_docker_archive(manifest)? {
        let config = contents.document(&item.config)?;
        let config =
            config.ok_or_else(|| ImageError::Invalid(format!("{:?} is not in the archive", item.config)))?;
        let layers = item
            .layers
            .into_iter()
            .map(|path| LayerSource { path, expected: None })
            .collect();
        images.push(Described {
            config,
            manifest: None,
            layers,
            names: repo_tags(item.repo_tags)?,
        });
    }
    Ok(images)
}
