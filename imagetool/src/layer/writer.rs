//! A layer being written: its contents, its tree and at last its index.
//!
//! ```text
//! STAGING/layer.N/index pack recipe     becomes ROOT/layers/HEX by one rename
//! STAGING/objects/HEX                   linked into ROOT/objects before that
//!
//! pack: magic "shalepck", version (u32), zero (u32), then contents one after another, each distinct one once
//! ```
//!
//! The index says where in the pack a content is and what its sum is; nothing else has to be read to find it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use twox_hash::XxHash3_64;
use ufs::index::ContentId;
use ufs::index::build::{Stored, Tree};

use super::LayerError;
use super::contents::{Contents, Taken};
use super::recipe::RecipeWriter;
use crate::archive::hashed::HashedRead;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::{StagedLayer, Staging};

/// First bytes of a pack.
pub const PACK_MAGIC: &[u8; 8] = b"shalepck";
/// The pack's version.
pub const PACK_VERSION: u32 = 1;
/// Size of the pack's header.
pub const PACK_HEADER_BYTES: u64 = 16;

/// A layer being written.
pub struct LayerWriter {
    path: PathBuf,
    contents: Contents,
    tree: Tree,
    pack: BufWriter<File>,
    pack_bytes: u64,
}

impl LayerWriter {
    /// Starts a layer in a staging directory, and its recipe: everything of the tar stream must be written to that one
    /// in the order of the stream, contents by their numbers.
    pub fn new(staging: &Staging) -> Result<(Self, RecipeWriter), StoreError> {
        let path = staging.new_layer()?;
        let recipe = path.join("recipe");
        let recipe = RecipeWriter::create(&recipe).map_err(StoreError::io("create", &recipe))?;
        let pack = path.join("pack");
        let file = File::create_new(&pack).map_err(StoreError::io("create", &pack))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let mut header = [0; PACK_HEADER_BYTES as usize];
        header[..8].copy_from_slice(PACK_MAGIC);
        header[8..12].copy_from_slice(&PACK_VERSION.to_le_bytes());
        out.write_all(&header).map_err(StoreError::io("write", &pack))?;
        let writer = Self {
            path,
            contents: staging.contents()?,
            tree: Tree::new(),
            pack: out,
            pack_bytes: PACK_HEADER_BYTES,
        };
        Ok((writer, recipe))
    }

    /// Where contents are hashed and objects staged. A clone of it works in another thread; what it took is handed
    /// to [`LayerWriter::add`].
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The layer's names and attributes.
    pub fn tree(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// Adds a content that was taken. The same content twice gives the same number.
    pub fn add(&mut self, taken: &Taken) -> Result<ContentId, StoreError> {
        let (digest, size_bytes) = match taken {
            Taken::Small { digest, bytes } => (digest, bytes.len() as u64),
            Taken::Object { digest, size_bytes } => (digest, *size_bytes),
        };
        if let Some(known) = self.tree.known(digest) {
            return Ok(known);
        }
        let stored = match taken {
            Taken::Small { digest, bytes } => {
                let offset = self.pack_bytes;
                self.pack
                    .write_all(bytes)
                    .map_err(StoreError::io("write", &self.path.join("pack")))?;
                self.pack_bytes += bytes.len() as u64;
                Stored::Pack {
                    offset,
                    sum: XxHash3_64::oneshot(bytes),
                    digest: *digest,
                }
            }
            Taken::Object { digest, .. } => Stored::Object { digest: *digest },
        };
        Ok(self.tree.add_content(stored, size_bytes))
    }

    /// Takes the next bytes of `reader` and adds them: a file of `size_bytes`, or of a sparse file its pieces one
    /// after another. `None` when it is empty or one hole.
    pub fn content(
        &mut self,
        reader: &mut dyn HashedRead,
        size_bytes: u64,
        segments: Option<&[(u64, u64)]>,
    ) -> Result<Option<ContentId>, LayerError> {
        let taken = self.contents.take(reader, size_bytes, segments)?;
        Ok(taken.map(|taken| self.add(&taken)).transpose()?)
    }

    /// Takes a whole file and adds it, by a reflink where the file system can. `None` when it is empty.
    pub fn content_of_file(&mut self, file: &File) -> Result<Option<ContentId>, LayerError> {
        let taken = self.contents.take_file(file)?;
        Ok(taken.map(|taken| self.add(&taken)).transpose()?)
    }

    /// Ends the layer: everything is written, nothing is synced.
    pub fn finish(mut self, recipe: RecipeWriter, diff_id: &Digest) -> Result<StagedLayer, LayerError> {
        let path = recipe.path().to_owned();
        recipe.finish(diff_id).map_err(StoreError::io("write", &path))?;
        let pack = self.path.join("pack");
        self.pack.flush().map_err(StoreError::io("write", &pack))?;
        let finished = self.tree.finish()?;
        let index = self.path.join("index");
        let file = File::create_new(&index).map_err(StoreError::io("create", &index))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        finished
            .write(diff_id.as_bytes(), &mut out)
            .and_then(|()| out.flush())
            .map_err(StoreError::io("write", &index))?;
        Ok(StagedLayer {
            diff_id: *diff_id,
            size_bytes: finished.size_bytes(),
            path: self.path,
        })
    }
}
