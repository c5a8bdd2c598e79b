//! A layer, or several merged, by its index: nothing was unpacked.
//!
//! ```text
//! lookup, listing, attributes ──► index (mapped)
//! content ──► pack of a layer        small: a few bytes of one file, verified by their sum
//!        ├──► object                 larger: a file of its own, opened and perhaps passed through
//!        └──► stream of an archive   wherever the archive lies (see `stream`)
//! ```
//!
//! A place is a name of the index. Numbers are made of the layer a file comes from and its number in that layer's own
//! index, so they are the same whether layers are merged or not, and they lead back to the file.
//!
//! Failures: what is damaged or missing in the repository is an error that is logged with its path; nothing is ever
//! shown in its place. Objects are compared by length when they are opened; their bytes are `shale system check`'s
//! business, since the kernel reads them without us.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;
use rustix::io::Errno;
use twox_hash::XxHash3_64;

use super::marks::Marks;
use super::{Content, Found, Layer, LayerEntry, LayerNode, Space, TakeEntry};
use crate::attr::{Attr, FileType};
use crate::cache::PageCache;
use crate::error::{Doing, Error, Result, SetupError};
use crate::idmap::Mapped;
use crate::index::{EntryId, Index, IndexError, Inode, InodeId, Kind, NO_ORIGIN, Pieces, Place};
use crate::repository::{Repository, hex};
use crate::stream::{self, ReadAt};
use crate::sys;

/// Bits of a number below the layer it is from.
const LAYER_SHIFT: u32 = 48;

/// What a directory seems to take: as on the file systems people know.
const DIRECTORY_BYTES: u64 = 4096;

/// The unit of reading that suits this layer.
const BLOCK_BYTES: u32 = 4096;

/// Packed contents are read whole, to be verified: no longer one is believed. Writers of packs stop far below.
const PACKED_BYTES_MAX: u64 = 1 << 20;

/// One or several layers of an image, or of an archive.
pub struct ImageLayer {
    path: PathBuf,
    index: Index,
    repository: Repository,
    /// The directory of objects, through a read-only mount of its own where the kernel allows it.
    objects: OwnedFd,
    /// By layer, opened when first needed.
    packs: Vec<OnceLock<Arc<File>>>,
    streams: Vec<OnceLock<Arc<dyn ReadAt>>>,
    cache: Arc<PageCache>,
    owners: Mapped,
    /// The index shows layers side by side, in directories that no layer holds. These have one more tag.
    has_own_directories: bool,
}

impl ImageLayer {
    /// Opens the index at `path`, whose contents are in `repository`. Archives are read through `cache`.
    ///
    /// # Errors
    /// When the index cannot be opened, or the repository has no directory of objects.
    pub fn open(
        path: &Path,
        repository: &Repository,
        cache: &Arc<PageCache>,
    ) -> std::result::Result<Self, SetupError> {
        let index = Index::open(path).map_err(|source| SetupError::Index { source })?;
        let folder = repository.root().join("objects");
        let objects = sys::mount::open_detached(&folder).map_err(|source| SetupError::Open {
            role: "repository",
            path: folder,
            source,
        })?;
        sys::mount::protect(&objects);
        let layers = index.layers().len();
        let root = index.inode(InodeId::ROOT);
        let root = root.map_err(|source| SetupError::Index { source })?;
        Ok(Self {
            path: path.to_path_buf(),
            index,
            repository: repository.clone(),
            objects,
            packs: (0..layers).map(|_| OnceLock::new()).collect(),
            streams: (0..layers).map(|_| OnceLock::new()).collect(),
            cache: Arc::clone(cache),
            owners: Mapped::by_this_process(),
            has_own_directories: root.origin == NO_ORIGIN,
        })
    }

    fn inode_of(&self, node: &LayerNode) -> Result<(InodeId, Inode)> {
        let LayerNode::Entry(entry) = node else {
            return Err(Error::Damaged("a place of another layer"));
        };
        let (_, found) = self.index.entry(*entry)?;
        let id = found.inode.ok_or(Error::Damaged("a whiteout is no file"))?;
        Ok((id, self.index.inode(id)?))
    }

