//! `shale push`: an image of the store goes to a registry.
//!
//! ```text
//! manifests the image has, here and at registries ──► one whose blobs can all be had there? ──► sent byte for byte
//!                                                       │ none
//!                                                       └──► layers packed where needed, a manifest written anew
//! each blob: there already? ─► mounted from another repository of the registry? ─► uploaded
//! layers ──► configuration ──► manifest under its tag
//! ```
//!
//! An image that was pulled is pushed with the bytes it came with, so that its digest stays. A layer of which the store
//! has no compressed blob (of an import or a commit) is compressed into a temporary file, always to the same bytes; what
//! came out is remembered, so that it is only done again for a registry that does not have it.
//! Specification: OCI distribution-spec, "Push".

mod layers;
mod pack;

use std::thread;

use crate::config::manifest_json;
use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::manifest::{Manifest, OCI_MANIFEST, parse_manifest};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{Registries, RegistryError, Repository, Upload, Which};
use crate::store::{ImageDetails, Origin, Staging, Store};
use crate::transfer::{Board, TransferError, UPLOADS_DEFAULT};

use self::layers::{Layers, Outcome};

/// What `push` is told beside the name.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// All tags of the repository.
    pub all_tags: bool,
    /// So many layers at once.
    pub uploads_max: usize,
    /// How blobs are sent.
    pub method: Upload,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            all_tags: false,
            uploads_max: UPLOADS_DEFAULT,
            method: Upload::default(),
        }
    }
}

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its name.
    pub name: Reference,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The size of its manifest.
    pub size_bytes: u64,
}

/// Pushes the image of a name, or all of its repository. Tells on the board what Docker tells.
///
/// # Errors
/// The tag at the registry then points to what it pointed to before.
pub fn push(
    store: &Store,
    registries: &Registries,
    name: &Reference,
    options: &PushOptions,
    board: &Board,
) -> Result<Vec<Pushed>, TransferError> {
    let invalid = |text: String| Err(TransferError::Invalid(text));
    if name.digest().is_some() {
        return invalid("cannot push a digest reference".to_owned());
    }
    if options.all_tags && name.tag().is_some() {
        return invalid("tag can't be used with --all-tags/-a".to_owned());
    }
    if !options.all_tags && name.tag().is_none() {
        board.line(&format!("Using default tag: {DEFAULT_TAG}"));
    }
    board.line(&format!(
        "The push refers to repository [{}]",
        name.repository().canonical()
    ));
    let images = match options.all_tags {
        true => store.names_in_repository(name)?,
        false => {
            let name = name.clone().or_latest();
            match store.find_image(&name.canonical()) {
                Ok((id, _)) => vec![(name, id)],
                Err(StoreError::NoSuchImage(_)) => Vec::new(),
                Err(error) => return Err(error.into()),
            }
        }
    };
    if images.is_empty() {
        // Docker's words
        return invalid(format!(
            "An image does not exist locally with the tag: {}",
            name.familiar_name()
        ));
    }
    let repository = registries.destination(name)?;
    let mut pushed = Vec::new();
    for (name, id) in images {
        let one = One {
            store,
            repository: &repository,
            details: store.image_details(&id)?,
            options,
            board,
        };
        pushed.push(one.push(&name).map_err(|error| not_pushed(&name, error))?);
    }
    Ok(pushed)
}

/// The error in Docker's words.
fn not_pushed(name: &Reference, error: TransferError) -> TransferError {
    match error {
        TransferError::Registry(
            error @ (RegistryError::Denied { .. } | RegistryError::Status { status: 403, .. }),
        ) => TransferError::PushDenied {
            name: name.familiar_name(),
            source: error,
        },
        error => error,
    }
}

/// A manifest that an image has.
struct Kept {
    digest: Digest,
    bytes: Vec<u8>,
    manifest: Manifest,
}

/// A manifest that is to be put.
struct Ready {
    media_type: String,
    bytes: Vec<u8>,
    blobs: Vec<Digest>,
}

/// The push of one image.
struct One<'a> {
    store: &'a Store,
    repository: &'a Repository,
    details: ImageDetails,
    options: &'a PushOptions,
    board: &'a Board,
}

