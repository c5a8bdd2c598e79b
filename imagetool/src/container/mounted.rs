//! The tree of a running container, which is mounted in its server's mount namespace.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::process::Processes;
use crate::error::StoreError;
use crate::store::{ContainerRecord, Store};

/// Where this process can reach the tree; `None` when nobody serves it.
pub(super) fn root(directory: &Path) -> Option<PathBuf> {
    let server = Processes::load(directory).server;
    let server = server.filter(|server| server.is_alive())?;
    let mut root = OsString::from(format!("/proc/{}/root", server.pid));
    root.push(directory.join("merged"));
    Some(root.into())
}

/// Has the kernel hand on what programs of a running container have changed in files that they have mapped: from then on
/// it is in the upper.
///
/// # Errors
/// When the upper takes it not. A container that has ended has nothing left to hand on.
pub fn write_back(store: &Store, record: &ContainerRecord) -> Result<(), StoreError> {
    let Some(root) = root(&store.container_dir(&record.id)) else {
        return Ok(());
    };
    // Its server ends meanwhile.
    let Ok(tree) = File::open(&root) else {
        return Ok(());
    };
    match rustix::fs::syncfs(&tree) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(StoreError::io("write back", &root)(error.into())),
    }
}
