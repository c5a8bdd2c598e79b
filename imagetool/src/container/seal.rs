//! Making the partial copies of a container whole: by its server while it runs, by `shale-ufs --seal` at rest.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{ContainerError, lowers, mounted, pin_layers};
use crate::mounts::{Union, find_program};
use crate::store::{ContainerRecord, Store};

/// Set on the root of a mount, it has everything sealed; read, it tells what is left.
const ATTRIBUTE: &str = ufs::fs::SEAL;

/// Between two looks at what is left.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Makes all partial copies of a container whole.
///
/// # Errors
/// When its server or the mount program refuses.
pub fn seal(store: &Store, record: &ContainerRecord) -> Result<(), ContainerError> {
    if record.rootfs.is_some() {
        return Ok(()); // it has none
    }
    let directory = store.container_dir(&record.id);
    match mounted::root(&directory) {
        Some(root) => seal_mounted(&root),
        None => seal_at_rest(store, record, &directory),
    }
}

/// Makes all partial copies of a mount whole, and waits for it.
///
/// # Errors
/// When the server of the mount refuses.
pub fn seal_mounted(root: &Path) -> Result<(), ContainerError> {
    let failed = || ContainerError::io("seal", root);
    xattr::set(root, ATTRIBUTE, b"1").map_err(failed())?;
    loop {
        let state = xattr::get(root, ATTRIBUTE).map_err(failed())?.unwrap_or_default();
        let state: Value = serde_json::from_slice(&state).unwrap_or_default();
        if state["waiting"] == 0 && state["looking"] == false {
            return Ok(());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn seal_at_rest(store: &Store, record: &ContainerRecord, directory: &Path) -> Result<(), ContainerError> {
    let _pins = pin_layers(store, record)?;
    let union = Union {
        lowers: lowers(store, record)?,
        upper: Some((directory.join("upper"), directory.join("work"))),
        ..Union::default()
    };
    let program = find_program("shale-ufs", "SHALE_UFS")?;
    let output = Command::new(&program)
        .args(["--seal", "-o"])
        .arg(union.options())
        .output()
        .map_err(ContainerError::io("start", &program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ContainerError::Usage(format!(
        "container {} stays partial: {}",
        record.name,
        said.trim().trim_start_matches("shale-ufs: ")
    )))
}
