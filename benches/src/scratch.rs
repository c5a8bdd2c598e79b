//! A fresh journaled ext4 on a loop device, so that no history of the machine's own disk biases a comparison; a plain
//! directory for those who may not make one.
//!
//! ```text
//! DIR/shale-bench-XXXXXX/base   the ext4: layers, uppers, work directories
//!                       /mnt    where the systems are mounted, one after the other
//! ```
//!
//! The image file has no name once it is mounted and the loop device frees itself: after the unmount nothing is left,
//! and should this process be killed, `umount` of the base is all there is to do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};

use crate::error::{BenchError, Doing, Result};
use crate::images::place;
use crate::interrupt;

/// How often a busy unmount is tried, and the pause between two attempts.
const UNMOUNT_ATTEMPTS: u32 = 100;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// The base file system; it is gone when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    mounted: bool,
    plain: bool,
}

impl Scratch {
    /// Makes a file system of `size_bytes` in a new directory below `parent`.
    ///
    /// # Errors
    /// [`BenchError::NotRoot`], or what went wrong with the image; nothing is left behind then.
    pub fn make(parent: &Path, size_bytes: u64) -> Result<Self> {
        Self::make_for(parent, size_bytes, None)
    }

    /// The same with room for a number of files, where one for each 16 KiB is not enough.
    ///
    /// # Errors
    /// As [`Scratch::make`].
    pub fn make_for(parent: &Path, size_bytes: u64, files: Option<u64>) -> Result<Self> {
        if !is_root() {
            return Err(BenchError::NotRoot);
        }
        let mut scratch = Self::directories(parent, false)?;
        let (base, image) = (scratch.base(), scratch.image());
        allocate(&image, size_bytes)?;
        let quick = "lazy_itable_init=0,lazy_journal_init=0";
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-E", quick]);
        if let Some(files) = files {
            mkfs.arg("-N").arg(files.to_string());
        }
        run(mkfs.arg(&image))?;
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(&image)
            .arg(&base))?;
        scratch.mounted = true;
        fs::remove_file(&image).doing("remove", &image)?;
        Ok(scratch)
    }

    /// A directory of `parent` as it is, with whatever file system and history that has.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(parent: &Path) -> Result<Self> {
        Self::directories(parent, true)
    }

    fn directories(parent: &Path, plain: bool) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("shale-bench-")
            .tempdir_in(parent)
            .doing("make a directory in", parent)?
            .keep();
        let scratch = Self {
            dir,
            mounted: false,
            plain,
        };
        for dir in [scratch.base(), scratch.mountpoint()] {
            fs::create_dir(&dir).doing("make", &dir)?;
        }
        Ok(scratch)
    }

    /// The root of the ext4, or the directory in its place.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    /// An empty directory outside of it.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = unmount(&self.base())
        {
            eprintln!(
                "cannot unmount {}: {error}; it is detached",
                self.base().display()
            );
            let _ = umount2(&self.base(), MntFlags::MNT_DETACH);
        }
        if self.plain {
            place::unmount_below(&self.dir);
            if !place::is_mounted_below(&self.dir) {
                let _ = fs::remove_dir_all(self.base());
            }
        }
        // Else never recursively: should something still be mounted, its content is none of ours to remove.
        let _ = fs::remove_file(self.image());
        let _ = fs::remove_dir(self.mountpoint());
        let _ = fs::remove_dir(self.base());
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// Unmounts, waiting a while for whoever is about to let go.
pub(crate) fn unmount(path: &Path) -> Result<(), Errno> {
    for _ in 1..UNMOUNT_ATTEMPTS {
        match umount2(path, MntFlags::empty()) {
            Err(Errno::EBUSY) => std::thread::sleep(UNMOUNT_PAUSE),
            result => return result,
        }
    }
    umount2(path, MntFlags::empty())
}

/// Writes everything out, so that no earlier work is paid for later.
pub(crate) fn settle() {
    nix::unistd::sync();
}

/// Whether this is the machine's root, and not that of a user namespace: only the first may make loop devices and
/// drop the kernel's caches.
#[must_use]
pub fn is_root() -> bool {
    let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    nix::unistd::geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
}

/// Writes everything out and empties the kernel's caches of pages, names and inodes.
pub(crate) fn drop_caches() -> Result<()> {
    settle();
    drop_some_caches("3")
}

/// Empties the caches of names and inodes alone.
pub(crate) fn drop_inodes() -> Result<()> {
    drop_some_caches("2")
}

fn drop_some_caches(which: &str) -> Result<()> {
    let control = Path::new("/proc/sys/vm/drop_caches");
    fs::write(control, which).doing("write to", control)
}

/// Space that is there from the start: a full disk is found out now, and not in the middle of a measurement.
fn allocate(image: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create_new(image).doing("make", image)?;
    let length = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    match fallocate(&file, FallocateFlags::empty(), 0, length) {
        Err(Errno::EOPNOTSUPP) => file.set_len(size_bytes).doing("set the length of", image),
        result => result.doing("allocate", image),
    }
}

/// Runs a program to its end, without input; what it prints is dropped.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_fed(command.stdin(Stdio::null()).stdout(Stdio::null()))
}

/// Runs a program to its end, whose input and output the caller has set.
pub(crate) fn run_fed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| BenchError::Program {
        program: program.clone(),
        source,
    };
    let child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    let running = interrupt::Running::new(child.id());
    let output = child.wait_with_output().map_err(failed)?;
    drop(running);
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(BenchError::Failed {
        program,
        message: format!("{message} ({})", output.status),
    })
}
