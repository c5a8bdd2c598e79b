//! What the OCI runtime specification and the engines expect, of any runtime with runc's command line.
//!
//! Runs against ours and, to be sure that it tests the specification and not ourselves, against runc.
//! `SHALE_TEST_RUNTIME=crun cargo test -p shale-runtime --test conformance` tries another one.

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::{Bundle, OURS, assert_no_mounts_below, describe, ready, runtimes};

/// Runs the test for each runtime.
fn each(test: impl Fn(&str)) {
    if ready() {
        runtimes().iter().for_each(|runtime| test(runtime));
    }
}

#[test]
fn run_passes_output_and_status_on_and_leaves_nothing() {
    each(|runtime| {
        let bundle = Bundle::script(runtime, "echo out; echo err >&2; exit 7");
        let output = bundle.run();
        assert_eq!(output.status.code(), Some(7), "{runtime}: {}", describe(&output));
        assert_eq!(output.stdout, b"out\n");
        assert_eq!(output.stderr, b"err\n");
        assert!(
            !bundle.call(&["state", &bundle.id()]).status.success(),
            "{runtime}: the container is still known"
        );
        assert_no_mounts_below(bundle.path());
        assert!(
            !std::path::Path::new("/sys/fs/cgroup/pids")
                .join(bundle.id())
                .exists()
        );
    });
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    each(|runtime| {
        // The first process of a pid namespace is immune to its own signals.
        let mut bundle = Bundle::script(runtime, "kill -USR1 $$; sleep 10");
        bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
        assert_eq!(bundle.run().status.code(), Some(128 + libc::SIGUSR1), "{runtime}");
    });
}

/// A shell ignores some signals for what it starts in the background; the command must not inherit that.
#[test]
fn signals_of_the_caller_are_forgotten() {
    use std::os::unix::process::CommandExt;
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["cat", "/proc/self/status"]);
        let inner = bundle.command(&["run", &bundle.id()]);
        let script = "trap '' HUP INT QUIT USR1 TERM; exec \"$@\"";
        let mut outer = std::process::Command::new("sh");
        outer
            .args(["-c", script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(bundle.path())
            .process_group(0);
        let output = outer.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let sets: Vec<u64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("SigIgn:").or(line.strip_prefix("SigBlk:")))
            .map(|set| u64::from_str_radix(set.trim(), 16).unwrap())
            .collect();
        assert_eq!(sets.len(), 2, "{runtime}: {}", describe(&output));
        for set in sets {
            // Those above belong to the C library.
            assert_eq!(set & 0x7fff_ffff, 0, "{runtime}: {text}");
        }
    });
}

#[test]
fn life_cycle() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "100"]);
        let id = &bundle.id();
        bundle.ok(&["create", "--pid-file", "pid", id]);
        assert_eq!(bundle.status(), "created");
        let state: Value = serde_json::from_str(&bundle.ok(&["state", id])).unwrap();
        assert_eq!(
            state["pid"].to_string(),
            std::fs::read_to_string(bundle.path().join("pid")).unwrap()
        );
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
        assert!(
            !bundle.call(&["create", id]).status.success(),
            "{runtime}: the name is taken"
        );
        bundle.ok(&["start", id]);
        assert_eq!(bundle.status(), "running");
        assert!(
            !bundle.call(&["start", id]).status.success(),
            "{runtime}: started twice"
        );
        assert!(
            !bundle.call(&["delete", id]).status.success(),
            "{runtime}: deleted while it runs"
        );
        assert!(bundle.ok(&["list"]).contains(id.as_str()));
        bundle.ok(&["kill", id, "KILL"]);
        bundle.wait_for("stopped");
        assert!(
            !bundle.call(&["kill", id, "KILL"]).status.success(),
            "{runtime}: killed twice"
        );
        bundle.ok(&["delete", id]);
        assert!(
            !bundle.call(&["delete", id]).status.success(),
            "{runtime}: deleted twice"
        );
        bundle.ok(&["delete", "--force", id]);
    });
}

