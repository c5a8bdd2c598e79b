//! Root file systems and commands that try to get out. Each test is named for the class of hole it is about.
//!
//! Against our runtime only: the runc of a distribution may well have some of these holes.

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use serde_json::json;
use support::{Bundle, OURS, assert_no_mounts_below, describe, ready};

/// A directory of the host that must stay as it is.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> Self {
        let outside = Self(tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("file"), "untouched").unwrap();
        outside
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The way from the root of a container, through as many `..` as it takes.
    fn dotted(&self) -> std::path::PathBuf {
        Path::new("/../../../../../../..").join(self.path().strip_prefix("/").unwrap())
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "something was made outside");
        assert_eq!(
            std::fs::read_to_string(self.path().join("file")).unwrap(),
            "untouched"
        );
    }
}

fn replace_by_link(bundle: &Bundle, name: &str, target: impl AsRef<Path>) {
    let path = bundle.rootfs().join(name);
    let _ = std::fs::remove_dir(&path);
    symlink(target, path).unwrap();
}

/// CVE-2021-30465, CVE-2025-52565: a link where something is mounted.
#[test]
fn a_link_at_dev_stays_inside() {
    if !ready() {
        return;
    }
    for absolute in [true, false] {
        let outside = Outside::new();
        let bundle = Bundle::script(OURS, "ls /dev/ > /tmp/listing; test -c /dev/null && echo node");
        replace_by_link(
            &bundle,
            "dev",
            if absolute {
                outside.path().to_owned()
            } else {
                outside.dotted()
            },
        );
        let output = bundle.run();
        assert!(output.status.success(), "{}", describe(&output));
        assert_eq!(output.stdout, b"node\n");
        outside.assert_untouched();
        assert_no_mounts_below(outside.path());
    }
}

/// CVE-2019-16884, CVE-2025-52881: a false /proc would swallow labels and limits.
#[test]
fn a_link_at_proc_or_sys_is_refused() {
    if !ready() {
        return;
    }
    for name in ["proc", "sys"] {
        let outside = Outside::new();
        let bundle = Bundle::new(OURS, &["true"]);
        replace_by_link(&bundle, name, outside.path());
        let output = bundle.run();
        assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            errors.contains("must be mounted on an ordinary directory"),
            "{errors}"
        );
        outside.assert_untouched();
    }
}

/// CVE-2019-16884: a volume over /proc, or over a part of it.
#[test]
fn nothing_is_mounted_over_proc() {
    if !ready() {
        return;
    }
    let outside = Outside::new();
    for destination in ["/proc", "/proc/self/attr", "/proc/sys", "/link/attr"] {
        let mut bundle = Bundle::new(OURS, &["true"]);
        symlink("/proc/1", bundle.rootfs().join("link")).unwrap();
        let mount = json!({"destination": destination, "type": "bind", "source": outside.path(), "options": ["bind"]});
        bundle.config["mounts"].as_array_mut().unwrap().push(mount);
        let output = bundle.run();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{destination}: {}",
            describe(&output)
        );
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("/proc"),
            "{destination}: {}",
            describe(&output)
        );
    }
    let mut bundle = Bundle::script(OURS, "cat /proc/uptime");
    let source = outside.path().join("file");
    let mount = json!({"destination": "/proc/uptime", "type": "bind", "source": source, "options": ["bind"]});
    bundle.config["mounts"].as_array_mut().unwrap().push(mount);
    assert_eq!(bundle.run_ok(), "untouched", "what lxcfs does is allowed");
}

