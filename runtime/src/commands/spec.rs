//! `spec`: a configuration to start from.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::spec::{CONFIG_FILE, OCI_VERSION};

/// `spec`.
#[derive(Debug, clap::Args)]
pub struct Spec {
    /// directory that gets config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// for a runtime that is not root
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    /// Writes the file, unless there is one.
    pub fn run(self) -> Result<i32> {
        let path = self.bundle.join(CONFIG_FILE);
        let mut spec = template();
        if self.rootless {
            make_rootless(&mut spec);
        }
        let text = serde_json::to_string_pretty(&spec)?;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o666)
            .open(&path);
        let mut file = match file {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::invalid(format!(
                    "file {CONFIG_FILE} exists: remove it first"
                )));
            }
            result => result.context(|| format!("make {}", path.display()))?,
        };
        file.write_all(text.as_bytes())
            .context(|| format!("write {}", path.display()))?;
        Ok(0)
    }
}

fn template() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let system = |options: &[&'static str]| [&["nosuid", "noexec", "nodev"], options].concat();
    let mount = |at: &str, kind: &str, source: &str, options: Vec<&str>| json!({"destination": at, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "shale",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            mount("/dev", "tmpfs", "tmpfs", vec!["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", system(&["mode=1777", "size=65536k"])),
            mount("/dev/mqueue", "mqueue", "mqueue", system(&[])),
            mount("/sys", "sysfs", "sysfs", system(&["ro"])),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", system(&["relatime", "ro"])),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// One user, the host's network and `/sys`, no limits.
fn make_rootless(spec: &mut Value) {
    let id = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = id(nix::unistd::geteuid().as_raw());
    linux["gidMappings"] = id(nix::unistd::getegid().as_raw());
    linux["namespaces"] = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
        {"type": "cgroup"}, {"type": "user"}]);
    linux["resources"] = Value::Null;
    let Some(mounts) = spec["mounts"].as_array_mut() else {
        return;
    };
    mounts.retain(|mount| mount["type"] != "cgroup");
    for mount in mounts {
        if mount["type"] == "sysfs" {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        } else if let Some(options) = mount["options"].as_array_mut() {
            // Groups other than root's are not mapped.
            options.retain(|option| option != "gid=5");
        }
    }
}
