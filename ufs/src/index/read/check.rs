//! Looking at everything.
use super::Index;
use crate::index::IndexError;

impl Index {
    /// Verifies every checksum and every invariant.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), IndexError> {
        self.data.verify_all()
    }
}
