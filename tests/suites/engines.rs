//! Uppers that container engines made, read by Shale: a container's tree as its engine exports it is the tree that Shale
//! shows over the same directories.
//!
//! Docker with an engine of the test's own, Podman with the kernel's overlayfs, with fuse-overlayfs and with Shale.

use shale_tests::fixture::put;
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::programs::{system_binary, workspace_binary};
use shale_tests::scratch::{Scratch, run};
use shale_tests::skip::{Tier, is_root_or_skip, skip};
use shale_tests::snapshot::Snapshot;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an engine may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done in a first container, of which an image is made, and in a second one.
const CHANGES: [&str; 2] = [
    "echo more >>/data/lower; mv /tree /moved; mkdir /tree; echo x >/tree/new; rm /data/gone; chmod 600 /etc/passwd; \
     ln /data/linked /data/linked2; rm -r /whole; mkdir /whole; mkdir -p /new/dir; ln -s to /link; mkfifo /fifo",
    "mv /moved/sub /again; echo y >>/tree/new; rmdir /whole; echo file >/whole; rm /data/lower; mkdir /data/lower; \
     echo back >/data/gone; rm -r /new; mkdir /new; echo end >>/data/linked; chown 5:6 /again/deep; rm /link",
];

/// What engines put into a container's tree themselves.
const OF_THE_ENGINE: [&str; 9] = [
    ".dockerenv",
    "dev",
    "proc",
    "sys",
    "run",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
];

/// A tree for an image; `busybox` has every command that [`CHANGES`] needs.
fn fill_image(rootfs: &Path, busybox: &Path) {
    for name in ["bin", "proc", "sys", "dev", "run", "tmp"] {
        std::fs::create_dir_all(rootfs.join(name)).expect("make a directory");
    }
    std::fs::copy(busybox, rootfs.join("bin/busybox")).expect("copy busybox");
    for applet in [
        "sh", "cat", "chmod", "chown", "echo", "ln", "mkdir", "mkfifo", "mv", "rm", "rmdir",
    ] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("link an applet");
    }
    for path in [
        "data/lower",
        "data/gone",
        "data/linked",
        "tree/sub/deep",
        "tree/high",
        "whole/x",
        "etc/passwd",
    ] {
        put(rootfs, path, format!("{path} of the image\n"));
    }
}

/// The tree without what tells nothing: times, attributes, and what engines put there.
fn essence(at: &Path) -> Snapshot {
    let mut tree = Snapshot::of(at).expect("read a tree").without_times();
    tree.entries.retain(|path, _| {
        let path = String::from_utf8_lossy(path).into_owned();
        // An engine gives the root directory a mode of its own, which its archive does not tell.
        !path.is_empty()
            && !OF_THE_ENGINE
                .iter()
                .any(|name| path == *name || path.starts_with(&format!("{name}/")))
    });
    for entry in tree.entries.values_mut() {
        entry.xattrs.clear();
        // An archive does not count names that a change has hidden; which names are one file is compared.
        entry.nlink = 1;
    }
    tree
}

/// An engine that keeps everything in a scratch of its own.
struct Engine {
    scratch: Scratch,
    program: PathBuf,
    arguments: Vec<String>,
    daemon: Option<Child>,
}

impl Engine {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("TMPDIR", self.scratch.path())
            .env("HOME", self.scratch.path())
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_HOST")
            .args(&self.arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the engine's, which must succeed, and returns what it printed.
    fn run(&self, words: &[&str]) -> String {
        let output = self.command().args(words).output().expect("start the engine");
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{words:?}: {}: {stdout}{stderr}",
            output.status
        );
        stdout.trim().to_owned()
    }

