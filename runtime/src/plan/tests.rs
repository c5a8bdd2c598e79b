//! What comes before what, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::plan::mount::{MountKind, MountStep};

fn base() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["sh"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]},
    })
}

fn try_plan(document: Value) -> Result<Plan> {
    let spec: Spec = serde_json::from_value(document).unwrap();
    plan(
        &spec,
        &Options {
            id: "c".into(),
            bundle: "/bundle".into(),
            ..Options::default()
        },
    )
}

/// The base with one field (a JSON pointer) set.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = base();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[key] = value;
    document
}

fn refused(pointer: &str, value: Value, because: &str) {
    let error = try_plan(with(pointer, value.clone()))
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains(because), "{pointer} = {value}: {error}");
}

fn position(plan: &Plan, wanted: impl Fn(&Step) -> bool) -> usize {
    let steps = plan.prepare.iter().chain(&plan.launch);
    steps
        .into_iter()
        .position(wanted)
        .expect("the step is in the plan")
}

#[test]
fn order_of_the_steps() {
    let mut document = base();
    document["hostname"] = json!("h");
    document["mounts"] = json!([
        {"destination": "/proc", "type": "proc"},
        {"destination": "/dev", "type": "tmpfs", "options": ["ro", "nosuid"]},
        {"destination": "/data", "type": "bind", "source": "/x", "options": ["rbind", "ro"]},
    ]);
    document["root"]["readonly"] = json!(true);
    document["process"]["terminal"] = json!(true);
    document["process"]["cwd"] = json!("/work");
    document["hooks"] = json!({"createContainer": [{"path": "/h"}], "startContainer": [{"path": "/h"}]});
    document["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
    document["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    document["linux"]["sysctl"] = json!({"kernel.msgmax": "1"});
    document["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
    let plan = try_plan(document).unwrap();
    let at = |wanted: fn(&Step) -> bool| position(&plan, wanted);
    let order = [
        at(|s| matches!(s, Step::Root(_))),
        at(|s| matches!(s, Step::Mount(m) if m.destination == Path::new("/proc"))),
        at(|s| matches!(s, Step::Mount(m) if m.destination == Path::new("/dev"))),
        at(|s| matches!(s, Step::Mount(m) if m.destination == Path::new("/data"))),
        at(|s| matches!(s, Step::Device(_))),
        at(|s| matches!(s, Step::WorkDir(_))),
        at(|s| matches!(s, Step::Hooks(HookMoment::CreateContainer, _))),
        at(|s| matches!(s, Step::ReadonlyPath(_))),
        at(|s| matches!(s, Step::MaskPath(_))),
        at(|s| matches!(s, Step::Pivot { .. })),
        at(|s| matches!(s, Step::Terminal)),
        at(|s| matches!(s, Step::ReadonlyMount(path) if path == Path::new("/dev"))),
        at(|s| matches!(s, Step::ReadonlyMount(path) if path == Path::new("/"))),
        at(|s| matches!(s, Step::Hostname(_))),
        at(|s| matches!(s, Step::Sysctl { .. })),
        at(|s| matches!(s, Step::User)),
        at(|s| matches!(s, Step::Cwd)),
        at(|s| matches!(s, Step::FindCommand)),
        at(|s| matches!(s, Step::Hooks(HookMoment::StartContainer, _))),
        at(|s| matches!(s, Step::Rlimits)),
        at(|s| matches!(s, Step::Seccomp)),
        at(|s| matches!(s, Step::Exec)),
    ];
    assert!(order.is_sorted(), "{order:?}\n{:#?}", plan.prepare);
    assert!(matches!(plan.launch.last(), Some(Step::Exec)));
    assert_eq!(plan.rootfs, Path::new("/bundle/rootfs"));
}

#[test]
fn a_filter_without_no_new_privs_keeps_one_capability_until_it_is_loaded() {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []});
    let mut document = with("/linux/seccomp", seccomp);
    document["process"]["capabilities"] = json!({"effective": []});
    let last = |document: Value| {
        let plan = try_plan(document).unwrap();
        plan.launch
            .iter()
            .rev()
            .take(3)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        last(document.clone()),
        [
            "run the command",
            "give up the capability to load filters",
            "load the seccomp filter"
        ]
    );
    document["process"]["noNewPrivileges"] = json!(true);
    assert_eq!(
        last(document)[..2],
        ["run the command", "load the seccomp filter"]
    );
}

#[test]
fn a_bound_dev_is_left_alone() {
    let mounts = json!([{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
    let plan = try_plan(with("/mounts", mounts)).unwrap();
    assert!(
        !plan
            .prepare
            .iter()
            .any(|step| matches!(step, Step::Device(_) | Step::Link { .. }))
    );
}

#[test]
fn own_devices_replace_default_ones() {
    let devices =
        json!([{"path": "/dev/../dev/null", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600}]);
    let plan = try_plan(with("/linux/devices", devices)).unwrap();
    let nulls: Vec<_> = plan
        .prepare
        .iter()
        .filter_map(|step| match step {
            Step::Device(device) if device.path == Path::new("/dev/null") => Some(device.minor),
            _ => None,
        })
        .collect();
    assert_eq!(nulls, [5]);
}

#[test]
fn contradictions_are_refused_with_their_field() {
    refused("/linux/personality", json!({"domain": "PLAN9"}), "personality");
    refused("/process/args", json!([]), "process.args");
    refused("/process/args", json!(["a\u{0}b"]), "zero byte");
    refused("/process/cwd", json!("relative"), "process.cwd");
    refused("/linux/namespaces", json!([{"type": "pid"}]), "mount namespace");
    refused(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "mount"}]),
        "twice",
    );
    refused(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "magic"}]),
        "magic",
    );
    refused(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "user"}]),
        "uidMappings",
    );
    refused(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "pid", "path": "x"}]),
        "absolute",
    );
    refused(
        "/linux/uidMappings",
        json!([{"containerID": 0, "hostID": 0, "size": 1}]),
        "user namespace",
    );
    refused(
        "/linux/sysctl",
        json!({"kernel.panic": "1"}),
        "belongs to the host",
    );
    refused(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1"}),
        "namespace of its own",
    );
    refused("/linux/sysctl", json!({"fs.mqueue..x": "1"}), "not the name");
    refused("/linux/maskedPaths", json!(["relative"]), "absolute");
    refused("/linux/rootfsPropagation", json!("sideways"), "propagation");
    refused(
        "/linux/devices",
        json!([{"path": "/dev/x", "type": "q"}]),
        "unknown type",
    );
    refused(
        "/mounts",
        json!([{"destination": "/", "type": "tmpfs"}]),
        "over the root",
    );
    refused("/mounts", json!([{"destination": "/x"}]), "neither a type");
    refused(
        "/mounts",
        json!([{"destination": "/x", "type": "bind"}]),
        "no source",
    );
    refused(
        "/process/rlimits",
        json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
        "RLIMIT_X",
    );
    refused(
        "/process/rlimits",
        json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
        "above",
    );
}

