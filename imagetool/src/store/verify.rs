//! What the store says of itself, for [`crate::system::check`]: raw rows, names on disk and the database's own checks.
//!
//! Everything here is read with nobody else changing the store, so that what has no row, or no file, has lost it.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use ufs::index::{Index, IndexError};
use ufs::repository::hex;

use super::images::digest;
use super::{Store, staging};
use crate::digest::Digest;
use crate::error::StoreError;

/// A row of the table of images as it is, right or wrong.
#[derive(Debug, Clone)]
pub struct RawImage {
    /// Its id.
    pub id: String,
    /// The manifest's digest.
    pub manifest: String,
    /// The configuration.
    pub config: String,
    /// Diff id and blob of each layer, bottom first.
    pub layers: Vec<(String, String)>,
    /// Its names.
    pub names: Vec<String>,
}

/// A row of the table of layers.
#[derive(Debug, Clone)]
pub struct RawLayer {
    /// Its diff id.
    pub diff_id: String,
    /// Sum of its regular files.
    pub size_bytes: u64,
}

/// Rows and names of files at one moment.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// What the database finds wrong with itself.
    pub damage: Vec<String>,
    /// All images.
    pub images: Vec<RawImage>,
    /// All layers.
    pub layers: Vec<RawLayer>,
    /// Manifests that images have in registries: image and manifest.
    pub kept_manifests: Vec<(String, String)>,
    /// Ids of all containers.
    pub containers: BTreeSet<String>,
    /// Files in the folder of blobs.
    pub blob_files: BTreeSet<String>,
    /// Directories in the folder of layers.
    pub layer_files: BTreeSet<String>,
    /// Files in the folders of objects.
    pub object_files: BTreeSet<String>,
    /// Those of them that no layer names; none are told while a layer cannot be read.
    pub unneeded_objects: BTreeSet<String>,
    /// Merged indexes.
    pub chain_files: BTreeSet<String>,
    /// Archives that were indexed in place.
    pub archive_files: BTreeSet<String>,
    /// Downloads that were not finished.
    pub download_files: BTreeSet<String>,
    /// Directories of containers.
    pub container_files: BTreeSet<String>,
    /// Whether `index.json` says what the database says.
    pub index_fits: bool,
}

impl Store {
    /// Lists everything, at a moment at which nothing is half done.
    pub fn listing(&self) -> Result<Listing, StoreError> {
        let _guard = staging::lock_exclusive(self.root())?;
        let mut listing = Listing {
            blob_files: self.names_in("blobs/sha256")?,
            layer_files: self.names_in("layers")?,
            chain_files: self.names_in("chains")?,
            archive_files: self.names_in("archives")?,
            download_files: self.names_in("downloads")?,
            container_files: self.names_in("containers")?,
            ..Listing::default()
        };
        for folder in self.names_in("objects")? {
            listing
                .object_files
                .extend(self.names_in(&format!("objects/{folder}"))?);
        }
        listing.unneeded_objects = self.unneeded_objects(&listing);
        self.read_rows(&mut listing)?;
        let index = self.root().join("index.json");
        listing.index_fits =
            fs::read(&index).is_ok_and(|found| self.index_json().is_ok_and(|wanted| found == wanted));
        Ok(listing)
    }

    fn unneeded_objects(&self, listing: &Listing) -> BTreeSet<String> {
        let mut left: HashSet<&str> = listing.object_files.iter().map(String::as_str).collect();
        for diff_id in listing
            .layer_files
            .iter()
            .filter_map(|name| Digest::from_hex(name).ok())
        {
            let path = self.repository().index(diff_id.as_bytes());
            if !path.exists() {
                continue; // of the earlier form, which had no objects, or no layer
            }
            let mut take = || -> Result<(), IndexError> {
                let index = Index::open(&path)?;
                for digest in index.objects() {
                    left.remove(hex(digest?).as_str());
                }
                Ok(())
            };
            if take().is_err() {
                return BTreeSet::new();
            }
        }
        left.into_iter().map(str::to_owned).collect()
    }

    /// The names in a folder of the store; none when it is not there.
    fn names_in(&self, folder: &str) -> Result<BTreeSet<String>, StoreError> {
        let path: PathBuf = self.root().join(folder);
        let entries: Vec<fs::DirEntry> = match fs::read_dir(&path).and_then(Iterator::collect) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(BTreeSet::new());
            }
            other => other.map_err(StoreError::io("read", &path))?,
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        Ok(entries.into_iter().map(name).collect())
    }

    fn read_rows(&self, listing: &mut Listing) -> Result<(), StoreError> {
        let database = self.database();
        let text = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let all = |sql: &str| -> Result<Vec<String>, StoreError> {
            let mut statement = database.prepare(sql)?;
            let rows = statement.query_map([], text)?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        listing.damage = all("PRAGMA integrity_check")?;
        listing.damage.retain(|line| line != "ok");
        for table in all("SELECT DISTINCT \"table\" FROM pragma_foreign_key_check")? {
            listing.damage.push(format!(
                "a row of the table {table} names a row that is not there"
            ));
        }
        listing.containers = all("SELECT id FROM containers")?.into_iter().collect();
        let mut statement = database.prepare("SELECT diff_id, size_bytes FROM layers ORDER BY diff_id")?;
        let layers = statement.query_map([], |row| {
            Ok(RawLayer {
                diff_id: row.get(0)?,
                size_bytes: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(u64::MAX),
            })
        })?;
        listing.layers = layers.collect::<Result<_, _>>()?;
        let mut statement =
            database.prepare("SELECT DISTINCT image_id, manifest_digest FROM repo_digests")?;
        let kept = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        listing.kept_manifests = kept.collect::<Result<_, _>>()?;
        let mut statement = database.prepare("SELECT id, manifest_digest, config FROM images ORDER BY id")?;
        let images = statement.query_map([], |row| {
            Ok(RawImage {
                id: row.get(0)?,
                manifest: row.get(1)?,
                config: row.get(2)?,
                layers: Vec::new(),
                names: Vec::new(),
            })
        })?;
        listing.images = images.collect::<Result<_, _>>()?;
        let mut layers = database
            .prepare("SELECT diff_id, blob_digest FROM image_layers WHERE image_id = ?1 ORDER BY position")?;
        let mut names = database.prepare("SELECT name FROM names WHERE image_id = ?1 ORDER BY name")?;
        for image in &mut listing.images {
            let rows = layers.query_map([&image.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            image.layers = rows.collect::<Result<_, _>>()?;
            let rows = names.query_map([&image.id], text)?;
            image.names = rows.collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// The compressed layers that are files, with the layers that they hold.
    pub fn compressed_blobs(&self) -> Result<Vec<(Digest, Vec<Digest>)>, StoreError> {
        let database = self.database();
        let sql = "SELECT DISTINCT blob_digest, diff_id FROM image_layers WHERE blob_digest <> diff_id ORDER BY 1, 2";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut blobs: Vec<(Digest, Vec<Digest>)> = Vec::new();
        for row in rows {
            let (blob, diff_id) = row?;
            let (blob, diff_id) = (digest(&blob)?, digest(&diff_id)?);
            if !self.blob_path(&blob).is_file() {
                continue;
            }
            match blobs.last_mut() {
                Some((last, layers)) if *last == blob => layers.push(diff_id),
                _ => blobs.push((blob, vec![diff_id])),
            }
        }
        Ok(blobs)
    }
}
