//! The union file systems that are compared, and one mount of one of them.
//!
//! ```text
//! System::mount ─► Mounted ──end()──► unmounted, server reaped
//!                     └─────drop────► detached, server killed and reaped
//! ```
//!
//! Servers run in the foreground as our children, with their messages in a nameless file that is read only when
//! something fails. The kernel kills them should this program die.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{BenchError, Doing, Result};
use crate::{interrupt, scratch, sys};

const MOUNT_TIMEOUT: Duration = Duration::from_secs(10);
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// A union file system under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// The kernel's overlayfs with the kernel's default options: the base of all ratios.
    Overlayfs,
    /// fuse-overlayfs with its default options.
    FuseOverlayfs {
        /// The program.
        program: PathBuf,
    },
    /// shale-ufs.
    Shale {
        /// The program.
        program: PathBuf,
        /// Whether the kernel may do I/O on the backing files itself.
        passthrough: bool,
    },
}

/// The directories of a mount.
#[derive(Debug)]
pub struct Layout {
    /// Lower directories, top first.
    pub lowers: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// What the system prepares them in.
    pub work: PathBuf,
}

impl System {
    /// A short name for tables and options.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::FuseOverlayfs { .. } => "fuse-overlayfs",
            Self::Shale {
                passthrough: true, ..
            } => "shale-ufs",
            Self::Shale {
                passthrough: false, ..
            } => "shale-ufs-nopt",
        }
    }

    /// What it says about its version; the kernel's is the kernel's.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn version(&self) -> Result<String> {
        let Some(program) = self.program() else {
            return Ok("of the kernel".to_owned());
        };
        let output = Command::new(program)
            .arg("--version")
            .output()
            .map_err(|source| missing(program, source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let named = self.name().split("-nopt").next().unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(named));
        Ok(line.unwrap_or("unknown").to_owned())
    }

    fn program(&self) -> Option<&Path> {
        match self {
            Self::Overlayfs => None,
            Self::FuseOverlayfs { program } | Self::Shale { program, .. } => Some(program),
        }
    }

    /// Mounts at `mountpoint`, an empty directory.
    ///
    /// # Errors
    /// What the kernel or the server says; nothing is mounted then.
    pub fn mount(&self, layout: &Layout, mountpoint: &Path) -> Result<Mounted> {
        let mut options = layout.options();
        let Some(program) = self.program() else {
            let flags = MsFlags::empty();
            mount(
                Some("overlay"),
                mountpoint,
                Some("overlay"),
                flags,
                Some(options.as_os_str()),
            )
            .doing("mount overlayfs at", mountpoint)?;
            return Ok(Mounted {
                mountpoint: mountpoint.to_path_buf(),
                stands: true,
                server: None,
            });
        };
        if let Self::Shale {
            passthrough: false, ..
        } = self
        {
            options.push(",passthrough=off");
        }
        serve(program, &options, mountpoint)
    }
}

impl Layout {
    /// The options that all systems share. Our own paths have neither commas nor colons unless the scratch
    /// directory's parent has; then the mount fails.
    fn options(&self) -> OsString {
        let mut text = OsString::from("lowerdir=");
        for (number, lower) in self.lowers.iter().enumerate() {
            if number > 0 {
                text.push(":");
            }
            text.push(lower);
        }
        text.push(",upperdir=");
        text.push(&self.upper);
        text.push(",workdir=");
        text.push(&self.work);
        text
    }
}

fn missing(program: &Path, source: std::io::Error) -> BenchError {
    BenchError::Program {
        program: program.display().to_string(),
        source,
    }
}

/// Starts a server and waits until its mount is there.
fn serve(program: &Path, options: &OsString, mountpoint: &Path) -> Result<Mounted> {
    let device = |path: &Path| Some(fs::symlink_metadata(path).ok()?.dev());
    let before = device(mountpoint);
    let log = tempfile::tempfile().doing("make a nameless file in", &std::env::temp_dir())?;
    let mut command = Command::new(program);
    command.arg("-f").arg("-o").arg(options).arg(mountpoint);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log.try_clone().doing("use", Path::new("a nameless file"))?);
    command.current_dir("/");
    sys::dies_with_us(&mut command);
    let child = command.spawn().map_err(|source| missing(program, source))?;
    interrupt::set_server(Some(child.id()));
    let mut server = Server { child, log };
    let started = Instant::now();
    loop {
        if device(mountpoint).is_some_and(|now| Some(now) != before) {
            return Ok(Mounted {
                mountpoint: mountpoint.to_path_buf(),
                stands: true,
                server: Some(server),
            });
        }
        let name = program.display().to_string();
        if let Ok(Some(status)) = server.child.try_wait() {
            interrupt::set_server(None);
            return Err(BenchError::Failed {
                program: name,
                message: format!("{} ({status})", server.messages()),
            });
        }
        if started.elapsed() > MOUNT_TIMEOUT {
            let _ = umount2(mountpoint, MntFlags::MNT_DETACH);
            server.kill();
            return Err(BenchError::NotMounted {
                program: name,
                seconds: MOUNT_TIMEOUT.as_secs(),
                message: server.messages(),
            });
        }
        std::thread::sleep(POLL_PAUSE);
    }
}

/// A server process and what it says.
#[derive(Debug)]
struct Server {
    child: Child,
    log: File,
}

impl Server {
    fn messages(&mut self) -> String {
        let mut text = String::new();
        let _ = self.log.rewind();
        let _ = self.log.read_to_string(&mut text);
        text.trim().replace('\n', "; ")
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        interrupt::set_server(None);
    }

    /// Waits for the end that follows an unmount; kills a server that does not come to it.
    fn reap(&mut self) {
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > EXIT_TIMEOUT {
                eprintln!("the server {} does not end; killing it", self.child.id());
                break;
            }
            std::thread::sleep(POLL_PAUSE);
        }
        self.kill();
    }
}

/// One mount; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    stands: bool,
    server: Option<Server>,
}

impl Mounted {
    /// The root of the merged tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// Process number of the server, if there is one.
    #[must_use]
    pub fn server(&self) -> Option<u32> {
        Some(self.server.as_ref()?.child.id())
    }

    /// Unmounts and waits for the server.
    ///
    /// # Errors
    /// When the file system stays busy; it is detached then.
    pub fn end(mut self) -> Result<()> {
        scratch::unmount(&self.mountpoint).doing("unmount", &self.mountpoint)?;
        self.stands = false;
        if let Some(mut server) = self.server.take() {
            server.reap();
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.stands {
            let _ = umount2(&self.mountpoint, MntFlags::MNT_DETACH);
        }
        if let Some(server) = &mut self.server {
            server.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_stand_top_first_before_the_upper() {
        let layout = Layout {
            lowers: vec!["/a".into(), "/b".into()],
            upper: "/u".into(),
            work: "/w".into(),
        };
        assert_eq!(layout.options(), "lowerdir=/a:/b,upperdir=/u,workdir=/w");
    }

    #[test]
    fn a_missing_program_is_named() {
        let system = System::FuseOverlayfs {
            program: "/nowhere/fuse-overlayfs".into(),
        };
        let error = system.version().unwrap_err().to_string();
        assert!(
            error.contains("`/nowhere/fuse-overlayfs`") && error.contains("install"),
            "{error}"
        );
    }
}
