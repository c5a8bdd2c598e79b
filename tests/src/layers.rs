//! Random lower layers: values first, then directories on disk, and (in [`crate::model`]) their union.

use crate::ops::RelPath;
use crate::posix;
use crate::scratch::is_rootless;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a layer has at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Item {
    File(Vec<u8>),
    /// Two names of one file: the path's last name with `0` and with `1` appended.
    Linked(Vec<u8>),
    Dir {
        opaque: bool,
    },
    Symlink(Vec<u8>),
    Fifo,
    Whiteout,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LayerEntry {
    pub item: Item,
    pub mode: u32,
    pub owner: u32,
    pub xattr: Option<Vec<u8>>,
    pub mtime: (i64, u32),
}

/// An entry as it is drawn or written in a test: path, item, mode, owner, value of the attribute `user.lower`.
pub type DrawnEntry = (RelPath, Item, u32, u32, Option<Vec<u8>>);

/// A layer without contradictions: every parent of an entry is a directory of the same layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// By path; parents sort before children.
    pub entries: BTreeMap<RelPath, LayerEntry>,
}

impl Layer {
    /// Takes entries in order; an entry that contradicts an earlier one is dropped. `index` tells layers apart.
    #[must_use]
    pub fn from_list(index: usize, list: &[DrawnEntry]) -> Layer {
        let mut layer = Layer::default();
        for (path, item, mode, owner, xattr) in list {
            let mut path = path.clone();
            if matches!(item, Item::Linked(_)) {
                // A name of this layer alone: link counts of files that are half covered are nobody's truth.
                path.0
                    .last_mut()
                    .expect("a name")
                    .extend(format!("-l{index}-").bytes());
            }
            if layer.entries.contains_key(&path) || !layer.add_parents(&path) {
                continue;
            }
            let serial = i64::try_from(layer.entries.len()).expect("few entries");
            let layer_index = i64::try_from(index).expect("few layers");
            let mtime = (1_000_000_000 + 1000 * layer_index + serial, 123_456_789);
            let xattr = xattr
                .clone()
                .filter(|_| matches!(item, Item::File(_) | Item::Dir { .. }));
            let entry = LayerEntry {
                item: item.clone(),
                mode: *mode,
                owner: *owner,
                xattr,
                mtime,
            };
            layer.entries.insert(path, entry);
        }
        layer
    }

    fn add_parents(&mut self, path: &RelPath) -> bool {
        let Some(parent) = path.parent() else { return true };
        match self.entries.get(&parent) {
            Some(LayerEntry {
                item: Item::Dir { .. },
                ..
            }) => return true,
            Some(_) => return false,
            None => {}
        }
        if !self.add_parents(&parent) {
            return false;
        }
        let (item, mtime) = (Item::Dir { opaque: false }, (999_999_999, 5));
        self.entries.insert(
            parent,
            LayerEntry {
                item,
                mode: 0o755,
                owner: 0,
                xattr: None,
                mtime,
            },
        );
        true
    }

    /// Makes it on disk in the empty directory `root`.
    pub fn build(&self, root: &Path) -> std::io::Result<()> {
        for (path, entry) in &self.entries {
            let at = path.under(root);
            match &entry.item {
                Item::File(content) => std::fs::write(&at, content)?,
                Item::Linked(content) => {
                    let (first, second) = linked_names(path);
                    std::fs::write(first.under(root), content)?;
                    entry.dress(&first.under(root))?;
                    posix::link(&first.under(root), &second.under(root))?;
                    continue;
                }
                Item::Dir { opaque: false } => posix::mkdir(&at, 0o755)?,
                Item::Dir { opaque: true } => {
                    posix::mkdir(&at, 0o755)?;
                    let name = if is_rootless() {
                        "user.overlay.opaque"
                    } else {
                        "trusted.overlay.opaque"
                    };
                    posix::set_xattr(&at, name, b"y", rustix::fs::XattrFlags::empty())?;
                }
                Item::Symlink(target) => posix::symlink(OsStr::from_bytes(target), &at)?,
                Item::Fifo => posix::mkfifo(&at)?,
                Item::Whiteout => {
                    posix::whiteout(&at)?;
                    continue;
                }
            }
            entry.dress(&at)?;
        }
        // Children change their directory's time: times of directories last, the deepest first.
        for (path, entry) in self.entries.iter().rev() {
            if matches!(entry.item, Item::Dir { .. }) {
                posix::set_times(&path.under(root), entry.mtime.0, entry.mtime.1)?;
            }
        }
        Ok(())
    }
}

impl LayerEntry {
    fn dress(&self, at: &Path) -> std::io::Result<()> {
        posix::lchown(at, self.owner, self.owner)?;
        if !matches!(self.item, Item::Symlink(_)) {
            posix::chmod(at, self.mode)?;
        }
        if let Some(value) = &self.xattr {
            posix::set_xattr(at, "user.lower", value, rustix::fs::XattrFlags::empty())?;
        }
        posix::set_times(at, self.mtime.0, self.mtime.1)
    }
}

/// The two names of an [`Item::Linked`].
#[must_use]
pub fn linked_names(path: &RelPath) -> (RelPath, RelPath) {
    let name = |digit| {
        let mut named = path.clone();
        named.0.last_mut().expect("a name").push(digit);
        named
    };
    (name(b'0'), name(b'1'))
}
