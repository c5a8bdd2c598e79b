//! Image configurations as raw JSON: what Docker adds to the specification (health checks, ONBUILD, SHELL) must
//! survive a commit, so documents are edited and never rebuilt from a typed form. Pure.

use serde_json::{Map, Value, json};

use crate::changes::Change;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Platform};
use crate::time::Timestamp;

/// One entry of an image's history.
#[derive(Debug, Clone, Default)]
pub struct HistoryEntry {
    /// The command or the tool that made it.
    pub created_by: Option<String>,
    /// Commit message.
    pub comment: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Whether it changed the configuration only.
    pub empty_layer: bool,
}

/// A new configuration under construction.
#[derive(Debug, Clone)]
pub struct ConfigBuilder {
    document: Map<String, Value>,
}

impl ConfigBuilder {
    /// The configuration of an image without layers.
    pub fn scratch() -> Self {
        let document = json!({
            "architecture": crate::manifest::host_architecture(),
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
            "history": [],
        });
        let Value::Object(document) = document else {
            unreachable!("the literal above is an object")
        };
        Self { document }
    }

    /// A configuration to go on from.
    pub fn from_parent(config_json: &str) -> Result<Self, ImageError> {
        match serde_json::from_str(config_json) {
            Ok(Value::Object(mut document)) => {
                // facts about the parent's own making
                for key in [
                    "container",
                    "container_config",
                    "docker_version",
                    "id",
                    "parent",
                    "created",
                ] {
                    document.remove(key);
                }
                Ok(Self { document })
            }
            _ => Err(ImageError::Invalid(
                "the parent's configuration is no JSON object".to_owned(),
            )),
        }
    }

    /// The `config` object: what containers get.
    pub fn container_config(&mut self) -> &mut Map<String, Value> {
        object(&mut self.document, "config")
    }

    /// Drops the parent's layers and history: what follows stands alone.
    pub fn forget_layers(&mut self) {
        self.document
            .insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [] }));
        self.document.insert("history".to_owned(), json!([]));
    }

    /// Notes what machines the image is for.
    pub fn platform(&mut self, platform: &Platform) {
        self.document
            .insert("architecture".to_owned(), json!(platform.architecture));
        if let Some(variant) = &platform.variant {
            self.document.insert("variant".to_owned(), json!(variant));
        }
    }

    /// Applies `-c` instructions.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            change.apply(self.container_config());
        }
    }

    /// Notes who and when.
    pub fn created(&mut self, time: Timestamp, author: Option<&str>) {
        self.document
            .insert("created".to_owned(), json!(time.to_rfc3339()));
        if let Some(author) = author {
            self.document.insert("author".to_owned(), json!(author));
        }
    }

    /// Adds a history entry and, unless it is an empty one, its layer.
    pub fn push(&mut self, time: Timestamp, entry: &HistoryEntry, diff_id: Option<Digest>) {
        let mut item = Map::new();
        item.insert("created".to_owned(), json!(time.to_rfc3339()));
        let texts = [
            ("created_by", &entry.created_by),
            ("comment", &entry.comment),
            ("author", &entry.author),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                item.insert(key.to_owned(), json!(text));
            }
        }
        if entry.empty_layer {
            item.insert("empty_layer".to_owned(), json!(true));
        }
        array(&mut self.document, "history").push(Value::Object(item));
        if let Some(diff_id) = diff_id {
            let rootfs = object(&mut self.document, "rootfs");
            rootfs.entry("type").or_insert_with(|| json!("layers"));
            array(rootfs, "diff_ids").push(json!(diff_id.to_string()));
        }
    }

    /// The document.
    pub fn finish(self) -> String {
        Value::Object(self.document).to_string()
    }
}

/// The object under a key; made, or put in the place of something else, when it is missing.
fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .unwrap_or_else(|| unreachable!("made an object above"))
}

/// The array under a key, likewise.
fn array<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_array() {
        *value = json!([]);
    }
    value
        .as_array_mut()
        .unwrap_or_else(|| unreachable!("made an array above"))
}

/// A layer as a manifest lists it.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// Media type, with the compression.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob.
    pub size_bytes: u64,
}

/// The OCI media type of a layer that has this one, which may be Docker's.
pub fn oci_layer_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => format!("{OCI_LAYER}+gzip"),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => format!("{OCI_LAYER}+zstd"),
        "application/vnd.docker.image.rootfs.diff.tar" | "" => OCI_LAYER.to_owned(),
        other => other.to_owned(),
    }
}

/// The OCI manifest of an image, as bytes.
pub fn manifest_json(config_json: &str, layers: &[LayerBlob]) -> Result<Vec<u8>, ImageError> {
    let config = Descriptor::new(
        OCI_CONFIG,
        Digest::of(config_json.as_bytes()),
        config_json.len() as u64,
    );
    let layers = layers
        .iter()
        .map(|layer| Descriptor::new(&layer.media_type, layer.digest, layer.size_bytes));
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config,
        layers: layers.collect(),
    };
    serde_json::to_vec(&manifest).map_err(|error| ImageError::Invalid(format!("write a manifest: {error}")))
}
