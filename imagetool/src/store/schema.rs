//! The database's tables and their migrations.
//!
//! `PRAGMA user_version` counts the migrations that were applied; each runs in one transaction with the version's
//! change, so that two first commands at once, or a killed one, leave a whole schema. A migration that was released
//! is never edited: a change is a new entry.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::error::StoreError;

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait before the journal is switched again.
const BUSY_POLL: Duration = Duration::from_millis(2);

/// One entry per schema version, oldest first.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE images (
        id              TEXT PRIMARY KEY,       -- digest of the configuration
        manifest_digest TEXT NOT NULL,          -- blob of the manifest the image came with
        config          TEXT NOT NULL,          -- the configuration as it came
        parent_id       TEXT,                   -- image it was committed on, when known here
        base_rootfs     BLOB,                   -- host directory below the layers
        created_at_s    INTEGER NOT NULL,       -- for sorting, from the configuration
        added_at_s      INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE names (
        name     TEXT PRIMARY KEY,              -- canonical: docker.io/library/debian:12
        image_id TEXT NOT NULL REFERENCES images (id)
    ) STRICT;
    CREATE INDEX names_by_image ON names (image_id);
    CREATE TABLE layers (
        diff_id     TEXT PRIMARY KEY,
        size_bytes  INTEGER NOT NULL,           -- of the unpacked regular files
        added_at_s  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE image_layers (
        image_id    TEXT NOT NULL REFERENCES images (id),
        position    INTEGER NOT NULL,           -- 0 is the bottom
        diff_id     TEXT NOT NULL REFERENCES layers (diff_id),
        blob_digest TEXT NOT NULL,              -- the layer as it came, perhaps compressed
        PRIMARY KEY (image_id, position)
    ) STRICT;
    CREATE INDEX image_layers_by_layer ON image_layers (diff_id);
    CREATE TABLE containers (
        id            TEXT PRIMARY KEY,
        name          TEXT NOT NULL UNIQUE,
        image_id      TEXT REFERENCES images (id),
        image_ref     TEXT NOT NULL,
        command       TEXT NOT NULL,            -- a JSON array of words
        created_at_s  INTEGER NOT NULL,
        status        TEXT NOT NULL CHECK (status IN ('created', 'running', 'exited')),
        exit_code     INTEGER,
        pid           INTEGER,
        rootfs        BLOB,
        started_at_s  INTEGER,
        finished_at_s INTEGER,
        config        TEXT NOT NULL
    ) STRICT;
    CREATE INDEX containers_by_image ON containers (image_id);
",
    // the same tables; layers are no longer directories, which a program that knows version 1 alone takes them for
    "",
    // what registries have
    "
    CREATE TABLE repo_digests (                 -- what repositories of registries call images: pulled or pushed
        repository      TEXT NOT NULL,          -- canonical: docker.io/library/debian
        digest          TEXT NOT NULL,          -- of a manifest, or of the index that leads to it
        manifest_digest TEXT NOT NULL,          -- the image's manifest there; its blob is kept
        image_id        TEXT NOT NULL REFERENCES images (id),
        PRIMARY KEY (repository, digest)
    ) STRICT;
    CREATE INDEX repo_digests_by_image ON repo_digests (image_id);
    CREATE INDEX repo_digests_by_manifest ON repo_digests (manifest_digest);
    CREATE TABLE packed_layers (                -- as what a layer without a compressed blob was sent; not kept
        diff_id     TEXT PRIMARY KEY REFERENCES layers (diff_id),
        blob_digest TEXT NOT NULL,
        media_type  TEXT NOT NULL,
        size_bytes  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE registry_blobs (               -- blobs of layers that a repository had: another one can mount them
        registry   TEXT NOT NULL,
        repository TEXT NOT NULL,               -- its path there
        digest     TEXT NOT NULL,
        PRIMARY KEY (digest, registry, repository)
    ) STRICT;
",
];

/// Opens the database below `root` and brings its schema up to date.
pub(super) fn open(root: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(root.join("shale.db"))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    use_write_ahead_log(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // what is committed is safe in the log: moving it over at the end of every command would cost two more syncs
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let known = MIGRATIONS.len() as i64;
    if version(&connection)? < known {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let from = usize::try_from(version(&transaction)?).unwrap_or(0);
        for migration in MIGRATIONS.iter().skip(from) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", known)?;
        transaction.commit()?;
    }
    let found = version(&connection)?;
    if found > known {
        return Err(StoreError::NewerSchema {
            path: root.to_owned(),
            found,
            known,
        });
    }
    Ok(connection)
}

/// Switches a new database to write-ahead logging. Two first commands at once cannot both switch it: SQLite tells one
/// of them "busy" without waiting for the busy timeout, so that the waiting is done here.
fn use_write_ahead_log(connection: &Connection) -> Result<(), rusqlite::Error> {
    let text = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let switch = || {
        if connection.pragma_query_value(None, "journal_mode", text)? != "wal" {
            connection.pragma_update_and_check(None, "journal_mode", "WAL", text)?;
        }
        Ok(())
    };
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match switch() {
            Err(rusqlite::Error::SqliteFailure(cause, _))
                if cause.code == ErrorCode::DatabaseBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_POLL);
            }
            other => return other,
        }
    }
}

/// The schema version of the open database.
fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_twice_migrates_once() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        assert_eq!(
            version(&open(folder.path()).unwrap()).unwrap(),
            MIGRATIONS.len() as i64
        );
    }

    #[test]
    fn first_commands_at_once_all_open_it() {
        const OPENERS: usize = 8;
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(OPENERS);
            std::thread::scope(|scope| {
                for _ in 0..OPENERS {
                    scope.spawn(|| {
                        start.wait();
                        open(folder.path()).unwrap();
                    });
                }
            });
        }
    }

    #[test]
    fn a_newer_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path())
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            open(folder.path()),
            Err(StoreError::NewerSchema { found: 99, .. })
        ));
    }
}