    fn attr_of(&self, id: InodeId, inode: &Inode) -> Attr {
        let (layer, number) = match inode.origin {
            // Numbers of their own for directories that no layer holds.
            NO_ORIGIN => (self.index.layers().len() as u64, id.0),
            origin => (u64::from(inode.layer), origin),
        };
        let size_bytes = if inode.is_dir() {
            DIRECTORY_BYTES
        } else {
            inode.size_bytes
        };
        Attr {
            ino: layer << LAYER_SHIFT | u64::from(number),
            dev: 0,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: self.owners.uid(inode.uid),
            gid: self.owners.gid(inode.gid),
            rdev: inode.rdev,
            size_bytes,
            blocks: size_bytes.div_ceil(u64::from(BLOCK_BYTES)) * u64::from(BLOCK_BYTES / 512),
            block_size: BLOCK_BYTES,
            atime: inode.mtime,
            mtime: inode.mtime,
            ctime: inode.mtime,
            mount_root: false,
        }
    }

    fn pack(&self, layer: u16) -> Result<&Arc<File>> {
        let slot = self
            .packs
            .get(usize::from(layer))
            .ok_or(Error::Damaged("a content of no layer"))?;
        if let Some(pack) = slot.get() {
            return Ok(pack);
        }
        let path = self.repository.pack(&self.index.layers()[usize::from(layer)]);
        let file = File::open(&path).map_err(|error| missing(&path, &error))?;
        Ok(slot.get_or_init(|| Arc::new(file)))
    }

    fn stream(&self, layer: u16) -> Result<&Arc<dyn ReadAt>> {
        let slot = self
            .streams
            .get(usize::from(layer))
            .ok_or(Error::Damaged("a content of no layer"))?;
        if let Some(stream) = slot.get() {
            return Ok(stream);
        }
        let key = &self.index.layers()[usize::from(layer)];
        let stream = stream::open(&self.repository, key, &self.cache).map_err(|error| {
            tracing::error!(layer = hex(key), %error, "an archive cannot be read");
            Error::Damaged("an archive cannot be read")
        })?;
        Ok(slot.get_or_init(|| stream))
    }

    fn object(&self, digest: &crate::index::Sha256, size_bytes: u64) -> Result<OwnedFd> {
        let name = hex(digest);
        let path = format!("{}/{name}", &name[..2]);
        let opened = sys::open_at(
            &self.objects,
            OsStr::new(&path),
            OFlags::RDONLY | OFlags::NOFOLLOW,
        );
        let file = opened.map_err(|error| missing(&self.repository.object(digest), &error.into()))?;
        let found = sys::stat_fd(&file).doing("read attributes of object")?.size_bytes;
        if found != size_bytes {
            let path = self.repository.object(digest);
            tracing::error!(path = %path.display(), found, expected = size_bytes, "object has another length");
            return Err(Error::Damaged("an object has another length"));
        }
        Ok(file)
    }
}

