//! Where indexed layers and their contents lie on disk.
//!
//! ```text
//! ROOT/
//!   layers/HEX/index       one layer: names, attributes, markers, where contents are
//!   layers/HEX/pack        its small contents, one after another, each distinct one once
//!   objects/ab/HEX         larger contents, whole files named by their SHA-256, shared by all layers
//!   archives/HEX/index     of an archive that is mounted where it lies …
//!   archives/HEX/stream    … and how to find a place in its bytes
//!   archives/HEX/digest    … and its digest as text, empty where that is unknown: HEX is a key of its place
//! ```
//!
//! Nothing is created or changed here: that is the business of who keeps the repository.

use std::path::{Path, PathBuf};

use crate::index::Sha256;

/// The directory that holds layers and objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    root: PathBuf,
}

impl Repository {
    /// The repository at `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a layer.
    #[must_use]
    pub fn layer(&self, layer: &Sha256) -> PathBuf {
        self.root.join("layers").join(hex(layer))
    }

    /// A layer's index.
    #[must_use]
    pub fn index(&self, layer: &Sha256) -> PathBuf {
        self.layer(layer).join("index")
    }

    /// A layer's small contents.
    #[must_use]
    pub fn pack(&self, layer: &Sha256) -> PathBuf {
        self.layer(layer).join("pack")
    }

    /// A larger content.
    #[must_use]
    pub fn object(&self, digest: &Sha256) -> PathBuf {
        let name = hex(digest);
        self.root.join("objects").join(&name[..2]).join(name)
    }

    /// The directory of an archive that is mounted where it lies.
    #[must_use]
    pub fn archive(&self, key: &Sha256) -> PathBuf {
        self.root.join("archives").join(hex(key))
    }
}

impl Repository {
    /// The digest by which people know a layer: its key, except in an archive that is mounted where it lies. `None`
    /// where nobody knows it.
    #[must_use]
    pub fn layer_digest(&self, layer: &Sha256) -> Option<String> {
        match std::fs::read_to_string(self.archive(layer).join("digest")) {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(text),
            Err(_) => Some(format!("sha256:{}", hex(layer))),
        }
    }
}

/// A digest in lower-case hexadecimal digits.
#[must_use]
pub fn hex(digest: &Sha256) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in digest {
        // writing to a string cannot fail
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_spread_over_directories() {
        let repository = Repository::at("/r");
        let mut digest = [0; 32];
        (digest[0], digest[31]) = (0xab, 0x01);
        let name = format!("ab{}01", "00".repeat(30));
        assert_eq!(repository.object(&digest), Path::new("/r/objects/ab").join(&name));
        assert_eq!(
            repository.index(&digest),
            Path::new("/r/layers").join(name).join("index")
        );
    }
}
