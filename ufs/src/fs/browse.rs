//! Operations on a tree that cannot change: no upper, and every layer an index.
//!
//! Here a file is its number, so nothing has to be opened before it is read, a directory is listed in the order of its
//! index without being collected first, and what a program will read next can be known.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::{Entry, Fs};
use crate::error::{Error, Result};
use crate::layer::{Content, LayerNode};
use crate::union::LowerRef;
use crate::union::inode::Inode;

/// Contents kept open for the next read of the same file.
const CONTENTS_MAX: usize = 128;

/// Contents that are being read, by node.
#[derive(Debug)]
pub(super) struct Contents(Mutex<LruCache<u64, Arc<Content>>>);

impl Default for Contents {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(
            NonZeroUsize::new(CONTENTS_MAX).unwrap_or(NonZeroUsize::MIN),
        )))
    }
}

/// A file that is likely to be read soon.
#[derive(Debug)]
pub struct Neighbour {
    /// Its node.
    pub node: u64,
    /// Its place in the directory: larger than that of the one before.
    pub position: u64,
    /// All of it.
    pub content: Vec<u8>,
}

impl Fs {
    /// Whether nothing in the tree can ever change: there is no upper, and every layer is an index.
    #[must_use]
    pub fn is_immutable(&self) -> bool {
        self.is_read_only() && self.union.layers.iter().all(|layer| layer.is_numbered())
    }

    /// Reads a regular file that was not opened, in a tree that cannot change; short only at the end.
    ///
    /// # Errors
    /// What the layer answers.
    pub fn read_node(&self, node: u64, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let content = self.kept_content(node)?;
        content.read_at(buffer, offset).map_err(|error| Error::Os {
            doing: "read content",
            source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    }

    fn kept_content(&self, node: u64) -> Result<Arc<Content>> {
        if let Some(content) = self.contents.0.lock().get(&node) {
            return Ok(Arc::clone(content));
        }
        let place = self.place(node)?;
        let content = Arc::new(self.union.layers[place.layer].content(&place.node)?);
        self.contents.0.lock().put(node, Arc::clone(&content));
        Ok(content)
    }

    /// Where a node's file is, in a tree that cannot change.
    fn place(&self, node: u64) -> Result<LowerRef> {
        if let Some((layer, number)) = self.union.numbers.layer_of(node)
            && let Some(found) = self.union.layers[layer].by_number(number)?
        {
            return Ok(LowerRef { layer, node: found });
        }
        let lowers = self.union.node(node)?.inode.lowers();
        lowers.first().cloned().ok_or(Error::Stale)
    }

    /// The directory of a file, by a number that means nothing else, and the file's position there.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn position(&self, node: u64) -> Result<Option<(u64, u64)>> {
        let place = self.place(node)?;
        let layer = &self.union.layers[place.layer];
        let (Some((dir, _)), LayerNode::Entry(entry)) = (layer.parent(&place.node)?, &place.node) else {
            return Ok(None);
        };
        let attr = layer.attr(&dir)?;
        let dir = self.union.numbers.of_lower(place.layer, attr.dev, attr.ino);
        Ok(Some((dir, u64::from(entry.0))))
    }

    /// The small files that follow `node` in its directory: at most `count`, until one of them is larger than
    /// `bytes_max` or their sum is.
    ///
    /// # Errors
    /// When the layer cannot be read.
    pub fn neighbours(&self, node: u64, count: usize, bytes_max: u64) -> Result<Vec<Neighbour>> {
        let place = self.place(node)?;
        let layer = &self.union.layers[place.layer];
        let Some((dir, _)) = layer.parent(&place.node)? else {
            return Ok(Vec::new());
        };
        let LayerNode::Entry(after) = place.node else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        layer.list_after(&dir, u64::from(after.0), &mut |_, position, node, attr| {
            if attr.file_type() == crate::attr::FileType::Regular && attr.size_bytes > 0 {
                found.push((position, node, attr));
            }
            found.len() < count
        })?;
        let mut neighbours = Vec::with_capacity(found.len());
        let mut left = bytes_max;
        for (position, at, attr) in found {
            let Some(rest) = left.checked_sub(attr.size_bytes) else {
                break;
            };
            // Only what is at hand: a file of its own would have to be opened.
            let Content::Source(source) = layer.content(&at)? else {
                continue;
            };
            left = rest;
            let mut content = vec![0; usize::try_from(attr.size_bytes).unwrap_or(0)];
            let read = source.read_at(&mut content, 0);
            if !read.is_ok_and(|read| read == content.len()) {
                break;
            }
            let node = self.union.numbers.of_lower(place.layer, attr.dev, attr.ino);
            neighbours.push(Neighbour {
                node,
                position,
                content,
            });
        }
        Ok(neighbours)
    }

    /// Where a directory of a tree that cannot change is, if all of it is in one index.
    pub(super) fn place_of_all(&self, dir: &Inode) -> Option<LowerRef> {
        match &*dir.lowers() {
            [place] if self.union.layers[place.layer].is_numbered() => Some(place.clone()),
            _ => None,
        }
    }

    /// Lists a directory that lies in one place, in the order of its index. Positions are those of the index, moved by
    /// `first`.
    pub(super) fn list_in_place(
        &self,
        place: &LowerRef,
        first: u64,
        offset: u64,
        take: &mut impl FnMut(&OsStr, u64, &Entry) -> bool,
    ) -> Result<()> {
        let layer = &self.union.layers[place.layer];
        let after = offset.saturating_sub(first);
        layer.list_after(&place.node, after, &mut |name, position, _, attr| {
            let number = self.union.numbers.of_lower(place.layer, attr.dev, attr.ino);
            take(name, position + first, &self.light_entry(number, attr))
        })
    }
}
