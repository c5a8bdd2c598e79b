//! The JSON documents of images: OCI index and manifest, Docker's `manifest.json`, the configuration. Pure.
//!
//! Documents are outside input: each has a size limit ([`DOCUMENT_LIMIT`], checked by whoever reads it), digests are
//! parsed and never used as paths unparsed, and a document that contradicts itself is refused.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The largest manifest, index or configuration that is read: 4 MiB, the limit registries keep.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;
/// More layers than any engine can mount.
pub const LAYER_LIMIT: usize = 1000;

/// Media type of an OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer; `+gzip` and `+zstd` follow for compressed ones.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a Docker manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Annotation of a tag in an index.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of the full name in an index, as containerd and Docker write it.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not the JSON it should be.
    #[error("{what} does not parse: {source}")]
    Json {
        /// Which document.
        what: String,
        /// Where it went wrong.
        source: serde_json::Error,
    },
    /// It parses, but says something that cannot be.
    #[error("{what}: {problem}")]
    Invalid {
        /// Which document.
        what: String,
        /// What is wrong.
        problem: String,
    },
}

impl ManifestError {
    fn invalid(what: &str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.to_owned(),
            problem: problem.into(),
        }
    }
}

/// Annotations, sorted so that what is written is reproducible.
pub type Annotations = std::collections::BTreeMap<String, String>;

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its digest, as text: [`Descriptor::digest`] parses it.
    #[serde(rename = "digest")]
    pub digest_text: String,
    /// Its size.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// For which platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where else the blob is, of a foreign layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub urls: Vec<String>,
    /// Names and notes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "annotations"
    )]
    pub annotations: Option<Annotations>,
}

/// A list of foreign documents, which may be null.
fn list<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Annotations of foreign documents: values that are no text are left out.
fn annotations<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Annotations>, D::Error> {
    let map: Option<std::collections::BTreeMap<String, serde_json::Value>> = Option::deserialize(input)?;
    let text = |(key, value)| match value {
        serde_json::Value::String(text) => Some((key, text)),
        _ => None,
    };
    Ok(map.map(|map| map.into_iter().filter_map(text).collect()))
}

impl Descriptor {
    /// A descriptor of a blob.
    pub fn new(media_type: &str, digest: Digest, size_bytes: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest_text: digest.to_string(),
            size_bytes,
            platform: None,
            urls: Vec::new(),
            annotations: None,
        }
    }

    /// Whether it points to a layer that may not be given to others, and so is kept elsewhere than its manifest.
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains("nondistributable") || self.media_type.contains("foreign")
    }

    /// The digest it names.
    pub fn digest(&self) -> Result<Digest, ManifestError> {
        self.digest_text
            .parse()
            .map_err(|error: crate::digest::DigestError| {
                ManifestError::invalid("descriptor", error.to_string())
            })
    }

    /// Whether it points to a manifest (not to an index or a layer).
    pub fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it points to an index.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// A platform an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH.
    pub architecture: String,
    /// GOOS.
    pub os: String,
    /// CPU variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl std::str::FromStr for Platform {
    type Err = String;

    /// Reads `OS/ARCH[/VARIANT]`, `ARCH` alone, and the names that kernels give to architectures.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no platform: write linux/ARCHITECTURE[/VARIANT], as linux/arm64");
        let words: Vec<&str> = text.split('/').collect();
        let plain = |word: &&str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !words.iter().all(plain) {
            return Err(wrong());
        }
        let (architecture, variant) = match words.as_slice() {
            ["linux"] => (host_architecture(), None),
            ["linux", architecture] => (*architecture, None),
            ["linux", architecture, variant] => (*architecture, Some((*variant).to_owned())),
            [_, _] | [_, _, _] => return Err(format!("{text:?} is not for linux")),
            [architecture] => (*architecture, None),
            _ => return Err(wrong()),
        };
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" => "386",
            "armhf" => "arm",
            other => other,
        };
        Ok(Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant,
        })
    }
}

/// An OCI index or Docker manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Which of the kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What it points to.
    pub manifests: Vec<Descriptor>,
}

/// An OCI or Docker (schema 2) manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Which of the kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
}

/// An entry of the `manifest.json` of a Docker archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerArchiveItem {
    /// Path of the configuration in the archive.
    pub config: String,
    /// Names of the image.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// Paths of the layers in the archive, bottom first.
    #[serde(default)]
    pub layers: Vec<String>,
}

/// Parses an index (`index.json`, or a blob that is one).
pub fn parse_index(what: &str, bytes: &[u8]) -> Result<Index, ManifestError> {
    let index: Index = parse(what, bytes)?;
    if index.schema_version != 2 {
        return Err(ManifestError::invalid(
            what,
            format!("schema version {} is not 2", index.schema_version),
        ));
    }
    Ok(index)
}

/// Parses a manifest and checks that it is one of an image.
pub fn parse_manifest(what: &str, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let manifest: Manifest = parse(what, bytes)?;
    if manifest.schema_version != 2 {
        return Err(ManifestError::invalid(
            what,
            format!("schema version {} is not 2", manifest.schema_version),
        ));
    }
    if manifest.layers.len() > LAYER_LIMIT {
        return Err(ManifestError::invalid(
            what,
            format!("more than {LAYER_LIMIT} layers"),
        ));
    }
    manifest.config.digest()?;
    for layer in &manifest.layers {
        layer.digest()?;
        if layer.media_type.ends_with("+encrypted") {
            return Err(ManifestError::invalid(what, "has an encrypted layer"));
        }
    }
    Ok(manifest)
}

