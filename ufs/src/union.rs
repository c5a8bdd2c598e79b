//! The merged tree: read-only layers below, at most one writable layer above.
//!
//! [`Union`] finds files and gives them their identity. What programs do with files is in [`crate::fs`].

pub(crate) mod earlier;
pub(crate) mod inode;
mod light;
pub(crate) mod lowers;
pub(crate) mod nodes;
mod noted;
pub(crate) mod number;
pub(crate) mod readdir;
pub(crate) mod resolve;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::attr::{Attr, FileType};
use crate::cache::{self, PageCache};
use crate::error::{Doing, Error, Result, SetupError};
use crate::journal::{Journal, Live};
use crate::layer::directory::{DirectoryKind, DirectoryLayer};
use crate::layer::image::ImageLayer;
use crate::layer::marks::MarkSpace;
use crate::layer::{Layer, LayerNode};
use crate::repository::Repository;
use crate::sys::{self, XattrOf};
use crate::upper::{self, Upper, UpperOptions};
use earlier::Earlier;
use inode::{Inode, Node, State};
use nodes::{Doubt, Hold, Nodes};
use number::{HandedOut, Numbers};

/// A place in one of the lower layers.
#[derive(Debug, Clone)]
pub(crate) struct LowerRef {
    /// Index of the layer, the topmost being 0.
    pub(crate) layer: usize,
    pub(crate) node: LayerNode,
}

/// A read-only layer to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lower {
    /// An unpacked directory.
    Directory(PathBuf),
    /// The index of a layer or of several, and the repository that holds its contents (see [`crate::repository`]).
    Index {
        /// The index file.
        path: PathBuf,
        /// The repository's directory.
        repository: PathBuf,
    },
}

impl Lower {
    /// The directory or the index file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Index { path, .. } => path,
        }
    }
}

impl From<PathBuf> for Lower {
    fn from(path: PathBuf) -> Self {
        Self::Directory(path)
    }
}

/// What to mount.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// The read-only layers, top first.
    pub lowers: Vec<Lower>,
    /// The writable directory and its work directory; `None`: read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// How the upper is written.
    pub options: UpperOptions,
    /// Bytes of decompressed archives to keep; `None`: [`crate::cache::DEFAULT_LIMIT_BYTES`].
    pub cache_bytes: Option<u64>,
}

/// A file found by name.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) attr: Attr,
    /// In the upper: its number there.
    pub(crate) upper: Option<u64>,
    pub(crate) metadata_only: bool,
    pub(crate) partial: bool,
    pub(crate) lowers: Vec<LowerRef>,
    pub(crate) ino: u64,
    /// How many copies had been made when it was looked for (see [`Nodes::copies`]).
    pub(crate) copies: u64,
}

/// Layers, upper and identities of one merged tree.
pub(crate) struct Union {
    pub(crate) layers: Vec<Arc<dyn Layer>>,
    pub(crate) upper: Option<Upper>,
    pub(crate) space: MarkSpace,
    pub(crate) numbers: Numbers,
    pub(crate) nodes: Nodes,
    pub(crate) root: Arc<Inode>,
    /// What was decompressed of archives.
    pub(crate) cache: Arc<PageCache>,
}

impl Union {
    /// Opens all layers of a layout.
    pub(crate) fn open(
        layout: &Layout,
        journal: Arc<Journal>,
        live: &mut Live,
        orphans: HashMap<u64, Arc<OwnedFd>>,
    ) -> std::result::Result<Self, SetupError> {
        if layout.lowers.is_empty() && layout.upper.is_none() {
            return Err(SetupError::NoLayers);
        }
        if layout.lowers.len() > number::LAYERS_MAX {
            let why = format!(
                "{} layers, at most {} are possible",
                layout.lowers.len(),
                number::LAYERS_MAX
            );
            return Err(SetupError::Option {
                name: "lowerdir".to_owned(),
                why,
            });
        }
        let upper = match &layout.upper {
            Some((upper, work)) => Some(Upper::open(upper, work, layout.options)?),
            None => None,
        };
        let space = upper.as_ref().map_or_else(
            || upper::marks_of_readers(layout.options.user_marks),
            |upper| upper.space,
        );
        let cache = Arc::new(PageCache::new(
            layout.cache_bytes.unwrap_or(cache::DEFAULT_LIMIT_BYTES),
        ));
        let layers = open_layers(&layout.lowers, space, &cache)?;
        let given = std::mem::take(&mut live.handed_out);
        let earlier = Earlier::new(live, orphans);
        let assembled = Self::assemble(layers, upper, space, cache, (journal, earlier, given));
        let union = assembled.map_err(|source| SetupError::Fs {
            doing: "read the layers' roots",
            source,
        })?;
        union.recover_directories();
        Ok(union)
    }