fn parse_mount(fs_type: &str, options: &[&str]) -> MountStep {
    let entry = crate::spec::Mount {
        destination: "/x".into(),
        fs_type: Some(fs_type.into()),
        source: Some("/src".into()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Default::default()
    };
    MountStep::parse(&entry, None).unwrap()
}

#[test]
fn the_later_option_wins() {
    let step = parse_mount("tmpfs", &["ro", "nosuid", "rw", "size=1k", "noatime", "relatime"]);
    assert_eq!(step.attr.set, libc::MOUNT_ATTR_NOSUID);
    assert_eq!(step.attr.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME);
    let MountKind::Filesystem { options, .. } = step.kind else {
        panic!("not a file system")
    };
    assert_eq!(options, ["size=1k"]);
}

#[test]
fn binds_never_become_writable_by_themselves() {
    let step = parse_mount("bind", &["rbind", "rw", "rprivate", "rro"]);
    assert_eq!(step.attr.clear & libc::MOUNT_ATTR_RDONLY, 0);
    assert_eq!(step.recursive_attr.set, libc::MOUNT_ATTR_RDONLY);
    assert_eq!(
        step.propagation,
        [Propagation {
            mode: libc::MS_PRIVATE,
            recursive: true
        }]
    );
    assert_eq!(
        step.kind,
        MountKind::Bind {
            source: "/src".into(),
            recursive: true
        }
    );
}

#[test]
fn destinations_stay_below_the_root() {
    for (given, cleaned) in [
        ("/a/../../b", "/b"),
        ("rel/x", "/rel/x"),
        ("/a//b/./c/", "/a/b/c"),
        ("/..", "/"),
    ] {
        assert_eq!(clean(&Path::new("/").join(given)), Path::new(cleaned), "{given}");
    }
}

proptest! {
    #[test]
    fn any_options_are_read_without_a_panic(options in prop::collection::vec("[a-z=,0-9]{0,12}", 0..8)) {
        let entry = crate::spec::Mount {
            destination: "/x".into(), fs_type: Some("tmpfs".into()), options, ..Default::default()
        };
        if let Ok(step) = MountStep::parse(&entry, None) {
            prop_assert_eq!(step.attr.set & step.attr.clear & !libc::MOUNT_ATTR__ATIME, 0);
        }
    }
}
