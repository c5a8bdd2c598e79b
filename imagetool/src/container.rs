//! The life of a container.
//!
//! ```text
//!            insert row        pid seen           the command ends
//!  (nothing) ─────────► created ───────► running ─────────────────► exited ──rm──► (nothing)
//!                          │                │                          ▲
//!                          └── killed ──────┴── killed: [`reconcile`] ─┘
//!
//! ROOT/containers/ID/
//!   init/                          the init layer: mount points that the image lacks, never seen by diff or commit
//!   upper/ work/                   what the container changed
//!   merged/                        where the union is mounted, in a mount namespace of the container's own
//!   bundle/config.json             for the runtime
//!   hosts hostname resolv.conf     mounted into the container
//!   processes.json                 server and command, see [`process`]
//!   pid runtime.log ufs.log        from the runtime and the mount program
//! ```
//!
//! The process that typed `shale run` is the container's *supervisor*: it mounts, starts the runtime, hands signals
//! on, waits, and cleans up. Nothing else runs in the background. A supervisor that is killed leaves a row, perhaps a
//! mount and perhaps a living command; the next `run`, `ps` or `rm` sees that the supervisor is gone (process id,
//! start time and boot are compared) and finishes its work.
//!
//! Invariants: a row exists before its directory and after it; only a supervisor, or somebody who found it dead,
//! changes a container's row.

mod confined;
pub mod display;
mod files;
mod init_layer;
pub mod mounted;
mod names;
mod process;
mod reconcile;
mod remove;
pub mod run;
mod runtime;
pub mod seal;
mod supervise;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ufs::Lower;

pub use self::process::ProcessIdentity;
pub use self::reconcile::reconcile;
pub use self::remove::remove;
use crate::bundle::BundleError;
use crate::error::StoreError;
use crate::mounts::MountError;
use crate::store::{ContainerRecord, Store};

/// A failure of the engine, as opposed to the command's own.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The options or the image's configuration.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The union file system.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The runtime could not start the command.
    #[error("{reason}")]
    Start {
        /// What the runtime said.
        reason: String,
        /// 125, 126 or 127.
        status: u8,
        /// Whether the runtime has said so on standard error itself.
        told: bool,
    },
    /// `--name`
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Name(String),
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// `rm` without `-f`.
    #[error(
        "cannot remove container \"/{0}\": container is running: stop the container before removing or force remove"
    )]
    Running(String),
    /// A container that does not go away.
    #[error("container {0} did not end after SIGKILL")]
    Stuck(String),
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl ContainerError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ContainerError + 'a {
        move |source| ContainerError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The exit status of `shale run` after this failure.
    pub fn status(&self) -> u8 {
        if let ContainerError::Start { status, .. } = self {
            *status
        } else {
            125
        }
    }

    /// Whether the person at the terminal has already read about it.
    pub fn is_told(&self) -> bool {
        matches!(self, ContainerError::Start { told: true, .. })
    }
}

/// What a container was made with: kept in [`ContainerRecord::config_json`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct ContainerConfig {
    /// The hostname.
    pub hostname: String,
    /// `-u` or USER, as given.
    pub user: String,
    /// The environment, image's and caller's together, without what every container is given.
    pub env: Vec<String>,
    /// The entry point in effect.
    pub entrypoint: Vec<String>,
    /// The command in effect.
    pub cmd: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// `-t`
    pub tty: bool,
    /// `-i`
    pub open_stdin: bool,
    /// `--network`
    pub network: String,
    /// `--read-only`
    pub read_only: bool,
    /// `--rm`
    pub auto_remove: bool,
    /// `-v` and `--tmpfs`, as given.
    pub binds: Vec<String>,
    /// The runtime's program.
    pub runtime: PathBuf,
    /// The run-time directory of the store when the container was made.
    pub run_dir: PathBuf,
    /// Who looks after the container; none once it has been looked after.
    pub supervisor: Option<ProcessIdentity>,
}

impl ContainerConfig {
    /// The configuration of a record; the default where it is of another version.
    pub fn of(record: &ContainerRecord) -> Self {
        serde_json::from_str(&record.config_json).unwrap_or_default()
    }

    /// As it is kept.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// The read-only layers below a container's upper directory, top first: its init layer, then the image's layers or
/// the directory it was made from.
pub fn lowers(store: &Store, record: &ContainerRecord) -> Result<Vec<Lower>, StoreError> {
    let mut lowers = vec![Lower::Directory(store.container_dir(&record.id).join("init"))];
    match (&record.rootfs, &record.image_id) {
        (Some(rootfs), _) => lowers.push(Lower::Directory(rootfs.clone())),
        (None, Some(image_id)) => {
            let image = store.resolve_image(&image_id.to_string())?;
            lowers.extend(store.layer_lowers(&image)?);
        }
        (None, None) => {}
    }
    Ok(lowers)
}

/// Keeps the layers of a container's image from being deleted, even with the container, for as long as one of the
/// descriptors is open, here or in a process that inherits it.
pub fn pin_layers(store: &Store, record: &ContainerRecord) -> Result<Vec<File>, StoreError> {
    match (&record.rootfs, &record.image_id) {
        (None, Some(image_id)) => store.pin_layers_for(&store.resolve_image(&image_id.to_string())?),
        _ => Ok(Vec::new()),
    }
}

/// The directory that holds what a container changed.
pub fn upper(store: &Store, record: &ContainerRecord) -> PathBuf {
    store.container_dir(&record.id).join("upper")
}

/// Where state that describes processes is kept: gone after a boot, where the machine has such a place. A store that
/// is not at its usual place keeps it inside, so that several stores do not meet.
pub fn run_dir(store: &Store) -> PathBuf {
    if store.root() == Path::new("/var/lib/shale") && crate::namespace::is_initial_user_namespace() {
        return PathBuf::from("/run/shale");
    }
    store.root().join("run")
}

/// Seconds since 1970.
fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