    fn assemble(
        layers: Vec<Arc<dyn Layer>>,
        upper: Option<Upper>,
        space: MarkSpace,
        cache: Arc<PageCache>,
        (journal, earlier, given): (Arc<Journal>, Earlier, HandedOut),
    ) -> Result<Self> {
        let upper_device = upper.as_ref().map_or(0, |upper| upper.device);
        let numbers = Numbers::of_layers(&layers, upper_device)?.going_on(given, Arc::clone(&journal));
        let upper_root = match &upper {
            Some(upper) => Some(sys::stat_fd(&upper.root).doing("read the upper's root")?.ino),
            None => None,
        };
        let lowers = roots(&layers)?;
        let state = State {
            upper: upper_root,
            lowers: lowers.into(),
            ..State::default()
        };
        let root = Arc::new(Inode::new(inode::ROOT, FileType::Directory, state));
        let nodes = Nodes::new(Arc::clone(&root), upper.as_ref(), journal, earlier);
        Ok(Self {
            layers,
            upper,
            space,
            numbers,
            nodes,
            root,
            cache,
        })
    }

    /// The upper, for an operation that writes.
    pub(crate) fn writable(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Error::ReadOnly)
    }

    /// The directory in the upper, if it is there.
    pub(crate) fn upper_dir(&self, dir: &Inode) -> Result<Option<Arc<OwnedFd>>> {
        match &self.upper {
            Some(upper) => upper.dir(dir),
            None => Ok(None),
        }
    }

    /// Finds `name` in the merged directory `dir`.
    pub(crate) fn resolve(&self, dir: &Inode, name: &OsStr) -> Result<Option<Resolved>> {
        check_component(name)?;
        let copies = self.nodes.copies();
        let lowers = dir.lowers();
        let upper_dir = self.upper_dir(dir)?;
        if let (Some(upper), Some(fd)) = (&self.upper, &upper_dir) {
            match sys::stat_at(fd, name) {
                Ok(attr) if upper.is_mark(fd, name, &attr)? => return Ok(None),
                Ok(attr) => {
                    let found = self.resolve_upper(upper, fd, name, attr, &lowers)?;
                    return Ok(Some(Resolved { copies, ..found }));
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).doing("look up in upper"),
            }
        }
        let places = self.resolve_lower(&lowers, name)?;
        Ok(places.map(|places| Resolved {
            copies,
            ..self.lower_file(&places)
        }))
    }

    fn resolve_upper(
        &self,
        upper: &Upper,
        fd: &OwnedFd,
        name: &OsStr,
        attr: Attr,
        lowers: &[LowerRef],
    ) -> Result<Resolved> {
        let (marks, noted) = upper.marks(fd, name, &attr)?;
        let below = match attr.file_type() {
            FileType::Directory if marks.opaque => Vec::new(),
            FileType::Directory => resolve::below_upper(&self.layers, lowers, name, &marks)?,
            FileType::Regular if marks.metacopy => resolve::below_upper(&self.layers, lowers, name, &marks)?,
            _ => Vec::new(),
        };
        let ino = match self.nodes.copied_up(attr.ino) {
            Some(known) => known.ino,
            None => noted.unwrap_or_else(|| self.numbers.of_upper(attr.dev, attr.ino)),
        };
        Ok(Resolved {
            attr,
            upper: Some(attr.ino),
            metadata_only: marks.metacopy,
            partial: marks.partial,
            lowers: below.into_iter().map(|(place, _)| place).collect(),
            ino,
            copies: 0,
        })
    }

    pub(crate) fn resolve_lower(&self, lowers: &[LowerRef], name: &OsStr) -> Result<Option<resolve::Places>> {
        let places = resolve::by_name(&self.layers, lowers, name)?;
        Ok((!places.is_empty()).then_some(places))
    }

    fn lower_file(&self, places: &resolve::Places) -> Resolved {
        let (top, attr) = &places[0];
        Resolved {
            attr: *attr,
            upper: None,
            metadata_only: false,
            partial: false,
            lowers: places.iter().map(|(place, _)| place.clone()).collect(),
            ino: self.numbers.of_lower(top.layer, attr.dev, attr.ino),
            copies: 0,
        }
    }

    /// The node of a file found as `name` in `parent`, held once for the answer that will name it.
    ///
    /// # Errors
    /// When the file had to be looked up again and was gone, or could not be.
    pub(crate) fn adopt(&self, parent: &Arc<Inode>, name: &OsStr, mut found: Resolved) -> Result<Arc<Node>> {
        let mut doubt = None;
        loop {
            if let Some(number) = self.light_number(&found)
                && self.nodes.hold_light(number, found.copies)
            {
                let state = State::below(Arc::clone(parent), name.into(), found.lowers.into());
                let inode = Inode::new(number, found.attr.file_type(), state);
                return Ok(self.nodes.light_node(inode));
            }
            let ino = found.ino;
            match self.hold_found(parent, name, found, doubt) {
                Hold::Node(node) => return Ok(node),
                Hold::Light => {
                    self.nodes.keep(&self.node(ino)?.inode);
                    found = self.resolve(parent, name)?.ok_or(Error::NotFound)?;
                }
                Hold::Again => found = self.resolve(parent, name)?.ok_or(Error::NotFound)?,
                Hold::Doubt(known, places) => {
                    drop(known.copying.lock());
                    found = self.resolve(parent, name)?.ok_or(Error::NotFound)?;
                    doubt = Some(places);
                }
            }
        }
    }

    /// Finds a name and holds its node once, for a thread of ours. The kernel lets nobody change a directory while it
    /// looks a name up there, but knows nothing of us: without the directory's lock the name might be another file's
    /// before the node is held.
    ///
    /// # Errors
    /// When there is no such name, or it cannot be looked up.
    pub(crate) fn adopt_unasked(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Arc<Node>> {
        let mut doubt = None;
        loop {
            let (ino, held) = {
                let _shared = parent.entries.read();
                let found = self.resolve(parent, name)?.ok_or(Error::NotFound)?;
                (found.ino, self.hold_found(parent, name, found, doubt.take()))
            };
            match held {
                Hold::Node(node) => return Ok(node),
                Hold::Light => self.nodes.keep(&self.node(ino)?.inode),
                Hold::Again => {}
                Hold::Doubt(known, places) => {
                    drop(known.copying.lock());
                    doubt = Some(places);
                }
            }
        }
    }

    /// Holds the node of what was found, and notes what is known of it by that.
    fn hold_found(&self, parent: &Arc<Inode>, name: &OsStr, found: Resolved, doubt: Option<Doubt>) -> Hold {
        let copied_up = found.upper.filter(|upper| found.ino != *upper);
        let state = State {
            upper: found.upper,
            metadata_only: found.metadata_only,
            partial: found.partial,
            lowers: found.lowers.into(),
            ..State::default()
        };
        let candidate = Inode::new(found.ino, found.attr.file_type(), state);
        let held = self.nodes.hold(candidate, found.copies, doubt);
        if let Hold::Node(node) = &held {
            self.nodes.add_link(&node.inode, parent, name);
            self.note_places(&node.inode);
            if let Some(upper) = copied_up {
                self.nodes.note_copied_up(upper, &node.inode);
            }
        }
        held
    }

    /// Attributes as stored: in the upper, else in the topmost layer.
    pub(crate) fn stored_attr(&self, inode: &Inode) -> Result<Attr> {
        self.with_visible(
            inode,
            |fd| {
                self.while_still(inode, || sys::stat_fd(fd))
                    .doing("read attributes in upper")
            },
            |layer, node| layer.attr(node),
        )
    }

    /// Attributes as shown: with the union's number and link count.
    pub(crate) fn shown_attr(&self, inode: &Inode, stored: Attr) -> Attr {
        let mut attr = Attr {
            ino: inode.ino,
            dev: 0,
            mount_root: false,
            ..stored
        };
        if inode.is_dir() {
            let state = inode.state.read();
            // As overlayfs: a merged directory has link count 1, since nobody counts its subdirectories.
            if state.upper.is_some() && !state.lowers.is_empty() || state.lowers.len() > 1 {
                attr.nlink = 1;
            }
            if state.removed {
                attr.nlink = 0;
            }
            return attr;
        }
        let (deleted, metadata_only) = {
            let state = inode.state.read();
            (
                state.links.is_empty() && state.upper.is_none(),
                state.metadata_only,
            )
        };
        if deleted {
            attr.nlink = 0;
        }
        if metadata_only {
            self.show_content_blocks(inode, &mut attr);
        }
        attr
    }

    /// A metadata-only copy shows the space that its content takes below; a partial one as much as it has below and
    /// its length needs, if it does not take more itself.
    fn show_content_blocks(&self, inode: &Inode, attr: &mut Attr) {
        let lowers = inode.lowers();
        if let Some(content) = lowers.last()
            && let Ok(below) = self.layers[content.layer].attr(&content.node)
        {
            let needed = attr.size_bytes.next_multiple_of(4096) / 512;
            attr.blocks = if inode.state.read().partial {
                attr.blocks.max(below.blocks.min(needed))
            } else {
                below.blocks
            };
        }
    }

    /// Reads one stored attribute of the visible file.
    pub(crate) fn stored_xattr(&self, inode: &Inode, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.with_visible(
            inode,
            |fd| sys::xattr(XattrOf::Fd(fd), name).doing("read extended attribute"),
            |layer, node| layer.xattr(node, name),
        )
    }

    /// The names of all stored attributes of the visible file.
    pub(crate) fn stored_xattr_names(&self, inode: &Inode) -> Result<Vec<OsString>> {
        self.with_visible(
            inode,
            |fd| sys::xattr_names(XattrOf::Fd(fd)).doing("list extended attributes"),
            |layer, node| layer.xattr_names(node),
        )
    }

    /// The digest of the image layer that the visible file comes from; `None` for what is in the upper or in a directory.
    pub(crate) fn provenance(&self, inode: &Inode) -> Result<Option<String>> {
        let Some(lowers) = inode.only_below() else {
            return Ok(None);
        };
        let top = lowers.first().ok_or(Error::Stale)?;
        self.layers[top.layer].provenance(&top.node)
    }

    /// The target of a symbolic link.
    pub(crate) fn link_target(&self, inode: &Inode) -> Result<OsString> {
        self.with_visible(
            inode,
            |fd| sys::read_link_at(fd, OsStr::new("")).doing("read symbolic link"),
            |layer, node| layer.read_link(node),
        )
    }

    fn with_visible<T>(
        &self,
        inode: &Inode,
        upper_act: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<T>,
        lower_act: impl FnOnce(&dyn Layer, &LayerNode) -> Result<T>,
    ) -> Result<T> {
        let Some(lowers) = inode.only_below() else {
            let named = self.writable()?.name(inode)?;
            return upper_act(named.as_fd());
        };
        let top = lowers.first().ok_or(Error::Stale)?;
        lower_act(self.layers[top.layer].as_ref(), &top.node)
    }
}

