//! The layers of an image: those that the store lacks are downloaded and taken in, several at a time.
//!
//! ```text
//! missing layers ──► locks of their downloads, in the order of digests ──► workers: download + take in ──► staged
//!                                 │ somebody else has one
//!                                 └──► wait; then the store has the layer, or its download is gone on with
//! ```
//!
//! The locks are held until the image is published: see `store::Download`.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::source::{Open, Source};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::ingest::{diff_id_of, ingest_unkept};
use crate::manifest::{Descriptor, Manifest};
use crate::registry::{Blob, Repository};
use crate::store::{Download, StagedBlob, StagedLayer, Staging, Store};
use crate::transfer::{Board, Row, TransferError};

/// How long to wait before another process is asked again for its download.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// So many addresses of a foreign layer are tried.
const ADDRESSES_MAX: usize = 4;

/// All layers, ready to be published.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Diff id and blob, bottom first.
    pub(super) layers: Vec<(Digest, Digest)>,
    /// Compressed layers.
    pub(super) blobs: Vec<StagedBlob>,
    /// New layers.
    pub(super) staged: Vec<StagedLayer>,
    /// What is to be deleted once they are published.
    pub(super) downloads: Vec<Download>,
}

/// What the layers are fetched with.
pub(super) struct Fetcher<'a> {
    store: &'a Store,
    staging: &'a Staging,
    sources: &'a [Repository],
    board: &'a Board,
    stopped: AtomicBool,
}

/// A layer that the store lacks.
struct Job<'a> {
    descriptor: &'a Descriptor,
    blob: Digest,
    diff_id: Digest,
    row: Row<'a>,
}

