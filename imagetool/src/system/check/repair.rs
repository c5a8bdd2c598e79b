//! Putting right what a check has found, as far as the store itself holds what it takes.
//!
//! ```text
//! layer, recipe, object      made anew from a compressed blob of the layer; without one the layer is marked, so that
//!                            the next load of an image that has it brings it anew
//! compressed layer           forgotten: the layer's parts give a plain one
//! configuration, its row     each from the other
//! manifest                   written anew from the rows
//! chain, archive index       forgotten: made anew when needed
//! what nothing needs         deleted
//! ```
//!
//! A damaged object that nothing can bring back is deleted: an error is better than wrong bytes.

use std::collections::BTreeSet;

use ufs::index::{Index, InodeId};

use super::{Finding, Subject, images_of};
use crate::config::{LayerBlob, manifest_json};
use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::manifest::OCI_LAYER;
use crate::store::{Listing, RawImage, Store};

/// What became of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is put right, in these words.
    Repaired(String),
    /// It is not; what a person has to do.
    Left(String),
}

/// Puts right what can be.
///
/// # Errors
/// When the store cannot be read or written at all.
pub fn repair(store: &Store, findings: &[Finding]) -> Result<Vec<Outcome>, StoreError> {
    let listing = store.listing()?;
    let mut repairer = Repairer {
        store,
        listing,
        damaged: findings.iter().map(|finding| finding.subject.clone()).collect(),
        made: BTreeSet::new(),
        swept: false,
    };
    // objects first: a layer that is made anew takes those that are there for good ones
    let (objects, others): (Vec<&Finding>, Vec<&Finding>) = findings
        .iter()
        .partition(|finding| matches!(finding.subject, Subject::Object(_)));
    let mut outcomes = std::collections::BTreeMap::new();
    for finding in objects.into_iter().chain(others) {
        outcomes.insert(finding, repairer.repair(&finding.subject)?);
    }
    Ok(findings
        .iter()
        .filter_map(|finding| outcomes.get(finding).cloned())
        .collect())
}

struct Repairer<'a> {
    store: &'a Store,
    listing: Listing,
    damaged: BTreeSet<Subject>,
    /// Layers that were made anew.
    made: BTreeSet<Digest>,
    swept: bool,
}

fn repaired(how: &str) -> Outcome {
    Outcome::Repaired(how.to_owned())
}

