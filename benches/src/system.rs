//! The union file systems that are compared, and one mount of one of them.
//!
//! ```text
//! System::mount ─► Mounted ──end()──► unmounted, server reaped
//!                     └─────drop────► detached, server killed and reaped
//! ```
//!
//! Servers run in the foreground as our children, with their messages in a nameless file that is read only when
//! something fails. The kernel kills them should this program die.

mod overlay;
mod server;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use crate::error::{BenchError, Doing, Result};
use crate::scratch;
use server::{Server, serve};

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
        /// Whether files are opened by the server, so that the kernel may do I/O on the backing files itself.
        passthrough: bool,
        /// More options for it, as `-o` takes them.
        options: Vec<String>,
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
                passthrough: false, ..
            } => "shale",
            Self::Shale {
                passthrough: true, ..
            } => "shale-passthrough",
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
        let own = |line: &&str| {
            ["fuse-overlayfs", "shale-ufs"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let line = text.lines().find(own);
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
        let stands = |server| Mounted {
            mountpoint: mountpoint.to_path_buf(),
            stands: true,
            server,
        };
        let Some(program) = self.program() else {
            overlay::mount(layout, mountpoint)?;
            return Ok(stands(None));
        };
        let mut options = layout.options();
        if let Self::Shale {
            passthrough,
            options: more,
            ..
        } = self
        {
            if *passthrough {
                options.push(",passthrough");
            }
            for option in more {
                options.push(",");
                options.push(option);
            }
        }
        Ok(stands(Some(serve(program, &options, mountpoint)?)))
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

    /// The options that the kernel tells of the mount, without the directories.
    #[must_use]
    pub fn options(&self) -> Option<String> {
        mount_options(&self.mountpoint)
    }

    /// Process number of the server, if there is one.
    #[must_use]
    pub fn server(&self) -> Option<u32> {
        Some(self.server.as_ref()?.pid())
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

/// The type and options of the file system at a mount point, as `/proc/self/mountinfo` tells them.
pub(crate) fn mount_options(mountpoint: &Path) -> Option<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().rev().find_map(|line| {
        let (of_mount, of_system) = line.split_once(" - ")?;
        let mut words = of_mount.split(' ').skip(4);
        (Path::new(words.next()?) == mountpoint).then_some(())?;
        let mut system = of_system.split(' ');
        let kind = system.next()?;
        let own = system.nth(1)?.split(',');
        let layers = ["lowerdir", "upperdir", "workdir"];
        let told = own.filter(|option| !layers.iter().any(|layer| option.starts_with(layer)));
        let options: Vec<_> = words.next()?.split(',').chain(told).collect();
        Some(format!("{kind}: {}", options.join(",")))
    })
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
    fn the_options_of_a_mount_are_those_of_the_kernel() {
        let root = mount_options(Path::new("/")).unwrap();
        assert!(root.contains(": rw,") || root.contains(": ro,"), "{root}");
        assert_eq!(mount_options(Path::new("/nowhere")), None);
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