#[test]
fn created_and_running_containers_can_be_deleted_by_force() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "100"]);
        let id = &bundle.id();
        bundle.ok(&["create", id]);
        bundle.ok(&["delete", id]);
        bundle.ok(&["run", "--detach", id]);
        bundle.ok(&["delete", "--force", id]);
        assert!(!bundle.call(&["state", id]).status.success());
    });
}

#[test]
fn a_command_that_is_missing_is_named() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["no-such-command"]);
        let output = bundle.run();
        let errors = String::from_utf8_lossy(&output.stderr).replace('\\', "");
        assert!(
            errors.contains(r#"exec: "no-such-command": executable file not found in $PATH"#),
            "{runtime}: {errors}"
        );
        assert!(
            !bundle.call(&["create", &bundle.id()]).status.success(),
            "{runtime}: create knows it already"
        );
        let bundle = Bundle::new(runtime, &["/etc/passwd"]);
        let output = bundle.run();
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("permission denied"),
            "{runtime}: {}",
            describe(&output)
        );
    });
}

#[test]
fn our_statuses_are_those_of_shells() {
    if !ready() {
        return;
    }
    for (command, status) in [
        ("no-such-command", 127),
        ("/no/such", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
    ] {
        assert_eq!(
            Bundle::new(OURS, &[command]).run().status.code(),
            Some(status),
            "{command}"
        );
    }
}

#[test]
fn errors_go_to_the_json_log() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["no-such-command"]);
        bundle.call(&["--log", "log", "--log-format", "json", "run", &bundle.id()]);
        let log = std::fs::read_to_string(bundle.path().join("log")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "error");
        assert!(
            last["msg"]
                .as_str()
                .unwrap()
                .contains("executable file not found in $PATH"),
            "{log}"
        );
    });
}

#[test]
fn namespaces_and_identity() {
    each(|runtime| {
        let mut bundle = Bundle::script(
            runtime,
            "hostname; echo $$; id -u; id -g; id -G; umask; pwd; echo $HOME; cat /proc/net/dev | grep -c :",
        );
        bundle.config["process"]["user"] =
            json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o77});
        bundle.config["process"]["cwd"] = json!("/made/on/the/way");
        std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let expected = "inside\n1\n1000\n1001\n1001 7 8\n0077\n/made/on/the/way\n/home/user\n1\n";
        assert_eq!(bundle.run_ok(), expected, "{runtime}");
    });
}

#[test]
fn rights_are_what_was_asked_for() {
    each(|runtime| {
        let bundle = Bundle::script(
            runtime,
            "grep -E 'Cap|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'",
        );
        let kill = "0000000000000020";
        let none = "0000000000000000";
        let expected =
            format!("CapInh:{none}CapPrm:{kill}CapEff:{kill}CapBnd:{kill}CapAmb:{none}NoNewPrivs:1");
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/grep")).unwrap();
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/tr")).unwrap();
        assert_eq!(bundle.run_ok(), expected, "{runtime}");
    });
}

#[test]
fn mounts_and_paths() {
    each(|runtime| {
        let script = "cat /data/file; echo x > /data/new || echo ro; cat /proc/kcore | head -c 1; ls /etc/dir; \
            echo x > /etc/ro/x || echo ro; echo x > /fresh/x && cat /fresh/x; test -c /dev/null && test -L /dev/fd && echo devices";
        let mut bundle = Bundle::script(runtime, script);
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/head")).unwrap();
        std::fs::create_dir_all(bundle.rootfs().join("etc/dir/hidden")).unwrap();
        std::fs::create_dir_all(bundle.rootfs().join("etc/ro")).unwrap();
        std::fs::create_dir(bundle.path().join("source")).unwrap();
        std::fs::write(bundle.path().join("source/file"), "shared\n").unwrap();
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        let source = bundle.directory.path().join("source");
        mounts.push(
            json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "ro"]}),
        );
        mounts.push(json!({"destination": "/fresh/", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "noexec"]}));
        bundle.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/etc/dir", "/does/not/exist"]);
        bundle.config["linux"]["readonlyPaths"] = json!(["/etc/ro", "/does/not/exist"]);
        assert_eq!(bundle.run_ok(), "shared\nro\nro\nx\ndevices\n", "{runtime}");
        assert_no_mounts_below(bundle.path());
    });
}