    fn in_container(&self, name: &str, image: &str, script: &str) {
        let limits = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=512:512",
            "--network",
            "none",
        ];
        let mut words = vec!["run", "--name", name];
        words.extend(limits);
        words.extend([image, "sh", "-e", "-c", script]);
        self.run(&words);
    }

    /// What the engine itself says a container's tree is.
    fn exported(&self, name: &str) -> Snapshot {
        let (archive, at) = (
            self.scratch.path().join("exported.tar"),
            self.scratch.directory("exported"),
        );
        self.run(&["export", "-o", &archive.display().to_string(), name]);
        run(Command::new("tar")
            .arg("-C")
            .arg(&at)
            .args(["--numeric-owner", "-xpf"])
            .arg(&archive));
        let tree = essence(&at);
        run(Command::new("rm").arg("-rf").arg(&at));
        tree
    }

    /// The directories of a container: lowers, top first, and the upper.
    fn directories(&self, name: &str) -> (Vec<PathBuf>, PathBuf) {
        let of = |key: &str| {
            self.run(&[
                "inspect",
                "--format",
                &format!("{{{{.GraphDriver.Data.{key}}}}}"),
                name,
            ])
        };
        (
            of("LowerDir").split(':').map(PathBuf::from).collect(),
            PathBuf::from(of("UpperDir")),
        )
    }

    /// Two containers, one upon the other; each as Shale shows it is as the engine exports it.
    fn containers_are_read_right(&self, busybox: &Path) {
        let rootfs = self.scratch.directory("rootfs");
        fill_image(&rootfs, busybox);
        let archive = self.scratch.path().join("rootfs.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(&rootfs)
            .arg("-cf")
            .arg(&archive)
            .arg("."));
        self.run(&["import", &archive.display().to_string(), "small:1"]);
        for (index, script) in CHANGES.iter().enumerate() {
            let (image, container) = (format!("small:{}", index + 1), format!("test{index}"));
            self.in_container(&container, &image, script);
            self.run(&["commit", &container, &format!("small:{}", index + 2)]);
            let exported = self.exported(&container);
            let (lowers, upper) = self.directories(&container);
            for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
                let what = format!("container {index}, {backend:?}");
                exported.assert_same(&self.shown(backend, &lowers, Some(&upper)), &what);
                let all: Vec<PathBuf> = std::iter::once(upper.clone()).chain(lowers.clone()).collect();
                exported.assert_same(&self.shown(backend, &all, None), &format!("{what}, as a layer"));
            }
        }
        // As a layer of an image, as the engine made it of the container.
        self.in_container("last", "small:3", "true");
        let (lowers, upper) = self.directories("last");
        assert!(lowers.len() > 2, "{lowers:?}");
        let exported = self.exported("last");
        exported.assert_same(
            &self.shown(Backend::ShalePlain, &lowers, Some(&upper)),
            "the last image",
        );
        // With fuse-overlayfs 1.10 a directory that was removed and made again has its old entries in the next image.
        let by_fuse_overlayfs = self
            .arguments
            .iter()
            .any(|argument| argument.ends_with("/fuse-overlayfs"));
        let made_again = (!by_fuse_overlayfs).then_some("new/dir");
        for gone in ["data/linked3", "link", "moved/sub"]
            .into_iter()
            .chain(made_again)
        {
            assert!(
                !exported.entries.contains_key(gone.as_bytes()),
                "{gone} is not in the engine's own tree"
            );
        }
        assert!(
            exported.entries.contains_key(&b"again/deep"[..]),
            "the engine's own tree"
        );
    }

    fn shown(&self, backend: Backend, lowers: &[PathBuf], upper: Option<&Path>) -> Snapshot {
        let upper = upper.map(|upper| {
            // Engines mount their storage upon itself: the two must be on one mount.
            let work = upper.with_file_name("shale-work");
            std::fs::create_dir_all(&work).expect("make a work directory");
            (upper.to_owned(), work)
        });
        let spec = MountSpec {
            lowers: lowers.to_vec(),
            upper,
            extra_options: vec![],
            open_files_limit: None,
        };
        let at = self.scratch.directory("shale-merged");
        let guard = MountGuard::mount(backend, &spec, &at).expect("mount");
        let tree = essence(&at);
        guard.unmount().expect("unmount");
        tree
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self
            .command()
            .args(["rm", "-f", "test0", "test1", "last"])
            .output();
        let Some(daemon) = &mut self.daemon else {
            // Podman keeps its storage bind-mounted; it would hold the scratch.
            let storage = self.scratch.path().join("storage/overlay");
            let _ = nix::mount::umount2(&storage, nix::mount::MntFlags::MNT_DETACH);
            return;
        };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("a pid fits"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        if shale_tests::mount::wait_for_exit(daemon, PATIENCE).is_none() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// What every engine needs; skips the running test otherwise.
fn busybox_or_skip() -> Option<PathBuf> {
    if !is_root_or_skip() || !Backend::ShalePlain.is_available_or_skip() {
        return None;
    }
    let busybox = system_binary("busybox");
    if busybox.is_none() {
        skip(Tier::Tool, "busybox is missing; install busybox-static");
    }
    busybox
}

#[test]
fn containers_of_docker() {
    let Some(busybox) = busybox_or_skip() else { return };
    let (Some(program), Some(server)) = (system_binary("docker"), system_binary("dockerd")) else {
        return skip(Tier::Tool, "docker and dockerd are not both installed");
    };
    let scratch = Scratch::with_size_mib(1024);
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let log = File::create(at("log")).expect("make the log");
    let path = std::env::var("PATH").unwrap_or_default();
    let daemon = Command::new(server)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args([
            "--bridge",
            "none",
            "--iptables=false",
            "--storage-driver",
            "overlay2",
        ])
        .args([
            "--data-root",
            &at("data"),
            "--exec-root",
            &at("exec"),
            "-p",
            &at("pid"),
        ])
        .args(["-H", &format!("unix://{}", at("s"))])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("share the log"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("start dockerd");
    let arguments = vec!["-H".into(), format!("unix://{}", at("s"))];
    let mut engine = Engine {
        scratch,
        program,
        arguments,
        daemon: Some(daemon),
    };
    let start = Instant::now();
    while !engine
        .command()
        .arg("version")
        .output()
        .expect("start docker")
        .status
        .success()
    {
        let ended = engine
            .daemon
            .as_mut()
            .expect("it was started")
            .try_wait()
            .expect("wait for dockerd");
        if ended.is_some() || start.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(engine.scratch.path().join("log")).unwrap_or_default();
            let reason = format!(
                "dockerd does not start here: {}",
                log.lines().last().unwrap_or_default()
            );
            return skip(Tier::Tool, &reason);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    engine.containers_are_read_right(&busybox);
}

/// Podman with the driver `overlay`: the kernel's, or a mount program's.
fn containers_of_podman(mount_program: Option<&Path>) {
    let Some(busybox) = busybox_or_skip() else { return };
    let (Some(program), Some(_)) = (system_binary("podman"), system_binary("runc")) else {
        return skip(Tier::Podman, "podman and runc are needed; install them");
    };
    let scratch = Scratch::with_size_mib(1024);
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let mut arguments = Vec::new();
    for (option, value) in [
        ("--root", at("storage")),
        ("--runroot", at("run")),
        ("--tmpdir", at("libpod")),
        ("--storage-driver", "overlay".into()),
        ("--runtime", "runc".into()),
        ("--cgroup-manager", "cgroupfs".into()),
        ("--events-backend", "none".into()),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    if let Some(mount_program) = mount_program {
        let value = format!("overlay.mount_program={}", mount_program.display());
        arguments.extend(["--storage-opt".to_owned(), value]);
    }
    let engine = Engine {
        scratch,
        program,
        arguments,
        daemon: None,
    };
    engine.containers_are_read_right(&busybox);
}

#[test]
fn containers_of_podman_on_overlayfs() {
    containers_of_podman(None);
}

#[test]
fn containers_of_podman_on_fuse_overlayfs() {
    match system_binary("fuse-overlayfs") {
        Some(program) => containers_of_podman(Some(&program)),
        None => skip(Tier::FuseOverlayfs, "fuse-overlayfs is missing; install it"),
    }
}

#[test]
fn containers_of_podman_on_shale() {
    if let Some(program) = workspace_binary("shale-ufs") {
        containers_of_podman(Some(&program));
    } else {
        skip(Tier::ShaleUfs, "shale-ufs is not built");
    }
}
