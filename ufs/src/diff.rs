//! What an upper changes, told exactly, without FUSE and without a mount.
//!
//! The upper is read as one more layer on top of the others. At every path the merged tree is compared with what the
//! lower layers alone show there:
//!
//! ```text
//! lowers show   now shows            told as
//! nothing       something            Added, with everything in it
//! something     nothing              Deleted
//! something     something else       Modified
//! a directory   a changed directory  Modified: its own attributes, or anything below it
//! the same      the same             not told: a copy-up alone is no change
//! ```
//!
//! Renamed directories (redirects), metadata-only copies and opaque directories are resolved here, so that nobody
//! else has to read an upper. An upper that is in use may be read: what disappears meanwhile is left out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::attr::{Attr, FileType};
use crate::cache::PageCache;
use crate::error::{Error, Result, SetupError};
use crate::layer::directory::DirectoryKind;
use crate::layer::marks::MarkSpace;
use crate::layer::{Content, Found, Layer, LayerNode, Portion, whiteout};
use crate::union::number::Numbers;
use crate::union::{Lower, LowerRef, open_layer, open_layers, resolve, roots};
use crate::upper;

/// How a path differs from the lower layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was there and is different.
    Modified,
    /// It is gone.
    Deleted,
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Change {
    /// The path from the root, without leading slash.
    pub path: PathBuf,
    /// How it differs.
    pub kind: ChangeKind,
    /// Whether the file itself differs; `false` for a directory that is only told because of what lies below.
    pub self_changed: bool,
    /// What is there now; `None` when it is gone.
    pub node: Option<Node>,
}

/// A file as it is now.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its type.
    pub file_type: FileType,
    /// Permission bits with set-id and sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Time of last modification: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Device number of a device node (`makedev(3)`).
    pub rdev: u64,
    /// The same for all names of one file.
    pub ino: u64,
    /// Number of names.
    pub nlink: u32,
    /// Target of a symbolic link.
    pub link_target: Option<OsString>,
    /// Extended attributes as programs see them, sorted by name; the overlay's own marks are not among them.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// Where the file is, top first; the last place holds a regular file's content.
    places: Vec<LowerRef>,
}

impl Node {
    /// Whether attributes and content are those of one file of the topmost layer, not of a file below.
    #[must_use]
    pub fn is_whole_on_top(&self) -> bool {
        matches!(self.places.as_slice(), [place] if place.layer == 0)
    }
}

/// An upper over its lowers, or a stack of lowers alone, ready to be compared.
pub struct Snapshot {
    /// The upper first, when there is one.
    layers: Vec<Arc<dyn Layer>>,
    lower_layers: Vec<Arc<dyn Layer>>,
    has_upper: bool,
    space: MarkSpace,
    numbers: Numbers,
}

/// A directory being compared: its parts now, and what the lower layers alone have at the same path.
struct Pair<'a> {
    path: &'a Path,
    now: Vec<LowerRef>,
    before: Vec<LowerRef>,
}

