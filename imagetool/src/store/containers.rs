//! The table of containers.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use rusqlite::{OptionalExtension, Row, params};

use super::Store;
use crate::digest::Digest;
use crate::error::StoreError;

/// The id of a container: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// A new id from 32 random bytes of the kernel.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        Ok(Self(Digest::of(&bytes).hex()))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as tables show them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for ContainerId {
    type Err = crate::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Digest::from_hex(text).map(|digest| Self(digest.hex()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    /// Made, never started.
    Created,
    /// Its process was alive when the row was written.
    Running,
    /// Its process has ended.
    Exited,
}

impl ContainerStatus {
    /// The word for it, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

impl FromStr for ContainerStatus {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text {
            "created" => Ok(Self::Created),
            "running" => Ok(Self::Running),
            "exited" => Ok(Self::Exited),
            _ => Err(StoreError::Damaged {
                what: "container status".to_owned(),
                detail: format!("{text:?}"),
            }),
        }
    }
}

/// A container as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: String,
    /// The image it was made from; `None` when made from a directory.
    pub image_id: Option<Digest>,
    /// The image as the caller named it.
    pub image_ref: String,
    /// The command's words.
    pub command: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created_at_s: i64,
    /// Where it is in its life.
    pub status: ContainerStatus,
    /// The command's status, once it has ended.
    pub exit_code: Option<i32>,
    /// The command's process while it runs.
    pub pid: Option<i32>,
    /// The host directory it was made from (`run --rootfs DIR`).
    pub rootfs: Option<PathBuf>,
    /// When it was started.
    pub started_at_s: Option<i64>,
    /// When it ended.
    pub finished_at_s: Option<i64>,
    /// Whatever else the container code wants to keep, as JSON.
    pub config_json: String,
}

/// Access to the table of containers.
pub struct Containers<'a> {
    store: &'a Store,
}

/// The columns in the order in which [`record`] reads them.
const COLUMNS: &str = "id, name, image_id, image_ref, command, created_at_s, status, exit_code, pid, rootfs, \
                       started_at_s, finished_at_s, config";

impl<'a> Containers<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Adds a container. Fails with [`StoreError::NameTaken`] when another one has its name, and with
    /// [`StoreError::NoSuchImage`] when its image was removed meanwhile.
    pub fn insert(&self, new: &ContainerRecord) -> Result<(), StoreError> {
        let mut database = self.store.database();
        let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let holder: Option<String> = transaction
            .query_row("SELECT id FROM containers WHERE name = ?1", [&new.name], |row| {
                row.get(0)
            })
            .optional()?;
        if let Some(holder) = holder {
            return Err(StoreError::NameTaken {
                name: new.name.clone(),
                holder,
            });
        }
        if let Some(image_id) = new.image_id {
            let sql = "SELECT count(*) FROM images WHERE id = ?1";
            if transaction.query_row(sql, [image_id.to_string()], |row| row.get::<_, i64>(0))? == 0 {
                return Err(StoreError::NoSuchImage(new.image_ref.clone()));
            }
        }
        let sql =
            format!("INSERT INTO containers ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)");
        write(&transaction, &sql, new)?;
        Ok(transaction.commit()?)
    }

    /// Replaces the row of a container. Fails when it is gone or its new name is taken.
    pub fn update(&self, changed: &ContainerRecord) -> Result<(), StoreError> {
        let mut database = self.store.database();
        let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let holder: Option<String> = transaction
            .query_row(
                "SELECT id FROM containers WHERE name = ?1 AND id <> ?2",
                params![changed.name, changed.id.as_str()],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(holder) = holder {
            return Err(StoreError::NameTaken {
                name: changed.name.clone(),
                holder,
            });
        }
        let sql = "UPDATE containers SET name = ?2, image_id = ?3, image_ref = ?4, command = ?5, created_at_s = ?6, \
                   status = ?7, exit_code = ?8, pid = ?9, rootfs = ?10, started_at_s = ?11, finished_at_s = ?12, \
                   config = ?13 WHERE id = ?1";
        if write(&transaction, sql, changed)? == 0 {
            return Err(StoreError::NoSuchContainer(changed.id.to_string()));
        }
        Ok(transaction.commit()?)
    }

    /// The container of this name, id or unique id prefix.
    pub fn get(&self, name_or_id: &str) -> Result<ContainerRecord, StoreError> {
        let given = name_or_id.strip_prefix('/').unwrap_or(name_or_id);
        if given.is_empty() {
            return Err(StoreError::NoSuchContainer(name_or_id.to_owned()));
        }
        let mut found = self.select("WHERE id = ?1", [given])?;
        if found.is_empty() {
            found = self.select("WHERE name = ?1", [given])?;
        }
        if found.is_empty() && given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found = self.select("WHERE id GLOB ?1 || '*'", [given])?;
        }
        if found.len() > 1 {
            return Err(StoreError::AmbiguousId {
                kind: "container",
                prefix: given.to_owned(),
            });
        }
        found
            .pop()
            .ok_or_else(|| StoreError::NoSuchContainer(name_or_id.to_owned()))
    }

    /// All containers, the newest first.
    pub fn list(&self) -> Result<Vec<ContainerRecord>, StoreError> {
        self.select("ORDER BY created_at_s DESC, rowid DESC", [])
    }

    /// Whether a container runs, as far as the table knows.
    pub(super) fn any_running(&self) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM containers WHERE status = 'running')";
        Ok(self.store.database().query_row(sql, [], |row| row.get(0))?)
    }

    /// Removes the row. The container's directory is the caller's to delete.
    pub fn delete(&self, id: &ContainerId) -> Result<(), StoreError> {
        match self
            .store
            .database()
            .execute("DELETE FROM containers WHERE id = ?1", [id.as_str()])?
        {
            0 => Err(StoreError::NoSuchContainer(id.to_string())),
            _ => Ok(()),
        }
    }

    fn select(
        &self,
        clause: &str,
        values: impl rusqlite::Params,
    ) -> Result<Vec<ContainerRecord>, StoreError> {
        let database = self.store.database();
        let mut statement = database.prepare(&format!("SELECT {COLUMNS} FROM containers {clause}"))?;
        let mut rows = statement.query(values)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(record(row)?);
        }
        Ok(records)
    }
}