impl Repairer<'_> {
    fn repair(&mut self, subject: &Subject) -> Result<Outcome, StoreError> {
        match subject {
            Subject::Database => Ok(Outcome::Left(format!(
                "restore {} from a backup, or move it away and load the images again",
                self.store.root().join("shale.db").display()
            ))),
            Subject::ImageRow(id) => self.image_row(id),
            Subject::Config(id) => self.config(id),
            Subject::Manifest(id) => self.manifest(id),
            Subject::Blob(digest) => self.blob(digest),
            Subject::Layer(diff_id) | Subject::Recipe(diff_id) => self.layer(diff_id),
            Subject::LayerRow(diff_id) => self.layer_row(diff_id),
            Subject::Object(digest) => self.object(digest),
            Subject::Chain(name) => {
                self.store.forget_chain(name)?;
                Ok(repaired("forgotten; it is made anew when it is needed"))
            }
            Subject::Archive(name) => Ok(match self.store.forget_archive(name)? {
                true => repaired("forgotten; it is made anew when it is needed"),
                false => Outcome::Left(
                    "it is mounted: unmount it (`shale mount` lists it), check again".to_owned(),
                ),
            }),
            Subject::Container(id) => Ok(Outcome::Left(if self.listing.containers.contains(id) {
                format!("remove it: shale rm {}", id.get(..12).unwrap_or(id))
            } else {
                let path = self.store.container_dir_of(id);
                format!("delete {} when nobody needs it", path.display())
            })),
            Subject::Layout => {
                self.store.rewrite_layout()?;
                Ok(repaired("written anew"))
            }
            Subject::Unneeded(path) => {
                if !std::mem::replace(&mut self.swept, true) {
                    self.store.delete_unnamed()?;
                }
                Ok(match self.store.root().join(path).exists() {
                    false => repaired("deleted"),
                    true => Outcome::Left("a command that runs uses it: check again later".to_owned()),
                })
            }
        }
    }

    fn load_again(&self, subject: &Subject) -> Outcome {
        let images = images_of(&self.listing, subject).join(", ");
        Outcome::Left(format!("load it again: {images}"))
    }

    fn raw(&self, id: &Digest) -> Option<&RawImage> {
        let id = id.to_string();
        self.listing.images.iter().find(|image| image.id == id)
    }

    fn image_row(&self, id: &Digest) -> Result<Outcome, StoreError> {
        let intact = |image: &&RawImage| Digest::of(image.config.as_bytes()) == *id;
        if self.raw(id).filter(intact).is_none()
            && let Ok(bytes) = self.store.read_document(id)
        {
            self.store.set_config(id, &String::from_utf8_lossy(&bytes))?;
            return Ok(repaired("its configuration was taken from its blob"));
        }
        Ok(Outcome::Left(format!(
            "remove it and load it again: shale rmi -f {}",
            id.short()
        )))
    }

    fn config(&self, id: &Digest) -> Result<Outcome, StoreError> {
        let intact = |image: &&RawImage| Digest::of(image.config.as_bytes()) == *id;
        let Some(image) = self.raw(id).filter(intact) else {
            return Ok(self.load_again(&Subject::Config(*id)));
        };
        let staging = self.store.stage("repair")?;
        self.store
            .replace_blob(&staging.add_blob(image.config.as_bytes())?)?;
        Ok(repaired("written anew from the database"))
    }

    /// The manifest of the layers that the rows have. It is the same as before where it was written here.
    fn manifest(&self, id: &Digest) -> Result<Outcome, StoreError> {
        let Some(image) = self.raw(id) else {
            return Ok(repaired("its image is gone"));
        };
        let mut layers = Vec::new();
        for (_, blob) in &image.layers {
            let Ok(digest) = blob.parse::<Digest>() else {
                return Ok(self.load_again(&Subject::Manifest(*id)));
            };
            let Ok((media_type, size_bytes)) = self.describe(&digest) else {
                return Ok(self.load_again(&Subject::Manifest(*id)));
            };
            layers.push(LayerBlob {
                media_type,
                digest,
                size_bytes,
            });
        }
        let Ok(bytes) = manifest_json(&image.config, &layers) else {
            return Ok(self.load_again(&Subject::Manifest(*id)));
        };
        let staging = self.store.stage("repair")?;
        let blob = staging.add_blob(&bytes)?;
        self.store.replace_blob(&blob)?;
        if image.manifest == blob.digest.to_string() {
            return Ok(repaired("written anew"));
        }
        self.store.set_manifest(id, &blob.digest)?;
        Ok(repaired(
            "written anew, in other words: its digest is another one now",
        ))
    }

    fn describe(&self, blob: &Digest) -> Result<(String, u64), ImageError> {
        let open = self.store.open_blob(blob)?;
        let size_bytes = open.size_bytes();
        let (compression, _) =
            crate::archive::compression::sniff(open).map_err(ImageError::io("read", blob.to_string()))?;
        Ok((
            compression.layer_media_type().unwrap_or(OCI_LAYER).to_owned(),
            size_bytes,
        ))
    }

    /// Forgets a compressed layer whose parts can take its place.
    fn blob(&self, blob: &Digest) -> Result<Outcome, StoreError> {
        let text = blob.to_string();
        let layers: BTreeSet<&String> = self
            .listing
            .images
            .iter()
            .flat_map(|image| &image.layers)
            .filter(|(_, found)| *found == text)
            .map(|(diff_id, _)| diff_id)
            .collect();
        let is_whole = |diff_id: &&String| {
            diff_id.parse().is_ok_and(|diff_id: Digest| {
                !self.damaged.contains(&Subject::Layer(diff_id))
                    && !self.damaged.contains(&Subject::Recipe(diff_id))
            })
        };
        if !layers.iter().all(is_whole) {
            return Ok(self.load_again(&Subject::Blob(*blob)));
        }
        self.store.delete_blob(blob)?;
        Ok(repaired(
            "forgotten; the layer itself is whole, and save writes it plain",
        ))
    }

    fn layer_row(&self, diff_id: &Digest) -> Result<Outcome, StoreError> {
        let sum = || -> Result<u64, ufs::index::IndexError> {
            let index = Index::open(&self.store.repository().index(diff_id.as_bytes()))?;
            let mut sum = 0;
            for number in 0..index.inode_count() {
                let inode = index.inode(InodeId(number))?;
                if inode.file_type() == ufs::attr::FileType::Regular {
                    sum += inode.size_bytes;
                }
            }
            Ok(sum)
        };
        match sum() {
            Ok(sum) => {
                self.store.set_layer_size(diff_id, sum)?;
                Ok(repaired("counted anew"))
            }
            Err(_) => Ok(self.load_again(&Subject::LayerRow(*diff_id))),
        }
    }

    fn layer(&mut self, diff_id: &Digest) -> Result<Outcome, StoreError> {
        if self.made.contains(diff_id) || self.make(diff_id)? {
            return Ok(repaired("made anew from its compressed blob"));
        }
        self.store.mark_damaged(diff_id)?;
        Ok(self.load_again(&Subject::Layer(*diff_id)))
    }

    /// Brings an object back with a layer that names it.
    fn object(&mut self, object: &Digest) -> Result<Outcome, StoreError> {
        let repository = self.store.repository();
        let mut users = Vec::new();
        for layer in &self.listing.layers {
            let Ok(diff_id) = layer.diff_id.parse::<Digest>() else {
                continue;
            };
            let names = Index::open(&repository.index(diff_id.as_bytes()))
                .and_then(|index| index.has_object(object.as_bytes()));
            match names {
                Ok(true) => users.push(diff_id),
                Ok(false) => {}
                Err(error) => tracing::debug!("{error}"),
            }
        }
        self.store.delete_object(object)?;
        for diff_id in &users {
            if self.make(diff_id)? && repository.object(object.as_bytes()).exists() {
                return Ok(repaired("taken from a compressed layer"));
            }
        }
        let mut images = BTreeSet::new();
        for diff_id in &users {
            self.store.mark_damaged(diff_id)?;
            images.extend(images_of(&self.listing, &Subject::Layer(*diff_id)));
        }
        if users.is_empty() {
            return Ok(repaired("deleted: no layer needs it"));
        }
        let images: Vec<String> = images.into_iter().collect();
        Ok(Outcome::Left(format!(
            "deleted; load again: {}",
            images.join(", ")
        )))
    }

    /// Makes a layer from one of its compressed blobs; tells whether there was a good one.
    fn make(&mut self, diff_id: &Digest) -> Result<bool, StoreError> {
        let made = self.store.repair_layer(diff_id)?;
        if made {
            self.made.insert(*diff_id);
        }
        Ok(made)
    }
}