/// CVE-2021-30465: links on the way to a mount target, and at its end, dangling or not.
#[test]
fn links_on_the_way_to_a_target_stay_inside() {
    if !ready() {
        return;
    }
    let outside = Outside::new();
    for (link, destination, visible) in [
        ("way", "/way/to/it", "/way/to/it"),
        ("end", "/end", "/end"),
        ("way", "/way/../way/x", "/way/x"),
    ] {
        let mut bundle = Bundle::script(OURS, &format!("test -f {visible}/file && echo there"));
        let source = bundle.path().join("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "").unwrap();
        symlink(outside.dotted().join("new"), bundle.rootfs().join(link)).unwrap();
        let mount =
            json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
        bundle.config["mounts"].as_array_mut().unwrap().push(mount);
        let output = bundle.run();
        assert!(output.status.success(), "{destination}: {}", describe(&output));
        assert_eq!(output.stdout, b"there\n", "{destination}");
        outside.assert_untouched();
    }
}

#[test]
fn a_file_is_not_mounted_on_a_directory() {
    if !ready() {
        return;
    }
    let outside = Outside::new();
    for (source, destination) in [
        (outside.path().join("file"), "/space"),
        (outside.path().to_owned(), "/etc/passwd"),
    ] {
        let mut bundle = Bundle::new(OURS, &["true"]);
        let mount =
            json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
        bundle.config["mounts"].as_array_mut().unwrap().push(mount);
        let output = bundle.run();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("mount a directory onto a file"), "{errors}");
    }
}

#[test]
fn a_loop_of_links_is_an_error() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new(OURS, &["true"]);
    symlink("b", bundle.rootfs().join("a")).unwrap();
    symlink("a", bundle.rootfs().join("b")).unwrap();
    let mount = json!({"destination": "/a/x", "type": "tmpfs", "source": "tmpfs"});
    bundle.config["mounts"].as_array_mut().unwrap().push(mount);
    let output = bundle.run();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        errors.contains("mount tmpfs at /a/x") && errors.contains("symbolic links"),
        "{errors}"
    );
}

/// CVE-2025-31133: a false /dev/null would be what masks, and so be written to or shown.
#[test]
fn a_false_dev_null_masks_nothing() {
    if !ready() {
        return;
    }
    let outside = Outside::new();
    // Without a tmpfs at /dev the container's own nodes count.
    let mut bundle = Bundle::new(OURS, &["true"]);
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink(outside.path().join("file"), bundle.rootfs().join("dev/null")).unwrap();
    let output = bundle.run();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("something else is there"),
        "{}",
        describe(&output)
    );
    outside.assert_untouched();

    let mut bundle = Bundle::script(
        OURS,
        "stat -c '%t:%T' /proc/uptime; stat -L -c '%t:%T' /etc/masked",
    );
    std::fs::write(bundle.rootfs().join("etc/target"), "secret").unwrap();
    symlink("/../etc/target", bundle.rootfs().join("etc/masked")).unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/uptime", "/etc/masked"]);
    assert_eq!(bundle.run_ok(), "1:3\n1:3\n");
}

/// What masks a file is nobody else's: a privileged container may not change the mode of the host's /dev/null by it.
#[test]
fn covers_of_masked_files_are_not_of_the_host() {
    if !ready() {
        return;
    }
    let before = std::fs::metadata("/dev/null").unwrap();
    let mut bundle = Bundle::script(
        OURS,
        "for f in /proc/uptime /etc/masked; do
             busybox chmod 0600 $f; busybox chown 7:7 $f; busybox touch -d 2001-01-01 $f
             echo x > $f && stat -c '%a %u %t:%T' $f && cat $f
         done; stat -c '%a %u %t:%T' /dev/null; ls /",
    );
    bundle.config["process"]["capabilities"] = json!(
        ["bounding", "effective", "permitted"]
            .map(|set| (set, json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"])))
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
    );
    std::fs::write(bundle.rootfs().join("etc/masked"), "secret").unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/uptime", "/etc/masked"]);
    let output = bundle.run();
    let after = std::fs::metadata("/dev/null").unwrap();
    if after.mode() != before.mode() || after.uid() != before.uid() {
        // The machine goes on after the test.
        std::fs::set_permissions("/dev/null", before.permissions()).unwrap();
        std::os::unix::fs::chown("/dev/null", Some(before.uid()), Some(before.gid())).unwrap();
        panic!("the host's /dev/null was changed");
    }
    assert_eq!(after.mtime(), before.mtime());
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "666 0 1:3\n666 0 1:3\n666 0 1:3\nbin\ndev\netc\nproc\nspace\nsys\ntmp\n",
        "{}",
        describe(&output)
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.matches("Read-only file system").count(), 6, "{errors}");
}

/// CVE-2025-52565: the terminal's place is a link.
#[test]
fn a_link_at_dev_console_or_ptmx_stays_inside() {
    if !ready() {
        return;
    }
    let outside = Outside::new();
    let mut bundle = Bundle::script(OURS, "test -t 0 && echo terminal");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/dev");
    std::fs::create_dir(bundle.rootfs().join("dev/pts")).unwrap();
    symlink(
        outside.dotted().join("console"),
        bundle.rootfs().join("dev/console"),
    )
    .unwrap();
    symlink(outside.path().join("file"), bundle.rootfs().join("dev/ptmx")).unwrap();
    let output = bundle.run();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("terminal"),
        "{}",
        describe(&output)
    );
    outside.assert_untouched();

    let mut bundle = Bundle::new(OURS, &["true"]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/dev/pts");
    let output = bundle.run();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("is devpts mounted?"),
        "{}",
        describe(&output)
    );
}

