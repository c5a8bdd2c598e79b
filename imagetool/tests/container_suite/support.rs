//! A store of one's own, a small root file system, and ways to call `shale`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An unused user id.
pub(crate) const USER: u32 = 54321;

/// A store for one test. Nothing of it may be left when the test ends.
pub(crate) struct Shale {
    folder: tempfile::TempDir,
    as_user: bool,
}

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            status,
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The standard output of a call that had to succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout
    }
}

/// Why the tests cannot run here.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse: {error}"));
    }
    let beside = Path::new(env!("CARGO_BIN_EXE_shale")).with_file_name("shale-ufs");
    if !beside.is_file() {
        return Some(format!(
            "{} is missing: cargo build -p shale-ufs",
            beside.display()
        ));
    }
    runtime()
        .is_none()
        .then(|| "no runtime: cargo build -p shale-runtime, or install runc".to_owned())
}

/// The runtime under test: ours, the one that `SHALE_TEST_RUNTIME` names, or runc while ours is not built.
fn runtime() -> Option<String> {
    if let Ok(chosen) = std::env::var("SHALE_TEST_RUNTIME") {
        return Some(chosen);
    }
    if Path::new(env!("CARGO_BIN_EXE_shale"))
        .with_file_name("shale-runtime")
        .is_file()
    {
        return Some("shale-runtime".to_owned());
    }
    let runc = Command::new("runc")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    runc.then(|| {
        eprintln!("NOTE: shale-runtime is not built, runc takes its place: cargo build -p shale-runtime");
        "runc".to_owned()
    })
}

impl Shale {
    /// As root, with an empty store; `None` is a skip.
    pub(crate) fn root() -> Option<Self> {
        let shale = Self::without_store()?;
        shale.call(&["ps"]).ok();
        Some(shale)
    }

    /// As root, with the store still to be made.
    pub(crate) fn without_store() -> Option<Self> {
        if let Some(reason) = missing() {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("shale-test-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self {
            folder,
            as_user: false,
        })
    }

    /// As a plain user without any range of ids, on whom /dev/fuse is open; `None` is a skip.
    pub(crate) fn user() -> Option<Self> {
        let mut shale = Self::without_store()?;
        shale.as_user = true;
        let bin = shale.path("bin");
        fs::create_dir(&bin).unwrap();
        // The build's own folder may be out of a plain user's reach.
        for name in ["shale", "shale-ufs", "shale-runtime"] {
            let _ = fs::copy(
                Path::new(env!("CARGO_BIN_EXE_shale")).with_file_name(name),
                bin.join(name),
            );
        }
        let home = shale.path("home");
        fs::create_dir(&home).unwrap();
        nix::unistd::chown(&home, Some(USER.into()), Some(USER.into())).unwrap();
        let probe = shale
            .shell("unshare --user --map-root-user true")
            .output()
            .unwrap();
        if !probe.status.success() {
            eprintln!(
                "SKIPPED: no user namespaces for plain users: {}",
                String::from_utf8_lossy(&probe.stderr)
            );
            return None;
        }
        shale.call(&["ps"]).ok();
        Some(shale)
    }

    /// As a plain user who has a name and a range of ids; `None` is a skip. The user exists in the mount namespace
    /// of the calls only.
    pub(crate) fn user_with_ranges() -> Option<Self> {
        let needed = ["/usr/bin/newuidmap", "/etc/subuid", "/etc/subgid"];
        if let Some(path) = needed.into_iter().find(|path| !Path::new(path).is_file()) {
            eprintln!("SKIPPED: no {path}: apt install uidmap");
            return None;
        }
        let shale = Self::user()?;
        let add = |file: &str, line: String| {
            let text = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
            fs::write(shale.path(file), text + &line).unwrap();
        };
        add(
            "passwd",
            format!("shale-test:x:{USER}:{USER}::/nowhere:/bin/sh\n"),
        );
        add("subuid", "shale-test:700000:65536\n".to_owned());
        add("subgid", "shale-test:700000:65536\n".to_owned());
        Some(shale)
    }

    /// Whether the runtime under test is runc.
    pub(crate) fn uses_runc(&self) -> bool {
        runtime().is_some_and(|runtime| runtime.ends_with("runc"))
    }

