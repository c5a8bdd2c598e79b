//! As "root" of a user namespace with a single user, with none of root's rights over the machine.

mod support;

use std::os::unix::fs::MetadataExt;
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

/// Root of the host may be mapped into a user namespace: it may use the host's nodes there, not change them.
#[test]
fn nodes_of_the_host_cannot_be_changed() {
    if !ready() {
        return;
    }
    let before = std::fs::metadata("/dev/null").unwrap();
    let mut bundle = Bundle::script(
        OURS,
        "busybox chmod 0600 /dev/null; busybox chmod 0600 /proc/uptime; echo x > /dev/null && echo x > /proc/uptime && echo written",
    );
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let identity = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    bundle.config["linux"]["uidMappings"] = identity.clone();
    bundle.config["linux"]["gidMappings"] = identity;
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/uptime"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_FOWNER", "CAP_DAC_OVERRIDE"]);
    }
    let output = bundle.run();
    let after = std::fs::metadata("/dev/null").unwrap();
    std::fs::set_permissions("/dev/null", before.permissions()).unwrap();
    assert_eq!(after.mode(), before.mode(), "the host's /dev/null was changed");
    assert_eq!(output.stdout, b"written\n", "{}", describe(&output));
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
