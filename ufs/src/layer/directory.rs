//! A layer that is an unpacked directory.
//!
//! Whiteouts are read in every form that is met on disks: the character device 0:0, the tar's `.wh.` names (older
//! rootless tools), and empty files marked `overlay.whiteout` in a directory marked `opaque=x` (kernel 6.7).
//! What is mounted inside the directory does not belong to the layer: where the kernel lets us, the layer is read
//! through a detached copy of its one mount; elsewhere a mounted directory shows as an empty one.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::marks::{MarkSpace, Marks};
use super::whiteout::{self, Marker};
use super::{Content, Found, Layer, LayerEntry, LayerNode, Portion, Space};
use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result};
use crate::sys::{self, XattrOf};
use crate::upper::partial::mark;

/// Directories of one layer kept open, so that a name costs one system call and not a walk.
const OPEN_DIRECTORIES_MAX: usize = 256;

/// So many missing names are looked for as `.wh.` names one by one; then the directory is listed once, and most have
/// none.
const MISSES_BEFORE_LISTING: u32 = 8;

/// A directory of a layer, open, and what is known of it.
struct OpenDir {
    fd: OwnedFd,
    misses: AtomicU32,
    holds_markers: OnceLock<bool>,
}

impl OpenDir {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            misses: AtomicU32::new(0),
            holds_markers: OnceLock::new(),
        }
    }

    /// Whether any entry is a marker of the tar's form.
    fn holds_markers(&self) -> Result<bool> {
        if let Some(known) = self.holds_markers.get() {
            return Ok(*known);
        }
        let open = sys::open_at(&self.fd, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY);
        let entries = sys::list(open.doing("open directory of layer")?).doing("list directory of layer")?;
        let found = entries
            .iter()
            .any(|entry| whiteout::parse_tar_name(&entry.name).is_some());
        Ok(*self.holds_markers.get_or_init(|| found))
    }
}

impl AsFd for OpenDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a directory is to be read.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryKind {
    /// Which extended attributes are marks.
    pub space: MarkSpace,
    /// No layer lies below this one.
    pub bottom: bool,
    /// `.wh.` names are markers.
    pub tar_names: bool,
    /// How many of its directories may be kept open.
    pub open_directories: usize,
}

/// An unpacked directory as a layer.
pub struct DirectoryLayer {
    path: PathBuf,
    root: Arc<OpenDir>,
    root_attr: Attr,
    space: MarkSpace,
    /// Whether anything lies below: the bottom layer's whiteouts hide nothing, so they are not looked for.
    bottom: bool,
    /// Whether `.wh.` names are markers, as in layers of old rootless tools, or names like any other.
    tar_names: bool,
    open_dirs: Mutex<LruCache<Arc<OsStr>, Arc<OpenDir>>>,
    links: OnceLock<LinkTable>,
}

/// Files with several names: by device and inode number, then every place.
type LinkTable = std::collections::HashMap<(u64, u64), Vec<LayerNode>>;

