//! Images made by the tests, and a registry of our own that gives out whatever it is told to, right or wrong.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use imagetool::digest::Digest;
use imagetool::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use serde_json::json;

use crate::common::{Shale, file, tar};
use crate::support::http::{Head, Server, answer};
use crate::support::{noise, put_blob, repository};
use imagetool::registry::{Upload, Which};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// Whose media types an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Oci,
    Docker,
}

/// An image that was made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Made {
    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// The manifest with other words in it.
    pub(crate) fn edited(&self, from: &str, to: &str) -> Vec<u8> {
        let text = String::from_utf8(self.manifest.clone()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to).into_bytes()
    }
}

/// A layer with one file of these many bytes without a pattern; other seeds, other bytes.
pub(crate) fn layer(name: &str, seed: u8, length: usize) -> Vec<u8> {
    let mut content = noise(length);
    content.iter_mut().for_each(|byte| *byte ^= seed);
    let (mut member, _) = file(name, "");
    member.size_bytes = length as u64;
    tar(&[(member, content)])
}

pub(crate) fn packed(tar: &[u8], pack: Pack) -> Vec<u8> {
    match pack {
        Pack::Plain => tar.to_vec(),
        Pack::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(tar).unwrap();
            out.finish().unwrap()
        }
        Pack::Zstd => zstd::encode_all(tar, 3).unwrap(),
    }
}

/// An image for a platform (`linux/amd64`).
pub(crate) fn image(kind: Kind, platform: &str, layers: &[(Vec<u8>, Pack)]) -> Made {
    let words: Vec<&str> = platform.split('/').collect();
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|(tar, _)| Digest::of(tar).to_string())
        .collect();
    let mut config = json!({
        "architecture": words[1], "os": words[0], "config": { "Cmd": ["sh"] }, "created": "2024-01-02T03:04:05Z",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    if let Some(variant) = words.get(2) {
        config["variant"] = json!(variant);
    }
    let config = config.to_string().into_bytes();
    let (config_type, media_type) = match kind {
        Kind::Oci => (OCI_CONFIG, OCI_MANIFEST),
        Kind::Docker => ("application/vnd.docker.container.image.v1+json", DOCKER_MANIFEST),
    };
    let layer_type = |pack: Pack| match (kind, pack) {
        (Kind::Oci, Pack::Plain) => OCI_LAYER.to_owned(),
        (Kind::Oci, Pack::Gzip) => format!("{OCI_LAYER}+gzip"),
        (Kind::Oci, Pack::Zstd) => format!("{OCI_LAYER}+zstd"),
        (Kind::Docker, Pack::Plain) => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
        (Kind::Docker, Pack::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        (Kind::Docker, Pack::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd".to_owned(),
    };
    let blobs: Vec<Vec<u8>> = layers.iter().map(|(tar, pack)| packed(tar, *pack)).collect();
    let listed: Vec<_> = layers
        .iter()
        .zip(&blobs)
        .map(|((_, pack), blob)| {
            json!({ "mediaType": layer_type(*pack), "digest": Digest::of(blob).to_string(), "size": blob.len() })
        })
        .collect();
    // with blanks that a parser and a writer would lose
    let manifest = serde_json::to_string_pretty(&json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": { "mediaType": config_type, "digest": Digest::of(&config).to_string(), "size": config.len() },
        "layers": listed, "annotations": { "kept": "yes" },
    }))
    .unwrap();
    Made {
        config,
        manifest: manifest.into_bytes(),
        media_type,
        layers: blobs,
    }
}

/// An image of one small layer.
pub(crate) fn small(platform: &str, seed: u8) -> Made {
    image(Kind::Oci, platform, &[(layer("file", seed, 1000), Pack::Gzip)])
}

/// An image of three layers, each packed in another way.
pub(crate) fn three(kind: Kind) -> Made {
    let layers = [
        (layer("plain", 1, 50_000), Pack::Plain),
        (layer("gzip", 2, 60_000), Pack::Gzip),
        (layer("zstd", 3, 70_000), Pack::Zstd),
    ];
    image(kind, "linux/amd64", &layers)
}

/// An index of documents: bytes, media type, platform.
pub(crate) fn index(kind: Kind, entries: &[(&[u8], &str, &str)]) -> (Vec<u8>, &'static str) {
    let media_type = match kind {
        Kind::Oci => OCI_INDEX,
        Kind::Docker => DOCKER_LIST,
    };
    let entry = |(bytes, media_type, platform): &(&[u8], &str, &str)| {
        let mut entry =
            json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
        let words: Vec<&str> = platform.split('/').collect();
        if words.len() > 1 {
            entry["platform"] = json!({ "os": words[0], "architecture": words[1] });
        }
        if let Some(variant) = words.get(2) {
            entry["platform"]["variant"] = json!(variant);
        }
        entry
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let text = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries }).to_string();
    (text.into_bytes(), media_type)
}

