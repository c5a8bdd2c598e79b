//! `shale pull`: an image of a registry comes into the store.
//!
//! ```text
//! tag ──► index ──► manifest ──► configuration ──► layers, several at once ──► published
//!           platform                 diff ids         │
//!                              download ──► digest ──► decompress ──► index, pack, objects     (one pass)
//! ```
//!
//! Layers that the store has are not asked for. What was downloaded of a layer is kept until the image is there (see
//! `store::Download`), so that the next try goes on where this one ended. Nothing is visible before every digest, every
//! size and every diff id was verified; manifest and configuration are kept byte for byte.
//! Specifications: OCI distribution-spec, "Pull"; image-spec, manifest.md, image-index.md; Docker image manifest
//! version 2, schema 2.

mod document;
mod layers;
mod resolve;
mod source;

use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::manifest::parse_config;
use crate::platform::Wanted;
use crate::reference::Reference;
use crate::registry::{Registries, RegistryError, Repository, Which};
use crate::store::{NewImage, Origin, Store};
use crate::time::Timestamp;
use crate::transfer::{Board, DOWNLOADS_DEFAULT, TransferError};

use self::layers::Fetcher;
use self::resolve::{Resolved, configuration, resolve};

/// What `pull` is told beside the name.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// For which platform, instead of this machine's.
    pub platform: Option<Wanted>,
    /// All tags of the repository.
    pub all_tags: bool,
    /// So many layers at once.
    pub downloads_max: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            all_tags: false,
            downloads_max: DOWNLOADS_DEFAULT,
        }
    }
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its id.
    pub id: Digest,
    /// What the registry's tag points to: a manifest or an index.
    pub digest: Digest,
    /// Whether the name means another image now, or one that was not there before.
    pub is_new: bool,
}

/// Pulls the image of a name, or all of its repository. Tells on the board what Docker tells.
///
/// # Errors
/// What was downloaded is kept for the next try, and no image is visible that is not whole.
pub fn pull(
    store: &Store,
    registries: &Registries,
    name: &Reference,
    options: &PullOptions,
    board: &Board,
) -> Result<Vec<Pulled>, TransferError> {
    store.prune_old_downloads();
    if options.all_tags && (name.tag().is_some() || name.digest().is_some()) {
        return Err(TransferError::Invalid(
            "tag can't be used with --all-tags/-a".to_owned(),
        ));
    }
    let sources = registries.sources(name)?;
    let pull_one = |name: &Reference| {
        let one = One {
            store,
            name,
            options,
            board,
        };
        one.pull(&sources)
    };
    let mut pulled = Vec::new();
    if options.all_tags {
        let tags = first_of(&sources, Repository::tags).map_err(|error| not_pulled(name, error))?;
        for tag in tags {
            pulled.push(pull_one(&name.with_tag(&tag).map_err(ImageError::from)?)?);
        }
    } else {
        if name.tag().is_none() && name.digest().is_none() {
            board.line("Using default tag: latest");
        }
        pulled.push(pull_one(&name.clone().or_latest())?);
    }
    let shown = match name.digest() {
        Some(digest) => name.with_digest(digest),
        None if options.all_tags => name.clone(),
        None => name.clone().or_latest(),
    };
    board.line(&match pulled.iter().any(|image| image.is_new) {
        true => format!("Status: Downloaded newer image for {}", shown.familiar()),
        false => format!("Status: Image is up to date for {}", shown.familiar()),
    });
    Ok(pulled)
}

/// What the first source gives that gives anything; the error of the last one, which is the registry itself.
fn first_of<T>(
    sources: &[Repository],
    ask: impl Fn(&Repository) -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut sources = sources.iter().peekable();
    loop {
        let Some(source) = sources.next() else {
            return Err(RegistryError::Config {
                file: "registries.conf".to_owned(),
                problem: "leaves no place to pull from".to_owned(),
            });
        };
        match ask(source) {
            Err(error) if sources.peek().is_some() => {
                tracing::debug!("{}: {error}; trying the next one", source.endpoint());
            }
            outcome => return outcome,
        }
    }
}

/// The error in Docker's words.
fn not_pulled(name: &Reference, error: RegistryError) -> TransferError {
    let is_denied = match &error {
        RegistryError::Denied { .. } => true,
        RegistryError::Status { status, code, .. } => *status == 403 || code == "NAME_UNKNOWN",
        _ => false,
    };
    if is_denied {
        return TransferError::PullDenied {
            name: name.familiar_name(),
            source: error,
        };
    }
    match error.is_not_found() {
        true => TransferError::Unknown {
            name: name.familiar(),
            source: error,
        },
        false => error.into(),
    }
}

/// The pull of one image.
struct One<'a> {
    store: &'a Store,
    name: &'a Reference,
    options: &'a PullOptions,
    board: &'a Board,
}

