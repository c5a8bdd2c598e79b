//! A store of Podman's, on the kernel's overlayfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::place;
use super::tools::run;
use crate::error::{BenchError, Doing, Result};

/// Limits that an unprivileged container may have everywhere.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=512:512"];

/// A store; removed when dropped.
#[derive(Debug)]
pub struct Podman {
    program: PathBuf,
    dir: PathBuf,
}

impl Podman {
    /// An empty store below an empty directory, whose database has been made.
    ///
    /// # Errors
    /// When Podman is missing or does not run.
    pub fn new(program: Option<&PathBuf>, dir: PathBuf) -> Result<Self> {
        let program = program.cloned().ok_or_else(|| BenchError::Program {
            program: "podman".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let store = Self { program, dir };
        fs::create_dir_all(store.temporary()).doing("make", &store.dir)?;
        run(store.command().arg("images"))?;
        Ok(store)
    }

    /// Where images and containers are kept.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// A command on this store.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root());
        command.arg("--runroot").arg(self.dir.join("run"));
        command.arg("--tmpdir").arg(self.dir.join("libpod"));
        command.args(["--cgroup-manager=cgroupfs", "--storage-driver=overlay"]);
        command.env("TMPDIR", self.temporary()).current_dir("/");
        command
    }

    /// `podman run` of an image, up to the name of the container.
    #[must_use]
    pub fn run_command(&self, name: &str) -> Command {
        let mut command = self.command();
        command
            .args(["run", "--network=none", "--name", name])
            .args(LIMITS);
        command
    }

    /// Loads an archive.
    ///
    /// # Errors
    /// When Podman fails.
    pub fn load(&self, archive: &Path) -> Result<super::tools::Ran> {
        run(self.command().args(["load", "-q", "-i"]).arg(archive))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(error) = place::remove(&self.dir) {
            eprintln!("  {}", crate::error::chain(&error));
        }
    }
}
