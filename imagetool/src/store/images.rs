//! Images and their names in the database.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rusqlite::{OptionalExtension, params};

use super::{Image, Store};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::parse_config;
use crate::reference::Reference;

/// A row of the table of images, beside the image itself.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The image.
    pub image: Image,
    /// The blob of its manifest.
    pub manifest: Digest,
    /// The image it was committed on, when that is known here.
    pub parent: Option<Digest>,
    /// Diff id and blob of each layer, bottom first.
    pub layers: Vec<(Digest, Digest)>,
    /// Sum of its layers' sizes.
    pub size_bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created_at_s: i64,
}

impl Store {
    /// The image with this id.
    pub fn image(&self, id: &Digest) -> Result<Image, StoreError> {
        type Row = (String, Option<Vec<u8>>);
        let sql = "SELECT config, base_rootfs FROM images WHERE id = ?1";
        let row: Option<Row> = self
            .database()
            .query_row(sql, [id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((config_json, base_rootfs)) = row else {
            return Err(StoreError::NoSuchImage(id.to_string()));
        };
        let (config, _) =
            parse_config("configuration", config_json.as_bytes()).map_err(|error| StoreError::Damaged {
                what: format!("image {id}"),
                detail: error.to_string(),
            })?;
        let names = self.names_of(id)?.iter().map(Reference::familiar).collect();
        let base_rootfs = base_rootfs.map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes)));
        Ok(Image {
            id: *id,
            config,
            config_json,
            names,
            base_rootfs,
        })
    }

    /// The names of an image, sorted.
    pub fn names_of(&self, id: &Digest) -> Result<Vec<Reference>, StoreError> {
        let database = self.database();
        let mut statement = database.prepare("SELECT name FROM names WHERE image_id = ?1 ORDER BY name")?;
        let rows = statement.query_map([id.to_string()], |row| row.get::<_, String>(0))?;
        let mut names = Vec::new();
        for row in rows {
            names.push(row?.parse()?);
        }
        Ok(names)
    }

    /// An image with what the database knows beside it.
    pub fn image_details(&self, id: &Digest) -> Result<ImageDetails, StoreError> {
        let image = self.image(id)?;
        let database = self.database();
        let sql = "SELECT manifest_digest, parent_id, created_at_s FROM images WHERE id = ?1";
        let row: Option<(String, Option<String>, i64)> = database
            .query_row(sql, [id.to_string()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        // It may have been removed since the first query.
        let (manifest, parent, created_at_s) = row.ok_or_else(|| StoreError::NoSuchImage(id.to_string()))?;
        let sql = "SELECT image_layers.diff_id, blob_digest, size_bytes FROM image_layers JOIN layers USING (diff_id)
                   WHERE image_id = ?1 ORDER BY position";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([id.to_string()], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, i64>(2)?,
            ))
        })?;
        let (mut layers, mut size_bytes) = (Vec::new(), 0);
        for row in rows {
            let (diff_id, blob, size) = row?;
            layers.push((digest(&diff_id)?, digest(&blob)?));
            size_bytes += u64::try_from(size).unwrap_or(0);
        }
        let parent = parent.as_deref().map(digest).transpose()?;
        Ok(ImageDetails {
            image,
            manifest: digest(&manifest)?,
            parent,
            layers,
            size_bytes,
            created_at_s,
        })
    }

    /// The ids of all images, the newest first.
    pub fn image_ids(&self) -> Result<Vec<Digest>, StoreError> {
        let database = self.database();
        let mut statement =
            database.prepare("SELECT id FROM images ORDER BY created_at_s DESC, added_at_s DESC, id")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut ids = Vec::new();
        for row in rows {
            ids.push(digest(&row?)?);
        }
        Ok(ids)
    }

    /// The layers of every image, bottom first, as the rows have them.
    pub(super) fn layers_of_images(&self) -> Result<Vec<Vec<Digest>>, StoreError> {
        let database = self.database();
        let sql = "SELECT image_id, diff_id FROM image_layers ORDER BY image_id, position";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut images: Vec<(String, Vec<Digest>)> = Vec::new();
        for row in rows {
            let (image, diff_id) = row?;
            let diff_id = digest(&diff_id)?;
            match images.last_mut() {
                Some((last, layers)) if *last == image => layers.push(diff_id),
                _ => images.push((image, vec![diff_id])),
            }
        }
        Ok(images.into_iter().map(|(_, layers)| layers).collect())
    }

    /// Whether an image is there.
    pub fn has_image(&self, id: &Digest) -> Result<bool, StoreError> {
        let sql = "SELECT count(*) FROM images WHERE id = ?1";
        Ok(self
            .database()
            .query_row(sql, [id.to_string()], |row| row.get::<_, i64>(0))?
            > 0)
    }

    /// The id that a name, id or unique id prefix means, and the name when it was one.
    pub fn find_image(&self, name_or_id: &str) -> Result<(Digest, Option<Reference>), StoreError> {
        // the name as it was looked for, as Docker tells it
        let none = || {
            StoreError::NoSuchImage(match name_or_id.parse::<Reference>() {
                Ok(name) if !name_or_id.starts_with("sha256:") => name.or_latest().familiar(),
                _ => name_or_id.to_owned(),
            })
        };
        let hex = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        let is_hex = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Ok(id) = Digest::from_hex(hex) {
            return if self.has_image(&id)? {
                Ok((id, None))
            } else {
                Err(none())
            };
        }
        match name_or_id.parse::<Reference>() {
            Ok(name) => {
                if let Some(found) = self.find_name(&name)? {
                    return Ok(found);
                }
            }
            Err(error) if !is_hex => return Err(error.into()),
            Err(_) => {}
        }
        if !is_hex {
            return Err(none());
        }
        let database = self.database();
        let mut statement =
            database.prepare("SELECT id FROM images WHERE id GLOB 'sha256:' || ?1 || '*' LIMIT 2")?;
        let rows = statement.query_map([hex.to_ascii_lowercase()], |row| row.get::<_, String>(0))?;
        let found: Vec<String> = rows.collect::<Result<_, _>>()?;
        match found.as_slice() {
            [id] => Ok((digest(id)?, None)),
            [] => Err(none()),
            _ => Err(StoreError::AmbiguousId {
                kind: "image",
                prefix: hex.to_owned(),
            }),
        }
    }

    /// The tags of a repository and their images.
    pub fn names_in_repository(
        &self,
        repository: &Reference,
    ) -> Result<Vec<(Reference, Digest)>, StoreError> {
        let prefix = format!("{}/{}:", repository.domain(), repository.path());
        let database = self.database();
        let sql = "SELECT name, image_id FROM names WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([prefix], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let mut names = Vec::new();
        for row in rows {
            let (name, id) = row?;
            names.push((name.parse()?, digest(&id)?));
        }
        Ok(names)
    }

    /// The image of a name; a digest in the name must be the one of its manifest, or of an index that led to it.
    fn find_name(&self, name: &Reference) -> Result<Option<(Digest, Option<Reference>)>, StoreError> {
        let name = name.clone().or_latest();
        let database = self.database();
        let key = name.canonical();
        let sql = "SELECT image_id FROM names WHERE name = ?1";
        let found: Option<String> = database.query_row(sql, [&key], |row| row.get(0)).optional()?;
        if let Some(id) = found {
            return Ok(Some((digest(&id)?, Some(name))));
        }
        let Some(pinned) = name.digest() else {
            return Ok(None);
        };
        if let Some(id) = super::origins::image_of(&database, &name, &pinned)? {
            return Ok(Some((id, Some(name))));
        }
        let prefix = format!("{}/{}:", name.domain(), name.path());
        let sql = "SELECT id FROM images JOIN names ON image_id = id
                   WHERE manifest_digest = ?1 AND substr(name, 1, length(?2)) = ?2 LIMIT 1";
        let found: Option<String> = database
            .query_row(sql, params![pinned.to_string(), prefix], |row| row.get(0))
            .optional()?;
        found.map(|id| Ok((digest(&id)?, Some(name)))).transpose()
    }
}

/// Parses a digest of the database.
pub(super) fn digest(text: &str) -> Result<Digest, StoreError> {
    text.parse()
        .map_err(|error: crate::digest::DigestError| StoreError::Damaged {
            what: "database".to_owned(),
            detail: error.to_string(),
        })
}
