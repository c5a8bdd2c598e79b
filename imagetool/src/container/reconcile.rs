//! Finishing the work of supervisors that were killed.
//!
//! A container whose supervisor lives is its supervisor's. Of the others: a command that still runs goes on and
//! counts as running; otherwise the server of its root is ended (its mount goes with its namespace), the runtime
//! forgets it, and the row says `exited` with status 255, Docker's answer when nobody saw the end, or the container
//! is removed when it was started with `--rm`.

use nix::sys::signal::Signal;

use super::process::Processes;
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
    if processes
        .command
        .as_ref()
        .is_some_and(super::ProcessIdentity::is_alive)
    {
        return Ok(());
    }
    // Killed between the start of the command and the note of it: the runtime knows, and kills it.
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
