//! A snapshot's changes as the members of a layer's tar stream.
//!
//! Sorted by path, so the same changes give the same bytes. A removed name becomes an empty `.wh.NAME`; further names of
//! a file become hard links to its first one; a file with holes is written in pax's sparse form where that saves
//! something; sockets, which tar cannot hold, are left out. Directories that are only told because of what lies below
//! are written too: without them the layer would hide their owner and mode.
//!
//! ```text
//! changes ──► entries (pure) ──┬──► write_changes: one plain tar stream
//!                              └──► commit: contents by several threads, see `crate::commit`
//! ```

pub mod moment;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ufs::attr::FileType;
use ufs::diff::{Change, Node, Snapshot};
use ufs::layer::{Content, whiteout};

use self::moment::{Moment, consistent_copy, consistent_copy_of_partial};
use crate::archive::member::{Kind, Member};
use crate::archive::write::{Writer, file_entry};
use crate::error::ImageError;

/// Holes smaller than this altogether are written out: readers of plain files are everywhere.
const HOLES_MIN_BYTES: u64 = 64 << 10;

/// Whether somebody may be writing to the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files<'a> {
    /// Nobody: contents are streamed.
    AtRest,
    /// A running container: each file is copied into this folder, without a name, until a copy was made with no change
    /// in between.
    InUse(&'a Path),
}

/// One member to be written.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What it is made from.
    pub change: &'a Change,
    /// The member; of a file that is in use its size and time are not known yet.
    pub member: Member,
    /// An earlier entry that is another name of the same file.
    pub same_as: Option<usize>,
}

impl Entry<'_> {
    /// Whether it has a content that nothing before it has.
    pub fn has_content(&self) -> bool {
        self.member.kind == Kind::Regular && self.change.node.is_some() && self.same_as.is_none()
    }

    /// The path in the file system, for messages.
    pub fn shown(&self) -> String {
        shown(self.change)
    }
}

fn shown(change: &Change) -> String {
    format!("/{}", change.path.display())
}

/// The members that tell these changes, in order.
///
/// # Errors
/// When the root directory itself is said to be gone.
pub fn entries(changes: &[Change]) -> Result<Vec<Entry<'_>>, ImageError> {
    let mut entries: Vec<Entry<'_>> = Vec::with_capacity(changes.len());
    // file → its first entry
    let mut first: HashMap<u64, usize> = HashMap::new();
    for change in changes {
        let Some(node) = &change.node else {
            let member = whiteout_entry(change).ok_or_else(|| {
                ImageError::Invalid(format!("{}: the root directory cannot be removed", shown(change)))
            })?;
            entries.push(Entry {
                change,
                member,
                same_as: None,
            });
            continue;
        };
        let name = change.path.file_name();
        if name.and_then(whiteout::parse_tar_name).is_some() {
            tracing::warn!(
                "{}: left out, since the name would delete a file of the layers below",
                shown(change)
            );
            continue;
        }
        let Some(member) = member(change.path.as_os_str().as_bytes(), node) else {
            tracing::debug!("socket left out: {}", shown(change));
            continue;
        };
        let mut same_as = None;
        if node.nlink > 1 && node.file_type != FileType::Directory {
            let at = *first.entry(node.ino).or_insert(entries.len());
            same_as = (at != entries.len()).then_some(at);
        }
        entries.push(Entry {
            change,
            member,
            same_as,
        });
    }
    Ok(entries)
}

/// Under which names files were written, for their further names.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<usize, Vec<u8>>);

impl Names {
    /// Notes that the entry with this number was written, so that others may be links to it.
    pub fn written(&mut self, at: usize, entry: &Entry<'_>) {
        let is_linked = entry.change.node.as_ref().is_some_and(|node| node.nlink > 1);
        if is_linked && entry.member.kind != Kind::Directory {
            self.0
                .entry(entry.same_as.unwrap_or(at))
                .or_insert_with(|| entry.member.path.clone());
        }
    }