/// What a layer needs is not there: told once per try, and an I/O error for the program.
fn missing(path: &Path, error: &std::io::Error) -> Error {
    tracing::error!(path = %path.display(), %error, "cannot open; run `shale system check --repair`");
    match Errno::from_io_error(error) {
        Some(source @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Error::Os {
            doing: "open content of layer",
            source,
        },
        _ => Error::Damaged("a content of the layer is missing"),
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        tracing::error!(%error, "layer cannot be read");
        Self::Damaged("an index cannot be read")
    }
}

impl Layer for ImageLayer {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn root(&self) -> LayerNode {
        LayerNode::Entry(EntryId(0))
    }

    fn root_attr(&self) -> Result<Attr> {
        Ok(self.attr_of(InodeId::ROOT, &self.index.inode(InodeId::ROOT)?))
    }

    fn lookup(&self, dir: &LayerNode, name: &OsStr) -> Result<Found> {
        let (dir, _) = self.inode_of(dir)?;
        let Some(found) = self.index.lookup(dir, name.as_bytes())? else {
            return Ok(Found::Absent);
        };
        let Some(id) = found.inode else {
            return Ok(Found::Whiteout);
        };
        let attr = self.attr_of(id, &self.index.inode(id)?);
        Ok(Found::Entry(LayerNode::Entry(found.entry), attr))
    }

    fn read_dir(&self, dir: &LayerNode) -> Result<Vec<LayerEntry>> {
        let (dir, _) = self.inode_of(dir)?;
        let entry =
            |entry: std::result::Result<(&[u8], crate::index::Found), IndexError>| -> Result<LayerEntry> {
                let (name, found) = entry?;
                Ok(LayerEntry {
                    name: OsStr::from_bytes(name).to_os_string(),
                    file_type: found.inode.map(|_| found.file_type),
                })
            };
        self.index.entries(dir)?.map(entry).collect()
    }

    fn attr(&self, node: &LayerNode) -> Result<Attr> {
        let (id, inode) = self.inode_of(node)?;
        Ok(self.attr_of(id, &inode))
    }

    fn read_link(&self, node: &LayerNode) -> Result<OsString> {
        let (id, _) = self.inode_of(node)?;
        Ok(OsString::from_vec(self.index.link_target(id)?.to_vec()))
    }

    fn xattr(&self, node: &LayerNode, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let (id, _) = self.inode_of(node)?;
        Ok(self.index.xattr(id, name.as_bytes())?.map(<[u8]>::to_vec))
    }

    fn xattr_names(&self, node: &LayerNode) -> Result<Vec<OsString>> {
        let (id, _) = self.inode_of(node)?;
        let xattrs = self.index.xattrs(id)?;
        Ok(xattrs
            .into_iter()
            .map(|(name, _)| OsStr::from_bytes(name).to_os_string())
            .collect())
    }

    fn marks(&self, node: &LayerNode, attr: &Attr) -> Result<Marks> {
        if self.index.kind() == Kind::Chain || !attr.is_dir() {
            return Ok(Marks::default());
        }
        let (_, inode) = self.inode_of(node)?;
        Ok(Marks {
            opaque: inode.opaque,
            ..Marks::default()
        })
    }

    fn content(&self, node: &LayerNode) -> Result<Content> {
        let (id, inode) = self.inode_of(node)?;
        if inode.file_type() != FileType::Regular {
            return Err(Error::Invalid("only a regular file has content"));
        }
        let size_bytes = inode.size_bytes;
        let place = match self.index.content_of(id)? {
            None => Place::Empty,
            Some(content) => match self.index.content(content)? {
                (place, size) if size == size_bytes => place,
                _ => return Err(Error::Damaged("a file and its content differ in length")),
            },
        };
        Ok(match place {
            Place::Pack { .. } if size_bytes > PACKED_BYTES_MAX => {
                return Err(Error::Damaged("a packed content is too long"));
            }
            Place::Empty => Content::Source(Arc::new(Holes { size_bytes })),
            Place::Pack {
                layer, offset, sum, ..
            } => Content::Source(Arc::new(Packed {
                pack: Arc::clone(self.pack(layer)?),
                path: self.repository.pack(&self.index.layers()[usize::from(layer)]),
                offset,
                size_bytes,
                sum,
            })),
            Place::Object { digest } => Content::File(self.object(digest, size_bytes)?),
            Place::Stream { layer, pieces } => {
                Content::Source(Arc::new(Streamed::new(self.stream(layer)?, pieces, size_bytes)))
            }
        })
    }

    fn space(&self) -> Result<Space> {
        let space = sys::space(&self.objects).doing("read space of repository")?;
        Ok(Space {
            files: u64::from(self.index.inode_count()),
            ..space
        })
    }

    fn hard_links(&self, node: &LayerNode, _attr: &Attr) -> Result<Vec<LayerNode>> {
        let (id, _) = self.inode_of(node)?;
        Ok(self.index.links(id)?.into_iter().map(LayerNode::Entry).collect())
    }

    fn path(&self, node: &LayerNode) -> Result<Arc<OsStr>> {
        let LayerNode::Entry(entry) = node else {
            return Err(Error::Damaged("a place of another layer"));
        };
        Ok(Arc::from(OsStr::from_bytes(&self.index.path(*entry)?)))
    }

    fn number_tags(&self) -> Option<u64> {
        Some(self.index.layers().len() as u64 + u64::from(self.has_own_directories))
    }

    fn hides_all_below(&self) -> Result<bool> {
        Ok(self.index.kind() != Kind::Chain && self.index.inode(InodeId::ROOT)?.opaque)
    }

    fn by_number(&self, ino: u64) -> Result<Option<LayerNode>> {
        let (layer, number) = (ino >> LAYER_SHIFT, ino & ((1 << LAYER_SHIFT) - 1));
        let Ok(number) = u32::try_from(number) else {
            return Ok(None);
        };
        let id = if self.has_own_directories && layer == self.index.layers().len() as u64 {
            (number < self.index.inode_count()).then_some(InodeId(number))
        } else {
            match u16::try_from(layer) {
                Ok(layer) => self.index.by_origin(layer, number)?,
                Err(_) => None,
            }
        };
        match id {
            Some(id) => Ok(Some(LayerNode::Entry(self.index.inode(id)?.entry))),
            None => Ok(None),
        }
    }

    fn parent(&self, node: &LayerNode) -> Result<Option<(LayerNode, OsString)>> {
        let LayerNode::Entry(entry) = node else {
            return Err(Error::Damaged("a place of another layer"));
        };
        if *entry == EntryId(0) {
            return Ok(None);
        }
        let (name, _) = self.index.entry(*entry)?;
        let dir = self.index.inode(self.index.parent(*entry)?)?;
        Ok(Some((
            LayerNode::Entry(dir.entry),
            OsStr::from_bytes(name).to_os_string(),
        )))
    }

    fn list_after(&self, dir: &LayerNode, after: u64, take: &mut TakeEntry<'_>) -> Result<()> {
        let (dir, _) = self.inode_of(dir)?;
        let entries = match u32::try_from(after) {
            Ok(0) => self.index.entries(dir)?,
            Ok(after) => self.index.entries_after(dir, EntryId(after))?,
            Err(_) => return Ok(()),
        };
        for entry in entries {
            let (name, found) = entry?;
            let Some(id) = found.inode else { continue };
            let attr = self.attr_of(id, &self.index.inode(id)?);
            let position = u64::from(found.entry.0);
            if !take(
                OsStr::from_bytes(name),
                position,
                LayerNode::Entry(found.entry),
                attr,
            ) {
                break;
            }
        }
        Ok(())
    }

    fn provenance(&self, node: &LayerNode) -> Result<Option<String>> {
        let (_, inode) = self.inode_of(node)?;
        if inode.origin == NO_ORIGIN {
            return Ok(None);
        }
        let layer = self.index.layers().get(usize::from(inode.layer));
        Ok(layer.and_then(|key| self.repository.layer_digest(key)))
    }
}

/// A file without data.
struct Holes {
    size_bytes: u64,
}

impl ReadAt for Holes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let length = within(buffer.len(), offset, self.size_bytes);
        buffer[..length].fill(0);
        Ok(length)
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// How much of a read of `length` bytes at `offset` lies in a content.
fn within(length: usize, offset: u64, size_bytes: u64) -> usize {
    let left = size_bytes.saturating_sub(offset);
    usize::try_from(left).map_or(length, |left| left.min(length))
}

/// A content in a pack.
struct Packed {
    pack: Arc<File>,
    /// For messages.
    path: PathBuf,
    offset: u64,
    size_bytes: u64,
    sum: u64,
}

impl Packed {
    /// Reads all of it, and verifies it.
    fn read_whole(&self, buffer: &mut [u8]) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        let problem = match self.pack.read_exact_at(buffer, self.offset) {
            Ok(()) if XxHash3_64::oneshot(buffer) == self.sum => return Ok(()),
            Ok(()) => "another sum".to_owned(),
            Err(error) => error.to_string(),
        };
        let (path, offset) = (&self.path, self.offset);
        tracing::error!(
            path = %path.display(),
            offset,
            problem,
            "a pack is damaged; run `shale system check --repair`"
        );
        Err(std::io::Error::from_raw_os_error(libc::EIO))
    }
}

