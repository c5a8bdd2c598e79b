//! The layers of an image one by one, imported or in an archive: for looking into each.

use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use ufs::index::{Index, IndexError};
use ufs::repository::hex;

use crate::digest::Digest;
use crate::in_place::{ArchiveImage, Cache};
use crate::store::{Image, Store};

/// The layers of an image.
#[derive(Debug)]
pub struct Layers {
    /// Its configuration; `None` for a bare tar.
    pub config: Option<ImageConfiguration>,
    /// Bottom first.
    pub layers: Vec<LayerFile>,
    /// The directory that lies below them.
    pub base_rootfs: Option<PathBuf>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Its diff id; unknown of a bare tar.
    pub digest: Option<Digest>,
    /// Its index.
    pub index: PathBuf,
}

impl Layers {
    /// The layers of an image of the store.
    pub fn of_image(store: &Store, image: &Image) -> Result<Self, crate::error::StoreError> {
        let layer = |diff_id: &Digest| -> Result<LayerFile, crate::error::StoreError> {
            Ok(LayerFile {
                digest: Some(*diff_id),
                index: store.layer_index(diff_id)?,
            })
        };
        Ok(Self {
            config: Some(image.config.clone()),
            layers: image.diff_ids()?.iter().map(layer).collect::<Result<_, _>>()?,
            base_rootfs: image.base_rootfs.clone(),
        })
    }

    /// The layers of an image in an archive.
    pub fn of_archive(cache: &Cache, image: &ArchiveImage) -> Self {
        let layers = image.layers.iter().map(|layer| LayerFile {
            digest: layer.diff_id,
            index: cache.index(&layer.key),
        });
        Self {
            config: image.config.clone(),
            layers: layers.collect(),
            base_rootfs: None,
        }
    }

    /// Opens all indexes, bottom first.
    pub fn open(&self) -> Result<Vec<Index>, IndexError> {
        self.layers
            .iter()
            .map(|layer| Index::open(&layer.index))
            .collect()
    }
}

impl LayerFile {
    /// The name of its directory when layers are shown side by side.
    pub fn directory(&self, number: usize) -> String {
        match &self.digest {
            Some(digest) => format!("{number}-sha256-{}", hex(digest.as_bytes()).split_at(12).0),
            None => format!("{number}-archive"),
        }
    }
}

/// The index of all layers side by side, each in a directory of its own, written to `path`.
pub fn write_side_by_side(layers: &Layers, path: &Path) -> Result<(), SideBySideError> {
    let indexes = layers.open()?;
    let parts: Vec<(Vec<u8>, &Index)> = layers
        .layers
        .iter()
        .zip(&indexes)
        .enumerate()
        .map(|(number, (layer, index))| (layer.directory(number).into_bytes(), index))
        .collect();
    let merged = ufs::index::merge::side_by_side(&parts)?;
    let file = std::fs::File::create(path)?;
    let mut out = std::io::BufWriter::with_capacity(256 << 10, file);
    merged.write(&mut out)?;
    Ok(std::io::Write::flush(&mut out)?)
}

/// Why layers cannot be shown side by side.
#[derive(Debug, thiserror::Error)]
pub enum SideBySideError {
    /// An index is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The new index cannot be written.
    #[error("write the index of the layers")]
    Io(#[from] std::io::Error),
}