impl DirectoryLayer {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// When it cannot be opened or is no directory.
    pub fn open(path: &Path, kind: DirectoryKind) -> std::result::Result<Self, Errno> {
        let root = sys::mount::open_detached(path)?;
        if !sys::mount::protect(&root) {
            tracing::debug!(path = %path.display(), "layer is opened without a read-only mount of its own");
        }
        let root_attr = sys::stat_fd(&root)?;
        if !root_attr.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let open_dirs = kind.open_directories.clamp(1, OPEN_DIRECTORIES_MAX);
        let capacity = NonZeroUsize::new(open_dirs).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            path: path.to_path_buf(),
            root: Arc::new(OpenDir::new(root)),
            root_attr,
            space: kind.space,
            bottom: kind.bottom,
            tar_names: kind.tar_names && !kind.bottom,
            open_dirs: Mutex::new(LruCache::new(capacity)),
            links: OnceLock::new(),
        })
    }

    /// An `O_PATH` descriptor of a directory.
    fn dir(&self, path: &OsStr) -> Result<Arc<OpenDir>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(dir) = self.open_dirs.lock().get(path) {
            return Ok(Arc::clone(dir));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = sys::open_beneath(&*self.root, path, flags).doing("open directory of layer")?;
        let dir = Arc::new(OpenDir::new(fd));
        self.open_dirs.lock().put(Arc::from(path), Arc::clone(&dir));
        Ok(dir)
    }

    /// The directory that holds `node`, and its name there. The root has none.
    fn place<'a>(&self, node: &'a LayerNode) -> Result<Option<(Arc<OpenDir>, &'a OsStr)>> {
        let path = path_of(node)?;
        if path.is_empty() {
            return Ok(None);
        }
        let bytes = path.as_bytes();
        let (dir, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
            None => (&[][..], bytes),
        };
        Ok(Some((self.dir(OsStr::from_bytes(dir))?, OsStr::from_bytes(name))))
    }

    /// Runs `act` on the way to name `node` in an extended attribute call.
    fn with_xattr_of<T>(&self, node: &LayerNode, act: impl Fn(XattrOf<'_>) -> Result<T>) -> Result<T> {
        match self.place(node)? {
            Some((dir, name)) => act(XattrOf::Entry(dir.as_fd(), name)),
            None => act(XattrOf::Fd(self.root.as_fd())),
        }
    }

    /// Whether an empty regular file is a whiteout by mark.
    fn is_marked_whiteout(&self, dir: &OpenDir, name: &OsStr, attr: &Attr) -> Result<bool> {
        if self.bottom || attr.file_type() != FileType::Regular || attr.size_bytes != 0 {
            return Ok(false);
        }
        let mark = self.space.name("whiteout");
        Ok(sys::xattr(XattrOf::Entry(dir.as_fd(), name), &mark)
            .doing("read whiteout mark")?
            .is_some())
    }

    fn has_tar_whiteout(&self, dir: &OpenDir, name: &OsStr) -> Result<bool> {
        if !self.tar_names || name.len() + whiteout::PREFIX.len() > 255 {
            return Ok(false);
        }
        if dir.misses.fetch_add(1, Ordering::Relaxed) >= MISSES_BEFORE_LISTING && !dir.holds_markers()? {
            return Ok(false);
        }
        match sys::stat_at(dir, &whiteout::tar_name(name)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error).doing("look for a whiteout"),
        }
    }

    fn has_opaque_file(&self, dir: &LayerNode) -> Result<bool> {
        match sys::stat_at(&*self.dir(path_of(dir)?)?, OsStr::new(whiteout::OPAQUE_NAME)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error).doing("look for an opaque marker"),
        }
    }

    /// Walks the whole layer once for files with several names.
    fn link_table(&self) -> Result<&LinkTable> {
        if let Some(table) = self.links.get() {
            return Ok(table);
        }
        let mut table = LinkTable::new();
        let mut pending = vec![self.root()];
        while let Some(dir) = pending.pop() {
            let path = path_of(&dir)?;
            let listed = self.dir(path).and_then(|fd| Ok((fd, self.read_dir(&dir)?)));
            let (fd, entries) = match listed {
                Ok(listed) => listed,
                // A name that nobody here can reach needs no link (rootless).
                Err(error) => {
                    tracing::debug!(dir = %path.display(), %error, "hard links are not looked for here");
                    continue;
                }
            };
            for entry in entries {
                match entry.file_type {
                    None => {}
                    Some(FileType::Directory) => pending.push(child(path, &entry.name)),
                    Some(_) => {
                        let attr = sys::stat_at(&fd, &entry.name).doing("look for hard links")?;
                        if attr.nlink > 1 {
                            table
                                .entry((attr.dev, attr.ino))
                                .or_default()
                                .push(child(path, &entry.name));
                        }
                    }
                }
            }
        }
        Ok(self.links.get_or_init(|| table))
    }

    /// A directory that something else is mounted on is empty as far as this layer goes.
    fn is_foreign(&self, attr: &Attr) -> bool {
        attr.mount_root && attr.is_dir()
    }
}

impl Layer for DirectoryLayer {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn root_attr(&self) -> Result<Attr> {
        Ok(self.root_attr)
    }

    fn lookup(&self, dir: &LayerNode, name: &OsStr) -> Result<Found> {
        let path = path_of(dir)?;
        let fd = self.dir(path)?;
        let attr = match sys::stat_at(&fd, name) {
            Ok(attr) => attr,
            Err(Errno::NOENT) if self.has_tar_whiteout(&fd, name)? => return Ok(Found::Whiteout),
            Err(Errno::NOENT) => return Ok(Found::Absent),
            Err(error) => return Err(error).doing("look up in layer"),
        };
        // A marker of the tar's form is never a file of its own.
        if self.tar_names && whiteout::parse_tar_name(name).is_some() {
            return Ok(Found::Absent);
        }
        if whiteout::is_device(attr.mode, attr.rdev) || self.is_marked_whiteout(&fd, name, &attr)? {
            return Ok(Found::Whiteout);
        }
        Ok(Found::Entry(child(path, name), attr))
    }

    fn read_dir(&self, dir: &LayerNode) -> Result<Vec<LayerEntry>> {
        let path = path_of(dir)?;
        let fd = self.dir(path)?;
        if !path.is_empty() && self.is_foreign(&sys::stat_fd(&fd).doing("read directory of layer")?) {
            return Ok(Vec::new());
        }
        let open = sys::open_at(&fd, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY);
        let raw = sys::list(open.doing("open directory of layer")?).doing("list directory of layer")?;
        let marked = self.may_hold_marked_whiteouts(dir)?;
        let mut entries = Vec::with_capacity(raw.len());
        let mut gone = Vec::new();
        for sys::RawEntry { name, file_type } in raw {
            if self.tar_names {
                match whiteout::parse_tar_name(&name) {
                    Some(Marker::Whiteout(hidden)) => {
                        gone.push(LayerEntry {
                            name: hidden.to_os_string(),
                            file_type: None,
                        });
                        continue;
                    }
                    Some(_) => continue,
                    None => {}
                }
            }
            let certain = match file_type {
                Some(FileType::CharDevice) | None => false,
                Some(FileType::Regular) => !marked,
                Some(_) => true,
            };
            let file_type = if certain {
                file_type
            } else {
                self.true_type(&fd, &name)?
            };
            entries.push(LayerEntry { name, file_type });
        }
        // `.wh.x` beside `x` hides the layers below, not `x` itself.
        gone.retain(|hidden| entries.iter().all(|entry| entry.name != hidden.name));
        entries.append(&mut gone);
        Ok(entries)
    }