impl ReadAt for Packed {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let length = within(buffer.len(), offset, self.size_bytes);
        if length == 0 {
            return Ok(0);
        }
        if offset == 0 && length as u64 == self.size_bytes {
            self.read_whole(&mut buffer[..length])?;
            return Ok(length);
        }
        // A part cannot be verified alone.
        let too_long = |_| std::io::Error::from_raw_os_error(libc::EIO);
        let mut whole = vec![0; usize::try_from(self.size_bytes).map_err(too_long)?];
        self.read_whole(&mut whole)?;
        let start = usize::try_from(offset).map_err(too_long)?;
        buffer[..length].copy_from_slice(&whole[start..start + length]);
        Ok(length)
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// A content in the stream of an archive's layer.
struct Streamed {
    stream: Arc<dyn ReadAt>,
    pieces: Vec<crate::index::Piece>,
    size_bytes: u64,
}

impl Streamed {
    fn new(stream: &Arc<dyn ReadAt>, pieces: Pieces<'_>, size_bytes: u64) -> Self {
        Self {
            stream: Arc::clone(stream),
            pieces: pieces.collect(),
            size_bytes,
        }
    }
}

impl ReadAt for Streamed {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let length = within(buffer.len(), offset, self.size_bytes);
        let buffer = &mut buffer[..length];
        let mut filled = 0;
        let mut next = self
            .pieces
            .partition_point(|piece| piece.at.saturating_add(piece.length) <= offset);
        while filled < length {
            let at = offset + filled as u64;
            let rest = &mut buffer[filled..];
            let Some(piece) = self.pieces.get(next) else {
                rest.fill(0);
                break;
            };
            if at < piece.at {
                let hole = within(rest.len(), at, piece.at);
                rest[..hole].fill(0);
                filled += hole;
                continue;
            }
            let skip = at - piece.at;
            let part = within(rest.len(), skip, piece.length);
            if part > 0 && self.stream.read_at(&mut rest[..part], piece.from + skip)? < part {
                tracing::error!("an archive's layer is shorter than its index says");
                return Err(std::io::Error::from_raw_os_error(libc::EIO));
            }
            filled += part;
            next += 1;
        }
        Ok(length)
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Piece;

