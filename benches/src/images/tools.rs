//! The programs, and running one of them to its end with its time and peak memory.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::error::{BenchError, Doing, Result};
use crate::sys;

/// What is compared. A peer that is not there is none.
#[derive(Debug)]
pub struct Tools {
    /// `shale`; its own programs lie beside it.
    pub shale: PathBuf,
    /// `podman`.
    pub podman: Option<PathBuf>,
    /// `umoci`.
    pub umoci: Option<PathBuf>,
    /// `skopeo`.
    pub skopeo: Option<PathBuf>,
    /// `docker-registry`, also called `registry`.
    pub registry: Option<PathBuf>,
    /// `fuse-overlayfs`.
    pub fuse_overlayfs: Option<PathBuf>,
    /// `gzip`.
    pub gzip: Option<PathBuf>,
    /// `zstd`.
    pub zstd: Option<PathBuf>,
}

impl Tools {
    /// Looks for all peers in `PATH`.
    #[must_use]
    pub fn find(shale: PathBuf) -> Self {
        Self {
            shale,
            podman: which("podman"),
            umoci: which("umoci"),
            skopeo: which("skopeo"),
            registry: super::registry::program(),
            fuse_overlayfs: which("fuse-overlayfs"),
            gzip: which("gzip"),
            zstd: which("zstd"),
        }
    }

    fn peers(&self) -> [(&'static str, Option<&PathBuf>); 7] {
        [
            ("podman", self.podman.as_ref()),
            ("umoci", self.umoci.as_ref()),
            ("skopeo", self.skopeo.as_ref()),
            ("registry", self.registry.as_ref()),
            ("fuse-overlayfs", self.fuse_overlayfs.as_ref()),
            ("gzip", self.gzip.as_ref()),
            ("zstd", self.zstd.as_ref()),
        ]
    }

    /// Peers that are not installed.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let gone = self.peers().into_iter().filter(|(_, path)| path.is_none());
        gone.map(|(name, _)| format!("{name}: not installed")).collect()
    }

    /// What each program says about its version.
    #[must_use]
    pub fn versions(&self) -> Vec<String> {
        let there = self
            .peers()
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)));
        std::iter::once(("shale", &self.shale))
            .chain(there)
            .map(|(name, path)| {
                let output = Command::new(path).arg("--version").output();
                let text = output
                    .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                    .unwrap_or_default();
                let line = text.lines().find(|line| !line.trim().is_empty());
                let line = line.unwrap_or("unknown").trim();
                match line.contains(name) {
                    true => line.to_owned(),
                    false => format!("{name}: {line}"),
                }
            })
            .collect()
    }
}

/// Finds a program as a shell would.
#[must_use]
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A program that came to a good end.
#[derive(Debug)]
pub struct Ran {
    /// How long it took.
    pub seconds: f64,
    /// The most memory that it, or a child of its own, had.
    pub peak_bytes: f64,
    /// Time on processors: next to the time that passed, it tells work from waiting, on a busy machine as well.
    pub cpu_seconds: f64,
    /// What it printed.
    pub stdout: String,
}

/// Runs a program whose input is empty.
///
/// # Errors
/// When it cannot be started, or fails: then with what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<Ran> {
    command.stdin(Stdio::null());
    run_with_input(command, || Ok(()))
}

/// Runs a program whose input was set by the caller; `feed` runs beside it.
///
/// # Errors
/// When it cannot be started, or fails: then with what it wrote to standard error.
pub fn run_with_input(command: &mut Command, feed: impl FnOnce() -> Result<()>) -> Result<Ran> {
    let program = words(command);
    let (stdout, stderr) = (nameless()?, nameless()?);
    let name = Path::new("a nameless file");
    command.stdout(stdout.try_clone().doing("use", name)?);
    command.stderr(stderr.try_clone().doing("use", name)?);
    sys::dies_with_us(command);
    let started = Instant::now();
    let child = command.spawn().map_err(|source| BenchError::Program {
        program: program.clone(),
        source,
    })?;
    // What the parent holds of a pipe must go, lest the child never sees its end.
    command.stdin(Stdio::null());
    let fed = feed();
    let (status, usage) = sys::wait_with_usage(child).doing("wait for", Path::new(&program))?;
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        let message = format!("{} ({status})", text_of(stderr).trim().replace('\n', "; "));
        return Err(BenchError::Failed { program, message });
    }
    fed?;
    Ok(Ran {
        seconds,
        peak_bytes: usage.peak_kib as f64 * 1024.0,
        cpu_seconds: usage.cpu_seconds,
        stdout: text_of(stdout),
    })
}

fn nameless() -> Result<File> {
    tempfile::tempfile().doing("make a nameless file in", &std::env::temp_dir())
}

fn text_of(mut file: File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program and its first words, as messages name it.
fn words(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for word in command.get_args().take(8) {
        text.push(' ');
        text.push_str(&word.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_timed_and_its_memory_known() {
        let ran = run(Command::new("sh").args(["-c", "echo hello"])).unwrap();
        assert_eq!(ran.stdout, "hello\n");
        assert!(ran.seconds > 0.0 && ran.peak_bytes > 100_000.0, "{ran:?}");
    }

    #[test]
    fn a_failure_tells_what_the_program_said() {
        let error = run(Command::new("sh").args(["-c", "echo alas >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("alas (exit status: 3)"), "{error}");
    }
}
