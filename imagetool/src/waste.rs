//! What of an image's layers nobody sees: files that a later layer deletes or replaces, which still take their space.
//! Pure.
//!
//! ```text
//! layer 1   -a   b'        whiteout of a, another b        all of it is seen
//! layer 0    a   b   c     c is seen, a and b are hidden
//! ```
//!
//! A file with several names is hidden when all of them are.

use std::collections::{HashMap, HashSet};

use ufs::attr::FileType;
use ufs::index::{Index, IndexError, InodeId};

/// The files of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerWaste {
    /// Its regular files.
    pub files: u64,
    /// Their sizes together.
    pub size_bytes: u64,
    /// Those of them that later layers hide.
    pub hidden_files: u64,
    /// The sizes of these.
    pub hidden_bytes: u64,
}

/// Directories that are seen as one, the highest layer first.
type Merged = Vec<(usize, InodeId)>;

/// What the layers say of a name, the highest first.
#[derive(Default)]
struct Name {
    directories: Merged,
    /// Whether nothing below is seen.
    closed: bool,
}

/// Takes the layers of an image, bottom first; gives what of each is hidden.
///
/// # Errors
/// When an index is damaged.
pub fn waste(layers: &[&Index]) -> Result<Vec<LayerWaste>, IndexError> {
    let mut seen: Vec<HashSet<InodeId>> = vec![HashSet::new(); layers.len()];
    let mut root = Merged::new();
    for (number, layer) in layers.iter().enumerate().rev() {
        root.push((number, InodeId::ROOT));
        if layer.inode(InodeId::ROOT)?.opaque {
            break;
        }
    }
    let mut open = vec![root];
    while let Some(directories) = open.pop() {
        let mut names: HashMap<&[u8], Name> = HashMap::new();
        for (number, directory) in directories {
            for entry in layers[number].entries(directory)? {
                let (text, found) = entry?;
                let name = names.entry(text).or_default();
                if name.closed {
                    continue;
                }
                match found.inode {
                    Some(inode) if found.file_type == FileType::Directory => {
                        name.closed = layers[number].inode(inode)?.opaque;
                        name.directories.push((number, inode));
                    }
                    Some(inode) if name.directories.is_empty() => {
                        name.closed = true;
                        seen[number].insert(inode);
                    }
                    // a whiteout, or a file below a directory
                    _ => name.closed = true,
                }
            }
        }
        let directories = names.into_values().map(|name| name.directories);
        open.extend(directories.filter(|directories| !directories.is_empty()));
    }
    layers
        .iter()
        .zip(&seen)
        .map(|(layer, seen)| of_layer(layer, seen))
        .collect()
}

fn of_layer(layer: &Index, seen: &HashSet<InodeId>) -> Result<LayerWaste, IndexError> {
    let mut waste = LayerWaste::default();
    for number in 0..layer.inode_count() {
        let inode = layer.inode(InodeId(number))?;
        if inode.file_type() != FileType::Regular {
            continue;
        }
        waste.files += 1;
        waste.size_bytes += inode.size_bytes;
        if !seen.contains(&InodeId(number)) {
            waste.hidden_files += 1;
            waste.hidden_bytes += inode.size_bytes;
        }
    }
    Ok(waste)
}