/// What became of one.
struct Outcome {
    blob: Option<StagedBlob>,
    layer: Option<StagedLayer>,
    download: Option<Download>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        store: &'a Store,
        staging: &'a Staging,
        sources: &'a [Repository],
        board: &'a Board,
    ) -> Self {
        Self {
            store,
            staging,
            sources,
            board,
            stopped: AtomicBool::new(false),
        }
    }

    /// Fetches the layers of a manifest, whose configuration has these diff ids.
    pub(super) fn fetch_all(
        &self,
        manifest: &Manifest,
        diff_ids: &[Digest],
        at_once: usize,
    ) -> Result<Fetched, TransferError> {
        if manifest.layers.len() != diff_ids.len() {
            return Err(TransferError::Invalid(format!(
                "the image has {} layers in its manifest and {} in its configuration",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let mut fetched = Fetched::default();
        // in the order of their digests, which is that of their locks
        let mut missing: BTreeMap<Digest, Job<'_>> = BTreeMap::new();
        for (at, (descriptor, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
            let blob = descriptor.digest()?;
            fetched.layers.push((*diff_id, blob));
            if diff_ids[..at].contains(diff_id) {
                continue;
            }
            let row = self.board.row(&blob.short());
            if self.store.pin_sound_layer(self.staging, diff_id)? {
                fetched.blobs.extend(self.known_blob(descriptor, &blob, diff_id)?);
                row.done("Already exists");
                continue;
            }
            row.state("Pulling fs layer");
            let job = Job {
                descriptor,
                blob,
                diff_id: *diff_id,
                row,
            };
            if let Some(other) = missing.insert(blob, job) {
                return Err(TransferError::Invalid(format!(
                    "the image has layer {blob} twice, once with the diff id {} and once with {diff_id}",
                    other.diff_id
                )));
            }
        }
        for outcome in self.fetch_missing(missing, at_once)? {
            fetched.blobs.extend(outcome.blob);
            fetched.staged.extend(outcome.layer);
            fetched.downloads.extend(outcome.download);
        }
        Ok(fetched)
    }

    /// The compressed form of a layer that the store has, held so that nobody deletes it.
    fn known_blob(
        &self,
        descriptor: &Descriptor,
        blob: &Digest,
        diff_id: &Digest,
    ) -> Result<Option<StagedBlob>, TransferError> {
        if blob == diff_id {
            return Ok(None);
        }
        if self.store.has_blob(blob) && !self.store.is_blob_of(blob, diff_id)? {
            let what = format!("layer {}", blob.short());
            let file = self.store.open_blob(blob)?;
            let (found, _) = diff_id_of(&what, file)?;
            if found != *diff_id {
                return Err(TransferError::Invalid(format!(
                    "{what}: the content has the diff id {found}, the configuration says {diff_id}"
                )));
            }
        }
        Ok(self.staging.link_blob(self.store, blob, descriptor.size_bytes)?)
    }

    fn fetch_missing(
        &self,
        missing: BTreeMap<Digest, Job<'_>>,
        at_once: usize,
    ) -> Result<Vec<Outcome>, TransferError> {
        let threads = at_once.max(1).min(missing.len());
        let (sender, receiver) = channel();
        let receiver = Mutex::new(receiver);
        let outcomes: Mutex<Vec<Result<Outcome, TransferError>>> = Mutex::default();
        let locked = std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(&receiver, &outcomes));
            }
            // the workers end when the sender is gone
            let locked = self.hand_out(missing, sender);
            if locked.is_err() {
                self.stopped.store(true, Ordering::Relaxed);
            }
            locked
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        // in the order in which they ended: the first failure is the one that stopped the others
        let done: Result<Vec<Outcome>, TransferError> = outcomes.into_iter().collect();
        locked?;
        done
    }

    /// Takes the locks of all downloads, and hands out the layers: the largest first, so that none is left to be waited
    /// for at the end.
    fn hand_out<'j>(
        &self,
        missing: BTreeMap<Digest, Job<'j>>,
        sender: Sender<(Job<'j>, Download)>,
    ) -> Result<(), TransferError> {
        let mut ready: Vec<(Job<'j>, Download)> = Vec::new();
        let send = |ready: &mut Vec<(Job<'j>, Download)>| {
            ready.sort_by_key(|(job, _)| std::cmp::Reverse(job.descriptor.size_bytes));
            for job in ready.drain(..) {
                let _ = sender.send(job); // the workers live as long as the sender
            }
        };
        for (digest, job) in missing {
            let mut waits = false;
            let download = loop {
                if self.stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if let Some(download) = self.store.take_download(&digest)? {
                    break download;
                }
                if !waits {
                    job.row.state("Waiting");
                    send(&mut ready);
                    waits = true;
                }
                std::thread::sleep(LOCK_POLL);
            };
            ready.push((job, download));
        }
        send(&mut ready);
        Ok(())
    }

    fn work(
        &self,
        receiver: &Mutex<Receiver<(Job<'_>, Download)>>,
        outcomes: &Mutex<Vec<Result<Outcome, TransferError>>>,
    ) {
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((job, download)) = next else { return };
            if self.stopped.load(Ordering::Relaxed) {
                continue;
            }
            let outcome = self.fetch(&job, download);
            // recorded before the others are stopped, so that it comes first
            let failed = outcome.is_err();
            outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(outcome);
            if failed {
                self.stopped.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Downloads, verifies and takes in one layer.
    fn fetch(&self, job: &Job<'_>, mut download: Download) -> Result<Outcome, TransferError> {
        let what = format!("layer {}", job.blob.short());
        if self.store.pin_sound_layer(self.staging, &job.diff_id)? {
            // another pull has brought it meanwhile
            let blob = self.known_blob(job.descriptor, &job.blob, &job.diff_id)?;
            download.remove()?;
            job.row.done("Already exists");
            return Ok(Outcome {
                blob,
                layer: None,
                download: None,
            });
        }
        let size_bytes = job.descriptor.size_bytes;
        let open = |offset: u64| self.open(job, offset);
        let open: &Open<'_> = &open;
        loop {
            let had_bytes = download.length_bytes();
            let mut source = Source::new(&what, &mut download, size_bytes, open, &job.row, &self.stopped)?;
            let ingested = ingest_unkept(self.staging, &what, &mut source);
            if let Some(error) = source.take_error() {
                return Err(error);
            }
            if let Err(error @ ImageError::Store(_)) = ingested {
                return Err(error.into()); // what was downloaded is as good as before
            }
            // whatever the bytes are good for: first it counts whether they are the right ones
            let found = source.finish()?;
            if found != job.blob {
                if had_bytes > 0 {
                    tracing::warn!("{what}: what an earlier try left of it is damaged: downloading it again");
                    download.restart()?;
                    continue;
                }
                download.remove()?;
                return Err(TransferError::Invalid(format!(
                    "{what}: the manifest says {}, the content has the digest {found}",
                    job.blob
                )));
            }
            let ingested = match ingested {
                Ok(ingested) => ingested,
                Err(error) => {
                    download.remove()?;
                    return Err(error.into());
                }
            };
            if ingested.layer.diff_id != job.diff_id {
                download.remove()?;
                return Err(TransferError::Invalid(format!(
                    "{what}: the content has the diff id {}, the configuration says {}",
                    ingested.layer.diff_id, job.diff_id
                )));
            }
            for warning in &ingested.warnings {
                self.board.warn(&format!("{what}: {warning}"));
            }
            let blob = match job.blob == job.diff_id {
                true => None, // a plain tar: the layer's recipe gives it back
                false => Some(download.stage(self.staging, &job.blob)?),
            };
            job.row.done("Pull complete");
            return Ok(Outcome {
                blob,
                layer: Some(ingested.layer),
                download: Some(download),
            });
        }
    }

    /// Opens a layer at the first source that has it.
    fn open(&self, job: &Job<'_>, offset: u64) -> Result<Box<dyn Read + Send>, TransferError> {
        let expected_bytes = job.descriptor.size_bytes;
        let fits = |blob: &Blob| blob.total_bytes().is_none_or(|total| total == expected_bytes);
        let elsewhere = match job.descriptor.is_foreign() {
            true => &job.descriptor.urls[..job.descriptor.urls.len().min(ADDRESSES_MAX)],
            false => &[],
        };
        let ask = |source: &Repository| {
            for address in elsewhere {
                match source.blob_at(address, &job.blob, offset) {
                    Ok(blob) if fits(&blob) => return Ok(blob),
                    Ok(_) => tracing::debug!("{address} has something of another size"),
                    Err(error) => tracing::debug!("{error}"),
                }
            }
            source.blob(&job.blob, offset)
        };
        let blob = super::first_of(self.sources, ask)?;
        match fits(&blob) {
            true => Ok(Box::new(blob)),
            false => Err(TransferError::Invalid(format!(
                "layer {}: the registry has {} bytes, the manifest says {expected_bytes}",
                job.blob.short(),
                blob.total_bytes().unwrap_or_default()
            ))),
        }
    }
}
