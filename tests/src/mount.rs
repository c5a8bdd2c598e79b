//! Mounts a union by the kernel's overlayfs, by fuse-overlayfs or by shale-ufs, and always takes it down.
//!
//! ```text
//! MountGuard::mount ──► mounted ──unmount()──► unmounted (server reaped, its status checked)
//!                          └──── drop ───────► detached, server reaped or killed; never left behind
//! ```
//! A watchdog kills a server whose mount stands too long, so that a dead lock becomes a failed test
//! (`ENOTCONN`) and not a test run that never ends.

use crate::faults::{Faults, FaultyCalls};
use crate::image::{self, Form};
use crate::programs;
use crate::skip::{Tier, skip};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MOUNT_TIMEOUT: Duration = Duration::from_secs(20);
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the longest test; a stuck server is killed after it.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(150);

/// Who makes the union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's overlayfs with `redirect_dir`, `index` and `metacopy`.
    Kernel,
    /// The kernel's overlayfs with `redirect_dir` and `metacopy` only: what reads uppers of others.
    KernelNoIndex,
    /// The kernel's overlayfs with all of it off.
    KernelPlain,
    /// The peer.
    FuseOverlayfs,
    /// Ours, with passthrough where the kernel allows it.
    ShalePassthrough,
    /// Ours, every read and write through the server.
    ShalePlain,
    /// Ours, with every file copied up block by block and sealed soon after.
    ShalePartial,
    /// Ours, over the lower directories as the layers of an image, merged.
    ShaleImage,
    /// Ours, over the lower directories as the layers of an image, each an index of its own.
    ShaleLayers,
}

impl Backend {
    /// Whether the machine has it; skips the running test otherwise.
    #[must_use]
    pub fn is_available_or_skip(self) -> bool {
        match self.missing() {
            None => true,
            Some((tier, reason)) => {
                skip(tier, &reason);
                false
            }
        }
    }

    /// Whether it is one of ours.
    #[must_use]
    pub fn is_shale(self) -> bool {
        matches!(
            self,
            Backend::ShalePassthrough
                | Backend::ShalePlain
                | Backend::ShalePartial
                | Backend::ShaleImage
                | Backend::ShaleLayers
        )
    }

    /// Whether it is the kernel's.
    #[must_use]
    pub fn is_kernel(self) -> bool {
        matches!(
            self,
            Backend::Kernel | Backend::KernelNoIndex | Backend::KernelPlain
        )
    }

    /// Why it cannot run here, if so.
    #[must_use]
    pub fn missing(self) -> Option<(Tier, String)> {
        if !nix::unistd::geteuid().is_root() {
            return Some((
                Tier::Root,
                "needs root for loop devices and mounts; run the tests with sudo".into(),
            ));
        }
        if self.is_kernel() {
            let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
            let has = known.lines().any(|line| line.ends_with("\toverlay"));
            return (!has).then(|| (Tier::Overlay, "the kernel has no overlayfs".into()));
        }
        let (tier, name) = if self.is_shale() {
            (Tier::ShaleUfs, "shale-ufs")
        } else {
            (Tier::FuseOverlayfs, "fuse-overlayfs")
        };
        if !Path::new("/dev/fuse").exists() {
            return Some((tier, "no /dev/fuse".into()));
        }
        self.program()
            .is_none()
            .then(|| (tier, format!("{name} is not there; build or install it")))
    }

    fn program(self) -> Option<PathBuf> {
        match self {
            Backend::FuseOverlayfs => programs::system_binary("fuse-overlayfs"),
            _ => programs::workspace_binary("shale-ufs"),
        }
    }

    fn kernel_options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Backend::Kernel => &[
                ("redirect_dir", "on"),
                ("index", "on"),
                ("metacopy", "on"),
                ("xino", "on"),
            ],
            Backend::KernelNoIndex => &[("redirect_dir", "on"), ("index", "off"), ("metacopy", "on")],
            _ => &[("redirect_dir", "off"), ("index", "off"), ("metacopy", "off")],
        }
    }
}

/// What to unite.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// Lower directories, top first.
    pub lowers: Vec<PathBuf>,
    /// The upper and the work directory; `None` mounts read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// More `-o` options for the FUSE programs.
    pub extra_options: Vec<String>,
    /// The soft limit of open files that the FUSE programs are started with.
    pub open_files_limit: Option<u64>,
}