impl Snapshot {
    /// Opens an upper directory and the lowers it lies on, top first.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn open(upper: &Path, lowers: &[Lower]) -> std::result::Result<Self, SetupError> {
        let space = upper::marks_of_readers(false);
        // In an upper, `.wh.` names are names: its mount shows them.
        let kind = DirectoryKind {
            space,
            bottom: lowers.is_empty(),
            tar_names: false,
            open_directories: usize::MAX,
        };
        let upper = open_layer(upper, kind)?;
        let lower_layers = open_layers(lowers, space, &own_cache())?;
        let layers = std::iter::once(upper)
            .chain(lower_layers.iter().cloned())
            .collect();
        Self::assemble(layers, lower_layers, true, space)
    }

    /// Opens a stack of lowers, top first, to be told as a whole: everything is [`ChangeKind::Added`].
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn merged(lowers: &[Lower]) -> std::result::Result<Self, SetupError> {
        let space = upper::marks_of_readers(false);
        Self::assemble(
            open_layers(lowers, space, &own_cache())?,
            Vec::new(),
            false,
            space,
        )
    }

    fn assemble(
        layers: Vec<Arc<dyn Layer>>,
        lower_layers: Vec<Arc<dyn Layer>>,
        has_upper: bool,
        space: MarkSpace,
    ) -> std::result::Result<Self, SetupError> {
        let numbers = Numbers::of_layers(&layers, 0).map_err(|source| SetupError::Fs {
            doing: "read the layers' roots",
            source,
        })?;
        Ok(Self {
            layers,
            lower_layers,
            has_upper,
            space,
            numbers,
        })
    }

    /// All differences, sorted by the bytes of the path, so that a directory stands before what is in it.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let root = Pair {
            path: Path::new(""),
            now: roots(&self.layers)?,
            before: roots(&self.lower_layers)?,
        };
        if self.has_upper {
            self.compare(&root, &mut changes)?;
        } else {
            self.add_all(&root, &mut changes)?;
        }
        changes.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
        Ok(changes)
    }

    /// Opens the content of a regular file that was told.
    ///
    /// # Errors
    /// When it is no regular file, or cannot be opened.
    pub fn open_content(&self, change: &Change) -> Result<Content> {
        let node = change.node.as_ref().ok_or(Error::NotFound)?;
        if node.file_type != FileType::Regular {
            return Err(Error::Invalid("only a regular file has content"));
        }
        self.content(&node.places)
    }

    fn content(&self, places: &[LowerRef]) -> Result<Content> {
        resolve::content(&self.layers, places)
    }

    /// Compares a directory that the upper has a part in. Answers whether anything below it differs.
    fn compare(&self, dir: &Pair<'_>, changes: &mut Vec<Change>) -> Result<bool> {
        // Where all of the directory is new (opaque, or moved here), every name counts, not only the upper's.
        let whole = !continues(&dir.now, &dir.before);
        let mut differs = false;
        for name in self.names(dir, whole)? {
            let path = dir.path.join(&name);
            let now = self.found_now(&dir.now, &name)?;
            let before = resolve::by_name(&self.lower_layers, &dir.before, &name)?;
            differs |= match (now.first(), before.first()) {
                (None, None) => false,
                (None, Some(_)) => {
                    changes.push(Change {
                        path,
                        kind: ChangeKind::Deleted,
                        self_changed: true,
                        node: None,
                    });
                    true
                }
                (Some((_, attr)), None) => {
                    let is_dir = attr.is_dir();
                    self.add(path.clone(), ChangeKind::Added, &now, changes)?;
                    if is_dir {
                        self.add_all(&pair(&path, now, Vec::new()), changes)?;
                    }
                    true
                }
                (Some(_), Some(_)) => self.compare_both(path, now, before, changes)?,
            };
        }
        Ok(differs)
    }

    /// Finds a name in a directory that may be in use: a file that is removed while it is looked at is none.
    fn found_now(&self, dir: &[LowerRef], name: &OsStr) -> Result<resolve::Places> {
        match resolve::by_name(&self.layers, dir, name) {
            Err(Error::NotFound) => Ok(resolve::Places::default()),
            found => found,
        }
    }

    /// The names to compare, each once.
    fn names(&self, dir: &Pair<'_>, whole: bool) -> Result<Vec<OsString>> {
        let mut names = std::collections::BTreeSet::new();
        let mut take = |layer: &dyn Layer, node: &LayerNode| -> Result<()> {
            match layer.read_dir(node) {
                Ok(entries) => names.extend(entries.into_iter().map(|entry| entry.name)),
                // Removed while the snapshot is taken.
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        };
        for place in dir.now.iter().take(if whole { usize::MAX } else { 1 }) {
            take(self.layers[place.layer].as_ref(), &place.node)?;
        }
        if whole {
            for place in &dir.before {
                take(self.lower_layers[place.layer].as_ref(), &place.node)?;
            }
        }
        let note = OsStr::new(whiteout::OPAQUE_NAME);
        if names.contains(note) && self.holds_opaque_note(&dir.now)? {
            names.remove(note);
        }
        Ok(names.into_iter().collect())
    }

    /// Whether the upper's part of a directory holds fuse-overlayfs' note that it is opaque: its mount hides that file
    /// too (`Upper::is_mark`).
    fn holds_opaque_note(&self, dir: &[LowerRef]) -> Result<bool> {
        let Some(top) = dir.first().filter(|top| self.has_upper && top.layer == 0) else {
            return Ok(false);
        };
        let (layer, name) = (&self.layers[0], OsStr::new(whiteout::OPAQUE_NAME));
        let Found::Entry(_, attr) = layer.lookup(&top.node, name)? else {
            return Ok(false);
        };
        if !whiteout::is_opaque_note(name, attr.mode, attr.size_bytes) {
            return Ok(false);
        }
        let marks = layer.xattr_names(&top.node)?;
        let get = |mark: &OsStr| layer.xattr(&top.node, mark);
        Ok(self.space.marks(true, &marks, get)?.opaque)
    }

    fn compare_both(
        &self,
        path: PathBuf,
        now: resolve::Places,
        before: resolve::Places,
        changes: &mut Vec<Change>,
    ) -> Result<bool> {
        let (is_dir, was_dir) = (now[0].1.is_dir(), before[0].1.is_dir());
        let self_changed = self.is_changed(&now, &before)?;
        if !is_dir {
            if self_changed {
                self.add(path, ChangeKind::Modified, &now, changes)?;
            }
            return Ok(self_changed);
        }
        let at = changes.len();
        self.add(path.clone(), ChangeKind::Modified, &now, changes)?;
        let added = changes.len() > at;
        let before = if was_dir { before } else { Vec::new() };
        let below = if was_dir {
            self.compare(&pair(&path, now, before), changes)?
        } else {
            self.add_all(&pair(&path, now, before), changes)?;
            true
        };
        if added {
            if self_changed || below {
                changes[at].self_changed = self_changed;
            } else {
                changes.remove(at);
            }
        }
        Ok(self_changed || below)
    }

    /// Tells everything in a directory as new.
    fn add_all(&self, dir: &Pair<'_>, changes: &mut Vec<Change>) -> Result<()> {
        for name in self.names(dir, true)? {
            let path = dir.path.join(&name);
            let now = self.found_now(&dir.now, &name)?;
            let Some((_, attr)) = now.first() else { continue };
            let is_dir = attr.is_dir();
            self.add(path.clone(), ChangeKind::Added, &now, changes)?;
            if is_dir {
                self.add_all(&pair(&path, now, Vec::new()), changes)?;
            }
        }
        Ok(())
    }

    fn add(
        &self,
        path: PathBuf,
        kind: ChangeKind,
        places: &resolve::Places,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        match self.node(places) {
            Ok(node) => changes.push(Change {
                path,
                kind,
                self_changed: true,
                node: Some(node),
            }),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn node(&self, places: &resolve::Places) -> Result<Node> {
        let (top, attr) = places.first().ok_or(Error::NotFound)?;
        let layer = &self.layers[top.layer];
        let file_type = attr.file_type();
        let link_target = match file_type {
            FileType::Symlink => Some(layer.read_link(&top.node)?),
            _ => None,
        };
        Ok(Node {
            file_type,
            mode: attr.permissions(),
            uid: attr.uid,
            gid: attr.gid,
            size_bytes: attr.size_bytes,
            mtime: (attr.mtime.secs, attr.mtime.nanos),
            rdev: attr.rdev,
            ino: self.numbers.of_lower(top.layer, attr.dev, attr.ino),
            nlink: attr.nlink,
            link_target,
            xattrs: self.xattrs(layer.as_ref(), &top.node)?,
            places: places.iter().map(|(place, _)| place.clone()).collect(),
        })
    }

    fn xattrs(&self, layer: &dyn Layer, node: &LayerNode) -> Result<Vec<(OsString, Vec<u8>)>> {
        let mut xattrs = Vec::new();
        for stored in layer.xattr_names(node)? {
            let Some(shown) = self.space.to_shown(&stored) else {
                continue;
            };
            if let Some(value) = layer.xattr(node, &stored)? {
                xattrs.push((shown, value));
            }
        }
        xattrs.sort();
        Ok(xattrs)
    }

    /// Whether a file differs in anything that a layer can hold.
    fn is_changed(&self, now: &resolve::Places, before: &resolve::Places) -> Result<bool> {
        let ((top, attr), (old_top, old)) = (&now[0], &before[0]);
        if top.layer == old_top.layer + 1 && top.node == old_top.node {
            return Ok(false);
        }
        if attributes(attr) != attributes(old) {
            return Ok(true);
        }
        let (layer, old_layer) = (
            self.layers[top.layer].as_ref(),
            self.lower_layers[old_top.layer].as_ref(),
        );
        if self.xattrs(layer, &top.node)? != self.xattrs(old_layer, &old_top.node)? {
            return Ok(true);
        }
        match attr.file_type() {
            FileType::Symlink => Ok(layer.read_link(&top.node)? != old_layer.read_link(&old_top.node)?),
            FileType::Regular => self.content_differs(now, before),
            _ => Ok(false),
        }
    }

    /// Compares contents, where equal times and lengths leave no other way.
    fn content_differs(&self, now: &resolve::Places, before: &resolve::Places) -> Result<bool> {
        let places: Vec<LowerRef> = now.iter().map(|(place, _)| place.clone()).collect();
        let old_places = before.iter().map(|(place, _)| LowerRef {
            layer: place.layer + 1,
            node: place.node.clone(),
        });
        let old_places: Vec<LowerRef> = old_places.collect();
        let (Some(content), Some(old_content)) = (places.last(), old_places.last()) else {
            return Ok(true);
        };
        let is_same = content.layer == old_content.layer && content.node == old_content.node;
        if is_same && !self.has_own_blocks(&places)? {
            return Ok(false);
        }
        let (file, old_file) = (self.content(&places)?, self.content(&old_places)?);
        contents_differ(&file, &old_file).map_err(|error| Error::Os {
            doing: "compare contents",
            source: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
        })
    }
}

impl Snapshot {
    /// Whether a copy above the content has something of it.
    fn has_own_blocks(&self, places: &[LowerRef]) -> Result<bool> {
        for place in &places[..places.len() - 1] {
            if !matches!(self.layers[place.layer].portion(&place.node)?, Portion::Nothing) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Snapshots read each content once: a small cache is enough.
fn own_cache() -> Arc<PageCache> {
    Arc::new(PageCache::new(16 << 20))
}

fn pair(path: &Path, now: resolve::Places, before: resolve::Places) -> Pair<'_> {
    let places = |places: resolve::Places| places.into_iter().map(|(place, _)| place).collect();
    Pair {
        path,
        now: places(now),
        before: places(before),
    }
}

/// Whether the upper's directory merges with exactly what was there before.
fn continues(now: &[LowerRef], before: &[LowerRef]) -> bool {
    let lower_parts = now.iter().filter(|place| place.layer > 0);
    now.first().is_some_and(|place| place.layer == 0)
        && now.len() == before.len() + 1
        && lower_parts
            .zip(before)
            .all(|(a, b)| a.layer == b.layer + 1 && a.node == b.node)
}

/// What makes two files different, content and attributes apart. Directories have no length of their own.
fn attributes(attr: &Attr) -> (u32, u32, u32, u64, u64, crate::attr::Time) {
    let size_bytes = if attr.is_dir() { 0 } else { attr.size_bytes };
    let rdev = match attr.file_type() {
        FileType::CharDevice | FileType::BlockDevice => attr.rdev,
        _ => 0,
    };
    (attr.mode, attr.uid, attr.gid, size_bytes, rdev, attr.mtime)
}

fn contents_differ(one: &Content, other: &Content) -> std::io::Result<bool> {
    let (mut left, mut right) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut offset = 0;
    loop {
        let read = one.read_at(&mut left, offset)?;
        let other_read = other.read_at(&mut right, offset)?;
        if left[..read] != right[..other_read] {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests;

/// Looks one path up in a stack, for the commands that ask about single files.
impl Snapshot {
    fn root_places(&self) -> Result<resolve::Places> {
        let place = |root: LowerRef| {
            let attr = self.layers[root.layer].root_attr()?;
            Ok((root, attr))
        };
        roots(&self.layers)?.into_iter().map(place).collect()
    }

    /// What is at `path` (components separated by `/`, no leading slash) now; `None` when nothing is.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn find(&self, path: &OsStr) -> Result<Option<Node>> {
        let places = if path.is_empty() {
            self.root_places()?
        } else {
            resolve::by_path(&self.layers, path)?
        };
        if places.is_empty() {
            Ok(None)
        } else {
            self.node(&places).map(Some)
        }
    }
}
