//! Whether the store is sound, and putting right what is not.
//!
//! ```text
//! listing (nobody changes anything) ──► rows against rows, rows against files      `rows`
//!        └──► every file, by several threads:                                       `files`
//!               blob          its bytes against its name
//!               layer         index: all sums and invariants; pack: every content against its digest;
//!                             objects: there, of the right size; recipe: the whole stream against the diff id
//!               object        its bytes against its name
//!               chain         all sums and invariants; the same as its layers merged again
//! findings ──► repair: from compressed blobs, from rows, or by forgetting caches    `repair`
//! ```
//!
//! Checking changes nothing and stops nobody: what was removed meanwhile is no finding. Contents that the kernel reads
//! from objects without asking anybody are verified here and nowhere else.

mod files;
mod repair;
mod rows;

use std::fmt;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::parallel::in_order;
use crate::progress::Progress;
use crate::store::{Listing, Store};

pub use self::repair::{Outcome, repair};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What can be told without reading contents.
    Quick,
    /// Every byte.
    Full,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The database as a whole.
    Database,
    /// A row of the table of images.
    ImageRow(Digest),
    /// The blob of an image's configuration: image id.
    Config(Digest),
    /// The blob of an image's manifest: image id.
    Manifest(Digest),
    /// A compressed layer: its digest.
    Blob(Digest),
    /// A layer's index or pack, by its diff id: its files cannot be relied upon.
    Layer(Digest),
    /// A layer's recipe: it can be used but not saved as a plain tar.
    Recipe(Digest),
    /// The row of a layer.
    LayerRow(Digest),
    /// An object.
    Object(Digest),
    /// A merged index, by its file's name.
    Chain(String),
    /// The index of an archive that was mounted in place, by its folder's name.
    Archive(String),
    /// A container's directory.
    Container(String),
    /// `index.json`.
    Layout,
    /// A file that nothing needs, by its path in the store.
    Unneeded(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => write!(f, "database"),
            Self::ImageRow(id) => write!(f, "image {}", id.short()),
            Self::Config(id) => write!(f, "configuration of image {}", id.short()),
            Self::Manifest(id) => write!(f, "manifest of image {}", id.short()),
            Self::Blob(digest) => write!(f, "compressed layer {}", digest.short()),
            Self::Layer(diff_id) => write!(f, "layer {}", diff_id.short()),
            Self::Recipe(diff_id) => write!(f, "recipe of layer {}", diff_id.short()),
            Self::LayerRow(diff_id) => write!(f, "size of layer {}", diff_id.short()),
            Self::Object(digest) => write!(f, "object {}", digest.short()),
            Self::Chain(name) => write!(f, "merged index {}", name.get(..12).unwrap_or(name)),
            Self::Archive(name) => write!(f, "archive index {}", name.get(..12).unwrap_or(name)),
            Self::Container(id) => write!(f, "container {}", id.get(..12).unwrap_or(id)),
            Self::Layout => write!(f, "index.json"),
            Self::Unneeded(path) => write!(f, "{path}"),
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// With what.
    pub subject: Subject,
    /// What.
    pub detail: String,
}

impl Finding {
    fn new(subject: Subject, detail: impl fmt::Display) -> Self {
        Self {
            subject,
            detail: detail.to_string(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.detail)
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Number of images.
    pub images: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of objects.
    pub objects: usize,
    /// Number of blobs.
    pub blobs: usize,
    /// Number of merged indexes and archive indexes.
    pub caches: usize,
}

/// The outcome of a check.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was looked at.
    pub checked: Checked,
    /// What is wrong, each once.
    pub findings: Vec<Finding>,
}

/// Looks at everything.
///
/// # Errors
/// When the store cannot be read at all.
pub fn check(store: &Store, depth: Depth, progress: &Progress) -> Result<Report, StoreError> {
    let listing = store.listing()?;
    let mut findings = rows::check(&listing);
    findings.extend(rows::check_files(&listing));
    let jobs = files::jobs(store, &listing);
    let bar = progress.bytes("checking", Some(jobs.iter().map(|job| job.bytes).sum()));
    in_order(
        &jobs,
        64,
        |job| files::check(store, &listing, job, depth),
        |job, found| -> Result<(), StoreError> {
            bar.add(job.bytes);
            for finding in found {
                if still_there(store, &finding.subject)? {
                    findings.push(finding);
                }
            }
            Ok(())
        },
    )?;
    findings.sort();
    findings.dedup();
    Ok(Report {
        checked: Checked {
            images: listing.images.len(),
            layers: listing.layers.len(),
            objects: listing.object_files.len(),
            blobs: listing.blob_files.len(),
            caches: listing.chain_files.len() + listing.archive_files.len(),
        },
        findings,
    })
}

/// Whether what a finding is about is still there: others may remove things while the files are read.
fn still_there(store: &Store, subject: &Subject) -> Result<bool, StoreError> {
    Ok(match subject {
        Subject::Layer(diff_id) | Subject::Recipe(diff_id) | Subject::LayerRow(diff_id) => {
            store.layer_size(diff_id)?.is_some()
        }
        Subject::Config(id) | Subject::Manifest(id) | Subject::ImageRow(id) => store.has_image(id)?,
        Subject::Object(digest) => store.repository().object(digest.as_bytes()).exists(),
        Subject::Blob(digest) => store.blob_path(digest).exists(),
        Subject::Chain(name) => store.root().join("chains").join(name).exists(),
        Subject::Archive(name) => store.root().join("archives").join(name).exists(),
        Subject::Unneeded(path) => store.root().join(path).exists(),
        Subject::Database | Subject::Container(_) | Subject::Layout => true,
    })
}

/// The names of the images that something belongs to, for people.
pub fn images_of(listing: &Listing, subject: &Subject) -> Vec<String> {
    let shown = |image: &crate::store::RawImage| match image.names.first() {
        Some(name) => name
            .parse::<crate::reference::Reference>()
            .map_or_else(|_| name.clone(), |name| name.familiar()),
        None => image.id.get(7..19).unwrap_or(&image.id).to_owned(),
    };
    let has = |image: &&crate::store::RawImage| match subject {
        Subject::ImageRow(id) | Subject::Config(id) | Subject::Manifest(id) => image.id == id.to_string(),
        Subject::Layer(diff_id) | Subject::Recipe(diff_id) | Subject::LayerRow(diff_id) => {
            let diff_id = diff_id.to_string();
            image.layers.iter().any(|(found, _)| *found == diff_id)
        }
        Subject::Blob(blob) => {
            let blob = blob.to_string();
            image.layers.iter().any(|(_, found)| *found == blob)
        }
        _ => false,
    };
    listing.images.iter().filter(has).map(shown).collect()
}
