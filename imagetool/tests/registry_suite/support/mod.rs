//! What the tests of registries share: a registry, a token server, a proxy that breaks things, and clients.

#![allow(dead_code)] // each file uses its part

pub(crate) mod http;
pub(crate) mod proxy;
pub(crate) mod registry;
pub(crate) mod tls;
pub(crate) mod tokens;

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use imagetool::digest::Digest;
use imagetool::manifest::OCI_MANIFEST;
use imagetool::reference::Reference;
use imagetool::registry::{Environment, Options, Registries, Repository, Upload, Which};

/// Options that do not make a test wait.
pub(crate) fn quick() -> Options {
    Options {
        stall: Some(Duration::from_secs(10)),
        first_wait: Some(Duration::from_millis(5)),
        ..Options::default()
    }
}

/// Registries with nothing configured but what `variables` say; files of the system are under `root`.
pub(crate) fn registries(root: &Path, variables: &[(&str, &str)]) -> Registries {
    let environment = Environment::of(root, variables.iter().copied());
    Registries::new(&quick(), &environment).unwrap()
}

/// A repository of a registry that wants nothing configured.
pub(crate) fn repository(address: &str, path: &str) -> Repository {
    let registries = registries(Path::new("/nonexistent"), &[]);
    registries.destination(&name(address, path)).unwrap()
}

pub(crate) fn name(address: &str, path: &str) -> Reference {
    format!("{address}/{path}").parse().unwrap()
}

/// Bytes that look like nothing and are the same each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Uploads bytes as a blob.
pub(crate) fn put_blob(repository: &Repository, bytes: &[u8], method: Upload) -> Digest {
    let digest = Digest::of(bytes);
    repository
        .upload_blob(&digest, bytes.len() as u64, &opener(bytes), method)
        .unwrap();
    digest
}

/// Gives bytes anew for each attempt.
pub(crate) fn opener(bytes: &[u8]) -> impl Fn() -> io::Result<Box<dyn Read + Send>> {
    let bytes = bytes.to_vec();
    move || Ok(Box::new(io::Cursor::new(bytes.clone())))
}

/// A manifest of an empty configuration and one layer, both uploaded, under a tag.
pub(crate) fn put_image(repository: &Repository, tag: &str, layer: &[u8]) -> (Digest, Vec<u8>) {
    let config = put_blob(repository, b"{}", Upload::Whole);
    let blob = put_blob(repository, layer, Upload::Whole);
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{blob}","size":{}}}]}}"#,
        layer.len()
    );
    let digest = repository
        .put_manifest(&Which::Tag(tag.to_owned()), OCI_MANIFEST, text.as_bytes())
        .unwrap();
    (digest, text.into_bytes())
}

/// Reads a blob whole.
pub(crate) fn read(repository: &Repository, digest: &Digest, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut blob = repository.blob(digest, offset).map_err(io::Error::other)?;
    blob.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a program. By another process, so that no child of this one can have it open for writing.
pub(crate) fn program(path: &Path, text: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .arg(text)
        .status()
        .unwrap();
    assert!(status.success());
}
