//! The command line of `shale-ufs`: that of fuse-overlayfs, with errors that say what to do.

use shale_tests::fixture::{listed, put, text};
use shale_tests::mount::{Backend, wait_for_exit};
use shale_tests::programs::workspace_binary;
use shale_tests::scratch::Scratch;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Directories for one mount, and the program.
struct Stage {
    scratch: Scratch,
    program: PathBuf,
}

impl Stage {
    fn new() -> Option<Stage> {
        if !Backend::ShalePassthrough.is_available_or_skip() {
            return None;
        }
        let scratch = Scratch::new();
        for name in ["lower", "lower2", "upper", "work", "merged"] {
            let _ = scratch.directory(name);
        }
        put(scratch.path(), "lower/f", "lower");
        put(scratch.path(), "lower2/g", "lower2");
        Some(Stage {
            scratch,
            program: workspace_binary("shale-ufs").expect("it is available"),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn merged(&self) -> PathBuf {
        self.path("merged")
    }

    /// `lowerdir=…,upperdir=…,workdir=…` by relative names: the working directory is the scratch.
    fn writable(more: &str) -> String {
        format!("lowerdir=lower,upperdir=upper,workdir=work{more}")
    }

    /// Runs the program to its end; one that does not end, or whose pipes stay open, is a failure.
    fn run(&self, arguments: &[&str]) -> Output {
        let child = Command::new(&self.program)
            .args(arguments)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start shale-ufs");
        let pid = child.id();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = sender.send(child.wait_with_output());
        });
        match receiver.recv_timeout(Duration::from_secs(20)) {
            Ok(output) => output.expect("wait for shale-ufs"),
            Err(_) => {
                self.unmount();
                kill(pid, nix::sys::signal::Signal::SIGKILL);
                panic!(
                    "shale-ufs {arguments:?} does not return, or its background process keeps the pipes open"
                );
            }
        }
    }

    /// Runs it and expects a refusal whose text names all of `words`.
    fn refuses(&self, arguments: &[&str], words: &[&str]) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let mounted = self.is_mounted();
        self.unmount();
        assert!(
            !output.status.success() && !mounted,
            "{arguments:?} was accepted: {said}"
        );
        assert!(
            output.status.code().is_some(),
            "{arguments:?}: ended by a signal: {said}"
        );
        for word in words {
            assert!(
                said.contains(word),
                "{arguments:?}: the error does not name {word:?}: {said}"
            );
        }
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }

    fn start_foreground(&self, options: &str) -> Child {
        let child = Command::new(&self.program)
            .args(["-f", "-o", options, "merged"])
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start shale-ufs");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.is_mounted() {
            assert!(Instant::now() < deadline, "the mount did not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn is_mounted(&self) -> bool {
        // A dead mount does not even answer this.
        let outside = self.scratch.path().metadata().expect("stat").dev();
        self.merged()
            .metadata()
            .map_or(true, |meta| meta.dev() != outside)
    }

    fn unmount(&self) {
        let _ = nix::mount::umount2(&self.merged(), nix::mount::MntFlags::MNT_DETACH);
    }

    /// Processes whose command line names this stage's scratch.
    fn servers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("list /proc").flatten() {
            let pid = entry.file_name();
            if !pid.as_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let names_us = command
                .windows(self.needle().len())
                .any(|window| window == self.needle().as_bytes());
            if cwd.starts_with(self.scratch.path()) || names_us {
                found.push(format!(
                    "{} {}",
                    pid.to_string_lossy(),
                    String::from_utf8_lossy(&command)
                ));
            }
        }
        found
    }

    fn needle(&self) -> OsString {
        self.scratch.path().as_os_str().to_owned()
    }