/// Runs a statement whose parameters are the columns in order; tells how many rows it changed.
fn write(
    transaction: &rusqlite::Transaction<'_>,
    sql: &str,
    record: &ContainerRecord,
) -> Result<usize, StoreError> {
    let command = serde_json::to_string(&record.command).map_err(|error| StoreError::Damaged {
        what: "container command".to_owned(),
        detail: error.to_string(),
    })?;
    Ok(transaction.execute(
        sql,
        params![
            record.id.as_str(),
            record.name,
            record.image_id.map(|id| id.to_string()),
            record.image_ref,
            command,
            record.created_at_s,
            record.status.as_str(),
            record.exit_code,
            record.pid,
            record.rootfs.as_ref().map(|path| path.as_os_str().as_bytes()),
            record.started_at_s,
            record.finished_at_s,
            record.config_json,
        ],
    )?)
}

/// Reads a row of [`COLUMNS`].
fn record(row: &Row<'_>) -> Result<ContainerRecord, StoreError> {
    let damaged = |what: &str, detail: String| StoreError::Damaged {
        what: format!("container {what}"),
        detail,
    };
    let id: String = row.get(0)?;
    let image_id: Option<String> = row.get(2)?;
    let command: String = row.get(4)?;
    let status: String = row.get(6)?;
    let rootfs: Option<Vec<u8>> = row.get(9)?;
    Ok(ContainerRecord {
        id: id
            .parse()
            .map_err(|error: crate::digest::DigestError| damaged("id", error.to_string()))?,
        name: row.get(1)?,
        image_id: image_id
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: crate::digest::DigestError| damaged("image id", error.to_string()))?,
        image_ref: row.get(3)?,
        command: serde_json::from_str(&command).map_err(|error| damaged("command", error.to_string()))?,
        created_at_s: row.get(5)?,
        status: status.parse()?,
        exit_code: row.get(7)?,
        pid: row.get(8)?,
        rootfs: rootfs.map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes))),
        started_at_s: row.get(10)?,
        finished_at_s: row.get(11)?,
        config_json: row.get(12)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::random().unwrap(),
            name: name.to_owned(),
            image_id: None,
            image_ref: "/".to_owned(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "é".to_owned()],
            created_at_s: 7,
            status: ContainerStatus::Created,
            exit_code: None,
            pid: None,
            rootfs: Some(PathBuf::from(OsStr::from_bytes(b"/odd\xff"))),
            started_at_s: None,
            finished_at_s: None,
            config_json: "{}".to_owned(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut first = sample("one");
        store.containers().insert(&first).unwrap();
        assert_eq!(store.containers().get("one").unwrap(), first);
        assert_eq!(store.containers().get("/one").unwrap(), first);
        assert_eq!(store.containers().get(first.id.short()).unwrap(), first);
        first.status = ContainerStatus::Exited;
        first.exit_code = Some(137);
        store.containers().update(&first).unwrap();
        assert_eq!(store.containers().get(first.id.as_str()).unwrap(), first);
        store.containers().delete(&first.id).unwrap();
        assert!(matches!(
            store.containers().get("one"),
            Err(StoreError::NoSuchContainer(_))
        ));
    }

    #[test]
    fn a_name_is_held_by_one_container() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.containers().insert(&sample("one")).unwrap();
        assert!(matches!(
            store.containers().insert(&sample("one")),
            Err(StoreError::NameTaken { .. })
        ));
        let other = sample("two");
        store.containers().insert(&other).unwrap();
        let renamed = ContainerRecord {
            name: "one".to_owned(),
            ..other
        };
        assert!(matches!(
            store.containers().update(&renamed),
            Err(StoreError::NameTaken { .. })
        ));
    }

    #[test]
    fn globs_and_the_empty_name_find_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.containers().insert(&sample("one")).unwrap();
        for text in ["", "*", "[0-9a-f]", "?"] {
            assert!(
                matches!(store.containers().get(text), Err(StoreError::NoSuchContainer(_))),
                "{text}"
            );
        }
    }
}
