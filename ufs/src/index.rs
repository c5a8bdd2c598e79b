//! The mapped index of a layer or of a chain of layers.

/// A SHA-256, as bytes.
pub type Sha256 = [u8; 32];
