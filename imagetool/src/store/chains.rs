//! Chains: the layers of an image merged once, so that a mount has one index to look into.
//!
//! ```text
//! ROOT/chains/CHAINID            all layers up to and with one: CHAINID is the specification's chain id
//! ROOT/chains/CHAINID-CHAINID    the layers above the first up to the second, markers kept, to lie over the first
//! ```
//!
//! Chains are caches: written aside and renamed, and made anew whenever one is missing or damaged.

use std::path::PathBuf;

use super::{Image, Store};
use crate::error::StoreError;

impl Store {
    /// The indexes that an image is mounted from, top first; [`Image::base_rootfs`] lies below them. None for an image
    /// without layers.
    pub fn layer_indexes(&self, image: &Image) -> Result<Vec<PathBuf>, StoreError> {
        let repository = self.repository();
        let paths = image
            .diff_ids()?
            .iter()
            .rev()
            .map(|diff_id| repository.index(diff_id.as_bytes()))
            .collect();
        Ok(paths)
    }
}
