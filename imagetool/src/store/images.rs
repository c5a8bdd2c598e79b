//! Images and their names in the database.

use super::{Image, Store};
use crate::error::StoreError;

/// The image of this name, id or unique id prefix.
pub(super) fn resolve(_store: &Store, name_or_id: &str) -> Result<Image, StoreError> {
    Err(StoreError::NoSuchImage(name_or_id.to_owned()))
}
