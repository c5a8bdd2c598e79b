//! Hooks: programs called at certain moments, with the container's state on standard input
//! (config.md, "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::plan::HookMoment;
use crate::seccomp::Filter;
use crate::spec::{Hook, OCI_VERSION};

/// The state of the container as hooks see it (runtime.md, "State").
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// The version of the specification.
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: String,
    /// Its process; 0 when there is none.
    pub pid: i32,
    /// Its bundle.
    pub bundle: String,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl HookState {
    /// The same container in another state.
    #[must_use]
    pub fn at(&self, status: &str, pid: i32) -> Self {
        Self {
            status: status.to_owned(),
            pid,
            oci_version: OCI_VERSION.to_owned(),
            ..self.clone()
        }
    }

    /// What a seccomp agent is told with the descriptor (config-linux.md, "The Container Process State").
    pub fn seccomp_state(&self, filter: &Filter) -> String {
        let metadata = filter
            .listener
            .as_ref()
            .map(|listener| listener.metadata.as_str())
            .unwrap_or_default();
        serde_json::json!({
            "ociVersion": OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": self.pid,
            "metadata": metadata,
            "state": self,
        })
        .to_string()
    }
}

/// Calls the hooks in order; the first failure ends it.
pub fn call(moment: HookMoment, hooks: &[Hook], state: &HookState) -> Result<()> {
    let status = match moment {
        HookMoment::Prestart | HookMoment::CreateRuntime | HookMoment::CreateContainer => "creating",
        HookMoment::StartContainer => "created",
        HookMoment::Poststart => "running",
        HookMoment::Poststop => "stopped",
    };
    let pid = match moment {
        HookMoment::CreateContainer | HookMoment::StartContainer => std::process::id() as i32,
        HookMoment::Poststop => 0,
        _ => state.pid,
    };
    let text = serde_json::to_vec(&state.at(status, pid))?;
    for hook in hooks {
        call_one(hook, &text).context(|| format!("{moment} hook {}", hook.path.display()))?;
    }
    Ok(())
}

fn call_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command
        .env_clear()
        .envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read its input.
        let _ = input.write_all(state);
    }
    let status = match hook.timeout_s {
        Some(seconds) => wait_with_timeout(&mut child, Duration::from_secs(seconds))?,
        None => None,
    };
    let output = child.wait_with_output()?;
    let status = status.unwrap_or(output.status);
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::invalid(format!("{status}, and it said: {}", said.trim())))
}

/// Waits on the process itself, not by looking again and again.
fn wait_with_timeout(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let pidfd = crate::sys::process::pidfd_open(nix::unistd::Pid::from_raw(child.id() as i32))?;
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Err(Error::invalid(format!(
                    "took longer than {} s and was ended",
                    timeout.as_secs()
                )));
            }
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
