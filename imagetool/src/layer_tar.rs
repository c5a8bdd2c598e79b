//! A snapshot's changes as a layer's tar stream.
//!
//! Sorted by path, so the same changes give the same bytes. A removed name becomes an empty `.wh.NAME`; further names of
//! a file become hard links to its first one; a file with holes is written in pax's sparse form where that saves
//! something; sockets, which tar cannot hold, are left out. Directories that are only told because of what lies below
//! are written too: without them the layer would hide their owner and mode.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use ufs::attr::FileType;
use ufs::diff::{Change, Node, Snapshot};
use ufs::layer::{Content, whiteout};

use crate::archive::member::{Kind, Member};
use crate::archive::write::{Writer, file_entry};
use crate::error::ImageError;

/// Holes smaller than this altogether are written out: readers of plain files are everywhere.
const HOLES_MIN_BYTES: u64 = 64 << 10;
/// How often a file that changes while it is read is read again.
const TRIES: u32 = 5;

/// Whether somebody may be writing to the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files<'a> {
    /// Nobody: contents are streamed.
    AtRest,
    /// A running container: each file is copied into this folder, without a name, until a copy was made with no change
    /// in between.
    InUse(&'a Path),
}

/// Writes changes as a tar stream, end marker included.
pub fn write_changes(
    snapshot: &Snapshot,
    changes: &[Change],
    files: Files<'_>,
    out: impl Write,
) -> Result<(), ImageError> {
    let mut writer = Writer::new(out);
    // inode → the name it was written under
    let mut written: HashMap<u64, Vec<u8>> = HashMap::new();
    for change in changes {
        let path = change.path.as_os_str().as_bytes();
        let shown = || format!("/{}", change.path.display());
        let Some(node) = &change.node else {
            let entry = whiteout_entry(change).ok_or_else(|| {
                ImageError::Invalid(format!("{}: the root directory cannot be removed", shown()))
            })?;
            writer
                .member(&entry, &mut io::empty())
                .map_err(ImageError::io("write the removal of", shown()))?;
            continue;
        };
        if change
            .path
            .file_name()
            .and_then(whiteout::parse_tar_name)
            .is_some()
        {
            tracing::warn!(
                "{}: left out, since the name would delete a file of the layers below",
                shown()
            );
            continue;
        }
        let Some(mut member) = member(path, node) else {
            tracing::debug!("socket left out: {}", shown());
            continue;
        };
        if node.nlink > 1 && node.file_type != FileType::Directory {
            if let Some(first) = written.get(&node.ino) {
                member.kind = Kind::HardLink;
                member.link.clone_from(first);
                member.size_bytes = 0;
                member.xattrs.clear();
                writer
                    .member(&member, &mut io::empty())
                    .map_err(ImageError::io("write", shown()))?;
                continue;
            }
            written.insert(node.ino, path.to_vec());
        }
        if node.file_type != FileType::Regular {
            writer
                .member(&member, &mut io::empty())
                .map_err(ImageError::io("write", shown()))?;
            continue;
        }
        let file = snapshot
            .open_content(change)
            .map_err(|error| ImageError::Changes(Box::new(error)))?;
        let file = match (files, file) {
            (_, Content::Source(source)) => {
                let mut reader = Content::Source(source).into_reader();
                writer
                    .member(&member, &mut reader)
                    .map_err(ImageError::io("write", shown()))?;
                continue;
            }
            (Files::AtRest, Content::File(file)) => file.into(),
            (Files::InUse(folder), Content::File(file)) => {
                consistent_copy(file.into(), folder).map_err(ImageError::io("copy", shown()))?
            }
        };
        write_file(&mut writer, member, file).map_err(ImageError::io("write", shown()))?;
    }
    writer
        .finish()
        .and_then(|mut out| out.flush())
        .map_err(ImageError::io("write", "the layer"))
}

/// The marker that says that a path is gone.
fn whiteout_entry(change: &Change) -> Option<Member> {
    let marker = whiteout::tar_name(change.path.file_name()?);
    let path = change.path.with_file_name(marker);
    let mut entry = file_entry("", 0);
    entry.path = path.as_os_str().as_bytes().to_vec();
    entry.mode = 0;
    Some(entry)
}

