//! What registries have of images: under which digests, as which blobs, and where.
//!
//! ```text
//! repo_digests     repository@digest ──► image, and its manifest there, kept byte for byte
//! packed_layers    a layer without a compressed blob ──► as what it was sent last
//! registry_blobs   blob ──► repositories of the same registry that had it
//! ```
//!
//! All of it was true when it was written and may be wrong now: whoever uses it asks the registry. A name with a digest
//! is a name of its own only while its image has no tag in that repository, so that an image pulled by digest is not
//! taken for one that nobody wants.

use std::fs::File;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::images::digest;
use super::{StagedBlob, Staging, Store, blobs, staging};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::reference::Reference;

/// Where an image was pulled from or pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The repository.
    pub repository: Reference,
    /// What its tag pointed to: the manifest, or an index that leads to it.
    pub digest: Digest,
    /// The image's manifest.
    pub manifest: Digest,
    /// The blobs of its layers, which the repository has.
    pub blobs: Vec<Digest>,
}

/// What a repository calls an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoDigest {
    /// The repository.
    pub repository: Reference,
    /// The manifest, or the index that led to it.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Digest,
}

/// As what a layer was sent that the store has no compressed blob of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The blob's digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size.
    pub size_bytes: u64,
}

impl Store {
    /// The digests under which registries know an image (`debian@sha256:…`), sorted: those of the repositories that it
    /// was pulled from or pushed to.
    pub fn repo_digests(&self, image: &Digest) -> Result<Vec<Reference>, StoreError> {
        let known = self.origins_of(image)?.into_iter();
        Ok(known
            .map(|known| known.repository.with_digest(known.digest))
            .collect())
    }

    /// What repositories call an image, sorted by repository.
    pub fn origins_of(&self, image: &Digest) -> Result<Vec<RepoDigest>, StoreError> {
        let database = self.database();
        let sql =
            "SELECT repository, digest, manifest_digest FROM repo_digests WHERE image_id = ?1 ORDER BY 1, 2";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([image.to_string()], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
            ))
        })?;
        let mut found = Vec::new();
        for row in rows {
            let (repository, own, manifest) = row?;
            found.push(RepoDigest {
                repository: repository.parse()?,
                digest: digest(&own)?,
                manifest: digest(&manifest)?,
            });
        }
        Ok(found)
    }

    /// Notes where an image is, keeps the manifest that it has there, which was synced, and notes as what its layers were
    /// sent. Does nothing when the image is gone.
    pub fn add_origin(
        &self,
        staging: &Staging,
        manifest: &StagedBlob,
        image: &Digest,
        origin: &Origin,
        packed: &[(Digest, Packed)],
    ) -> Result<(), StoreError> {
        let place = || -> Result<bool, StoreError> {
            let _guard = staging::lock_shared(self.root())?;
            blobs::place(self, manifest)?;
            let folder = self.root().join("blobs/sha256");
            File::open(&folder)
                .and_then(|folder| folder.sync_all())
                .map_err(StoreError::io("sync", &folder))?;
            let mut database = self.database();
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "SELECT count(*) FROM images WHERE id = ?1";
            let is_there = transaction.query_row(sql, [image.to_string()], |row| row.get::<_, i64>(0))? > 0;
            if is_there {
                insert(&transaction, image, origin)?;
            }
            insert_packed(&transaction, packed)?;
            transaction.commit()?;
            Ok(is_there)
        };
        let placed = place();
        if !matches!(placed, Ok(true)) {
            staging.leave_trace();
        }
        placed.map(drop)
    }

    /// Repositories of a registry that had a blob, apart from one, as paths.
    pub fn repositories_with(
        &self,
        registry: &str,
        blob: &Digest,
        but: &str,
    ) -> Result<Vec<String>, StoreError> {
        let database = self.database();
        let sql = "SELECT repository FROM registry_blobs
                   WHERE digest = ?1 AND registry = ?2 AND repository <> ?3 ORDER BY repository";
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map(params![blob.to_string(), registry, but], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a repository has no such blob any more.
    pub fn forget_registry_blob(
        &self,
        registry: &str,
        repository: &str,
        blob: &Digest,
    ) -> Result<(), StoreError> {
        let sql = "DELETE FROM registry_blobs WHERE digest = ?1 AND registry = ?2 AND repository = ?3";
        self.database()
            .execute(sql, params![blob.to_string(), registry, repository])?;
        Ok(())
    }

    /// As what a layer was sent last.
    pub fn packed_layer(&self, diff_id: &Digest) -> Result<Option<Packed>, StoreError> {
        let sql = "SELECT blob_digest, media_type, size_bytes FROM packed_layers WHERE diff_id = ?1";
        let row: Option<(String, String, i64)> = self
            .database()
            .query_row(sql, [diff_id.to_string()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        row.map(|(blob, media_type, size)| {
            Ok(Packed {
                digest: digest(&blob)?,
                media_type,
                size_bytes: u64::try_from(size).unwrap_or(0),
            })
        })
        .transpose()
    }

    /// Notes as what layers were sent, apart from those that are gone.
    pub fn set_packed_layers(&self, packed: &[(Digest, Packed)]) -> Result<(), StoreError> {
        if packed.is_empty() {
            return Ok(());
        }
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert_packed(&transaction, packed)?;
        Ok(transaction.commit()?)
    }
}

fn insert_packed(transaction: &Transaction<'_>, packed: &[(Digest, Packed)]) -> Result<(), StoreError> {
    let sql = "INSERT INTO packed_layers (diff_id, blob_digest, media_type, size_bytes)
               SELECT diff_id, ?2, ?3, ?4 FROM layers WHERE diff_id = ?1
               ON CONFLICT (diff_id) DO UPDATE SET blob_digest = excluded.blob_digest,
                   media_type = excluded.media_type, size_bytes = excluded.size_bytes";
    let mut statement = transaction.prepare(sql)?;
    for (diff_id, packed) in packed {
        let size = i64::try_from(packed.size_bytes).unwrap_or(i64::MAX);
        statement.execute(params![
            diff_id.to_string(),
            packed.digest.to_string(),
            packed.media_type,
            size
        ])?;
    }
    Ok(())
}

/// Adds what a registry has of an image.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    image: &Digest,
    origin: &Origin,
) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO repo_digests (repository, digest, manifest_digest, image_id) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (repository, digest) DO UPDATE SET manifest_digest = excluded.manifest_digest,
                   image_id = excluded.image_id";
    transaction.execute(
        sql,
        params![
            origin.repository.repository().canonical(),
            origin.digest.to_string(),
            origin.manifest.to_string(),
            image.to_string()
        ],
    )?;
    let sql = "INSERT INTO registry_blobs (registry, repository, digest) VALUES (?1, ?2, ?3)
               ON CONFLICT DO NOTHING";
    let mut statement = transaction.prepare(sql)?;
    for blob in &origin.blobs {
        let (registry, path) = (origin.repository.domain(), origin.repository.path());
        statement.execute(params![registry, path, blob.to_string()])?;
    }
    Ok(())
}

/// Before an image gets a name: a tag takes the place of names with a digest in the same repository; false for a name
/// with a digest where the image has a tag already.
pub(super) fn make_room(
    transaction: &Transaction<'_>,
    image: &Digest,
    name: &Reference,
) -> Result<bool, StoreError> {
    let repository = name.repository().canonical();
    if name.digest().is_some() {
        return Ok(!has_tag(transaction, image, &repository)?);
    }
    let sql = "DELETE FROM names WHERE image_id = ?1 AND substr(name, 1, length(?2) + 1) = ?2 || '@'";
    transaction.execute(sql, params![image.to_string(), repository])?;
    Ok(true)
}

fn has_tag(transaction: &Transaction<'_>, image: &Digest, repository: &str) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM names
               WHERE image_id = ?1 AND substr(name, 1, length(?2) + 1) = ?2 || ':')";
    Ok(transaction.query_row(sql, params![image.to_string(), repository], |row| row.get(0))?)
}