#[test]
fn a_read_only_root() {
    each(|runtime| {
        let mut bundle = Bundle::script(
            runtime,
            "echo x > /etc/new || echo root; echo x > /dev/new || echo dev",
        );
        bundle.config["root"]["readonly"] = json!(true);
        bundle.config["mounts"][1]["options"] = json!(["ro", "mode=755"]);
        assert_eq!(bundle.run_ok(), "root\ndev\n", "{runtime}");
    });
}

#[test]
fn tmpfs_is_filled_with_what_it_covers() {
    each(|runtime| {
        let mut bundle = Bundle::script(
            runtime,
            "cat /etc/passwd | head -n 1; stat -c %a /etc/deep/file; echo x > /etc/new && echo written",
        );
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/head")).unwrap();
        std::fs::create_dir(bundle.rootfs().join("etc/deep")).unwrap();
        std::fs::write(bundle.rootfs().join("etc/deep/file"), "").unwrap();
        std::fs::set_permissions(
            bundle.rootfs().join("etc/deep/file"),
            std::fs::Permissions::from_mode(0o641),
        )
        .unwrap();
        let mount =
            json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
        bundle.config["mounts"].as_array_mut().unwrap().push(mount);
        assert_eq!(
            bundle.run_ok(),
            "root:x:0:0::/root:/bin/sh\n641\nwritten\n",
            "{runtime}"
        );
        assert!(!bundle.rootfs().join("etc/new").exists());
    });
}

#[test]
fn the_filter_of_system_calls_is_in_force() {
    each(|runtime| {
        for no_new_privs in [true, false] {
            let mut bundle = Bundle::script(runtime, "mkdir /tmp/x; echo $?");
            bundle.config["process"]["noNewPrivileges"] = json!(no_new_privs);
            bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
            let output = bundle.run();
            assert_eq!(output.stdout, b"1\n", "{runtime}: {}", describe(&output));
            assert!(
                String::from_utf8_lossy(&output.stderr).contains("No space left"),
                "{runtime}: {}",
                describe(&output)
            );
        }
    });
}

#[test]
fn hooks_are_called_in_order_with_the_state() {
    each(|runtime| {
        let mut bundle = Bundle::script(runtime, "echo command >> /space/order");
        let log = bundle.rootfs().join("space/order");
        let hook = |name: &str, log: &std::path::Path| {
            let script = format!(
                "read line; echo {name} >> {}; case $line in *'\"id\":\"shaletest-'*) ;; *) exit 9;; esac",
                log.display()
            );
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        bundle.config["hooks"] = json!({
            "prestart": hook("prestart", &log), "createRuntime": hook("createRuntime", &log),
            "createContainer": hook("createContainer", &log), "startContainer": hook("startContainer", "/space/order".as_ref()),
            "poststart": hook("poststart", &bundle.path().join("poststart")), "poststop": hook("poststop", &log),
        });
        bundle.run_ok();
        let order = std::fs::read_to_string(log).unwrap();
        assert_eq!(
            order, "prestart\ncreateRuntime\ncreateContainer\nstartContainer\ncommand\npoststop\n",
            "{runtime}"
        );
        assert!(bundle.path().join("poststart").exists(), "{runtime}");
    });
}

#[test]
fn a_failing_hook_ends_the_creation_and_leaves_nothing() {
    each(|runtime| {
        let mut bundle = Bundle::new(runtime, &["true"]);
        bundle.config["hooks"] =
            json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]});
        let output = bundle.run();
        assert!(!output.status.success());
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("because"),
            "{runtime}: {}",
            describe(&output)
        );
        assert!(!bundle.call(&["state", &bundle.id()]).status.success());
        assert_no_mounts_below(bundle.path());
    });
}