/// Whether a name is one that a file can have. The kernel sends no other, but what a damaged index holds, or a request
/// that did not come from the kernel, must not lead out of a directory either.
///
/// # Errors
/// [`Error::Invalid`] for what is empty, `.` or `..`, or holds a `/` or a zero byte.
pub(crate) fn check_component(name: &OsStr) -> Result<()> {
    let bytes = name.as_encoded_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::Invalid("no file can have this name"));
    }
    Ok(())
}

/// The places of the root directory, which merges the roots of the layers.
pub(crate) fn roots(layers: &[Arc<dyn Layer>]) -> Result<Vec<LowerRef>> {
    let mut places = Vec::with_capacity(layers.len());
    for (layer, of) in layers.iter().enumerate() {
        places.push(LowerRef {
            layer,
            node: of.root(),
        });
        if of.hides_all_below()? {
            break;
        }
    }
    Ok(places)
}

/// Opens the lower layers, top first.
pub(crate) fn open_layers(
    lowers: &[Lower],
    space: MarkSpace,
    cache: &Arc<PageCache>,
) -> std::result::Result<Vec<Arc<dyn Layer>>, SetupError> {
    // A quarter of the descriptors is for the layers' directories, however many layers there are.
    let open_directories = descriptor_limit() / 4 / lowers.len().max(1);
    let bottom = lowers.len().saturating_sub(1);
    let open = |(index, lower): (usize, &Lower)| -> std::result::Result<Arc<dyn Layer>, SetupError> {
        match lower {
            Lower::Directory(path) => {
                let kind = DirectoryKind {
                    space,
                    bottom: index == bottom,
                    tar_names: true,
                    open_directories,
                };
                open_layer(path, kind)
            }
            Lower::Index { path, repository } => {
                let layer = ImageLayer::open(path, &Repository::at(repository), cache)?;
                Ok(Arc::new(layer))
            }
        }
    };
    lowers.iter().enumerate().map(open).collect()
}

fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

pub(crate) fn open_layer(
    path: &Path,
    kind: DirectoryKind,
) -> std::result::Result<Arc<dyn Layer>, SetupError> {
    let layer = DirectoryLayer::open(path, kind).map_err(|source| SetupError::Open {
        role: "lowerdir",
        path: path.to_path_buf(),
        source,
    })?;
    Ok(Arc::new(layer))
}

#[cfg(test)]
mod tests;
