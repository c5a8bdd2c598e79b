//! A store of shale's, and mounts of what is in it.

use std::fs;
use std::io::PipeWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use super::place;
use super::tools::{Ran, run, run_with_input};
use crate::error::{BenchError, Doing, Result};

const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// A store; its directory goes with the place that it lies in.
#[derive(Debug, Clone)]
pub struct Shale {
    program: PathBuf,
    root: PathBuf,
    temporary: PathBuf,
}

impl Shale {
    /// An empty store in an empty directory, whose database has been made.
    ///
    /// # Errors
    /// When shale does not run.
    pub fn new(program: &Path, root: PathBuf) -> Result<Self> {
        let temporary = root.with_extension("tmp");
        fs::create_dir_all(&temporary).doing("make", &temporary)?;
        let store = Self {
            program: program.to_path_buf(),
            root,
            temporary,
        };
        run(store.command().arg("images"))?;
        Ok(store)
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command on this store.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(&self.root)
            .env("TMPDIR", &self.temporary);
        command.current_dir("/");
        command
    }

    /// Loads an archive or a layout.
    ///
    /// # Errors
    /// When shale fails.
    pub fn load(&self, path: &Path) -> Result<Ran> {
        run(self.command().args(["load", "-q", "-i"]).arg(path))
    }

    /// Loads, or imports under a name, what `write` writes into a pipe.
    ///
    /// # Errors
    /// When either end fails.
    pub fn read_pipe(
        &self,
        import_as: Option<&str>,
        write: impl FnOnce(PipeWriter) -> Result<()> + Send,
    ) -> Result<Ran> {
        let mut command = self.command();
        match import_as {
            Some(name) => command.args(["import", "-q", "-", name]),
            None => command.args(["load", "-q"]),
        };
        let (reader, writer) = std::io::pipe().doing("make", Path::new("a pipe"))?;
        command.stdin(reader);
        run_with_input(&mut command, || write(writer))
    }

    /// Mounts, with these words before the mount point.
    ///
    /// # Errors
    /// When shale fails.
    pub fn mount(&self, words: &[&str], mountpoint: &Path) -> Result<ShaleMount> {
        let ran = run(self.command().arg("mount").args(words).arg(mountpoint))?;
        Ok(ShaleMount {
            store: self.clone(),
            mountpoint: mountpoint.to_path_buf(),
            seconds: ran.seconds,
            stands: true,
        })
    }

    /// Removes the store.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> Result<()> {
        place::remove(&self.temporary)?;
        place::remove(&self.root)
    }
}

/// One mount; unmounted when dropped.
#[derive(Debug)]
pub struct ShaleMount {
    store: Shale,
    mountpoint: PathBuf,
    /// How long `shale mount` took.
    pub seconds: f64,
    stands: bool,
}

impl ShaleMount {
    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// Process number of the server: the process that was given this mount point.
    #[must_use]
    pub fn server(&self) -> Option<u32> {
        server_of(&self.mountpoint)
    }

    /// Unmounts and waits for the server's end.
    ///
    /// # Errors
    /// When shale fails.
    pub fn end(mut self) -> Result<()> {
        let server = self.server();
        run(self.store.command().arg("umount").arg(&self.mountpoint))?;
        self.stands = false;
        wait_for_end(server);
        Ok(())
    }
}

impl Drop for ShaleMount {
    fn drop(&mut self) {
        if !self.stands {
            return;
        }
        let server = self.server();
        if run(self.store.command().arg("umount").arg(&self.mountpoint)).is_err() {
            let _ = umount2(&self.mountpoint, MntFlags::MNT_DETACH);
        }
        wait_for_end(server);
    }
}

fn wait_for_end(server: Option<u32>) {
    let Some(pid) = server else { return };
    let started = Instant::now();
    while fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty()) {
        if started.elapsed() > EXIT_TIMEOUT {
            eprintln!("  the server {pid} does not end");
            return;
        }
        std::thread::sleep(POLL_PAUSE);
    }
}

/// The process with this path among its words.
fn server_of(mountpoint: &Path) -> Option<u32> {
    let wanted = mountpoint.as_os_str().as_encoded_bytes();
    let own = std::process::id();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let found = words.split(|byte| *byte == 0).any(|word| word == wanted);
        (found && pid != own).then_some(pid)
    })
}

/// Memory of a server in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// All resident pages, those of files included.
    pub resident: f64,
    /// Its own pages.
    pub anonymous: f64,
}

/// What a process uses now.
///
/// # Errors
/// When there is no such process.
pub fn memory_of(pid: Option<u32>) -> Result<Memory> {
    let pid = pid.ok_or_else(|| BenchError::Wrong("the mount has no server".to_owned()))?;
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(&path).doing("read", &path)?;
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.trim().strip_suffix("kB"));
        number
            .and_then(|number| number.trim().parse::<f64>().ok())
            .map(|kib| kib * 1024.0)
    };
    let wrong = || BenchError::Wrong(format!("{} lacks a line", path.display()));
    Ok(Memory {
        resident: bytes("Rss:").ok_or_else(wrong)?,
        anonymous: bytes("Anonymous:").ok_or_else(wrong)?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_of_this_process_is_found() {
        let memory = super::memory_of(Some(std::process::id())).unwrap();
        assert!(
            memory.resident > memory.anonymous && memory.anonymous > 0.0,
            "{memory:?}"
        );
        assert!(super::memory_of(None).is_err());
    }
}
