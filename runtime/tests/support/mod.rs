//! A bundle with busybox in it, and runtimes to run it with.
//!
//! Every bundle lives in its own temporary directory, with its own `--root`; when it is dropped, the containers that
//! a failed test left behind are deleted.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The runtime that this package builds.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_shale-runtime");

/// Says why a test does nothing, past the capture of the test harness.
pub(crate) fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

/// A static busybox, and root: what all of these tests need.
pub(crate) fn ready() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return false;
    }
    if busybox().is_none() {
        skip("needs a static busybox (Debian: busybox-static)");
        return false;
    }
    true
}

fn busybox() -> Option<PathBuf> {
    let known = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    known
        .into_iter()
        .find(|path| std::fs::read(path).is_ok_and(|program| is_static(&program)))
}

/// Whether an ELF file of 64 bits names no interpreter.
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| usize::from(u16::from_ne_bytes(program[at..at + 2].try_into().unwrap()));
    if program.len() < 64 {
        return false;
    }
    let first = u64::from_ne_bytes(program[32..40].try_into().unwrap()) as usize;
    let kind = |n: usize| {
        let at = first + n * half(54);
        u32::from_ne_bytes(program[at..at + 4].try_into().unwrap())
    };
    (0..half(56)).all(|n| kind(n) != PT_INTERP)
}

/// The runtimes under test: SHALE_TEST_RUNTIME, or ours and runc.
pub(crate) fn runtimes() -> Vec<String> {
    if let Ok(runtime) = std::env::var("SHALE_TEST_RUNTIME") {
        return vec![runtime];
    }
    let runc = Command::new("runc")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !runc {
        skip("runc is not installed, so that the tests are not checked against it");
    }
    let mut runtimes = vec![OURS.to_owned()];
    runtimes.extend(runc.then(|| "runc".to_owned()));
    runtimes
}

/// A bundle and the runtime that runs it.
pub(crate) struct Bundle {
    pub(crate) runtime: String,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) config: Value,
}

impl Bundle {
    /// Runs `args` in all new namespaces.
    pub(crate) fn new(runtime: &str, args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "etc", "tmp", "space"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::copy(busybox().unwrap(), rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "id", "sleep", "true", "hostname", "mkdir", "tty", "ulimit", "pwd", "test",
            "stat",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .unwrap();
        let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"], "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}},
            "root": {"path": "rootfs"},
            "hostname": "inside",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {"namespaces": namespaces},
        });
        Self {
            runtime: runtime.to_owned(),
            directory,
            config,
        }
    }

    /// Runs a script.
    pub(crate) fn script(runtime: &str, script: &str) -> Self {
        Self::new(runtime, &["sh", "-c", script])
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A name that no other bundle has.
    pub(crate) fn id(&self) -> String {
        let unique = self
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "");
        format!("shaletest-{unique}")
    }

    /// The runtime with these arguments, in the bundle.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        std::fs::write(self.path().join("config.json"), self.config.to_string()).unwrap();
        let mut command = Command::new(&self.runtime);
        command
            .arg("--root")
            .arg(self.path().join("state"))
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// What came of it. Through files: a container that goes on must not keep a pipe open.
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        let open = |name: &str| {
            let path = self.path().join(name);
            (std::fs::File::create(&path).unwrap(), path)
        };
        let ((out, out_path), (err, err_path)) = (open("stdout"), open("stderr"));
        let status = self.command(args).stdout(out).stderr(err).status().unwrap();
        Output {
            status,
            stdout: std::fs::read(out_path).unwrap(),
            stderr: std::fs::read(err_path).unwrap(),
        }
    }

    /// `run`, to its end.
    pub(crate) fn run(&self) -> Output {
        self.call(&["run", &self.id()])
    }

    /// `run`, which must succeed; its output.
    pub(crate) fn run_ok(&self) -> String {
        let output = self.run();
        assert!(output.status.success(), "{}: {}", self.runtime, describe(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command about this container, which must succeed; its output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(
            output.status.success(),
            "{} {args:?}: {}",
            self.runtime,
            describe(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The status according to `state`.
    pub(crate) fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id()])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    /// Waits for the container to come to a state, without which the test fails.
    pub(crate) fn wait_for(&self, status: &str) {
        for _ in 0..500 {
            if self.status() == status {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!(
            "{}: the container is {}, not {status}",
            self.runtime,
            self.status()
        );
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self
            .command(&["delete", "--force", &self.id()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// What a command said, for messages.
pub(crate) fn describe(output: &Output) -> String {
    format!(
        "{}, output {:?}, errors {:?}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// No mount of this machine lies below the path.
pub(crate) fn assert_no_mounts_below(path: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap();
    assert!(!mounts.contains(path), "mounts are left below {path}:\n{mounts}");
}
