//! Finishing the work of supervisors that were killed.
//!
//! A container whose supervisor lives is its supervisor's. Of the others: a command that still runs goes on and
//! counts as running, though its supervisor may not have come to write that down; one that a runtime is about to
//! start is waited for; otherwise the server of its root is ended (its mount goes with its namespace), the runtime
//! forgets it, and the row says `exited` with status 255, Docker's answer when nobody saw the end, or the container
//! is removed when it was started with `--rm`.

use nix::sys::signal::Signal;

use super::process::{ProcessIdentity, Processes, Starting, living_command};
use super::runtime::Runtime;
use super::{ContainerConfig, now_s};
use crate::error::StoreError;
use crate::store::{ContainerRecord, ContainerStatus, Store};

/// Status of a command whose end nobody saw.
const UNKNOWN_STATUS: i32 = 255;

/// Brings every row up to date with the processes that there are. What cannot be cleaned up is reported and left for
/// the next time: it never stands in the way of another container's command.
pub fn reconcile(store: &Store) -> Result<(), StoreError> {
    for record in store.containers().list()? {
        let config = ContainerConfig::of(&record);
        let abandoned = config
            .supervisor
            .as_ref()
            .is_some_and(|supervisor| !supervisor.is_alive());
        if abandoned && let Err(error) = finish(store, record, config) {
            // Another command that does the same is not in the way.
            if !matches!(error, StoreError::NoSuchContainer(_)) {
                tracing::warn!("clean up a container: {error}");
            }
        }
    }
    Ok(())
}

fn finish(store: &Store, mut record: ContainerRecord, mut config: ContainerConfig) -> Result<(), StoreError> {
    let directory = store.container_dir(&record.id);
    let processes = Processes::load(&directory);
    match living_command(&directory) {
        Ok(Some(command)) => return adopt(store, record, &command),
        Err(Starting) => return Ok(()),
        Ok(None) => {}
    }
    // What the runtime has made goes with it.
    Runtime::at(config.runtime.clone(), &config.run_dir).delete(record.id.as_str());
    end_server(&processes, &directory.join("merged"));
    if config.auto_remove {
        return super::remove::delete(store, &record);
    }
    if record.status != ContainerStatus::Exited {
        record.status = ContainerStatus::Exited;
        record.exit_code = Some(UNKNOWN_STATUS);
        record.finished_at_s = Some(now_s());
        record.pid = None;
    }
    config.supervisor = None;
    record.config_json = config.to_json();
    store.containers().update(&record)
}

/// Writes down that a command runs, when its supervisor was killed before it could.
fn adopt(store: &Store, mut record: ContainerRecord, command: &ProcessIdentity) -> Result<(), StoreError> {
    if record.status == ContainerStatus::Running {
        return Ok(());
    }
    record.status = ContainerStatus::Running;
    record.pid = Some(command.pid);
    record.started_at_s.get_or_insert_with(now_s);
    let directory = store.container_dir(&record.id);
    let processes = Processes {
        command: Some(command.clone()),
        ..Processes::load(&directory)
    };
    if let Err(error) = processes.save(&directory) {
        tracing::warn!("note the command of container {}: {error}", record.name);
    }
    store.containers().update(&record)
}

/// Ends the server of a container's root, and detaches its mount if it is in sight.
pub(super) fn end_server(processes: &Processes, merged: &std::path::Path) {
    if let Err(error) = crate::mounts::unmount(merged, true) {
        tracing::debug!("{error}");
    }
    if let Some(server) = &processes.server
        && server.is_alive()
        && let Err(errno) = server.signal(Signal::SIGKILL)
    {
        tracing::warn!("end the file system server {}: {errno}", server.pid);
    }
}