    fn attr(&self, node: &LayerNode) -> Result<Attr> {
        match self.place(node)? {
            Some((dir, name)) => sys::stat_at(&dir, name).doing("read attributes in layer"),
            None => Ok(self.root_attr),
        }
    }

    fn read_link(&self, node: &LayerNode) -> Result<OsString> {
        let (dir, name) = self
            .place(node)?
            .ok_or(Error::Invalid("the root is no symbolic link"))?;
        sys::read_link_at(&dir, name).doing("read symbolic link in layer")
    }

    fn xattr(&self, node: &LayerNode, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.with_xattr_of(node, |of| {
            sys::xattr(of, name).doing("read extended attribute in layer")
        })
    }

    fn xattr_names(&self, node: &LayerNode) -> Result<Vec<OsString>> {
        self.with_xattr_of(node, |of| {
            sys::xattr_names(of).doing("list extended attributes in layer")
        })
    }

    fn marks(&self, node: &LayerNode, attr: &Attr) -> Result<Marks> {
        if self.bottom || !matches!(attr.file_type(), FileType::Directory | FileType::Regular) {
            return Ok(Marks::default());
        }
        let names = self.xattr_names(node)?;
        let mut marks = self
            .space
            .marks(attr.is_dir(), &names, |name| self.xattr(node, name))?;
        marks.opaque |= self.tar_names && attr.is_dir() && self.has_opaque_file(node)?;
        Ok(marks)
    }

    fn content(&self, node: &LayerNode) -> Result<Content> {
        let (dir, name) = self.place(node)?.ok_or(Error::IsDirectory)?;
        sys::open_at(&dir, name, OFlags::RDONLY)
            .map(Content::File)
            .doing("open file of layer")
    }

    fn portion(&self, node: &LayerNode) -> Result<Portion> {
        let (dir, name) = self.place(node)?.ok_or(Error::IsDirectory)?;
        let named = sys::name_at(&dir, name).doing("open file of layer")?;
        let marks = sys::xattr_names(XattrOf::Fd(named.as_fd())).doing("list marks in layer")?;
        let has = |mark| marks.contains(&self.space.name(mark));
        let open = || sys::reopen(&named, OFlags::RDONLY).doing("open file of layer");
        Ok(match (has("metacopy"), has(mark::NAME)) {
            (false, _) => Portion::Everything(open()?),
            (true, true) => Portion::Blocks(open()?, self.space),
            (true, false) => Portion::Nothing,
        })
    }

    fn space(&self) -> Result<Space> {
        sys::space(&self.root).doing("read space of layer")
    }

    fn hard_links(&self, node: &LayerNode, attr: &Attr) -> Result<Vec<LayerNode>> {
        let places = self
            .link_table()?
            .get(&(attr.dev, attr.ino))
            .cloned()
            .unwrap_or_default();
        // A table made while the layer's own tree hides a name must still answer for the one that was asked.
        Ok(if places.contains(node) {
            places
        } else {
            vec![node.clone()]
        })
    }

    fn path(&self, node: &LayerNode) -> Result<Arc<OsStr>> {
        path_of(node).cloned()
    }
}

/// The path of a place in a directory. A place in an index is none here.
fn path_of(node: &LayerNode) -> Result<&Arc<OsStr>> {
    match node {
        LayerNode::Path(path) => Ok(path),
        LayerNode::Entry(_) => Err(Error::Damaged("a place of another layer")),
    }
}

/// The place of `name` in the directory `dir`.
fn child(dir: &OsStr, name: &OsStr) -> LayerNode {
    if dir.is_empty() {
        return LayerNode::at(name);
    }
    let mut path = OsString::with_capacity(dir.len() + 1 + name.len());
    path.push(dir);
    path.push("/");
    path.push(name);
    LayerNode::at(&path)
}

impl DirectoryLayer {
    fn may_hold_marked_whiteouts(&self, dir: &LayerNode) -> Result<bool> {
        if self.bottom {
            return Ok(false);
        }
        Ok(self
            .xattr(dir, &self.space.name("opaque"))?
            .is_some_and(|value| value == b"x"))
    }

    /// The type of an entry that the listing left open; `None` for a whiteout.
    fn true_type(&self, dir: &OpenDir, name: &OsStr) -> Result<Option<FileType>> {
        let attr = match sys::stat_at(dir, name) {
            Ok(attr) => attr,
            Err(error) => return Err(error).doing("read attributes in layer"),
        };
        let gone = whiteout::is_device(attr.mode, attr.rdev) || self.is_marked_whiteout(dir, name, &attr)?;
        Ok((!gone).then(|| attr.file_type()))
    }
}
