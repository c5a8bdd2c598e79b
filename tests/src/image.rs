//! Lower directories as the layers of an image: each becomes an index with its pack and objects, and what lies below an
//! upper is one merged index, so that every suite also runs on a container's root.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;
use ufs::attr::{FileType, Time};
use ufs::index::build::{Meta, Stored, Tree};
use ufs::index::{ContentId, Index, Kind, merge};
use ufs::repository::{Repository, hex};

use crate::posix;

/// Larger contents become objects.
const PACK_BYTES_MAX: usize = 8 << 10;

/// How the layers of an image are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All in one index.
    Merged,
    /// Each its own index.
    Stacked,
}

/// Makes a repository at `root` of these directories, top first, and gives the value of `lowerdir` that names them.
pub fn lowerdir_of(lowers: &[PathBuf], root: &Path, form: Form) -> io::Result<String> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(root.join("objects"))?;
    fs::create_dir_all(root.join("chains"))?;
    let repository = Repository::at(root);
    let mut names = Vec::new();
    let mut layers = Vec::new();
    for lower in lowers {
        let layer: [u8; 32] = Sha256::digest(lower.as_os_str().as_bytes()).into();
        write_layer(lower, &repository, &layer)?;
        names.push(format!("@layers/{}/index", hex(&layer)));
        layers.push(Index::open(&repository.index(&layer)).map_err(io::Error::other)?);
    }
    if form == Form::Stacked {
        return Ok(names.join(":"));
    }
    let bottom_first: Vec<&Index> = layers.iter().rev().collect();
    let merged = merge::merge(&bottom_first, Kind::Chain).map_err(io::Error::other)?;
    merged.write(&mut File::create(root.join("chains/all"))?)?;
    Ok("@chains/all".to_owned())
}

fn write_layer(lower: &Path, repository: &Repository, layer: &[u8; 32]) -> io::Result<()> {
    fs::create_dir_all(repository.layer(layer))?;
    let mut writer = LayerWriter {
        repository,
        tree: Tree::new(),
        pack: File::create(repository.pack(layer))?,
        pack_bytes: 0,
        names: HashMap::new(),
    };
    writer.directory(lower, b"")?;
    let mut index = File::create(repository.index(layer))?;
    writer
        .tree
        .finish()
        .map_err(io::Error::other)?
        .write(layer, &mut index)
}

struct LayerWriter<'a> {
    repository: &'a Repository,
    tree: Tree,
    pack: File,
    pack_bytes: u64,
    /// Files with several names, by device and number: the first name.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl LayerWriter<'_> {
    fn directory(&mut self, from: &Path, path: &[u8]) -> io::Result<()> {
        let (meta, marks) = meta_of(from)?;
        self.tree.directory(path, meta).map_err(io::Error::other)?;
        if marks.opaque {
            self.tree.opaque(path).map_err(io::Error::other)?;
        }
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            match name.as_bytes().strip_prefix(b".wh.") {
                Some(b".wh..opq") => self.tree.opaque(path).map_err(io::Error::other)?,
                Some(hidden) => {
                    below.extend(hidden);
                    self.tree.whiteout(&below).map_err(io::Error::other)?;
                }
                None => {
                    below.extend(name.as_bytes());
                    self.entry(&entry.path(), &below)?;
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, path: &[u8]) -> io::Result<()> {
        let metadata = from.symlink_metadata()?;
        let file_type = metadata.file_type();
        if file_type.is_dir() {
            return self.directory(from, path);
        }
        let (meta, marks) = meta_of(from)?;
        if marks.whiteout || file_type.is_char_device() && metadata.rdev() == 0 {
            return self.tree.whiteout(path).map_err(io::Error::other);
        }
        if metadata.nlink() > 1 {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.names.get(&key) {
                return self.tree.hard_link(path, first).map_err(io::Error::other);
            }
            self.names.insert(key, path.to_vec());
        }
        let added = if file_type.is_file() {
            let content = self.content(from)?;
            self.tree.file(path, meta, metadata.len(), content)
        } else if file_type.is_symlink() {
            let target = fs::read_link(from)?;
            self.tree.symlink(path, meta, target.as_os_str().as_bytes())
        } else {
            self.tree
                .special(path, meta, FileType::from_mode(metadata.mode()), metadata.rdev())
        };
        added.map_err(io::Error::other)
    }

    fn content(&mut self, from: &Path) -> io::Result<Option<ContentId>> {
        let bytes = fs::read(from)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        let size_bytes = bytes.len() as u64;
        if let Some(known) = self.tree.known(&digest) {
            return Ok(Some(known));
        }
        let stored = if bytes.len() > PACK_BYTES_MAX {
            let path = self.repository.object(&digest);
            fs::create_dir_all(path.parent().expect("objects lie in a directory"))?;
            write_sparse(&path, &bytes)?;
            Stored::Object { digest }
        } else {
            self.pack.write_all(&bytes)?;
            let offset = self.pack_bytes;
            self.pack_bytes += size_bytes;
            let sum = XxHash3_64::oneshot(&bytes);
            Stored::Pack { offset, sum, digest }
        };
        Ok(Some(self.tree.add_content(stored, size_bytes)))
    }
}

/// Leaves holes where whole blocks are zeros.
fn write_sparse(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, number as u64 * 4096)?;
        }
    }
    Ok(())
}

/// What overlayfs notes in attributes and an index says otherwise.
#[derive(Default)]
struct Marks {
    opaque: bool,
    whiteout: bool,
}

fn meta_of(from: &Path) -> io::Result<(Meta, Marks)> {
    let metadata: Metadata = from.symlink_metadata()?;
    let mut marks = Marks::default();
    let mut xattrs = Vec::new();
    for name in posix::list_xattrs(from)? {
        let value = posix::get_xattr(from, &name)?;
        match name.as_bytes() {
            b"trusted.overlay.opaque" => marks.opaque = value == b"y",
            b"trusted.overlay.whiteout" => marks.whiteout = true,
            b"trusted.overlay.redirect" | b"trusted.overlay.metacopy" => {
                let what = format!(
                    "{} of {} has no place in an image",
                    name.display(),
                    from.display()
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
            own if own.starts_with(b"trusted.overlay.") => {}
            own => xattrs.push((own.to_vec(), value)),
        }
    }
    let meta = Meta {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Time {
            secs: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        xattrs,
    };
    Ok((meta, marks))
}
