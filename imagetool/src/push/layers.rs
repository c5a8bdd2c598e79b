//! Layers on their way to a registry, several at once.
//!
//! ```text
//! forms of a layer, the best first ──► there? ──► mounted? ──► here? uploaded ──► next form
//!                                                                                   │ none is left
//!                                                                                   └──► compressed, uploaded
//! ```
//!
//! As a kept manifest lists them, each layer has one form and is not compressed anew.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::PushOptions;
use super::pack::pack;
use crate::config::{LayerBlob, oci_layer_type};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::{Descriptor, OCI_LAYER, parse_manifest};
use crate::reference::Reference;
use crate::registry::{Mounted, Repository, Upload};
use crate::store::{ImageDetails, Packed, StagedBlob, Staging, Store};
use crate::transfer::{Board, Row, TransferError};

/// Of so many repositories a blob is asked for: each may cost a request and leaves an upload at the registry.
const MOUNTS_MAX: usize = 3;

/// What became of all layers.
pub(super) enum Outcome {
    /// The registry has them, bottom first.
    Sent(Vec<LayerBlob>),
    /// Nobody has this blob any more.
    Unobtainable(Digest),
}

/// What became of one.
enum Sent {
    As(LayerBlob),
    Unobtainable(Digest),
}

/// The layers of an image.
pub(super) struct Layers<'a> {
    store: &'a Store,
    repository: &'a Repository,
    name: &'a Reference,
    staging: &'a Staging,
    details: &'a ImageDetails,
    /// As what layers were compressed.
    packed: Mutex<Vec<(Digest, Packed)>>,
    /// Each once, with its place in the image and its row.
    rows: Vec<(usize, Row<'a>)>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(
        store: &'a Store,
        repository: &'a Repository,
        name: &'a Reference,
        staging: &'a Staging,
        board: &'a Board,
        details: &'a ImageDetails,
    ) -> Self {
        let mut seen = BTreeSet::new();
        let mut rows = Vec::new();
        // the topmost first, as Docker shows them
        for (at, (diff_id, _)) in details.layers.iter().enumerate().rev() {
            if seen.insert(*diff_id) {
                let row = board.row(&diff_id.short());
                row.state("Preparing");
                rows.push((at, row));
            }
        }
        Self {
            store,
            repository,
            name,
            staging,
            details,
            packed: Mutex::default(),
            rows,
        }
    }

    /// As what layers were compressed so far, whatever became of them.
    pub(super) fn take_packed(&self) -> Vec<(Digest, Packed)> {
        std::mem::take(&mut self.packed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether all blobs of a kept manifest are here, or seem to be at the registry.
    pub(super) fn can_send(&self, wanted: &[Descriptor]) -> Result<bool, TransferError> {
        for descriptor in wanted {
            let digest = descriptor.digest()?;
            if descriptor.is_foreign() || self.store.has_blob(&digest) {
                continue;
            }
            let others = self
                .store
                .repositories_with(self.name.domain(), &digest, self.name.path())?;
            if others.is_empty() && self.repository.blob_size(&digest)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends all layers, as a manifest lists them or in any form.
    pub(super) fn send(
        &self,
        wanted: Option<&[Descriptor]>,
        options: &PushOptions,
    ) -> Result<Outcome, TransferError> {
        let own = match wanted {
            Some(_) => Vec::new(),
            None => self.own_forms()?,
        };
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<Sent, TransferError>)>> = Mutex::default();
        let work = || {
            loop {
                let Some((at, row)) = self.rows.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                let result = match wanted {
                    Some(wanted) => self.send_kept(&wanted[*at], row, options),
                    None => self.send_any(*at, own.get(*at), row, options),
                };
                if !matches!(result, Ok(Sent::As(_))) {
                    next.store(self.rows.len(), Ordering::Relaxed);
                }
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                results.push((*at, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..options.uploads_max.max(1).min(self.rows.len()) {
                scope.spawn(work);
            }
            work();
        });
        let mut sent: Vec<Option<LayerBlob>> = self.details.layers.iter().map(|_| None).collect();
        for (at, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match result? {
                Sent::As(blob) => sent[at] = Some(blob),
                Sent::Unobtainable(digest) => return Ok(Outcome::Unobtainable(digest)),
            }
        }
        self.repeat(sent, wanted)
    }

    /// A layer that the image has several times was sent once.
    fn repeat(
        &self,
        sent: Vec<Option<LayerBlob>>,
        wanted: Option<&[Descriptor]>,
    ) -> Result<Outcome, TransferError> {
        let mut all = Vec::with_capacity(sent.len());
        for (at, (diff_id, _)) in self.details.layers.iter().enumerate() {
            let same = |other: &usize| self.details.layers[*other].0 == *diff_id;
            let twin = (0..sent.len()).filter(same).find_map(|other| sent[other].clone());
            let Some(blob) = twin else {
                return Ok(Outcome::Unobtainable(*diff_id));
            };
            if let Some(wanted) = wanted
                && wanted[at].digest()? != blob.digest
                && self.repository.blob_size(&wanted[at].digest()?)?.is_none()
            {
                return Ok(Outcome::Unobtainable(wanted[at].digest()?));
            }
            all.push(blob);
        }
        Ok(Outcome::Sent(all))
    }

    /// The forms that the image's own manifest lists, bottom first; none where it cannot be read.
    fn own_forms(&self) -> Result<Vec<LayerBlob>, TransferError> {
        let Ok(bytes) = self.store.read_document(&self.details.manifest) else {
            return Ok(Vec::new());
        };
        let manifest = parse_manifest("manifest", &bytes)?;
        let form = |layer: &Descriptor| -> Result<LayerBlob, TransferError> {
            Ok(LayerBlob {
                media_type: oci_layer_type(&layer.media_type),
                digest: layer.digest()?,
                size_bytes: layer.size_bytes,
            })
        };
        manifest.layers.iter().map(form).collect()
    }

    fn send_kept(
        &self,
        descriptor: &Descriptor,
        row: &Row<'_>,
        options: &PushOptions,
    ) -> Result<Sent, TransferError> {
        let blob = LayerBlob {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest()?,
            size_bytes: descriptor.size_bytes,
        };
        if descriptor.is_foreign() && !descriptor.urls.is_empty() {
            row.done("Skipped foreign layer");
            return Ok(Sent::As(blob));
        }
        match self.send_form(&blob, row, options.method)? {
            true => Ok(Sent::As(blob)),
            false => Ok(Sent::Unobtainable(blob.digest)),
        }
    }

    /// Sends a layer in the first form that can be had.
    fn send_any(
        &self,
        at: usize,
        own: Option<&LayerBlob>,
        row: &Row<'_>,
        options: &PushOptions,
    ) -> Result<Sent, TransferError> {
        let (diff_id, blob) = self.details.layers[at];
        let packed = self.store.packed_layer(&diff_id)?;
        // a plain tar goes as one only where the registry has it already
        let own = own.filter(|own| own.digest == blob);
        let own = match own {
            Some(own) if own.digest == diff_id => {
                let known = self.store.repositories_with(self.name.domain(), &diff_id, "")?;
                (!known.is_empty()).then_some(own)
            }
            other => other,
        };
        if let Some(form) = own
            && self.send_form(form, row, options.method)?
        {
            return Ok(Sent::As(form.clone()));
        }
        if let Some(packed) = &packed {
            let form = LayerBlob {
                media_type: packed.media_type.clone(),
                digest: packed.digest,
                size_bytes: packed.size_bytes,
            };
            if self.send_form(&form, row, options.method)? {
                return Ok(Sent::As(form));
            }
        }
        if !self.store.has_blob(&diff_id) {
            return Ok(Sent::Unobtainable(diff_id));
        }
        let made = pack(self.store, self.staging, &diff_id, row)?;
        let form = LayerBlob {
            media_type: format!("{OCI_LAYER}+gzip"),
            digest: made.digest,
            size_bytes: made.size_bytes,
        };
        let is_known = packed.is_some_and(|packed| packed.digest == made.digest);
        if !is_known {
            let packed = Packed {
                digest: form.digest,
                media_type: form.media_type.clone(),
                size_bytes: form.size_bytes,
            };
            self.packed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((diff_id, packed));
        }
        if is_known || !self.is_there(&form, row)? {
            self.upload(&form, row, options.method, &|| Ok(Box::new(open_file(&made)?)))?;
            row.done("Pushed");
        }
        // nobody needs it any more, and nobody shall wait until it is on the disk
        std::fs::remove_file(&made.path).map_err(StoreError::io("delete", &made.path))?;
        Ok(Sent::As(form))
    }

    /// Sends a layer in one form; tells whether that can be had.
    fn send_form(&self, form: &LayerBlob, row: &Row<'_>, method: Upload) -> Result<bool, TransferError> {
        if self.is_there(form, row)? {
            return Ok(true);
        }
        if !self.store.has_blob(&form.digest) {
            return Ok(false);
        }
        let open = || -> io::Result<Box<dyn Read + Send>> {
            let blob = self.store.open_blob(&form.digest).map_err(io::Error::other)?;
            Ok(Box::new(blob))
        };
        self.upload(form, row, method, &open)?;
        row.done("Pushed");
        Ok(true)
    }

    /// Whether the registry has a blob, here or where it can be mounted from.
    fn is_there(&self, form: &LayerBlob, row: &Row<'_>) -> Result<bool, TransferError> {
        if self.repository.blob_size(&form.digest)?.is_some() {
            row.done("Layer already exists");
            return Ok(true);
        }
        let (registry, path) = (self.name.domain(), self.name.path());
        let others = self.store.repositories_with(registry, &form.digest, path)?;
        for from in others.iter().take(MOUNTS_MAX) {
            match self.repository.mount_blob(&form.digest, from)? {
                Mounted::Done => {
                    row.done(&format!("Mounted from {from}"));
                    return Ok(true);
                }
                Mounted::Refused => self.store.forget_registry_blob(registry, from, &form.digest)?,
            }
        }
        Ok(false)
    }

    fn upload(
        &self,
        form: &LayerBlob,
        row: &Row<'_>,
        method: Upload,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<(), TransferError> {
        row.note("Pushing");
        row.begin("Pushing", form.size_bytes);
        let counter = row.counter();
        let counted = || -> io::Result<Box<dyn Read + Send>> { Ok(counter.wrap(open()?)) };
        self.repository
            .upload_blob(&form.digest, form.size_bytes, &counted, method)?;
        Ok(())
    }
}

fn open_file(blob: &StagedBlob) -> io::Result<std::fs::File> {
    std::fs::File::open(&blob.path)
}