    struct Bytes(Vec<u8>);

    impl ReadAt for Bytes {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            let length = within(buffer.len(), offset, self.0.len() as u64);
            let start = usize::try_from(offset).unwrap();
            buffer[..length].copy_from_slice(&self.0[start..start + length]);
            Ok(length)
        }

        fn size_bytes(&self) -> u64 {
            self.0.len() as u64
        }
    }

    #[test]
    fn pieces_and_holes_read_as_one_file_from_anywhere() {
        let stream: Vec<u8> = (0..100).collect();
        let pieces = [(2, 10, 3), (5, 50, 2), (9, 0, 1)];
        let pieces = pieces.map(|(at, from, length)| Piece { at, from, length });
        let mut expected = [0u8; 12];
        for piece in pieces {
            for n in 0..piece.length {
                expected[(piece.at + n) as usize] = (piece.from + n) as u8;
            }
        }
        let file = Streamed {
            stream: Arc::new(Bytes(stream)),
            pieces: pieces.to_vec(),
            size_bytes: 12,
        };
        for start in 0..14usize {
            for length in 0..14usize {
                let mut buffer = vec![0xff; length];
                let read = file.read_at(&mut buffer, start as u64).unwrap();
                let wanted = &expected[start.min(12)..(start + length).min(12)];
                assert_eq!(&buffer[..read], wanted, "{start} {length}");
            }
        }
    }

    #[test]
    fn a_damaged_pack_gives_an_error_and_no_bytes() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"....some content....").unwrap();
        let mut packed = Packed {
            pack: Arc::new(file),
            path: PathBuf::from("pack"),
            offset: 4,
            size_bytes: 12,
            sum: XxHash3_64::oneshot(b"some content"),
        };
        let mut buffer = [0; 7];
        assert_eq!(packed.read_at(&mut buffer, 5).unwrap(), 7);
        assert_eq!(&buffer, b"content");
        assert_eq!(packed.read_at(&mut [0; 64], 12).unwrap(), 0);
        packed.sum ^= 1;
        assert!(packed.read_at(&mut buffer, 5).is_err());
        assert!(packed.read_at(&mut [0; 64], 0).is_err());
    }
}
