//! Removing containers.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::process::{ProcessIdentity, Processes, Starting, living_command};
use super::runtime::Runtime;
use super::{ContainerConfig, ContainerError, reconcile};
use crate::error::StoreError;
use crate::store::{ContainerRecord, Store};

/// How long a killed container may take to end: its memory is given back in this time.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How often a tree that others write into is deleted again.
const REMOVE_ATTEMPTS_MAX: u32 = 10;

/// Removes a container; a running one only by `force`, which kills it first.
pub fn remove(store: &Store, name: &str, force: bool) -> Result<(), ContainerError> {
    let record = store.containers().get(name)?;
    let record = if is_active(store, &record) {
        if !force {
            return Err(ContainerError::Running(record.name));
        }
        match kill(store, &record)? {
            Some(record) => record,
            // It was started with --rm: its supervisor was faster.
            None => return Ok(()),
        }
    } else {
        record
    };
    Ok(delete(store, &record)?)
}

/// Whether something of the container runs, or is about to.
fn is_active(store: &Store, record: &ContainerRecord) -> bool {
    let supervised = ContainerConfig::of(record)
        .supervisor
        .is_some_and(|supervisor| supervisor.is_alive());
    // Whatever the row says: who was to write it may have been killed before.
    supervised || !matches!(living_command(&store.container_dir(&record.id)), Ok(None))
}

/// Kills a container's command and waits until nothing of it runs; the record as it is then, if there still is one.
fn kill(store: &Store, record: &ContainerRecord) -> Result<Option<ContainerRecord>, ContainerError> {
    let directory = store.container_dir(&record.id);
    let deadline = Instant::now() + KILL_TIMEOUT;
    while Instant::now() < deadline {
        let now = match store.containers().get(record.id.as_str()) {
            Err(StoreError::NoSuchContainer(_)) => return Ok(None),
            other => other?,
        };
        if !is_active(store, &now) {
            reconcile(store)?;
            return match store.containers().get(record.id.as_str()) {
                Err(StoreError::NoSuchContainer(_)) => Ok(None),
                other => Ok(Some(other?)),
            };
        }
        match living_command(&directory) {
            Ok(Some(command)) => match command.signal(Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                // Of a user that this user namespace has no rights over: its supervisor has.
                Err(_) => ask_supervisor(&now, &directory),
            },
            // Not started yet. Without a supervisor it is killed as soon as the runtime has told who it is.
            Ok(None) | Err(Starting) => ask_supervisor(&now, &directory),
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Err(ContainerError::Stuck(record.name.clone()))
}

fn ask_supervisor(record: &ContainerRecord, directory: &Path) {
    let request = directory.join("kill");
    let supervisor = ContainerConfig::of(record)
        .supervisor
        .filter(ProcessIdentity::is_alive);
    let Some(supervisor) = supervisor else { return };
    if request.exists() {
        return;
    }
    let asked = std::fs::write(&request, "")
        .map_err(|error| error.to_string())
        .and_then(|()| {
            supervisor
                .signal(Signal::SIGTERM)
                .map_err(|errno| errno.to_string())
        });
    if let Err(error) = asked {
        tracing::warn!("ask the supervisor of {} to end it: {error}", record.name);
    }
}

/// Deletes the files, then the row: a command that is killed in between leaves a row that can be removed again.
pub(super) fn delete(store: &Store, record: &ContainerRecord) -> Result<(), StoreError> {
    let directory = store.container_dir(&record.id);
    let config = ContainerConfig::of(record);
    Runtime::at(config.runtime, &config.run_dir).delete(record.id.as_str());
    reconcile::end_server(&Processes::load(&directory), &directory.join("merged"));
    match remove_tree(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::Io {
                action: "delete",
                path: directory,
                source: error,
            });
        }
        _ => {}
    }
    match store.containers().delete(&record.id) {
        Err(StoreError::NoSuchContainer(_)) => Ok(()),
        other => other,
    }
}

/// Deletes a tree whose directories may refuse their own owner, and into which somebody may still write a request.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let mut attempts_left = REMOVE_ATTEMPTS_MAX;
    loop {
        attempts_left -= 1;
        match std::fs::remove_dir_all(directory) {
            Err(error) if attempts_left > 0 => match error.kind() {
                io::ErrorKind::PermissionDenied => open_directories(directory)?,
                io::ErrorKind::DirectoryNotEmpty => std::thread::sleep(POLL_INTERVAL),
                _ => return Err(error),
            },
            other => return other,
        }
    }
}

fn open_directories(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}