/// Puts an image into a real registry.
pub(crate) fn put(address: &str, path: &str, tag: &str, made: &Made) {
    let repository = repository(address, path);
    for blob in made.layers.iter().chain([&made.config]) {
        put_blob(&repository, blob, Upload::Whole);
    }
    repository
        .put_manifest(&Which::Tag(tag.to_owned()), made.media_type, &made.manifest)
        .unwrap();
}

#[derive(Default)]
struct State {
    /// By path below `/v2/`.
    answers: HashMap<String, (String, Vec<u8>)>,
    tags: HashMap<String, Vec<String>>,
}

/// A registry that only gives.
pub(crate) struct Shelf {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let served = state.clone();
        let server = Server::start(move |stream, head| serve(stream.get_mut(), head, &served));
        Self { server, state }
    }

    pub(crate) fn address(&self) -> String {
        self.server.address()
    }

    /// Whatever is asked for at a path below `/v2/`.
    pub(crate) fn answer(&self, path: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state
            .answers
            .insert(path.to_owned(), (media_type.to_owned(), bytes.to_vec()));
    }

    pub(crate) fn blob(&self, path: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.answer(
            &format!("{path}/blobs/{digest}"),
            "application/octet-stream",
            bytes,
        );
        digest
    }

    /// A document under its digest and a tag.
    pub(crate) fn document(&self, path: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        for which in [tag.to_owned(), digest.to_string()] {
            self.answer(&format!("{path}/manifests/{which}"), media_type, bytes);
        }
        let mut state = self.state.lock().unwrap();
        let tags = state.tags.entry(path.to_owned()).or_default();
        if !tag.starts_with('.') && !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
        digest
    }

    /// An image under a tag; under none that is listed where it begins with a dot.
    pub(crate) fn image(&self, path: &str, tag: &str, made: &Made) -> Digest {
        for blob in made.layers.iter().chain([&made.config]) {
            self.blob(path, blob);
        }
        self.document(path, tag, made.media_type, &made.manifest)
    }

    /// Takes something away.
    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().answers.remove(path);
    }
}

fn serve(stream: &mut std::net::TcpStream, head: &Head, state: &Mutex<State>) -> io::Result<()> {
    let path = head.target.split('?').next().unwrap_or_default();
    let Some(path) = path.strip_prefix("/v2/") else {
        return answer(stream, 404, &[], b"");
    };
    if path.is_empty() {
        return answer(stream, 200, &[], b"{}");
    }
    let (media_type, bytes) = {
        let state = state.lock().unwrap();
        if let Some(tags) = path
            .strip_suffix("/tags/list")
            .and_then(|path| state.tags.get(path))
        {
            let text = json!({ "name": "x", "tags": tags }).to_string();
            ("application/json".to_owned(), text.into_bytes())
        } else if let Some(found) = state.answers.get(path) {
            found.clone()
        } else {
            let code = if path.contains("/blobs/") {
                "BLOB_UNKNOWN"
            } else {
                "MANIFEST_UNKNOWN"
            };
            let text = json!({ "errors": [{ "code": code, "message": "not here" }] }).to_string();
            return answer(
                stream,
                404,
                &[("Content-Type", "application/json")],
                text.as_bytes(),
            );
        }
    };
    let mut headers = vec![("Content-Type".to_owned(), media_type)];
    let range = head.header("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    let (status, body) = match range {
        Some(from) if from < bytes.len() => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            headers.push(("Content-Range".to_owned(), range));
            (206, &bytes[from..])
        }
        Some(_) => {
            headers.push(("Content-Range".to_owned(), format!("bytes */{}", bytes.len())));
            (416, &[][..])
        }
        None => (200, bytes.as_slice()),
    };
    let mut borrowed: Vec<(&str, &str)> = headers
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let length = body.len().to_string();
    borrowed.push(("Content-Length", &length));
    answer(
        stream,
        status,
        &borrowed,
        if head.method == "HEAD" { b"" } else { body },
    )
}

/// The full names of files below a folder of the store.
pub(crate) fn downloads(shale: &Shale) -> Vec<(String, u64)> {
    let folder = shale.root().join("downloads");
    shale
        .names("downloads")
        .into_iter()
        .map(|name| {
            let size = folder.join(&name).metadata().unwrap().len();
            (name, size)
        })
        .collect()
}

/// An image's id in a store.
pub(crate) fn id_of(shale: &Shale, name: &str) -> String {
    shale.ok(["inspect", "-f", "{{.Id}}", name])
}
