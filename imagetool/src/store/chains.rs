//! Chains: the layers of an image merged once, so that a mount has one index to look into.
//!
//! ```text
//! ROOT/chains/CHAINID            all layers up to and with one: CHAINID is the specification's chain id
//! ROOT/chains/CHAINID-CHAINID    the layers above the first up to the second, markers kept, to lie over the first
//! ROOT/chains/0-CHAINID          all layers with their markers, to lie over a directory of the host
//! ```
//!
//! An image is mounted from one chain, or from a few small layers (one alone, or a run of them) over the chain of the
//! layers below, so that a commit on a large image costs nothing of the image's size ([`plan`]). A single layer needs
//! no chain: its own index serves.
//!
//! Chains are caches: written aside, synced and renamed, made anew whenever one is missing or cannot be opened, and
//! deleted with the last image that begins with their layers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use ufs::Lower;
use ufs::index::merge::merge;
use ufs::index::{Index, IndexError, Kind};
use ufs::repository::hex;

use super::{Image, Store};
use crate::digest::Digest;
use crate::error::StoreError;

/// A run of layers has at most this part of the files of the chain below it; more of them are merged with it.
const RUN_PART: u64 = 4;

/// The chain ids of an image's layers, bottom first: of the lowest one its diff id, then the digest of the chain id
/// below, a space and the diff id. Specification: OCI image-spec, config.md, "Layer ChainID".
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chains.push(match chains.last() {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chains
}

/// Below this number of files all layers are merged, whatever lies on top: that takes some milliseconds, once.
const RUN_FILES_MIN: u64 = 50_000;

/// How an image's layers are mounted, top first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    /// One index of all of them.
    Whole,
    /// The layers from this number on, over the chain of those below.
    Over(usize),
}

/// Chooses. `sizes` are the layers' numbers of files, bottom first; `chain` gives the number of files of the chain of
/// the lowest layers, where there is one already.
fn plan(sizes: &[u64], chain: &dyn Fn(usize) -> Option<u64>) -> Plan {
    let count = sizes.len();
    if count < 2 || chain(count).is_some() {
        return Plan::Whole;
    }
    let mut above = 0u64;
    for below in (1..count).rev() {
        above = above.saturating_add(sizes[below]);
        let found = match below {
            1 => Some(sizes[0]), // a single layer is a chain
            _ => chain(below),
        };
        if let Some(files) = found {
            // a lower chain would only be smaller
            return match files >= RUN_FILES_MIN && above <= files / RUN_PART {
                true => Plan::Over(below),
                false => Plan::Whole,
            };
        }
    }
    Plan::Whole
}

impl Store {
    /// What an image is mounted from, top first: its layers, and [`Image::base_rootfs`] last when there is one. Makes
    /// the chain when it is missing.
    pub fn layer_lowers(&self, image: &Image) -> Result<Vec<Lower>, StoreError> {
        let diff_ids = image.diff_ids()?;
        let paths = if image.base_rootfs.is_some() {
            self.over_directory(&diff_ids)?
        } else {
            self.over_nothing(&diff_ids, plan)?
        };
        let index = |path| Lower::Index {
            path,
            repository: self.root.clone(),
        };
        let mut lowers: Vec<Lower> = paths.into_iter().map(index).collect();
        lowers.extend(image.base_rootfs.clone().map(Lower::Directory));
        Ok(lowers)
    }

    /// Makes the chain of an image that was just added: of all its layers, so that none of them costs a lookup. A
    /// failure is no harm: it is tried again at the next use.
    pub fn prepare_mounts(&self, id: &Digest) {
        let prepare = || -> Result<(), StoreError> {
            let image = self.image(id)?;
            match image.base_rootfs {
                Some(_) => self.layer_lowers(&image).map(drop),
                None => self
                    .over_nothing(&image.diff_ids()?, |_, _| Plan::Whole)
                    .map(drop),
            }
        };
        if let Err(error) = prepare() {
            tracing::warn!("the layers of {id} were not merged, the first mount tries again: {error}");
        }
    }

    fn chain_path(&self, name: &str) -> PathBuf {
        self.root.join("chains").join(name)
    }

