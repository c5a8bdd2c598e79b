//! The OCI runtime as a program: `shale-runtime` by default, runc or crun on request. Its command line is all that is
//! known of it here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::ContainerError;
use super::process::InUse;
use crate::mounts::find_program;

/// How much of a runtime's log is looked at.
const LOG_BYTES_MAX: usize = 1 << 20;

/// A runtime and where it keeps its state.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    program: PathBuf,
    state: PathBuf,
}

impl Runtime {
    /// The runtime that the caller chose: a name is searched for in PATH.
    pub(super) fn find(choice: Option<&str>, run_dir: &Path) -> Result<Self, ContainerError> {
        let program = match choice {
            None | Some("shale" | "shale-runtime") => find_program("shale-runtime", "SHALE_RUNTIME")?,
            Some(path) if path.contains('/') => PathBuf::from(path),
            Some(name) => crate::rootless::in_path(name).ok_or_else(|| {
                ContainerError::Usage(format!(
                    "unknown or invalid runtime name: {name}: it is not in PATH"
                ))
            })?,
        };
        Ok(Self::at(program, run_dir))
    }

    /// The runtime of a container that was made before.
    pub(super) fn at(program: PathBuf, run_dir: &Path) -> Self {
        Self {
            program,
            state: run_dir.join("runtime"),
        }
    }

    /// Its program.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts `run` in the foreground with our streams. The log and the file with the command's process id go to the
    /// container's directory, and the runtime keeps the container in use as long as it lives.
    pub(super) fn run(
        &self,
        directory: &Path,
        id: &str,
        stdin: bool,
        in_use: &InUse,
    ) -> Result<Child, ContainerError> {
        fs::create_dir_all(&self.state).map_err(ContainerError::io("create", &self.state))?;
        let log = directory.join("runtime.log");
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(&self.state)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json"]);
        command.arg("run").arg("--bundle").arg(directory.join("bundle"));
        command.arg("--pid-file").arg(directory.join("pid")).arg(id);
        if !stdin {
            command.stdin(Stdio::null());
        }
        in_use
            .inherit(true)
            .and_then(|()| {
                let child = command.spawn();
                in_use.inherit(false)?;
                child
            })
            .map_err(ContainerError::io("start", &self.program))
    }

    /// Forgets a container and kills what is left of it; one that is not known is no failure.
    pub(super) fn delete(&self, id: &str) {
        if !self.state.join(id).exists() {
            return;
        }
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(&self.state)
            .args(["delete", "--force", id]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!("{} delete {id}: {status}", self.program.display()),
            Err(error) => tracing::warn!("{} delete {id}: {error}", self.program.display()),
        }
    }
}

/// Why the command was not started, from the log of this runtime: nothing when it was.
pub(super) fn failure(runtime: &Runtime, directory: &Path) -> Option<ContainerError> {
    let text = fs::read(directory.join("runtime.log")).ok()?;
    let text = String::from_utf8_lossy(&text[..text.len().min(LOG_BYTES_MAX)]).into_owned();
    let reason = last_error(&text)?;
    let status = classify(&reason);
    let told = matches!(
        runtime.program.file_name()?.to_str(),
        Some("shale-runtime" | "runc")
    );
    Some(ContainerError::Start { reason, status, told })
}

/// The last entry of level error or worse in a log of JSON lines.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry.get("level")?.as_str()?.to_ascii_lowercase();
        let message = entry.get("msg")?.as_str()?;
        matches!(level.as_str(), "error" | "fatal" | "panic").then(|| message.to_owned())
    })
}

/// Docker's exit status for what a runtime says: 127 for a command that is not there, 126 for one that cannot be
/// run, 125 for the rest.
fn classify(reason: &str) -> u8 {
    let says = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    // Only the command itself counts: a bind mount whose source is missing is the engine's failure.
    if !says(&["exec"]) {
        125
    } else if says(&[
        "executable file not found",
        "no such file or directory",
        "No such file or directory",
    ]) {
        127
    } else if says(&[
        "permission denied",
        "Permission denied",
        "is a directory",
        "exec format error",
        "Exec format",
    ]) {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_becomes_dockers_status() {
        let table = [
            (
                r#"unable to start container process: exec: "nope": executable file not found in $PATH"#,
                127,
            ),
            (r#"exec: "/nope": stat /nope: no such file or directory"#, 127),
            (r#"exec: "/etc/passwd": permission denied"#, 126),
            (r#"exec: "/etc": is a directory"#, 126),
            ("exec /x: exec format error", 126),
            ("mount /nope to /data: no such file or directory", 125),
            ("cgroup is full", 125),
        ];
        for (reason, status) in table {
            assert_eq!(classify(reason), status, "{reason}");
        }
    }

    #[test]
    fn only_errors_of_the_log_count() {
        let log = "{\"level\":\"warning\",\"msg\":\"old\"}\nnoise\n{\"level\":\"error\",\"msg\":\"first\"}\n\
                   {\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"info\",\"msg\":\"later\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error("{\"level\":\"warning\",\"msg\":\"cgroups\"}\n"), None);
        assert_eq!(last_error(""), None);
    }
}