/// The image that a repository has under a digest.
pub(super) fn image_of(
    database: &Connection,
    name: &Reference,
    pinned: &Digest,
) -> Result<Option<Digest>, StoreError> {
    let sql =
        "SELECT image_id FROM repo_digests WHERE repository = ?1 AND (digest = ?2 OR manifest_digest = ?2)
               ORDER BY digest = ?2 DESC LIMIT 1";
    let key = params![name.repository().canonical(), pinned.to_string()];
    let found: Option<String> = database.query_row(sql, key, |row| row.get(0)).optional()?;
    found.map(|id| digest(&id)).transpose()
}

/// After an image lost a name: with the last tag in a repository goes what that calls it, as in Docker; with a name by
/// digest, that digest. Gives the names that went and their manifests.
pub(super) fn forget(
    transaction: &Transaction<'_>,
    image: &Digest,
    name: &Reference,
) -> Result<Vec<(Reference, Digest)>, StoreError> {
    let repository = name.repository().canonical();
    if name.digest().is_none() && has_tag(transaction, image, &repository)? {
        return Ok(Vec::new());
    }
    let sql =
        "DELETE FROM repo_digests WHERE image_id = ?1 AND repository = ?2 AND (?3 IS NULL OR digest = ?3)
               RETURNING digest, manifest_digest";
    let only = name.digest().map(|digest| digest.to_string());
    let mut statement = transaction.prepare(sql)?;
    let rows = statement.query_map(params![image.to_string(), repository, only], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut gone = Vec::new();
    for row in rows {
        let (own, manifest) = row?;
        gone.push((name.with_digest(digest(&own)?), digest(&manifest)?));
    }
    gone.sort();
    Ok(gone)
}

/// Before an image is deleted: forgets what registries call it. Gives the manifests that were kept.
pub(super) fn delete(transaction: &Transaction<'_>, image: &str) -> Result<Vec<Digest>, StoreError> {
    let sql = "DELETE FROM repo_digests WHERE image_id = ?1 RETURNING manifest_digest";
    let mut statement = transaction.prepare(sql)?;
    let rows = statement.query_map([image], |row| row.get::<_, String>(0))?;
    rows.map(|row| digest(&row?)).collect()
}

/// Before a layer is deleted: forgets as what it was sent.
pub(super) fn delete_layer(transaction: &Transaction<'_>, diff_id: &str) -> Result<(), StoreError> {
    transaction.execute("DELETE FROM packed_layers WHERE diff_id = ?1", [diff_id])?;
    Ok(())
}

/// Forgets where blobs are that no image has any more.
pub(super) fn delete_unneeded(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction.execute(
        "DELETE FROM registry_blobs WHERE digest NOT IN
             (SELECT blob_digest FROM image_layers UNION SELECT blob_digest FROM packed_layers)",
        [],
    )?;
    Ok(())
}
