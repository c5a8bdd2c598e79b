//! The documents of an archive, read where they lie.

use std::io::Read;
use std::sync::Arc;

use ufs::stream::ReadAt;

use super::outer::Outer;
use crate::archive::directory::Directory;
use crate::error::ImageError;
use crate::load::describe::Documents;
use crate::manifest::DOCUMENT_LIMIT;

/// Members of a tar.
pub(super) struct InArchive<'a> {
    /// Where each member is.
    pub(super) outer: &'a Outer,
    /// The bytes of the tar.
    pub(super) bytes: Arc<dyn ReadAt>,
}

fn too_large(path: &str) -> ImageError {
    ImageError::Invalid(format!("{path} is larger than {DOCUMENT_LIMIT} bytes"))
}

impl Documents for Directory {
    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(file) = self.file(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("read", path))?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(too_large(path));
        }
        Ok(Some(bytes))
    }
}

impl Documents for InArchive<'_> {
    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(extent) = self.outer.find(path) else {
            return Ok(None);
        };
        let length = usize::try_from(extent.length)
            .ok()
            .filter(|_| extent.length <= DOCUMENT_LIMIT)
            .ok_or_else(|| too_large(path))?;
        let mut bytes = vec![0; length];
        let count = self
            .bytes
            .read_at(&mut bytes, extent.at)
            .map_err(ImageError::io("read", path))?;
        if count < length {
            return Err(ImageError::Invalid(format!("{path} is cut off")));
        }
        Ok(Some(bytes))
    }
}