impl MountSpec {
    /// The value of `-o` that the FUSE programs take.
    #[must_use]
    pub fn fuse_options(&self) -> OsString {
        let lowers: Vec<Vec<u8>> = self.lowers.iter().map(|lower| escape(lower)).collect();
        self.options_over(&lowers.join(&b':'))
    }

    /// The same, over indexes of the lowers, which are made in a repository at `root`.
    fn image_options(&self, root: &Path, form: Form) -> io::Result<OsString> {
        let name = image::lowerdir_of(&self.lowers, root, form)?;
        let mut spec = self.clone();
        let repository = OsString::from_vec(escape(root));
        spec.extra_options
            .push(format!("repository={}", repository.display()));
        Ok(spec.options_over(name.as_bytes()))
    }

    fn options_over(&self, lowers: &[u8]) -> OsString {
        let mut text = b"lowerdir=".to_vec();
        text.extend(lowers);
        if let Some((upper, work)) = &self.upper {
            text.extend(b",upperdir=");
            text.extend(escape(upper));
            text.extend(b",workdir=");
            text.extend(escape(work));
        }
        for option in &self.extra_options {
            text.push(b',');
            text.extend(option.as_bytes());
        }
        OsString::from_vec(text)
    }
}

fn escape(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

/// A mounted union.
#[derive(Debug)]
pub struct MountGuard {
    backend: Backend,
    mount_point: PathBuf,
    server: Option<Server>,
    /// Where the layers of an image are, beside whatever the test does to its scratch.
    repository: Option<tempfile::TempDir>,
    is_mounted: bool,
}

#[derive(Debug)]
struct Server {
    child: Child,
    log: PathBuf,
    _watchdog: mpsc::Sender<()>,
}

impl MountGuard {
    /// Mounts and waits until the mount answers; the error carries what the server said.
    pub fn mount(backend: Backend, spec: &MountSpec, mount_point: &Path) -> io::Result<MountGuard> {
        let mut guard = MountGuard {
            backend,
            mount_point: mount_point.to_owned(),
            server: None,
            repository: None,
            is_mounted: false,
        };
        if backend.is_kernel() {
            patiently(|| mount_kernel(backend, spec, mount_point))?;
        } else {
            guard.start_server(spec, None)?;
        }
        guard.is_mounted = true;
        Ok(guard)
    }

    /// As [`MountGuard::mount`], by a server whose system calls can be made to fail.
    pub fn mount_faulty(
        backend: Backend,
        spec: &MountSpec,
        mount_point: &Path,
        calls: FaultyCalls,
    ) -> io::Result<(MountGuard, Faults)> {
        let mut guard = MountGuard {
            backend,
            mount_point: mount_point.to_owned(),
            server: None,
            repository: None,
            is_mounted: false,
        };
        let faults = guard.start_server(spec, Some(calls))?;
        guard.is_mounted = true;
        Ok((
            guard,
            faults.ok_or_else(|| io::Error::other("the server takes no faults"))?,
        ))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The process that serves it, if there is one.
    #[must_use]
    pub fn server_pid(&self) -> Option<i32> {
        self.server
            .as_ref()
            .map(|server| i32::try_from(server.child.id()).expect("a pid fits"))
    }

    /// What the server has said so far.
    #[must_use]
    pub fn server_log(&self) -> String {
        let Some(server) = &self.server else {
            return String::new();
        };
        String::from_utf8_lossy(&std::fs::read(&server.log).unwrap_or_default()).into_owned()
    }

    /// Ends the server without warning, as a crash would.
    pub fn kill_server(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
    }

    /// Unmounts; an error when it was busy, or when the server did not end well by itself.
    pub fn unmount(mut self) -> io::Result<()> {
        patiently(|| Ok(umount2(&self.mount_point, MntFlags::empty())?))?;
        self.is_mounted = false;
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        let log = server.log.clone();
        let status = wait_for_exit(&mut server.child, EXIT_TIMEOUT);
        let said = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(io::Error::other(format!(
                "the server ended with {status} after unmount: {said}"
            ))),
            None => Err(io::Error::other(format!(
                "the server did not end after unmount: {said}"
            ))),
        }
    }

    fn repository(&mut self) -> io::Result<&Path> {
        Ok(self.repository.insert(tempfile::tempdir()?).path())
    }

    fn start_server(&mut self, spec: &MountSpec, calls: Option<FaultyCalls>) -> io::Result<Option<Faults>> {
        let program = self
            .backend
            .program()
            .ok_or_else(|| io::Error::other("the mount program is missing"))?;
        let mut spec = spec.clone();
        let options: &[&str] = match self.backend {
            Backend::ShalePassthrough => &["passthrough"],
            Backend::ShalePartial => &["partial_min=1", "seal=0.3"],
            _ => &[],
        };
        // What a test asks for itself comes later and counts.
        let options = options.iter().map(|option| (*option).to_owned());
        spec.extra_options.splice(0..0, options);
        let options = match self.backend {
            Backend::ShaleImage => spec.image_options(self.repository()?, Form::Merged)?,
            Backend::ShaleLayers => spec.image_options(self.repository()?, Form::Stacked)?,
            _ => spec.fuse_options(),
        };
        let log = self.mount_point.with_extension("log");
        let log_file = File::create(&log)?;
        let mut command = match spec.open_files_limit {
            None => Command::new(program),
            Some(limit) => {
                // It replaces itself by the program, so the pid is the server's.
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:")).arg(program);
                command
            }
        };
        let faults = calls.map(|calls| calls.prepare(&mut command)).transpose()?;
        let child = command
            .args([
                OsStr::new("-f"),
                OsStr::new("-o"),
                &options,
                self.mount_point.as_os_str(),
            ])
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            .spawn()?;
        let watchdog = start_watchdog(i32::try_from(child.id()).expect("a pid fits"));
        self.server = Some(Server {
            child,
            log,
            _watchdog: watchdog,
        });
        let faults = faults.map(Faults::start).transpose()?;
        self.wait_until_mounted()?;
        Ok(faults)
    }

    fn wait_until_mounted(&mut self) -> io::Result<()> {
        let parent = self
            .mount_point
            .parent()
            .ok_or_else(|| io::Error::other("mount point without parent"))?;
        let outside = parent.metadata()?.dev();
        let deadline = Instant::now() + MOUNT_TIMEOUT;
        loop {
            if self
                .mount_point
                .metadata()
                .is_ok_and(|meta| meta.dev() != outside)
            {
                return Ok(());
            }
            let server = self.server.as_mut().expect("a server was started");
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the mount program ended with {status}: {}",
                    self.server_log()
                )));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "the mount did not come up: {}",
                    self.server_log()
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.server_log();
            if !log.is_empty() {
                eprintln!("the mount program said:\n{log}");
            }
        }
        if self.is_mounted || self.server.is_some() {
            let _ = umount2(&self.mount_point, MntFlags::MNT_DETACH);
        }
        if let Some(server) = &mut self.server {
            // Detached, it ends with its last user; a server that is stuck must not outlive the test.
            if wait_for_exit(&mut server.child, Duration::from_millis(500)).is_none() {
                let _ = server.child.kill();
                let _ = server.child.wait();
            }
        }
    }
}

