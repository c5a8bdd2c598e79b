//! Namespaces that exist already, and cgroups of version 2, which a machine with version 1 shows in a mount namespace
//! of the test's own.

mod support;

use std::process::Command;

use serde_json::json;
use support::{Bundle, OURS, describe, ready, skip};

#[test]
fn namespaces_are_entered_by_their_path() {
    if !ready() {
        return;
    }
    let first = Bundle::new(OURS, &["sleep", "100"]);
    first.ok(&["run", "--detach", "--pid-file", "pid", &first.id()]);
    let pid = std::fs::read_to_string(first.path().join("pid")).unwrap();
    let mut second = Bundle::script(
        OURS,
        "hostname; test $$ -gt 1 && echo beside; test -d /proc/1 && cat /proc/1/comm",
    );
    second.config.as_object_mut().unwrap().remove("hostname");
    let path = |name: &str| format!("/proc/{pid}/ns/{name}");
    second.config["linux"]["namespaces"] = json!([
        {"type": "mount"},
        {"type": "pid", "path": path("pid")},
        {"type": "uts", "path": path("uts")},
        {"type": "network", "path": path("net")},
        {"type": "ipc", "path": path("ipc")},
    ]);
    assert_eq!(second.run_ok(), "inside\nbeside\nsleep\n");
    second.config["linux"]["namespaces"][1]["path"] = json!("/no/such/namespace");
    let output = second.run();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("/no/such/namespace"),
        "{}",
        describe(&output)
    );
}

#[test]
fn a_time_namespace_has_its_own_clocks() {
    if !ready() {
        return;
    }
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return skip("the kernel has no time namespaces");
    }
    let mut bundle = Bundle::script(OURS, "cat /proc/uptime");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] =
        json!({"boottime": {"secs": 10_000_000}, "monotonic": {"secs": 10_000_000}});
    let uptime: f64 = bundle.run_ok().split('.').next().unwrap().parse().unwrap();
    assert!(uptime > 9_999_999.0, "{uptime}");
}

#[test]
fn without_pivot_root() {
    if !ready() {
        return;
    }
    let bundle = Bundle::script(OURS, "ls /");
    let output = bundle.call(&["run", "--no-pivot", &bundle.id()]);
    assert_eq!(
        output.stdout,
        b"bin\ndev\netc\nproc\nspace\nsys\ntmp\n",
        "{}",
        describe(&output)
    );
}

/// Calls the runtime with the hierarchy of version 2 alone at /sys/fs/cgroup.
fn with_version_2(bundle: &Bundle, script: &str) -> std::process::Output {
    // Writes the configuration.
    let _ = bundle.command(&["list"]).output();
    let prepare = "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 99";
    Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{prepare}; set -e; {script}")])
        .env(
            "R",
            format!("{OURS} --root {}", bundle.path().join("state").display()),
        )
        .env("ID", bundle.id())
        .current_dir(bundle.path())
        .output()
        .unwrap()
}

#[test]
fn version_2_limits_devices_pauses_and_kills() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::script(OURS, "sleep 100 & sleep 100");
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/inner", bundle.id()));
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/forbidden", "type": "c", "major": 10, "minor": 229}]);
    bundle.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    let script = "exec 2>&1; $R run -d $ID </dev/null >/dev/null
        $R exec $ID sh -c 'echo x > /dev/null && echo null works'
        $R exec $ID sh -c ': < /dev/forbidden' || echo forbidden
        $R exec $ID sh -c 'test -f /sys/fs/cgroup/cgroup.procs && echo mounted'
        $R pause $ID; $R state $ID | grep -o paused; $R resume $ID
        $R ps -f json $ID | tr -cd , | wc -c
        $R kill --all $ID KILL; $R delete --force $ID; ls -d /sys/fs/cgroup/$ID/inner || echo gone; rmdir /sys/fs/cgroup/$ID";
    let output = with_version_2(&bundle, script);
    if output.status.code() == Some(99) {
        return skip("cgroup v2 cannot be mounted");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let has = |wanted: &str| lines.contains(&wanted);
    for wanted in ["null works", "forbidden", "mounted", "paused", "1", "gone"] {
        assert!(has(wanted), "{wanted} is missing: {text}");
    }
    assert!(
        text.contains("Operation not permitted"),
        "the program of the devices says no, not a missing driver: {text}"
    );
}