#[test]
fn limits_are_applied_or_clamped() {
    each(|runtime| {
        let mut bundle = Bundle::script(
            runtime,
            "ulimit -n; cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max",
        );
        bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]);
        bundle.config["linux"]["resources"] = json!({"pids": {"limit": 33}});
        bundle.config["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
        );
        assert_eq!(bundle.run_ok(), "64\n33\n", "{runtime}");
    });
}

#[test]
fn exec_runs_beside_the_command() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "100"]);
        let id = &bundle.id();
        bundle.ok(&["run", "--detach", id]);
        let script = "hostname; echo $A; pwd; id -u; exit 5";
        let output = bundle.call(&[
            "exec",
            "--env",
            "A=b",
            "--cwd",
            "/space",
            "--user",
            "1000:1000",
            id,
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(output.status.code(), Some(5), "{runtime}: {}", describe(&output));
        assert_eq!(
            output.stdout,
            b"inside\nb\n/space\n1000\n",
            "{runtime}: {}",
            describe(&output)
        );
        let output = bundle.call(&["exec", id, "nope"]);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("executable file not found in $PATH"),
            "{runtime}"
        );
        let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", id])).unwrap();
        assert_eq!(pids.len(), 1, "{runtime}");
    });
}

/// The processes that enter a container talk to the runtime over one socket: in order, on however busy a machine.
#[test]
fn exec_works_every_time() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(OURS, &["sleep", "100"]);
    let id = &bundle.id();
    bundle.ok(&["run", "--detach", id]);
    let calls = || {
        for _ in 0..60 {
            let output = bundle.command(&["exec", id, "true"]).output().unwrap();
            assert!(output.status.success(), "{}", describe(&output));
        }
    };
    std::thread::scope(|scope| {
        (0..6).for_each(|_| drop(scope.spawn(calls)));
    });
}

/// A runtime that is killed while it creates leaves what `delete --force` can undo: processes and cgroups, too.
#[test]
fn what_a_killed_creation_made_can_be_deleted() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new(OURS, &["sleep", "100"]);
    bundle.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"]}]});
    let id = &bundle.id();
    let output = bundle.call(&["create", id]);
    assert!(!output.status.success(), "{}", describe(&output));
    assert!(!bundle.call(&["state", id]).status.success());
    assert!(
        !cgroups_named(id).is_empty() || !root_may_make_cgroups(),
        "the test is of no use"
    );
    bundle.ok(&["delete", "--force", id]);
    assert!(cgroups_named(id).is_empty(), "left: {:?}", cgroups_named(id));
    assert!(!bundle.path().join("state").join(id).exists());
    // And one that still goes on is ended.
    bundle.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 100"]}]});
    let mut creator = bundle.command(&["create", id]).spawn().unwrap();
    let unfinished = bundle.path().join("state").join(id).join("unfinished.json");
    while !unfinished.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bundle.ok(&["delete", "--force", id]);
    assert!(!creator.wait().unwrap().success());
    assert!(cgroups_named(id).is_empty(), "left: {:?}", cgroups_named(id));
}

/// The container's directories in all hierarchies.
fn cgroups_named(id: &str) -> Vec<std::path::PathBuf> {
    fn walk(directory: &std::path::Path, id: &str, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == id {
                    found.push(entry.path());
                }
                walk(&entry.path(), id, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(std::path::Path::new("/sys/fs/cgroup"), id, &mut found);
    found
}

/// Whether a container here gets cgroups at all.
fn root_may_make_cgroups() -> bool {
    let bundle = Bundle::new(OURS, &["sleep", "100"]);
    bundle.ok(&["run", "--detach", &bundle.id()]);
    !cgroups_named(&bundle.id()).is_empty()
}

#[test]
fn pause_resume_update_and_statistics() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "100"]);
        let id = &bundle.id();
        bundle.ok(&["run", "--detach", id]);
        bundle.ok(&["pause", id]);
        assert_eq!(bundle.status(), "paused", "{runtime}");
        assert!(
            !bundle.call(&["exec", id, "true"]).status.success(),
            "{runtime}: exec while paused"
        );
        bundle.ok(&["resume", id]);
        assert_eq!(bundle.status(), "running", "{runtime}");
        bundle.ok(&["update", "--pids-limit", "44", id]);
        let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", id])).unwrap();
        assert_eq!(stats["data"]["pids"]["limit"], 44, "{runtime}: {stats}");
        assert_eq!(stats["data"]["pids"]["current"], 1, "{runtime}: {stats}");
    });
}