impl One<'_> {
    fn push(&self, name: &Reference) -> Result<Pushed, TransferError> {
        let image = &self.details.image;
        if let Some(base) = &image.base_rootfs {
            return Err(TransferError::Invalid(format!(
                "image {} lies on the directory {}, which is not part of it: commit its container with --full to make \
                 an image that stands alone",
                image.id.short(),
                base.display()
            )));
        }
        let staging = self.store.stage("push")?;
        for (diff_id, _) in &self.details.layers {
            // without it the layer's blob may still be there: whether anything is missing is seen below
            self.store.pin_layer(&staging, diff_id)?;
        }
        let layers = Layers::new(
            self.store,
            self.repository,
            name,
            &staging,
            self.board,
            &self.details,
        );
        let pushed = self.send(&layers, &staging, name);
        if pushed.is_err() {
            // the next try is to find what this one has compressed
            self.store.set_packed_layers(&layers.take_packed())?;
        }
        pushed
    }

    /// Sends everything, and notes what the registry has then.
    fn send(
        &self,
        layers: &Layers<'_>,
        staging: &Staging,
        name: &Reference,
    ) -> Result<Pushed, TransferError> {
        let (ready, configuration) = thread::scope(|scope| {
            let configuration = scope.spawn(|| self.send_configuration());
            (self.send_layers(layers, name), configuration.join())
        });
        let ready = ready?;
        configuration.unwrap_or_else(|_| {
            Err(TransferError::Invalid(
                "the configuration was not sent".to_owned(),
            ))
        })?;
        let tag = name.tag().unwrap_or(DEFAULT_TAG).to_owned();
        let digest = Digest::of(&ready.bytes);
        let which = Which::Tag(tag.clone());
        // what is to be kept reaches the disk while the registry takes its time
        let (answered, kept) = thread::scope(|scope| {
            let kept = scope.spawn(|| match self.is_known(name, &digest)? {
                true => Ok(None),
                false => staging.add_synced_blob(&ready.bytes).map(Some),
            });
            let put = self
                .repository
                .put_manifest(&which, &ready.media_type, &ready.bytes);
            (put, kept.join())
        });
        let answered = answered?;
        if answered != digest {
            return Err(TransferError::Invalid(format!(
                "{name}: the manifest has the digest {digest}, the registry says {answered}"
            )));
        }
        let kept = kept.unwrap_or_else(|_| staging.add_synced_blob(&ready.bytes).map(Some))?;
        let packed = layers.take_packed();
        match kept {
            Some(manifest) => {
                let origin = Origin {
                    repository: name.repository(),
                    digest,
                    manifest: digest,
                    blobs: ready.blobs,
                };
                let id = &self.details.image.id;
                self.store.add_origin(staging, &manifest, id, &origin, &packed)?;
            }
            None => self.store.set_packed_layers(&packed)?,
        }
        let size_bytes = ready.bytes.len() as u64;
        self.board.settle();
        self.board
            .line(&format!("{tag}: digest: {digest} size: {size_bytes}"));
        Ok(Pushed {
            name: name.clone(),
            digest,
            size_bytes,
        })
    }

    /// Whether it was noted before that the repository has the image under this digest.
    fn is_known(&self, name: &Reference, digest: &Digest) -> Result<bool, StoreError> {
        let repository = name.repository();
        let known = self.store.origins_of(&self.details.image.id)?;
        Ok(known
            .iter()
            .any(|known| known.repository == repository && known.digest == *digest))
    }

    /// Sends the layers: as one of the kept manifests lists them, or else as they can be had.
    fn send_layers(&self, layers: &Layers<'_>, name: &Reference) -> Result<Ready, TransferError> {
        for kept in self.kept_manifests(name)? {
            let wanted = &kept.manifest.layers;
            if wanted.len() != self.details.layers.len() || !layers.can_send(wanted)? {
                continue;
            }
            if let Outcome::Sent(sent) = layers.send(Some(wanted), self.options)? {
                return Ok(Ready {
                    media_type: match kept.manifest.media_type.as_str() {
                        "" => OCI_MANIFEST.to_owned(),
                        own => own.to_owned(),
                    },
                    bytes: kept.bytes,
                    blobs: sent.iter().map(|layer| layer.digest).collect(),
                });
            }
            tracing::debug!("a blob of manifest {} cannot be had any more", kept.digest);
        }
        match layers.send(None, self.options)? {
            Outcome::Sent(sent) => Ok(Ready {
                media_type: OCI_MANIFEST.to_owned(),
                bytes: manifest_json(&self.details.image.config_json, &sent)?,
                blobs: sent.iter().map(|layer| layer.digest).collect(),
            }),
            Outcome::Unobtainable(digest) => Err(StoreError::Missing {
                what: "layer",
                digest,
            }
            .into()),
        }
    }

    /// The manifests that the image has, the one that the repository itself has first. The image's own one counts when
    /// it came with compressed layers: what was imported or committed is to be compressed.
    fn kept_manifests(&self, name: &Reference) -> Result<Vec<Kept>, TransferError> {
        let mut known = self.store.origins_of(&self.details.image.id)?;
        known.sort_by_key(|known| {
            let other = &known.repository;
            (
                other.domain() != name.domain() || other.path() != name.path(),
                other.domain() != name.domain(),
                known.manifest != self.details.manifest,
            )
        });
        let mut digests: Vec<Digest> = known.iter().map(|known| known.manifest).collect();
        if self.details.layers.iter().all(|(diff_id, blob)| diff_id != blob) {
            digests.push(self.details.manifest);
        }
        let mut kept: Vec<Kept> = Vec::new();
        for digest in digests {
            if kept.iter().any(|known| known.digest == digest) {
                continue;
            }
            let read = self.store.read_document(&digest).map_err(ImageError::from);
            let parsed = read.and_then(|bytes| {
                let manifest = parse_manifest(&format!("manifest {}", digest.short()), &bytes)?;
                Ok(Kept {
                    digest,
                    bytes,
                    manifest,
                })
            });
            match parsed {
                Ok(found) => kept.push(found),
                Err(error) => tracing::debug!("manifest {digest}: {error}"),
            }
        }
        Ok(kept)
    }

    fn send_configuration(&self) -> Result<(), TransferError> {
        let image = &self.details.image;
        if self.repository.blob_size(&image.id)?.is_some() {
            return Ok(());
        }
        let bytes = image.config_json.clone().into_bytes();
        let size_bytes = bytes.len() as u64;
        let open = move || -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Ok(Box::new(std::io::Cursor::new(bytes.clone())))
        };
        self.repository
            .upload_blob(&image.id, size_bytes, &open, self.options.method)?;
        Ok(())
    }
}
