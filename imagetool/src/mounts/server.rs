//! The server process of a mount: start, wait until the tree answers, unmount, wait for its end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SigSet, Signal};

use super::{MountError, Pins, Union};
use crate::container::ProcessIdentity;

/// A mount with hundreds of layers on a slow disk answers within this time.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The server has this long to finish once its mount is gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the target: short against the tens of milliseconds that a mount takes.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How much of what a failed server wrote is repeated.
const REASON_BYTES_MAX: usize = 4096;

/// A running server and its mount.
#[derive(Debug)]
pub struct Server {
    child: Child,
    program: String,
    target: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Mounts the union at `target` and returns once the tree answers. What the server has to say goes to `log`.
    pub fn start(union: &Union, target: &Path, log: &Path) -> Result<Self, MountError> {
        Self::start_noted(union, target, log, &Pins::none(), &mut |_| Ok(()))
    }

    /// As [`Server::start`]; the server holds the pins as long as it lives, and `note` is told of it before it is
    /// waited for: should this process be killed, there is no mount that nobody knows of.
    pub fn start_noted(
        union: &Union,
        target: &Path,
        log: &Path,
        pins: &Pins,
        note: &mut dyn FnMut(ProcessIdentity) -> Result<(), MountError>,
    ) -> Result<Self, MountError> {
        check_fuse()?;
        let path = super::find_program("shale-ufs", "SHALE_UFS")?;
        let output = File::create(log).map_err(MountError::io("create", log))?;
        let before = device(target).map_err(MountError::io("look at", target))?;
        let mut command = Command::new(&path);
        // The child is then the supervisor of the server, and starts it again when it dies.
        command.arg("-f").arg("-o").arg(union.options());
        command.arg("-o").arg("supervise").arg(target);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        // A process group of its own: Ctrl-C in the terminal is for the container, not for its file system.
        command.process_group(0).current_dir("/");
        pins.inherit(true);
        let spawned = command.spawn();
        pins.inherit(false);
        let child = spawned.map_err(MountError::io("start", &path))?;
        let program = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        let mut server = Self {
            child,
            program,
            target: target.to_owned(),
            log: log.to_owned(),
        };
        // One that has ended already tells why while it is waited for.
        let noted = server.identity().map_or(Ok(()), note);
        noted
            .and_then(|()| server.wait_for_mount(before))
            .inspect_err(|_| server.kill())?;
        Ok(server)
    }

    /// Who the server is, for a record.
    pub fn identity(&self) -> Option<ProcessIdentity> {
        ProcessIdentity::of(i32::try_from(self.child.id()).ok()?)
    }

    /// The status of a server that has ended, and what it wrote.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{status}: {}", self.reason()))
    }

    /// Unmounts and waits for the server, so that everything written has reached the upper directory.
    pub fn finish(mut self) -> Result<(), MountError> {
        let unmounted = unmount(&self.target, false).or_else(|error| match error {
            MountError::Busy(_) => unmount(&self.target, true),
            error => Err(error),
        });
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return unmounted;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        tracing::warn!(
            "{} of {} did not end after the unmount",
            self.program,
            self.target.display()
        );
        self.kill();
        unmounted
    }

    /// Waits until the mount is taken away, by whomever. A signal that asks this process to end takes it away.
    pub fn wait(mut self) -> Result<(), MountError> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
            signals.add(signal);
        }
        let failed = |errno: Errno| MountError::io("wait for", &self.target)(errno.into());
        signals.thread_block().map_err(failed)?;
        loop {
            // blocked signals wait, so that an end before this look is not missed
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return Ok(());
            }
            if signals.wait().map_err(failed)? != Signal::SIGCHLD {
                return self.finish();
            }
        }
    }

    /// Leaves the mount and its server behind, on purpose.
    pub fn leave(self) {
        drop(self.child);
    }

    fn wait_for_mount(&mut self, before: u64) -> Result<(), MountError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if device(&self.target).is_ok_and(|now| now != before) {
                return Ok(());
            }
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(MountError::io("wait for", &self.target))?
            {
                let said = self.reason();
                let reason = if said.is_empty() { status.to_string() } else { said };
                let (program, target) = (self.program.clone(), self.target.clone());
                return Err(MountError::Refused {
                    program,
                    target,
                    reason,
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let (program, target) = (self.program.clone(), self.target.clone());
        Err(MountError::Late {
            program,
            target,
            seconds: START_TIMEOUT.as_secs(),
        })
    }

    /// The last thing the server wrote.
    fn reason(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(REASON_BYTES_MAX);
        let text = String::from_utf8_lossy(&text[from..]);
        let line = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("")
            .trim();
        let own = format!("{}: ", self.program);
        line.strip_prefix(&own).unwrap_or(line).to_owned()
    }

    fn kill(&mut self) {
        let _ = unmount(&self.target, true);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails with advice when FUSE cannot be used, before a server fails with less.
fn check_fuse() -> Result<(), MountError> {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map(drop).map_err(MountError::NoFuse)
}

/// The device that a directory is on.
fn device(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.dev())
}

/// Unmounts `target`; with `lazy`, also when something still uses it. No mount there is no failure.
pub fn unmount(target: &Path, lazy: bool) -> Result<(), MountError> {
    let flags = if lazy {
        MntFlags::MNT_DETACH
    } else {
        MntFlags::empty()
    } | MntFlags::UMOUNT_NOFOLLOW;
    if target.parent().is_none() {
        // No mount of ours: this would detach the machine's own root, or make it read-only.
        return Err(MountError::io("unmount", target)(Errno::EBUSY.into()));
    }
    match umount2(target, flags) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(Errno::EBUSY) => Err(MountError::Busy(target.to_owned())),
        Err(errno) => Err(MountError::Io {
            action: "unmount",
            path: target.to_owned(),
            source: errno.into(),
        }),
    }
}