/// CVE-2024-21626: a descriptor of the host, or a working directory reached through one.
#[test]
fn no_descriptor_of_the_host_gets_in() {
    if !ready() {
        return;
    }
    let host = std::fs::File::open("/").unwrap();
    runtime::sys::process::set_cloexec(host.as_raw_fd(), false).unwrap();
    // The shell has its script in its arguments, and nothing of its own open.
    let bundle = Bundle::script(OURS, "ls /proc/1/fd; true");
    assert_eq!(bundle.run_ok(), "0\n1\n2\n");
    for fd in 3..12 {
        let mut bundle = Bundle::new(OURS, &["cat", "../../../../etc/hostname"]);
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        let output = bundle.run();
        assert!(!output.status.success(), "descriptor {fd}: {}", describe(&output));
        assert!(output.stdout.is_empty(), "descriptor {fd}: {}", describe(&output));
    }
    drop(host);
}

#[test]
fn descriptors_are_kept_only_when_asked_for() {
    if !ready() {
        return;
    }
    let bundle = Bundle::script(OURS, "ls /proc/self/fd | cat");
    let output = bundle.call(&["run", "--preserve-fds", "40", &bundle.id()]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("is not open"),
        "{}",
        describe(&output)
    );
}

/// CVE-2019-5736: the program file of the runtime, reached through its process and kept until it is no longer busy.
#[test]
fn the_program_of_the_runtime_cannot_be_written_to() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new(OURS, &["true"]);
    // A copy, since other tests run the original meanwhile.
    let program = bundle.path().join("program");
    std::fs::copy(OURS, &program).unwrap();
    bundle.runtime = program.to_str().unwrap().to_owned();
    let result = bundle.path().join("result");
    let later = format!(
        "(sleep 0.5; echo x >> /proc/self/fd/5; echo status $?) > {} 2>&1 &",
        result.display()
    );
    // Called by the runtime, with all the rights of root.
    let script = format!("exec 5</proc/$PPID/exe >/dev/null 2>&1; {later}");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    bundle.run_ok();
    let text = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::read_to_string(&result)
            .ok()
            .filter(|text| text.contains("status"))
    });
    let text = text.expect("the attack came to its end");
    assert!(
        text.contains("Read-only file system") || text.contains("Operation not permitted"),
        "{text}"
    );
    assert_eq!(std::fs::read(OURS).unwrap(), std::fs::read(&program).unwrap());
}

/// Kernel parameters go to the kernel, whatever the container shows at /proc/sys.
#[test]
fn kernel_parameters_are_set_in_the_namespace_only() {
    if !ready() {
        return;
    }
    let of_host = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let mut bundle = Bundle::script(OURS, "cat /proc/sys/kernel/msgmax");
    bundle.config["linux"]["sysctl"] = json!({"kernel.msgmax": "4096"});
    bundle.config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    assert_eq!(bundle.run_ok(), "4096\n");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(),
        of_host
    );
}

/// A passwd that never ends, or is not a file.
#[test]
fn a_false_passwd_does_not_hold_up_the_start() {
    if !ready() {
        return;
    }
    for make in [0, 1] {
        let bundle = Bundle::script(OURS, "echo $HOME");
        let passwd = bundle.rootfs().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        match make {
            0 => symlink("/dev/zero", &passwd).unwrap(),
            _ => nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap(),
        }
        assert_eq!(bundle.run_ok(), "/\n");
    }
}