    /// The hard link that an entry becomes; `None` when no name of its file was written so far.
    pub fn link(&self, entry: &Entry<'_>) -> Option<Member> {
        let first = self.0.get(&entry.same_as?)?;
        Some(Member {
            kind: Kind::HardLink,
            link: first.clone(),
            size_bytes: 0,
            xattrs: Vec::new(),
            ..entry.member.clone()
        })
    }
}

/// Writes changes as a tar stream, end marker included.
///
/// # Errors
/// When a file cannot be read or the stream not written.
pub fn write_changes(
    snapshot: &Snapshot,
    changes: &[Change],
    files: Files<'_>,
    out: impl Write,
) -> Result<(), ImageError> {
    let mut writer = Writer::new(out);
    let mut names = Names::default();
    for (at, entry) in entries(changes)?.iter().enumerate() {
        let failed = |error| ImageError::io("write", entry.shown())(error);
        if let Some(link) = names.link(entry) {
            writer.member(&link, &mut io::empty()).map_err(failed)?;
            continue;
        }
        if entry.change.node.is_none() || entry.member.kind != Kind::Regular {
            writer.member(&entry.member, &mut io::empty()).map_err(failed)?;
            names.written(at, entry);
            continue;
        }
        let (file, moment) = match (open(snapshot, entry.change)?, files) {
            (None, _) => continue, // gone meanwhile
            (Some(Content::Merged(merged)), Files::InUse(folder)) => {
                consistent_copy_of_partial(&merged, folder).map_err(ImageError::io("copy", entry.shown()))?
            }
            (Some(content @ (Content::Source(_) | Content::Merged(_))), _) => {
                let mut reader = content.into_reader();
                writer.member(&entry.member, &mut reader).map_err(failed)?;
                names.written(at, entry);
                continue;
            }
            (Some(Content::File(file)), Files::AtRest) => {
                let file = std::fs::File::from(file);
                let moment = Moment::at_rest(&file).map_err(failed)?;
                (file, moment)
            }
            (Some(Content::File(file)), Files::InUse(folder)) => {
                consistent_copy(file.into(), folder).map_err(ImageError::io("copy", entry.shown()))?
            }
        };
        moment.warn(&entry.shown());
        if moment.is_same_file(entry.change) {
            names.written(at, entry);
        }
        write_file(
            &mut writer,
            moment.apply(entry.member.clone(), entry.change),
            file,
        )
        .map_err(failed)?;
    }
    writer
        .finish()
        .and_then(|mut out| out.flush())
        .map_err(ImageError::io("write", "the layer"))
}

/// Opens the content of a file; `None` when it is gone.
///
/// # Errors
/// When it is there and cannot be opened.
pub fn open(snapshot: &Snapshot, change: &Change) -> Result<Option<Content>, ImageError> {
    match snapshot.open_content(change) {
        Ok(content) => Ok(Some(content)),
        Err(ufs::error::Error::NotFound) => Ok(None),
        Err(error) => Err(ImageError::Changes(Box::new(error))),
    }
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

/// The pieces of a file to be written in the sparse form; `None` when its holes are not worth it.
pub fn worthwhile(segments: &[(u64, u64)], size_bytes: u64) -> Option<&[(u64, u64)]> {
    let stored: u64 = segments.iter().map(|(_, length)| length).sum();
    (size_bytes.saturating_sub(stored) >= HOLES_MIN_BYTES).then_some(segments)
}

/// Writes a regular file; the member says which of its parts are holes.
fn write_file<W: Write>(writer: &mut Writer<W>, member: Member, mut file: std::fs::File) -> io::Result<()> {
    let Some(segments) = member.segments.clone() else {
        file.seek(SeekFrom::Start(0))?;
        return writer.member(&member, &mut file);
    };
    let mut pieces = Pieces {
        file,
        segments,
        at: 0,
        left: 0,
    };
    writer.member(&member, &mut pieces)
}

/// The data of a file with holes, one piece after another.
struct Pieces {
    file: std::fs::File,
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