impl One<'_> {
    fn pull(&self, sources: &[Repository]) -> Result<Pulled, TransferError> {
        let name = self.name;
        // as in Docker, a digest counts and a tag beside it does not
        let (which, local, heading) = match (name.digest(), name.tag()) {
            (Some(digest), _) => {
                let local = name.with_digest(digest);
                (Which::Digest(digest), local.clone(), local.canonical())
            }
            (None, tag) => {
                let tag = tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned();
                (Which::Tag(tag.clone()), name.clone(), tag)
            }
        };
        self.board
            .line(&format!("{heading}: Pulling from {}", name.path()));
        let resolved = resolve(sources, &which, name, self.options.platform.as_ref())?;
        let pulled = self.take(&resolved, &local)?;
        self.board.settle();
        self.board.line(&format!("Digest: {}", pulled.digest));
        Ok(pulled)
    }

    /// Brings a resolved image into the store under a name.
    fn take(&self, resolved: &Resolved, local: &Reference) -> Result<Pulled, TransferError> {
        let store = self.store;
        let id = resolved.manifest.config.digest()?;
        let before = store.find_image(&local.canonical()).map(|(id, _)| id).ok();
        let pulled = Pulled {
            id,
            digest: resolved.digest,
            is_new: before != Some(id),
        };
        if !pulled.is_new && self.has_all(resolved, &id)? {
            self.note_existing(resolved)?;
            return Ok(pulled);
        }
        let config_json = match store.image(&id) {
            Ok(image) => image.config_json,
            Err(_) => configuration(resolved, self.name)?,
        };
        let what = format!("the configuration of {}", self.name);
        let (config, diff_ids) = parse_config(&what, config_json.as_bytes())?;
        self.check_platform(resolved, &config_json)?;
        let staging = store.stage("pull")?;
        let fetcher = Fetcher::new(store, &staging, &resolved.sources, self.board);
        let fetched = fetcher.fetch_all(&resolved.manifest, &diff_ids, self.options.downloads_max)?;
        let mut blobs = fetched.blobs;
        blobs.push(staging.add_blob(config_json.as_bytes())?);
        blobs.push(staging.add_blob(&resolved.bytes)?);
        let image = NewImage {
            manifest: resolved.manifest_digest,
            parent: None,
            base_rootfs: None,
            created: config.created().as_deref().and_then(Timestamp::parse_rfc3339),
            origin: Some(Origin {
                repository: self.name.repository(),
                digest: resolved.digest,
                manifest: resolved.manifest_digest,
                blobs: fetched.layers.iter().map(|(_, blob)| *blob).collect(),
            }),
            layers: fetched.layers,
            config_json,
        };
        staging.hand_over();
        store.publish(
            &staging,
            &blobs,
            &fetched.staged,
            &image,
            std::slice::from_ref(local),
        )?;
        for download in fetched.downloads {
            download.remove()?;
        }
        store.prepare_mounts(&id);
        Ok(pulled)
    }

    /// Whether nothing is left to be done: the image is whole, and it is known what the registry calls it.
    fn has_all(&self, resolved: &Resolved, id: &Digest) -> Result<bool, StoreError> {
        let repository = self.name.repository();
        let is_known = self.store.origins_of(id)?.iter().any(|known| {
            known.repository == repository
                && known.digest == resolved.digest
                && known.manifest == resolved.manifest_digest
        });
        Ok(is_known && self.store.has_sound_layers(id)?)
    }

    fn note_existing(&self, resolved: &Resolved) -> Result<(), TransferError> {
        for layer in &resolved.manifest.layers {
            self.board.row(&layer.digest()?.short()).done("Already exists");
        }
        Ok(())
    }

    /// An image that came without an index may be for any platform.
    fn check_platform(&self, resolved: &Resolved, config_json: &str) -> Result<(), TransferError> {
        if resolved.by_platform {
            return Ok(());
        }
        let config: serde_json::Value = serde_json::from_str(config_json).unwrap_or_default();
        let text = |key: &str| config.get(key).and_then(serde_json::Value::as_str);
        let (os, architecture) = (
            text("os").unwrap_or_default(),
            text("architecture").unwrap_or_default(),
        );
        if architecture.is_empty() {
            return Ok(()); // from before there were others
        }
        let actual = Wanted::stated(os, architecture, text("variant"));
        match &self.options.platform {
            Some(wanted) if wanted.rank(&actual).is_none() => Err(TransferError::OtherPlatform {
                name: self.name.familiar(),
                wanted: wanted.to_string(),
                actual: actual.to_string(),
            }),
            None if Wanted::host().rank(&actual).is_none() => {
                self.board.warn(&format!(
                    "{}: the image's platform ({actual}) does not match the detected host platform ({})",
                    self.name,
                    Wanted::host()
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
