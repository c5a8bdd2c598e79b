//! A file system's server process: start, wait for the mount, wait for the end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use super::missing;
use crate::error::{BenchError, Doing, Result};
use crate::{interrupt, sys};

const MOUNT_TIMEOUT: Duration = Duration::from_secs(10);
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// Starts a server and waits until its mount is there.
pub(super) fn serve(program: &Path, options: &OsStr, mountpoint: &Path) -> Result<Server> {
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
    let running = interrupt::Running::new(child.id());
    let mut server = Server {
        child,
        log,
        _running: running,
    };
    let started = Instant::now();
    loop {
        if device(mountpoint).is_some_and(|now| Some(now) != before) {
            return Ok(server);
        }
        let name = program.display().to_string();
        if let Ok(Some(status)) = server.child.try_wait() {
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
pub(super) struct Server {
    child: Child,
    log: File,
    _running: interrupt::Running,
}

impl Server {
    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn messages(&mut self) -> String {
        let mut text = String::new();
        let _ = self.log.rewind();
        let _ = self.log.read_to_string(&mut text);
        text.trim().replace('\n', "; ")
    }

    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end that follows an unmount; kills a server that does not come to it.
    pub(super) fn reap(&mut self) {
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