    /// The indexes of layers with nothing below, top first, as `choose` wants them where there is no chain of all yet.
    fn over_nothing(
        &self,
        diff_ids: &[Digest],
        choose: impl Fn(&[u64], &dyn Fn(usize) -> Option<u64>) -> Plan,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let repository = self.repository();
        let chains = chain_ids(diff_ids);
        let (Some(first), Some(last)) = (diff_ids.first(), chains.last()) else {
            return Ok(Vec::new());
        };
        if diff_ids.len() == 1 {
            return Ok(vec![self.layer_index(first)?]);
        }
        // an index that cannot be opened is as good as none
        let chain = |count: usize| -> Option<u64> {
            let index = Index::open(&self.chain_path(&chains[count - 1].hex())).ok()?;
            Some(u64::from(index.inode_count()))
        };
        let whole = self.chain_path(&last.hex());
        if chain(diff_ids.len()).is_some() {
            return Ok(vec![whole]);
        }
        let layers = self.open_layers(diff_ids)?;
        let sizes: Vec<u64> = layers
            .iter()
            .map(|layer| u64::from(layer.inode_count()))
            .collect();
        match choose(&sizes, &chain) {
            Plan::Whole => self.make_chain(&last.hex(), diff_ids, &layers, Kind::Chain),
            Plan::Over(below) => {
                let base = match below {
                    1 => repository.index(first.as_bytes()),
                    _ => self.chain_path(&chains[below - 1].hex()),
                };
                let name = format!("{}-{}", chains[below - 1].hex(), last.hex());
                let mut paths = self.run(&name, &diff_ids[below..], &layers[below..])?;
                paths.push(base);
                Ok(paths)
            }
        }
    }

