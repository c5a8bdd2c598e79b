//! Layers side by side: each in a directory of its own, its markers shown as the empty files that they are in a tar.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::plan::{Merged, Name, Source};
use crate::attr::FileType;
use crate::index::format::{NONE, is_name};
use crate::index::{Found, Index, IndexError, InodeId, Kind};
use crate::layer::whiteout::{OPAQUE_NAME, tar_name};

/// A chain whose root holds one directory per part.
///
/// # Errors
/// When one is damaged, or two have the same name, or one a name that cannot be.
pub fn side_by_side<'a>(parts: &[(Vec<u8>, &'a Index)]) -> Result<Merged<'a>, IndexError> {
    let sources: Vec<&Index> = parts.iter().map(|(_, index)| *index).collect();
    let mut merged = Merged::new(&sources, Kind::Chain)?;
    merged.own_names = parts.iter().map(|(name, _)| name.clone()).collect();
    let mut order: Vec<Source> = (0..merged.source_count()).collect();
    order.sort_by(|&a, &b| parts[usize::from(a)].0.cmp(&parts[usize::from(b)].0));
    merged.root(None)?;
    let mut dirs = vec![None];
    let mut before: Option<&[u8]> = None;
    for source in order {
        let name = &parts[usize::from(source)].0[..];
        if !is_name(name) || before == Some(name) {
            let name = String::from_utf8_lossy(name);
            return Err(IndexError::Merge(format!(
                "{name:?} is no name for one of several layers"
            )));
        }
        before = Some(name);
        merged.directory(source, Name::Own(source.into()), name, InodeId::ROOT)?;
        dirs.push(Some((source, InodeId::ROOT)));
    }
    merged.set_count(0, 1);
    let mut at = 1;
    while let Some(&Some((source, dir))) = dirs.get(at) {
        let first_entry = merged.entry_count();
        for (name, place, found) in names(merged.index(source), dir)? {
            match found {
                None => merged.marker(source, place, &name)?,
                Some((inode, FileType::Directory)) => {
                    merged.directory(source, place, &name, inode)?;
                    dirs.push(Some((source, inode)));
                }
                Some((inode, file_type)) => merged.file(source, place, &name, inode, file_type)?,
            }
        }
        merged.set_count(at, first_entry);
        at += 1;
    }
    Ok(merged.seal())
}

/// A name as shown, where its bytes come from, and its file unless it is a marker's.
type Shown = (Vec<u8>, Name, Option<(InodeId, FileType)>);

/// The names of a directory as a tar has them, sorted.
fn names(index: &Index, dir: InodeId) -> Result<Vec<Shown>, IndexError> {
    let mut names: Vec<Shown> = Vec::new();
    for entry in index.entries(dir)? {
        let (
            name,
            Found {
                entry,
                inode,
                file_type,
            },
        ) = entry?;
        names.push(match inode {
            Some(inode) => (name.to_vec(), Name::Same(entry), Some((inode, file_type))),
            None => {
                let name = tar_name(OsStr::from_bytes(name));
                (name.as_bytes().to_vec(), Name::Marker(entry), None)
            }
        });
    }
    if index.inode(dir)?.opaque {
        names.push((OPAQUE_NAME.as_bytes().to_vec(), Name::Opaque, None));
    }
    // a file goes before a marker of the same name
    names.sort_by(|a, b| (&a.0, a.2.is_none()).cmp(&(&b.0, b.2.is_none())));
    names.dedup_by(|later, earlier| later.0 == earlier.0);
    debug_assert!(names.len() < NONE as usize);
    Ok(names)
}
