//! From a tag or digest to the manifest and the configuration of one image.

use std::io::Read;

use super::document::{Kind, parse};
use super::source::transfer_error;
use super::{first_of, not_pulled};
use crate::digest::Digest;
use crate::manifest::{Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::platform::Wanted;
use crate::reference::Reference;
use crate::registry::{Document, Repository, Which};
use crate::transfer::TransferError;

/// An index in an index in an index…
const NESTING_LIMIT: usize = 4;

/// An image of a registry.
#[derive(Debug)]
pub(super) struct Resolved {
    /// What the tag points to.
    pub(super) digest: Digest,
    /// Its manifest.
    pub(super) manifest: Manifest,
    /// The manifest's bytes.
    pub(super) bytes: Vec<u8>,
    /// Their digest.
    pub(super) manifest_digest: Digest,
    /// Whether an index said for which platform it is.
    pub(super) by_platform: bool,
    /// Where its blobs are looked for, the place that has the manifest first.
    pub(super) sources: Vec<Repository>,
}

/// Follows indexes to the manifest for a platform.
pub(super) fn resolve(
    sources: &[Repository],
    which: &Which,
    name: &Reference,
    platform: Option<&Wanted>,
) -> Result<Resolved, TransferError> {
    let ask = |source: &Repository| Ok((source.clone(), source.manifest(which)?));
    let (source, document) = first_of(sources, ask).map_err(|error| not_pulled(name, error))?;
    // what the mirror does not have, the registry may
    let others = sources
        .iter()
        .filter(|other| (other.endpoint(), other.name()) != (source.endpoint(), source.name()));
    let sources: Vec<Repository> = std::iter::once(&source).chain(others).cloned().collect();
    let digest = document.digest;
    let mut document = document;
    let mut by_platform = false;
    for _ in 0..=NESTING_LIMIT {
        let index = match parse(&name.familiar(), &document.media_type, &document.bytes)? {
            Kind::Manifest(manifest) => {
                return Ok(Resolved {
                    digest,
                    manifest,
                    manifest_digest: document.digest,
                    bytes: document.bytes,
                    by_platform,
                    sources,
                });
            }
            Kind::Index(index) => index,
        };
        let host = Wanted::host();
        let wanted = platform.unwrap_or(&host);
        let Some(next) = wanted.pick(&index) else {
            let offered = Wanted::offered(&index);
            return Err(TransferError::NoPlatform {
                name: name.familiar(),
                wanted: wanted.to_string(),
                offered: match offered.is_empty() {
                    true => "none".to_owned(),
                    false => offered.join(", "),
                },
            });
        };
        by_platform |= next.platform.is_some();
        let next_digest = next.digest()?;
        let expected_bytes = next.size_bytes;
        document = first_of(&sources, |source| source.manifest(&Which::Digest(next_digest)))
            .map_err(|error| not_pulled(&name.with_digest(next_digest), error))?;
        check_entry(name, &document, expected_bytes, &next.media_type)?;
    }
    Err(TransferError::Invalid(format!(
        "the indexes of {name} are nested more than {NESTING_LIMIT} deep"
    )))
}

/// Whether a document is what its index says of it.
fn check_entry(
    name: &Reference,
    document: &Document,
    expected_bytes: u64,
    media_type: &str,
) -> Result<(), TransferError> {
    let found_bytes = document.bytes.len() as u64;
    if found_bytes != expected_bytes {
        return Err(TransferError::Invalid(format!(
            "manifest {} of {name} has {found_bytes} bytes, its index says {expected_bytes}",
            document.digest
        )));
    }
    let specific = |text: &str| [OCI_INDEX, OCI_MANIFEST].contains(&text) || text.contains("vnd.docker");
    if specific(media_type) && specific(&document.media_type) && media_type != document.media_type {
        return Err(TransferError::Invalid(format!(
            "manifest {} of {name} is a {:?}, its index says {media_type:?}",
            document.digest, document.media_type
        )));
    }
    Ok(())
}

/// Downloads and verifies the configuration.
pub(super) fn configuration(resolved: &Resolved, name: &Reference) -> Result<String, TransferError> {
    let descriptor = &resolved.manifest.config;
    let digest = descriptor.digest()?;
    let what = format!("the configuration of {name}");
    let blob = first_of(&resolved.sources, |source| source.blob(&digest, 0))?;
    let mut bytes = Vec::new();
    blob.take(descriptor.size_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| transfer_error(&what, error))?;
    let found = Digest::of(&bytes);
    if bytes.len() as u64 != descriptor.size_bytes || found != digest {
        return Err(TransferError::Invalid(format!(
            "{what}: the manifest says {digest} with {} bytes, the content is {found} with {} bytes",
            descriptor.size_bytes,
            bytes.len()
        )));
    }
    String::from_utf8(bytes).map_err(|_| TransferError::Invalid(format!("{what} is no UTF-8 text")))
}
