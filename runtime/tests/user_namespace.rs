//! As "root" of a user namespace with a single user, with none of root's rights over the machine.

mod support;

use std::process::Command;

use serde_json::json;
use support::{Bundle, OURS, describe, ready, skip};

/// `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

/// Runs the bundle as the only user of a new user namespace.
fn run_as_nobody(bundle: &Bundle) -> Option<std::process::Output> {
    if Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "unshare", "-Ur", "true"])
        .status()
        .is_ok_and(|s| !s.success())
    {
        skip("user namespaces are not allowed here, or setpriv and unshare are missing");
        return None;
    }
    std::fs::write(bundle.path().join("config.json"), bundle.config.to_string()).unwrap();
    let give = Command::new("chown")
        .args(["-R", &format!("{NOBODY}:{NOBODY}")])
        .arg(bundle.path())
        .status()
        .unwrap();
    assert!(give.success());
    // The program may lie where nobody may go.
    let program = bundle.path().join("runtime");
    std::fs::copy(OURS, &program).unwrap();
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "unshare",
            "-Ur",
        ])
        .arg(program)
        .arg("--root")
        .arg(bundle.path().join("state"))
        .args(["run", "c"])
        .current_dir(bundle.path())
        .output()
        .unwrap();
    Some(output)
}

#[test]
fn a_single_user_suffices() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::script(
        OURS,
        "id -u; echo x > /dev/null; test -c /dev/null && test -d /sys/kernel && echo nodes; exit 3",
    );
    // The host's network, so that /sys cannot be mounted; a group that is not mapped; and no cgroup rights.
    bundle.config["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}]);
    bundle.config["mounts"][2]["options"] = json!(["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]);
    bundle.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    bundle.config["process"]["user"]["additionalGids"] = json!([5]);
    let Some(output) = run_as_nobody(&bundle) else {
        return;
    };
    assert_eq!(output.status.code(), Some(3), "{}", describe(&output));
    assert_eq!(output.stdout, b"0\nnodes\n", "{}", describe(&output));
}

#[test]
fn limits_that_cannot_be_kept_are_an_error() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new(OURS, &["true"]);
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}]);
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}});
    let Some(output) = run_as_nobody(&bundle) else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("make the cgroup"),
        "{}",
        describe(&output)
    );
}
