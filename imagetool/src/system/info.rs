//! Where the store is, what its machine offers, what is in it and what is mounted from it.

use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};

use crate::container;
use crate::error::StoreError;
use crate::mounts::Records;
use crate::store::{ContainerStatus, Store};

/// Names of file systems by the magic number that statfs(2) gives.
const FILE_SYSTEMS: &[(i64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0xca45_1a4e, "bcachefs"),
];

/// Tells everything.
///
/// # Errors
/// When the store cannot be read.
pub fn info(store: &Store) -> Result<Value, StoreError> {
    let containers = store.containers().list()?;
    let running = containers
        .iter()
        .filter(|container| container.status == ContainerStatus::Running)
        .count();
    let listing = store.listing()?;
    let (kernel, passthrough) = kernel();
    let space = nix::sys::statvfs::statvfs(store.root());
    let bytes = |blocks: u64| {
        let size = space.as_ref().map_or(0, |space| space.fragment_size());
        blocks.saturating_mul(size)
    };
    Ok(json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "KernelVersion": kernel,
        "OSType": "linux",
        "Architecture": crate::manifest::host_architecture(),
        "NCPU": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "DockerRootDir": store.root().display().to_string(),
        "Driver": "shale",
        "BackingFilesystem": file_system(store.root()),
        "FreeBytes": space.as_ref().map_or(0, |space| bytes(space.blocks_available())),
        "TotalBytes": space.as_ref().map_or(0, |space| bytes(space.blocks())),
        "Reflink": reflink(store),
        "Fuse": fuse(),
        "Passthrough": passthrough,
        "Rootless": !crate::namespace::is_initial_user_namespace(),
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersStopped": containers.len() - running,
        "Images": listing.images.len(),
        "Layers": listing.layers.len(),
        "Objects": listing.object_files.len(),
        "Mounts": mounts(store),
    }))
}

fn file_system(path: &Path) -> String {
    match nix::sys::statfs::statfs(path) {
        Ok(found) => {
            let magic = found.filesystem_type().0;
            let known = FILE_SYSTEMS.iter().find(|(number, _)| *number == magic);
            known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned())
        }
        Err(error) => error.to_string(),
    }
}

/// Whether contents can be taken without copying their bytes: tried with two small files.
fn reflink(store: &Store) -> bool {
    let Ok(staging) = store.stage("info") else {
        return false;
    };
    let path = staging.path().join("reflink");
    let clones = || -> std::io::Result<()> {
        fs::write(&path, [0; 4096])?;
        let copy = File::create(staging.path().join("reflink.copy"))?;
        Ok(rustix::fs::ioctl_ficlone(&copy, &File::open(&path)?)?)
    };
    clones().is_ok()
}

/// Whether file systems can be served.
fn fuse() -> String {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => "available".to_owned(),
        Err(error) => format!("not available: /dev/fuse: {error}"),
    }
}

/// The kernel's release, and whether it can pass files through (Linux 6.9, with the rights of root).
fn kernel() -> (String, bool) {
    let release = nix::sys::utsname::uname()
        .map(|system| system.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let root = nix::unistd::geteuid().is_root() && crate::namespace::is_initial_user_namespace();
    (release, version >= (6, 9) && root)
}

/// What is mounted, with the counters of each server's page cache.
fn mounts(store: &Store) -> Vec<Value> {
    let living = Records::open(&container::run_dir(store)).and_then(|records| records.living());
    let living = living.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    let counters = |target: &Path| -> Value {
        match xattr::get(target, ufs::fs::COUNTERS) {
            Ok(Some(text)) => serde_json::from_slice(&text).unwrap_or_default(),
            _ => Value::Null,
        }
    };
    let row = |record: &crate::mounts::MountRecord| {
        let mut row = record.to_json();
        row["Counters"] = counters(&record.target);
        row
    };
    living.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_tells_about_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let told = info(&store).unwrap();
        assert_eq!(told["Images"], json!(0));
        assert_ne!(told["BackingFilesystem"], json!(""));
        assert!(told["TotalBytes"].as_u64().unwrap() > 0);
    }
}