/// A member for a file; `None` for a socket.
fn member(path: &[u8], node: &Node) -> Option<Member> {
    let kind = match node.file_type {
        FileType::Regular => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => return None,
    };
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    // labels of the host's security module mean nothing elsewhere
    let kept = node.xattrs.iter().filter(|(name, _)| name != "security.selinux");
    Some(Member {
        path: if path.is_empty() {
            b".".to_vec()
        } else {
            path.to_vec()
        },
        link: node
            .link_target
            .as_ref()
            .map(|link| link.as_bytes().to_vec())
            .unwrap_or_default(),
        kind,
        mode: node.mode,
        uid: u64::from(node.uid),
        gid: u64::from(node.gid),
        mtime: node.mtime,
        size_bytes: if kind == Kind::Regular { node.size_bytes } else { 0 },
        device: if is_device {
            (libc::major(node.rdev), libc::minor(node.rdev))
        } else {
            (0, 0)
        },
        xattrs: kept
            .map(|(name, value)| (name.as_bytes().to_vec(), value.clone()))
            .collect(),
        segments: None,
    })
}

/// Writes a regular file, with its holes where they are worth it.
fn write_file<W: Write>(writer: &mut Writer<W>, mut member: Member, mut file: File) -> io::Result<()> {
    member.size_bytes = file.metadata()?.len();
    let segments = segments(&file, member.size_bytes)?;
    let stored: u64 = segments.iter().map(|(_, length)| length).sum();
    if member.size_bytes - stored < HOLES_MIN_BYTES {
        file.seek(SeekFrom::Start(0))?;
        return writer.member(&member, &mut file);
    }
    let mut pieces = Pieces {
        file,
        segments: segments.clone(),
        at: 0,
        left: 0,
    };
    member.segments = Some(segments);
    writer.member(&member, &mut pieces)
}

/// Where a file has data, in whole blocks but for the file's end; all of it where the file system cannot tell.
fn segments(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut segments = Vec::new();
    let mut at = 0i64;
    let end = i64::try_from(size).unwrap_or(i64::MAX);
    while at < end {
        let data = match lseek64(file, at, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) if at == 0 => return Ok(vec![(0, size)]),
            Err(error) => return Err(error.into()),
        };
        let hole = lseek64(file, data, Whence::SeekHole)?.min(end);
        if hole <= data {
            break;
        }
        if data % 512 != 0 || (hole % 512 != 0 && hole < end) {
            return Ok(vec![(0, size)]); // such pieces do not mean the same to every reader
        }
        segments.push((data.unsigned_abs(), (hole - data).unsigned_abs()));
        at = hole;
    }
    Ok(segments)
}

/// The data of a file with holes, one piece after another.
struct Pieces {
    file: File,
    segments: Vec<(u64, u64)>,
    at: usize,
    left: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let Some((offset, length)) = self.segments.get(self.at) else {
                return Ok(0);
            };
            self.file.seek(SeekFrom::Start(*offset))?;
            self.left = *length;
            self.at += 1;
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut buffer[..wanted])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A copy that was made while the file did not change; the last one when the file never rests.
fn consistent_copy(mut file: File, folder: &Path) -> io::Result<File> {
    let stamp = |file: &File| -> io::Result<(u64, i64, i64, i64, i64)> {
        let m = file.metadata()?;
        Ok((m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
    };
    let mut copy = tempfile::tempfile_in(folder)?;
    for _ in 0..TRIES {
        let before = stamp(&file)?;
        copy.set_len(0)?;
        for (offset, length) in segments(&file, before.0)? {
            file.seek(SeekFrom::Start(offset))?;
            copy.seek(SeekFrom::Start(offset))?;
            io::copy(&mut Read::by_ref(&mut file).take(length), &mut copy)?;
        }
        copy.set_len(before.0)?;
        if stamp(&file)? == before {
            break;
        }
    }
    copy.seek(SeekFrom::Start(0))?;
    Ok(copy)
}
