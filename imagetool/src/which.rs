//! Where a file of an image comes from: what each layer says of its path. Pure.
//!
//! ```text
//! layer 2   etc/x  whiteout            deleted  ┐
//! layer 1   etc/   opaque, no x        opaque   ├ the first that says something decides what is shown
//! layer 0   etc/x  regular file        hidden   ┘
//! ```
//!
//! Symbolic links on the way are followed as they would be inside a container, in the merged tree; the last component
//! is not. A layer that says nothing of a path has no part in the answer.

use oci_spec::image::ImageConfiguration;
use ufs::attr::FileType;
use ufs::index::{Index, IndexError, Inode, InodeId, Place};

use crate::digest::Digest;

/// As many links are followed as the kernel does.
const LINKS_MAX: usize = 40;

/// What one layer says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// The path is here.
    Here(InodeId, Inode),
    /// This path, the one asked for or one on the way to it, is deleted.
    Deleted(Vec<u8>),
    /// This directory on the way hides what is below, and does not hold the path.
    Opaque(Vec<u8>),
    /// This path on the way is no directory here.
    Covered(Vec<u8>),
}

/// What becomes of what a layer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// This is what programs see.
    Shown,
    /// A directory whose entries are seen together with those of the one above.
    Merged,
    /// Something above hides it.
    Hidden,
    /// It is no file but a removal.
    Removal,
}

/// A layer that has something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The layer, bottom = 0.
    pub layer: usize,
    /// What it says.
    pub says: Says,
    /// What becomes of it.
    pub state: State,
}

/// What all layers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The path without links on the way, without leading slash.
    pub path: Vec<u8>,
    /// The layers that say something, top first.
    pub versions: Vec<Version>,
}

impl Answer {
    /// The layer whose file is seen.
    pub fn shown(&self) -> Option<&Version> {
        self.versions
            .first()
            .filter(|version| version.state == State::Shown)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhichError {
    /// An index is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Links lead in a circle.
    #[error("too many symbolic links on the way to {0:?}")]
    Links(String),
}

/// Asks the layers, given bottom first, for a path. Leading and doubled slashes mean nothing.
pub fn which(layers: &[&Index], path: &[u8]) -> Result<Answer, WhichError> {
    let path = without_links(layers, path)?;
    let versions = ask(layers, &path)?;
    Ok(Answer { path, versions })
}

/// What the layers say of a path without links on the way.
fn ask(layers: &[&Index], path: &[u8]) -> Result<Vec<Version>, IndexError> {
    let mut versions: Vec<Version> = Vec::new();
    let mut hidden = false;
    for (layer, index) in layers.iter().enumerate().rev() {
        let Some(says) = ask_one(index, path)? else {
            continue;
        };
        let (state, hides) = match &says {
            Says::Here(_, inode) => {
                let state = match versions.last() {
                    _ if hidden => State::Hidden,
                    None => State::Shown,
                    // what is not hidden by now lies below directories only
                    Some(_) if inode.is_dir() => State::Merged,
                    Some(_) => State::Hidden,
                };
                (state, !inode.is_dir() || inode.opaque)
            }
            _ if hidden => (State::Hidden, true),
            _ => (State::Removal, true),
        };
        versions.push(Version { layer, says, state });
        hidden |= hides;
    }
    Ok(versions)
}

/// What one layer says of a path.
fn ask_one(index: &Index, path: &[u8]) -> Result<Option<Says>, IndexError> {
    let mut dir = InodeId::ROOT;
    let mut opaque: Option<Vec<u8>> = None;
    let mut end = 0;
    if path.is_empty() {
        return Ok(Some(Says::Here(dir, index.inode(dir)?)));
    }
    loop {
        let start = end;
        end = path[start..]
            .iter()
            .position(|byte| *byte == b'/')
            .map_or(path.len(), |at| start + at);
        if index.inode(dir)?.opaque {
            opaque = Some(path[..start.saturating_sub(1)].to_vec());
        }
        let Some(found) = index.lookup(dir, &path[start..end])? else {
            return Ok(opaque.map(Says::Opaque));
        };
        let here = path[..end].to_vec();
        let Some(id) = found.inode else {
            return Ok(Some(Says::Deleted(here)));
        };
        let inode = index.inode(id)?;
        if end == path.len() {
            return Ok(Some(Says::Here(id, inode)));
        }
        if !inode.is_dir() {
            return Ok(Some(Says::Covered(here)));
        }
        dir = id;
        end += 1;
    }
}

/// The path with the links on the way followed, in the merged tree.
fn without_links(layers: &[&Index], path: &[u8]) -> Result<Vec<u8>, WhichError> {
    let mut ahead: Vec<Vec<u8>> = components(path);
    let mut clean: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(component) = ahead.pop() {
        match component.as_slice() {
            b"." => continue,
            b".." => {
                clean.pop();
                continue;
            }
            _ => clean.push(component),
        }
        if ahead.is_empty() {
            break;
        }
        let here = clean.join(&b'/');
        let versions = ask(layers, &here)?;
        let Some(Version {
            layer,
            says: Says::Here(id, inode),
            state: State::Shown,
        }) = versions.first()
        else {
            continue;
        };
        if inode.file_type() != FileType::Symlink {
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(WhichError::Links(String::from_utf8_lossy(path).into_owned()));
        }
        let target = layers[*layer].link_target(*id)?;
        clean.pop();
        if target.first() == Some(&b'/') {
            clean.clear();
        }
        ahead.extend(components(target));
    }
    Ok(clean.join(&b'/'))
}

/// The components of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty())
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

/// The digest of a regular file's content, where the index knows it; other kinds of files have none.
pub fn content_digest(index: &Index, id: InodeId) -> Result<Option<Digest>, IndexError> {
    if index.inode(id)?.file_type() != FileType::Regular {
        return Ok(None);
    }
    Ok(match index.place(id)? {
        Place::Pack { digest, .. } | Place::Object { digest } => Some(Digest::from(*digest)),
        Place::Empty if index.inode(id)?.size_bytes == 0 => Some(Digest::of(b"")),
        Place::Empty | Place::Stream { .. } => None,
    })
}

/// A step of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instruction {
    /// What made the layer.
    pub created_by: String,
    /// What its author said.
    pub comment: String,
}

impl std::fmt::Display for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.created_by.trim(), self.comment.trim()) {
            ("", "") => "an unknown step",
            ("", comment) => comment,
            (step, _) => step,
        })
    }
}

/// The instruction that made each of an image's layers, bottom first: those steps of its history that made one.
pub fn instructions(config: &ImageConfiguration, layers: usize) -> Vec<Instruction> {
    let steps = config.history().iter().flatten();
    let mut found: Vec<Instruction> = steps
        .filter(|step| !step.empty_layer().unwrap_or(false))
        .map(|step| Instruction {
            created_by: step.created_by().clone().unwrap_or_default(),
            comment: step.comment().clone().unwrap_or_default(),
        })
        .collect();
    found.resize(layers, Instruction::default());
    found
}

#[cfg(test)]
mod tests;
