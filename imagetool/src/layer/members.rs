//! What the members of a layer's archive mean for its tree. Nothing is read or written here.
//!
//! `.wh.NAME`, `.wh..wh..opq` and the device 0:0 (overlayfs' own form) are deletion markers, AUFS' own names are left
//! out, and everything else is an entry. Owners and devices are kept as the archive has them. Names that lead outside
//! the layer are refused. Specification: OCI image-spec, layer.md.

use std::os::unix::ffi::OsStrExt;

use ufs::attr::{FileType, Time};
use ufs::index::ContentId;
use ufs::index::build::{Meta, Tree};

use super::LayerError;
use super::path::{CleanPath, Role, clean, role, split};
use crate::archive::member::{Kind, Member};

/// Whether a member is a file of the layer whose content counts: a regular file that is no marker. Contents of other
/// members mean nothing.
pub fn has_content(member: &Member) -> bool {
    member.kind == Kind::Regular
        && clean(&member.path).is_some_and(|path| !path.is_empty() && role(&path) == Role::Entry)
}

/// Adds a member to the tree; `content` is the one of a regular file.
pub fn add(tree: &mut Tree, member: Member, content: Option<ContentId>) -> Result<(), LayerError> {
    let Some(path) = clean(&member.path) else {
        return Err(entry_error(&member.path, "leads outside the archive"));
    };
    match role(&path) {
        Role::Entry if member.kind == Kind::CharDevice && member.device == (0, 0) => {
            return Ok(tree.whiteout(&path)?);
        }
        Role::Entry => {}
        Role::Ignored => return Ok(()),
        Role::Refused => return Err(entry_error(&path, "is no valid name of a deletion marker")),
        Role::Opaque => return Ok(tree.opaque(split(&path).0)?),
        Role::Whiteout(name) => {
            let parent = split(&path).0;
            let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
            return Ok(tree.whiteout(&[parent, slash, name.as_bytes()].concat())?);
        }
    }
    if path.is_empty() && member.kind != Kind::Directory {
        return Err(entry_error(&path, "the root of a layer must be a directory"));
    }
    add_entry(tree, &path, member, content)
}

fn add_entry(
    tree: &mut Tree,
    path: &[u8],
    member: Member,
    content: Option<ContentId>,
) -> Result<(), LayerError> {
    if member.kind == Kind::HardLink {
        let target = link_target(path, &member)?;
        return Ok(tree.hard_link(path, &target)?);
    }
    let (kind, size_bytes) = (member.kind, member.size_bytes);
    let (link, device) = (member.link, member.device);
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let (Some(uid), Some(gid)) = (id(member.uid), id(member.gid)) else {
        let owner = format!("{}:{}", member.uid, member.gid);
        let problem = format!("has the owner {owner}, which is no valid id");
        return Err(entry_error(path, problem));
    };
    let meta = Meta {
        mode: member.mode,
        uid,
        gid,
        mtime: Time {
            secs: member.mtime.0,
            nanos: member.mtime.1,
        },
        xattrs: member.xattrs,
    };
    let special = match kind {
        Kind::Directory => return Ok(tree.directory(path, meta)?),
        Kind::Regular => return Ok(tree.file(path, meta, size_bytes, content)?),
        Kind::Symlink if link.is_empty() => {
            return Err(entry_error(path, "is a symbolic link to nothing"));
        }
        Kind::Symlink => return Ok(tree.symlink(path, meta, &link)?),
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo | Kind::HardLink => FileType::Fifo,
    };
    let rdev = if special == FileType::Fifo {
        0
    } else {
        libc::makedev(device.0, device.1)
    };
    Ok(tree.special(path, meta, special, rdev)?)
}

fn link_target(path: &[u8], member: &Member) -> Result<CleanPath, LayerError> {
    let Some(target) = clean(&member.link).filter(|target| !target.is_empty()) else {
        let target = String::from_utf8_lossy(&member.link);
        return Err(entry_error(
            path,
            format!("is a hard link to {target:?}, outside the archive"),
        ));
    };
    if role(&target) != Role::Entry {
        return Err(entry_error(path, "is a hard link to a deletion marker"));
    }
    Ok(target)
}

fn entry_error(path: &[u8], problem: impl Into<String>) -> LayerError {
    LayerError::Entry {
        path: String::from_utf8_lossy(if path.is_empty() { b"/" } else { path }).into_owned(),
        problem: problem.into(),
    }
}