/// Mounts overlayfs through the mount API, which takes 500 layers where `mount(2)` stops at a page of text.
fn mount_kernel(backend: Backend, spec: &MountSpec, mount_point: &Path) -> io::Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &OsStr| rustix::mount::fsconfig_set_string(&context, key, value);
    for lower in &spec.lowers {
        set("lowerdir+", lower.as_os_str())?;
    }
    if let Some((upper, work)) = &spec.upper {
        set("upperdir", upper.as_os_str())?;
        set("workdir", work.as_os_str())?;
    }
    for (key, value) in backend.kernel_options() {
        // Without an upper there is nothing to index.
        if spec.upper.is_some() || *key != "index" {
            set(key, OsStr::new(value))?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    rustix::mount::move_mount(
        &mount,
        "",
        CWD,
        mount_point,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

fn start_watchdog(pid: i32) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    let crowd_secs = std::env::var(crate::crowd::SECONDS_VARIABLE).ok();
    let crowd_secs = crowd_secs.and_then(|value| value.parse().ok()).unwrap_or(0);
    let timeout = WATCHDOG_TIMEOUT + 2 * Duration::from_secs(crowd_secs);
    std::thread::spawn(move || {
        if receiver.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the server {pid} is killed after {timeout:?}");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    });
    sender
}

/// Tries again while a mount is busy: a process that another test thread starts just now holds copies of all
/// descriptors until it executes its program.
pub(crate) fn patiently(attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Waits for a process to end; `None` when it did not in time.
pub fn wait_for_exit(child: &mut Child, timeout: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