    fn assert_servers_end(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.servers().is_empty() {
            assert!(
                Instant::now() < deadline,
                "still running after unmount: {:?}",
                self.servers()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid fits"));
    let _ = nix::sys::signal::kill(pid, signal);
}

#[test]
fn version_and_help_need_nothing_else() {
    let Some(stage) = Stage::new() else { return };
    for argument in ["--version", "-V", "--help", "-h"] {
        let output = stage.run(&[argument]);
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{argument}: {said}");
        assert!(said.contains("shale-ufs"), "{argument}: {said}");
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let Some(stage) = Stage::new() else { return };
    let absolute = |name: &str| stage.path(name).display().to_string();
    stage.refuses(&["merged"], &["lowerdir"]);
    stage.refuses(&["-o", "lowerdir="], &[]);
    stage.refuses(&["-o", "upperdir=upper,workdir=work", "merged"], &["lowerdir"]);
    stage.refuses(&["-o", "lowerdir=lower"], &[]);
    stage.refuses(
        &["-o", &format!("lowerdir={}", absolute("none")), "merged"],
        &["none"],
    );
    stage.refuses(&["-o", "lowerdir=lower:none:lower2", "merged"], &["none"]);
    stage.refuses(&["-o", "lowerdir=lower/f", "merged"], &["lower/f"]);
    stage.refuses(&["-o", "lowerdir=lower", "missing-point"], &["missing-point"]);
    stage.refuses(&["-o", "lowerdir=lower", "lower/f"], &["lower/f"]);
    stage.refuses(&["-o", "lowerdir=lower,upperdir=upper", "merged"], &["workdir"]);
    stage.refuses(
        &["-o", "lowerdir=lower,upperdir=none,workdir=work", "merged"],
        &["none"],
    );
    stage.refuses(
        &["-o", "lowerdir=lower,upperdir=upper,workdir=none", "merged"],
        &["none"],
    );
    stage.refuses(
        &["-o", "lowerdir=lower,upperdir=upper,workdir=upper", "merged"],
        &["upper"],
    );
    stage.refuses(
        &["-o", "lowerdir=lower,uidmapping=nonsense", "merged"],
        &["uidmapping"],
    );
}

#[test]
fn background_returns_when_mounted_and_ends_with_the_mount() {
    let Some(stage) = Stage::new() else { return };
    let output = stage.run(&["-o", &Stage::writable(""), "merged"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(stage.is_mounted(), "it returned before the mount was there");
    assert_eq!(text(&stage.path("merged/f")), "lower");
    std::fs::write(stage.path("merged/new"), "n").expect("write");
    assert_eq!(listed(&stage.path("upper")), ["new"]);
    nix::mount::umount2(&stage.merged(), nix::mount::MntFlags::empty()).expect("unmount");
    stage.assert_servers_end();
}

#[test]
fn foreground_ends_well_with_the_mount() {
    let Some(stage) = Stage::new() else { return };
    let mut child = stage.start_foreground(&Stage::writable(""));
    nix::mount::umount2(&stage.merged(), nix::mount::MntFlags::empty()).expect("unmount");
    let status = wait_for_exit(&mut child, Duration::from_secs(10));
    let _ = child.kill();
    assert!(
        status.is_some_and(|status| status.success()),
        "after unmount: {status:?}"
    );
}

#[test]
fn detached_it_lives_until_the_last_file_is_closed() {
    let Some(stage) = Stage::new() else { return };
    let mut child = stage.start_foreground(&Stage::writable(""));
    let file = std::fs::File::open(stage.path("merged/f")).expect("open");
    stage.unmount();
    assert_eq!(
        std::io::read_to_string(&file).expect("read after a lazy unmount"),
        "lower"
    );
    drop(file);
    let status = wait_for_exit(&mut child, Duration::from_secs(10));
    let _ = child.kill();
    assert!(
        status.is_some_and(|status| status.success()),
        "after the last close: {status:?}"
    );
}

#[test]
fn a_polite_signal_unmounts() {
    use nix::sys::signal::Signal;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let Some(stage) = Stage::new() else { return };
        let mut child = stage.start_foreground(&Stage::writable(""));
        kill(child.id(), signal);
        let status = wait_for_exit(&mut child, Duration::from_secs(10));
        let _ = child.kill();
        let is_mounted = stage.is_mounted();
        stage.unmount();
        assert!(status.is_some(), "{signal}: it goes on");
        assert!(!is_mounted, "{signal}: the mount is left behind");
    }
}

#[test]
fn a_stale_mount_point_is_used_again_or_named() {
    let Some(stage) = Stage::new() else { return };
    let mut child = stage.start_foreground(&Stage::writable(""));
    child.kill().expect("kill");
    child.wait().expect("wait");
    let output = stage.run(&["-o", &Stage::writable(""), "merged"]);
    if output.status.success() {
        assert_eq!(text(&stage.path("merged/f")), "lower");
        stage.unmount();
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("merged") && said.contains("umount"),
            "the error does not help: {said}"
        );
    }
    stage.unmount();
}

#[test]
fn known_options_are_accepted_in_silence() {
    let known = [
        "noacl",
        "xino=off",
        "volatile",
        "timeout=1.5",
        "threaded=1",
        "threaded=0",
        "fsync=0",
        "fsync=1",
        "static_nlink",
        "squash_to_root",
        "squash_to_uid=5",
        "squash_to_gid=5",
        "dev",
        "suid",
        "nodev",
        "nosuid",
        "noexec",
        "exec",
        "ro",
        "rw",
        "noatime",
        "allow_other",
        "default_permissions",
        "uidmapping=0:0:1000",
        "gidmapping=0:0:1000",
        "fsname=name",
        "redirect_dir=off",
        "index=off",
        "metacopy=off",
    ];
    for option in known {
        let Some(stage) = Stage::new() else { return };
        let output = stage.run(&["-o", &Stage::writable(&format!(",{option}")), "merged"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{option}: {said}");
        assert_eq!(text(&stage.path("merged/f")), "lower", "{option}");
        stage.unmount();
        stage.assert_servers_end();
    }
}

/// As root: set-user-id programs work unless told otherwise, devices only when asked for; as fuse-overlayfs.
#[test]
fn mount_options_are_obeyed() {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("", &["rw", "nodev"], &["nosuid", "noexec", "ro"]),
        (",suid", &["rw"], &["nosuid"]),
        (",nosuid", &["nosuid"], &[]),
        (",dev", &[], &["nodev"]),
        (",nodev", &["nodev"], &[]),
        (",noexec", &["noexec"], &[]),
        (",ro", &["ro"], &["rw"]),
    ];
    for (option, has, lacks) in cases {
        let Some(stage) = Stage::new() else { return };
        let output = stage.run(&["-o", &Stage::writable(option), "merged"]);
        assert!(
            output.status.success(),
            "{option}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let table = std::fs::read_to_string("/proc/thread-self/mounts").expect("read the mount table");
        let merged = stage.merged().display().to_string();
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(&merged))
            .expect("it is mounted");
        let options: Vec<&str> = line.split(' ').nth(3).expect("options").split(',').collect();
        for wanted in has {
            assert!(
                options.contains(wanted),
                "{option:?}: {wanted} is missing in {line}"
            );
        }
        for unwanted in lacks {
            assert!(
                !options.contains(unwanted),
                "{option:?}: {unwanted} is set in {line}"
            );
        }
        if option == ",ro" {
            let written = std::fs::write(stage.path("merged/new"), "");
            shale_tests::posix::assert_errno(written, libc::EROFS, "a write to a read-only mount");
        }
    }
}

#[test]
fn an_unknown_option_is_a_warning() {
    let Some(stage) = Stage::new() else { return };
    let output = stage.run(&["-o", &Stage::writable(",never_heard_of=1"), "merged"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("never_heard_of"), "no warning: {said}");
    assert_eq!(text(&stage.path("merged/f")), "lower");
}

#[test]
fn options_come_in_every_shape() {
    let shapes: [&[&str]; 5] = [
        &[
            "-o",
            "lowerdir=lower:lower2",
            "-o",
            "upperdir=upper",
            "-o",
            "workdir=work",
            "merged",
        ],
        &["-olowerdir=lower:lower2,upperdir=upper,workdir=work", "merged"],
        &[
            "merged",
            "-o",
            "lowerdir=lower:lower2,upperdir=upper,workdir=work",
        ],
        &[
            "-o",
            "lowerdir=lower/:./lower2,upperdir=./upper/,workdir=work",
            "./merged/",
        ],
        &[
            "-o",
            "workdir=work,upperdir=upper,lowerdir=lower:lower2",
            "merged",
        ],
    ];
    for shape in shapes {
        let Some(stage) = Stage::new() else { return };
        let output = stage.run(shape);
        assert!(
            output.status.success(),
            "{shape:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(listed(&stage.merged()), ["f", "g"], "{shape:?}");
        std::fs::write(stage.path("merged/new"), "n").expect("write");
        assert_eq!(listed(&stage.path("upper")), ["new"], "{shape:?}");
    }
}

#[test]
fn odd_directory_names_are_escaped() {
    let Some(stage) = Stage::new() else { return };
    for (name, escaped) in [
        ("a:b", "a\\:b"),
        ("c,d", "c\\,d"),
        ("e\\f", "e\\\\f"),
        (" g h", " g h"),
    ] {
        put(stage.scratch.path(), &format!("{name}/own"), name);
        let output = stage.run(&["-o", &format!("lowerdir={escaped}:lower"), "merged"]);
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(listed(&stage.merged()), ["f", "own"], "{name}");
        stage.unmount();
    }
}

/// Without `trusted.*` attributes: as the first user of a new user namespace.
#[test]
fn works_in_a_user_namespace() {
    let Some(stage) = Stage::new() else { return };
    put(stage.scratch.path(), "lower/d/x", "x");
    put(stage.scratch.path(), "lower/r/y", "y");
    let script = format!(
        "set -e; '{}' -o lowerdir=lower:lower2,upperdir=upper,workdir=work merged
         cat merged/f; echo; rm merged/f; rm -r merged/d; mkdir merged/d; echo n >merged/d/n
         mv merged/r merged/r2; chmod 600 merged/g; echo more >>merged/g; ls merged merged/d merged/r2
         umount merged
         '{}' -o lowerdir=lower:lower2,upperdir=upper,workdir=work merged
         ls merged merged/d merged/r2; cat merged/g; umount merged",
        stage.program.display(),
        stage.program.display()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(stage.scratch.path())
        .stdin(Stdio::null())
        .output()
        .expect("run unshare");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listing = "merged:\nd\ng\nr2\n\nmerged/d:\nn\n\nmerged/r2:\ny\n";
    assert_eq!(said, format!("lower\n{listing}{listing}lower2more\n"));
    assert_eq!(text(&stage.path("lower/f")), "lower");
    assert!(
        Path::new(&stage.path("lower/d/x")).exists(),
        "the layer is untouched"
    );
}