    /// A path in the test's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        if self.as_user {
            self.path("home/.local/share/shale")
        } else {
            self.path("store")
        }
    }

    /// A command as the plain user, with a /dev/fuse that all may open in a mount namespace of its own.
    fn shell(&self, script: &str) -> Command {
        let node = self.path("fuse");
        if !node.exists() {
            let device = nix::sys::stat::makedev(10, 229);
            let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
            nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
            fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        let mut setup = format!("mount --bind {} /dev/fuse", node.display());
        for file in ["passwd", "subuid", "subgid"] {
            let replacement = self.path(file);
            if replacement.exists() {
                setup.push_str(&format!(" && mount --bind {} /etc/{file}", replacement.display()));
            }
        }
        let identity = format!("setpriv --reuid {USER} --regid {USER} --clear-groups");
        command.arg(format!("{setup} && exec {identity} {script}"));
        command
            .env("HOME", self.path("home"))
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_DATA_HOME");
        command.env_remove("SHALE_ROOT").current_dir("/");
        command
    }

    /// `shale` with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        if !self.as_user {
            let mut command = Command::new(env!("CARGO_BIN_EXE_shale"));
            command
                .args(arguments)
                .env("SHALE_ROOT", self.store())
                .current_dir("/");
            return command;
        }
        let mut command = self.shell(r#""$@""#);
        command.arg("sh").arg(self.path("bin/shale")).args(arguments);
        command
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// The arguments of `run` with the runtime under test.
    pub(crate) fn run_arguments<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        let runtime: &'static str = Box::leak(runtime().unwrap().into_boxed_str());
        ["run", "--runtime", runtime]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect()
    }

    /// `shale run`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.call(&self.run_arguments(arguments))
    }

    /// `shale run` that goes on.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(&self.run_arguments(arguments));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The field of a container, empty where there is none.
    pub(crate) fn field(&self, name: &str, field: &str) -> String {
        let filter = format!("name={name}");
        let format = format!("{{{{.{field}}}}}");
        self.call(&["ps", "-a", "--filter", &filter, "--format", &format])
            .ok()
            .trim()
            .to_owned()
    }

    /// Waits until the container's state is this.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, state: &str) {
        wait_until(&format!("{name} to be {state}"), || {
            self.field(name, "State") == state
        });
    }

    /// A small root file system: busybox and what it needs.
    pub(crate) fn small_root(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        for folder in ["bin", "etc", "tmp"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let copy = |from: &Path| {
            let to = root.join(from.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        };
        fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
            .or_else(|_| fs::copy("/bin/busybox", root.join("bin/busybox")))
            .unwrap();
        let libraries = Command::new("ldd").arg("/bin/busybox").output().unwrap();
        for word in String::from_utf8_lossy(&libraries.stdout)
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            copy(Path::new(word));
        }
        for applet in [
            "sh", "cat", "ls", "id", "pwd", "sleep", "touch", "echo", "true", "mkdir", "env", "hostname",
            "kill",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nbig:x:9:ann\n").unwrap();
        root
    }

    /// Processes whose command line names this test's folder, and what they are.
    fn living(&self) -> Vec<(i32, String)> {
        let name = self.folder.path().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if line.windows(name.len()).any(|window| window == name) {
                let pid = entry.file_name().to_string_lossy().parse().unwrap_or(0);
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// The server of the only mount, below its supervisor.
    fn server(&self) -> Option<i32> {
        let servers: Vec<i32> = self
            .living()
            .into_iter()
            .filter(|(_, line)| {
                line.split(' ')
                    .next()
                    .is_some_and(|name| name.ends_with("shale-ufs"))
            })
            .map(|(pid, _)| pid)
            .collect();
        servers.iter().copied().find(|pid| {
            // After the name, which may hold anything: state, then the parent.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            parent.is_some_and(|parent| servers.contains(&parent))
        })
    }

    /// Kills the server of the only mount, and waits for the next one.
    pub(crate) fn kill_server(&self) {
        let mut server = None;
        wait_until("the server", || {
            server = self.server();
            server.is_some()
        });
        let old = server.unwrap();
        kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
        wait_until("the next server", || self.server().is_some_and(|new| new != old));
    }

    /// Nothing runs or is mounted any more.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        wait_until(&format!("{:?} to end", self.living()), || {
            self.living().is_empty()
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(&*self.folder.path().to_string_lossy()))
            .collect();
        assert!(own.is_empty(), "{own:?}");
    }
}

/// Waits for a condition, up to a time that no machine needs.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The output of a child that ends by itself.
pub(crate) fn finish(child: Child) -> Outcome {
    Outcome::of(child.wait_with_output().unwrap())
}

impl Drop for Shale {
    /// A failed test leaves nothing running either.
    fn drop(&mut self) {
        let ids = self.call(&["ps", "-aq"]).stdout;
        for id in ids.lines() {
            self.call(&["rm", "-f", id]);
        }
        self.call(&["umount", "--lazy", "--all"]);
        for (pid, _) in self.living().into_iter().filter(|(pid, _)| *pid > 1) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