    /// The index of layers that lie over a directory: their markers count.
    fn over_directory(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, StoreError> {
        let Some(last) = chain_ids(diff_ids).pop() else {
            return Ok(Vec::new());
        };
        let layers = self.open_layers(diff_ids)?;
        let name = format!("0-{}", last.hex());
        self.run(&name, diff_ids, &layers)
    }

    /// The index of layers with their markers: a single one's own, or a run.
    fn run(&self, name: &str, diff_ids: &[Digest], layers: &[Index]) -> Result<Vec<PathBuf>, StoreError> {
        if let [single] = diff_ids {
            return Ok(vec![self.repository().index(single.as_bytes())]);
        }
        let path = self.chain_path(name);
        match Index::open(&path) {
            Ok(_) => Ok(vec![path]),
            Err(_) => self.make_chain(name, diff_ids, layers, Kind::Run),
        }
    }

    /// The index of a layer; of one in the store's earlier form it is made now.
    pub fn layer_index(&self, diff_id: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.repository().index(diff_id.as_bytes());
        if !path.is_file() {
            self.migrate_layer(diff_id)?;
        }
        Ok(path)
    }

    fn open_layers(&self, diff_ids: &[Digest]) -> Result<Vec<Index>, StoreError> {
        let open = |diff_id: &Digest| {
            Index::open(&self.layer_index(diff_id)?).map_err(|error| damaged(diff_id, &error))
        };
        diff_ids.iter().map(open).collect()
    }

    /// Merges layers into a chain or a run. Where that cannot be written, the layers' own indexes have to do.
    fn make_chain(
        &self,
        name: &str,
        diff_ids: &[Digest],
        layers: &[Index],
        kind: Kind,
    ) -> Result<Vec<PathBuf>, StoreError> {
        match self.try_chain(name, diff_ids, layers, kind) {
            Ok(path) => Ok(vec![path]),
            Err(error @ StoreError::Missing { .. }) => Err(error),
            Err(error) => {
                tracing::warn!("the layers are mounted one by one: {error}");
                let repository = self.repository();
                let own = |diff_id: &Digest| repository.index(diff_id.as_bytes());
                Ok(diff_ids.iter().rev().map(own).collect())
            }
        }
    }

    fn try_chain(
        &self,
        name: &str,
        diff_ids: &[Digest],
        layers: &[Index],
        kind: Kind,
    ) -> Result<PathBuf, StoreError> {
        let staging = self.stage("chain")?;
        for diff_id in diff_ids {
            if !self.pin_layer(&staging, diff_id)? {
                let (what, digest) = ("layer", *diff_id);
                return Err(StoreError::Missing { what, digest });
            }
        }
        let layers: Vec<&Index> = layers.iter().collect();
        let merged = merge(&layers, kind).map_err(|error| StoreError::Damaged {
            what: format!("chain {name}"),
            detail: error.to_string(),
        })?;
        let temporary = staging.path().join(format!("chain.{name}"));
        let path = self.chain_path(name);
        let write = || {
            let file = File::create(&temporary)?;
            let mut out = BufWriter::with_capacity(256 << 10, file);
            merged.write(&mut out)?;
            out.flush()?;
            out.get_ref().sync_data()
        };
        write().map_err(StoreError::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(StoreError::io("rename to", &path))?;
        Ok(path)
    }

    /// Deletes the chains that have a layer. What is mounted keeps its own open.
    pub(super) fn forget_chains_of(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let mut with_it: BTreeSet<String> = BTreeSet::new();
        for diff_ids in self.layers_of_images()? {
            let Some(at) = diff_ids.iter().position(|other| other == diff_id) else {
                continue;
            };
            let chains = chain_ids(&diff_ids);
            with_it.extend(chains[at..].iter().map(|chain| hex(chain.as_bytes())));
        }
        let folder = self.root.join("chains");
        for entry in fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let entry = entry.map_err(StoreError::io("read", &folder))?;
            let name = entry.file_name();
            let top = name
                .to_str()
                .map(|name| name.split_once('-').map_or(name, |(_, top)| top));
            if top.is_some_and(|top| with_it.contains(top)) {
                let path = entry.path();
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StoreError::io("delete", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Deletes the chains that no image begins with. ROOT/lock is held exclusively.
    pub(super) fn sweep_chains(&self) -> Result<(), StoreError> {
        let folder = self.root.join("chains");
        let entries: Vec<_> = fs::read_dir(&folder)
            .and_then(Iterator::collect)
            .map_err(StoreError::io("read", &folder))?;
        if entries.is_empty() {
            return Ok(());
        }
        let mut needed: BTreeSet<String> = BTreeSet::new();
        // from the rows: an image whose configuration is damaged does not keep others from being removed
        for diff_ids in self.layers_of_images()? {
            for chain in chain_ids(&diff_ids) {
                needed.insert(hex(chain.as_bytes()));
            }
        }
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            let top = name
                .to_str()
                .map(|name| name.split_once('-').map_or(name, |(_, top)| top));
            if top.is_some_and(|top| needed.contains(top)) {
                continue;
            }
            fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
        }
        Ok(())
    }
}

fn damaged(diff_id: &Digest, error: &IndexError) -> StoreError {
    StoreError::Damaged {
        what: format!("layer {diff_id}"),
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let layers = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let chains = chain_ids(&layers);
        assert_eq!(chains[0], layers[0]);
        let second = Digest::of(format!("{} {}", layers[0], layers[1]).as_bytes());
        assert_eq!(chains[1], second);
        assert_eq!(
            chains[2],
            Digest::of(format!("{second} {}", layers[2]).as_bytes())
        );
        assert_eq!(chain_ids(&[]), []);
    }

    #[test]
    fn few_files_over_a_large_chain_are_not_merged_with_it() {
        let none = |_| None;
        let at = |wanted: usize, files: u64| move |count: usize| (count == wanted).then_some(files);
        let k = 1000;
        assert_eq!(plan(&[], &none), Plan::Whole);
        assert_eq!(plan(&[10], &none), Plan::Whole);
        // a single layer is a chain
        assert_eq!(plan(&[1_000_000, 2], &none), Plan::Over(1));
        assert_eq!(plan(&[1_000_000, 2, 3], &none), Plan::Over(1));
        assert_eq!(plan(&[100 * k, 25 * k], &none), Plan::Over(1));
        assert_eq!(plan(&[100 * k, 26 * k], &none), Plan::Whole);
        // few files are merged at once
        assert_eq!(plan(&[13 * k, 2], &none), Plan::Whole);
        // the highest chain that is there
        assert_eq!(plan(&[500, 400, 300, 2], &at(3, 100 * k)), Plan::Over(3));
        assert_eq!(plan(&[500, 400, 300, 26 * k], &at(3, 100 * k)), Plan::Whole);
        assert_eq!(plan(&[500, 400, 20 * k, 5 * k], &at(2, 90 * k)), Plan::Whole);
        // all of them
        assert_eq!(plan(&[500, 400, 300], &at(3, 1000)), Plan::Whole);
    }
}