#[test]
fn a_user_namespace_maps_its_users() {
    each(|runtime| {
        let mut bundle = Bundle::script(
            runtime,
            "id -u; stat -c %u /etc/passwd; echo x > /space/new && test -c /dev/null && echo fine",
        );
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        bundle.config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
        std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for path in ["", "etc", "etc/passwd", "space", "dev", "proc", "sys", "tmp"] {
            std::os::unix::fs::chown(bundle.rootfs().join(path), Some(100_000), Some(100_000)).unwrap();
        }
        assert_eq!(bundle.run_ok(), "0\n0\nfine\n", "{runtime}");
    });
}

#[test]
fn the_console_socket_gets_the_terminal() {
    each(|runtime| {
        let mut bundle = Bundle::script(
            runtime,
            "tty; test -t 0 && test -c /dev/console && echo terminal; read line; echo got $line",
        );
        bundle.config["process"]["terminal"] = json!(true);
        let id = &bundle.id();
        let listener = std::os::unix::net::UnixListener::bind(bundle.path().join("console")).unwrap();
        bundle.ok(&["create", "--console-socket", "console", id]);
        let (stream, _) = listener.accept().unwrap();
        let (_, master) =
            runtime::sys::socket::receive_packet(std::os::fd::AsRawFd::as_raw_fd(&stream), &mut [0; 100])
                .unwrap();
        let mut master = std::fs::File::from(master.expect("a descriptor came along"));
        bundle.ok(&["start", id]);
        std::io::Write::write_all(&mut master, b"typed\n").unwrap();
        let mut text = String::new();
        let mut buffer = [0; 256];
        // Ends with EIO once the container has closed its end.
        while let Ok(length @ 1..) = std::io::Read::read(&mut master, &mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert!(text.contains("terminal"), "{runtime}: {text:?}");
        assert!(text.contains("got typed"), "{runtime}: {text:?}");
        bundle.wait_for("stopped");
    });
}

#[test]
fn a_32_bit_personality() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::script(OURS, "cat /proc/self/personality");
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert_eq!(bundle.run_ok(), "00000008\n");
}

#[test]
fn a_seccomp_agent_gets_the_filter() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new(OURS, &["sleep", "100"]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": bundle.path().join("agent"),
        "listenerMetadata": "words", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    let listener = std::os::unix::net::UnixListener::bind(bundle.path().join("agent")).unwrap();
    bundle.ok(&["run", "--detach", &bundle.id()]);
    let (stream, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    let (length, fd) =
        runtime::sys::socket::receive_packet(std::os::fd::AsRawFd::as_raw_fd(&stream), &mut buffer).unwrap();
    let state: Value = serde_json::from_slice(&buffer[..length]).unwrap();
    assert_eq!(state["metadata"], "words");
    assert_eq!(state["state"]["id"], bundle.id());
    let fd = fd.expect("a descriptor came along");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd))).unwrap();
    assert!(link.to_str().unwrap().contains("seccomp notify"), "{link:?}");
}

#[test]
fn spec_and_features_are_documents() {
    each(|runtime| {
        let bundle = Bundle::new(runtime, &["true"]);
        let features = bundle.call(&["features"]);
        let features: Value = serde_json::from_slice(&features.stdout).unwrap();
        assert_eq!(features["linux"]["seccomp"]["enabled"], true, "{runtime}");
        let other = tempfile::tempdir().unwrap();
        let path = other.path().to_str().unwrap();
        bundle.ok(&["spec", "--bundle", path]);
        let spec: Value =
            serde_json::from_slice(&std::fs::read(other.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(spec["process"]["args"], json!(["sh"]), "{runtime}");
        assert!(
            !bundle.call(&["spec", "--bundle", path]).status.success(),
            "{runtime}: overwritten"
        );
    });
}
