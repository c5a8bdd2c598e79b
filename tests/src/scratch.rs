//! A fresh small ext4 on a loop device, in a mount namespace of the test's own.
//!
//! The host's temporary directory may lack extended attributes or device nodes, and be slow; this one has
//! them all and vanishes with the test. If the test process dies, the namespace and the mounts die with it.

use crate::posix;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory that tests inside a user namespace work in.
pub const SCRATCH_VARIABLE: &str = "SHALE_TESTS_SCRATCH_DIR";

/// Whether the tests run inside a user namespace, where there are no `trusted.*` attributes.
#[must_use]
pub fn is_rootless() -> bool {
    std::env::var_os(SCRATCH_VARIABLE).is_some()
}

thread_local! {
    static IS_PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Moves the calling thread (and what it starts later) into a mount namespace of its own, with umask 022.
pub fn enter_private_namespace() {
    if IS_PRIVATE.replace(true) {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare a mount namespace");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("make mounts private");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// A mounted loop image, gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    /// The ext4's root.
    root: PathBuf,
    is_mounted: bool,
    _holder: tempfile::TempDir,
}

impl Scratch {
    /// An ext4 of the usual size; the image is sparse, so that only what is written costs space.
    #[must_use]
    pub fn new() -> Scratch {
        Scratch::with_size_mib(512)
    }

    /// An ext4 of `size_mib` MiB.
    #[must_use]
    pub fn with_size_mib(size_mib: u64) -> Scratch {
        Scratch::made_by(size_mib, &["mkfs.ext4", "-q", "-F", "-O", "^resize_inode"])
    }

    /// A file system of `size_mib` MiB that the command `mkfs`, with the image's path after it, makes.
    #[must_use]
    pub fn made_by(size_mib: u64, mkfs: &[&str]) -> Scratch {
        enter_private_namespace();
        if let Some(within) = std::env::var_os(SCRATCH_VARIABLE) {
            return Scratch::inside(Path::new(&within));
        }
        let holder = tempfile::Builder::new()
            .prefix("shale-tests-")
            .tempdir()
            .expect("make a scratch directory");
        let image = holder.path().join("image");
        File::create(&image)
            .and_then(|file| file.set_len(size_mib << 20))
            .expect("make the image file");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        let root = holder.path().join("root");
        std::fs::create_dir(&root).expect("make the scratch mount point");
        run(Command::new("mount")
            .args(["-o", "loop,noatime"])
            .arg(&image)
            .arg(&root));
        Scratch {
            root,
            is_mounted: true,
            _holder: holder,
        }
    }

    /// A directory of a scratch that the parent process made: a user namespace cannot mount an image.
    fn inside(within: &Path) -> Scratch {
        let holder = tempfile::Builder::new()
            .prefix("inner-")
            .tempdir_in(within)
            .expect("make a scratch directory");
        let root = holder.path().join("root");
        std::fs::create_dir(&root).expect("make the scratch root");
        Scratch {
            root,
            is_mounted: false,
            _holder: holder,
        }
    }

    /// The root of the fresh file system.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Makes an empty directory `name` in it.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).expect("make a directory in scratch");
        posix::chmod(&path, 0o755).expect("chmod a directory in scratch");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_mounted && umount2(&self.root, MntFlags::empty()).is_err() {
            // Something of a failed test still uses it; detached, it goes away with its last user.
            let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        }
    }
}

/// Runs a command that must succeed; its output is part of the failure.
pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