/// Parses the `manifest.json` of a Docker archive.
pub fn parse_docker_archive(bytes: &[u8]) -> Result<Vec<DockerArchiveItem>, ManifestError> {
    let items: Vec<DockerArchiveItem> = parse("manifest.json", bytes)?;
    for item in &items {
        if item.layers.len() > LAYER_LIMIT {
            return Err(ManifestError::invalid(
                "manifest.json",
                format!("more than {LAYER_LIMIT} layers"),
            ));
        }
    }
    Ok(items)
}

/// Parses a configuration: gives it with its layers' diff ids.
pub fn parse_config(what: &str, bytes: &[u8]) -> Result<(ImageConfiguration, Vec<Digest>), ManifestError> {
    let config: ImageConfiguration = parse(what, bytes)?;
    let mut diff_ids = Vec::new();
    for text in config.rootfs().diff_ids() {
        let digest = text.parse().map_err(|error: crate::digest::DigestError| {
            ManifestError::invalid(what, format!("diff id {error}"))
        })?;
        diff_ids.push(digest);
    }
    if diff_ids.len() > LAYER_LIMIT {
        return Err(ManifestError::invalid(
            what,
            format!("more than {LAYER_LIMIT} layers"),
        ));
    }
    if config.os().to_string() != "linux" && !config.os().to_string().is_empty() {
        let os = config.os().to_string();
        return Err(ManifestError::invalid(
            what,
            format!("is for the operating system {os:?}, not for linux"),
        ));
    }
    Ok((config, diff_ids))
}

/// Parses any document within [`DOCUMENT_LIMIT`].
fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, ManifestError> {
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(ManifestError::invalid(
            what,
            format!("larger than {DOCUMENT_LIMIT} bytes"),
        ));
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
        what: what.to_owned(),
        source,
    })
}

/// The architecture of this machine as GOARCH names it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "riscv64" => "riscv64",
        other => other,
    }
}

/// Picks the manifest for this machine out of an index; one without platforms is taken as it is.
pub fn pick_platform<'a>(index: &'a Index, architecture: &str) -> Option<&'a Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == architecture)
    };
    let image = |descriptor: &&Descriptor| descriptor.platform.as_ref().is_none_or(|p| p.os != "unknown");
    index.manifests.iter().find(fits).or_else(|| {
        let mut images = index.manifests.iter().filter(image);
        images.next().filter(|only| only.platform.is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn manifests_are_checked() {
        let good = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{D}","size":1}},"layers":[{{"digest":"{D}","size":2,"annotations":{{"a":1}}}}]}}"#
        );
        assert_eq!(parse_manifest("m", good.as_bytes()).unwrap().layers.len(), 1);
        let cases = [
            ("{", "does not parse"),
            (
                r#"{"schemaVersion":1,"config":{"digest":"x","size":1},"layers":[]}"#,
                "schema version 1",
            ),
            (
                r#"{"schemaVersion":2,"config":{"digest":"../../etc","size":1},"layers":[]}"#,
                "sha256",
            ),
            (
                r#"{"schemaVersion":2,"config":{"digest":"x","size":-1},"layers":[]}"#,
                "does not parse",
            ),
        ];
        for (text, part) in cases {
            let error = parse_manifest("m", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let foreign = good.replace(
            "\"size\":2",
            "\"size\":2,\"mediaType\":\"a.foreign.b\",\"urls\":[\"u\"]",
        );
        let layer = parse_manifest("m", foreign.as_bytes()).unwrap().layers.remove(0);
        assert!(layer.is_foreign() && layer.urls == ["u"]);
    }

    #[test]
    fn configurations_are_checked() {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{D}"]}}}}"#
        );
        assert_eq!(parse_config("c", config.as_bytes()).unwrap().1.len(), 1);
        let windows = config.replace("linux", "windows");
        assert!(
            parse_config("c", windows.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("windows")
        );
        let wrong = config.replace(D, "sha256:zz");
        assert!(
            parse_config("c", wrong.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("diff id")
        );
        let huge = vec![b' '; usize::try_from(DOCUMENT_LIMIT).unwrap() + 1];
        assert!(
            parse_config("c", &huge)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
    }

    #[test]
    fn an_index_gives_the_machines_image() {
        let entry = |arch: &str, os: &str| Descriptor {
            platform: Some(Platform {
                architecture: arch.into(),
                os: os.into(),
                variant: None,
            }),
            ..Descriptor::new(OCI_MANIFEST, Digest::of(arch.as_bytes()), 1)
        };
        let index = |manifests| Index {
            schema_version: 2,
            media_type: String::new(),
            manifests,
        };
        let both = index(vec![
            entry("arm64", "linux"),
            entry("amd64", "linux"),
            entry("unknown", "unknown"),
        ]);
        assert_eq!(pick_platform(&both, "amd64"), Some(&both.manifests[1]));
        assert_eq!(pick_platform(&both, "s390x"), None);
        let bare = index(vec![Descriptor::new(OCI_MANIFEST, Digest::of(b""), 1)]);
        assert_eq!(pick_platform(&bare, "amd64"), Some(&bare.manifests[0]));
    }

    proptest! {
        #[test]
        fn no_document_panics(text in "\\PC{0,200}") {
            let _ = parse_index("i", text.as_bytes());
            let _ = parse_manifest("m", text.as_bytes());
            let _ = parse_docker_archive(text.as_bytes());
            let _ = parse_config("c", text.as_bytes());
        }
    }
}
