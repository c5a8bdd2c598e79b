//! The document as a whole.

use super::*;
use crate::bundle::volume::{parse_tmpfs, parse_volume};

fn settings() -> Settings {
    Settings {
        id: "cafe".to_owned(),
        root: PathBuf::from("/store/merged"),
        read_only: false,
        arguments: vec!["sh".to_owned()],
        environment: vec!["PATH=/bin".to_owned()],
        working_directory: "/".to_owned(),
        identity: Identity {
            uid: 0,
            gid: 0,
            additional_gids: vec![0],
            home: "/root".to_owned(),
        },
        terminal: false,
        hostname: "box".to_owned(),
        network: Network::Host,
        capabilities: capabilities::effective(&[], &[], false, 40).unwrap(),
        seccomp: None,
        privileged: false,
        open_system_paths: false,
        no_new_privileges: false,
        ulimits: Vec::new(),
        files: vec![(PathBuf::from("/store/hosts"), "/etc/hosts")],
        mounts: Vec::new(),
        annotations: HashMap::new(),
        rights: Rights {
            in_user_namespace: false,
            has_tty_group: true,
        },
    }
}

fn document(settings: &Settings) -> serde_json::Value {
    serde_json::to_value(specification(settings).unwrap()).unwrap()
}

fn destinations(document: &serde_json::Value) -> Vec<&str> {
    document["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect()
}

fn namespaces_of(document: &serde_json::Value) -> Vec<&str> {
    document["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["type"].as_str().unwrap())
        .collect()
}

#[test]
fn the_default_document_has_dockers_walls() {
    let document = document(&settings());
    assert_eq!(document["ociVersion"], "1.0.2");
    assert_eq!(document["root"]["path"], "/store/merged");
    assert_eq!(
        destinations(&document),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/dev/shm",
            "/etc/hosts"
        ]
    );
    assert_eq!(document["linux"]["maskedPaths"].as_array().unwrap().len(), 12);
    assert_eq!(document["linux"]["readonlyPaths"].as_array().unwrap().len(), 5);
    assert_eq!(document["linux"]["cgroupsPath"], "/shale/cafe");
    assert_eq!(namespaces_of(&document), ["mount", "pid", "ipc", "uts", "cgroup"]);
    assert_eq!(
        document["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        14
    );
    assert_eq!(
        document["process"]["capabilities"]["inheritable"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    assert_eq!(document["process"]["noNewPrivileges"], false);
    assert!(document["linux"]["resources"]["devices"][0]["allow"] == false);
    assert_eq!(document["process"]["rlimits"].as_array().map_or(0, Vec::len), 0);
}

#[test]
fn no_network_is_a_namespace_of_its_own() {
    let document = document(&Settings {
        network: Network::None,
        ..settings()
    });
    assert!(namespaces_of(&document).contains(&"network"));
    assert_eq!(
        "bridge".parse::<Network>(),
        Err(BundleError::Network("bridge".to_owned()))
    );
}

#[test]
fn a_plain_user_gets_no_cgroup_and_the_machines_sys() {
    let rights = Rights {
        in_user_namespace: true,
        has_tty_group: false,
    };
    let document = document(&Settings { rights, ..settings() });
    assert!(document["linux"]["cgroupsPath"].is_null());
    assert!(document["linux"]["resources"].is_null());
    let mounts = document["mounts"].as_array().unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount["destination"] == path);
    assert_eq!(at("/sys").unwrap()["type"], "bind");
    assert!(at("/sys/fs/cgroup").is_none());
    assert!(!at("/dev/pts").unwrap()["options"].to_string().contains("gid=5"));
}

#[test]
fn a_user_without_root_holds_no_capability() {
    let identity = Identity {
        uid: 1000,
        gid: 100,
        additional_gids: vec![100, 29],
        home: "/h".to_owned(),
    };
    let document = document(&Settings {
        identity,
        ..settings()
    });
    let sets = &document["process"]["capabilities"];
    assert_eq!(sets["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(sets["effective"].as_array().unwrap().len(), 0);
    assert_eq!(sets["permitted"].as_array().unwrap().len(), 0);
    assert_eq!(
        document["process"]["user"]["additionalGids"],
        serde_json::json!([100, 29])
    );
}

#[test]
fn the_callers_mounts_replace_the_defaults() {
    let mounts = vec![
        parse_tmpfs("/dev/shm:size=1m").unwrap(),
        parse_volume("/h:/etc/hosts:ro", "/").unwrap(),
    ];
    let document = document(&Settings { mounts, ..settings() });
    let places = destinations(&document);
    assert_eq!(places.iter().filter(|place| **place == "/dev/shm").count(), 1);
    assert_eq!(places.iter().filter(|place| **place == "/etc/hosts").count(), 1);
    let hosts = document["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["destination"] == "/etc/hosts");
    assert_eq!(hosts.unwrap()["source"], "/h");
    assert_eq!(
        hosts.unwrap()["options"],
        serde_json::json!(["rbind", "ro", "rprivate"])
    );
}

#[test]
fn privileged_opens_the_walls() {
    let seccomp = crate::seccomp::default_profile("x86_64", &settings().capabilities).unwrap();
    let confined = Settings {
        seccomp: Some(seccomp),
        ..settings()
    };
    assert!(!document(&confined)["linux"]["seccomp"].is_null());
    let document = document(&Settings {
        privileged: true,
        ..confined
    });
    assert!(document["linux"]["seccomp"].is_null());
    assert_eq!(document["linux"]["maskedPaths"].as_array().map_or(0, Vec::len), 0);
    assert_eq!(document["linux"]["resources"]["devices"][0]["allow"], true);
}

#[test]
fn limits_and_terminal_are_passed_on() {
    let ulimits = vec![ulimit::parse("nofile=10:20").unwrap()];
    let document = document(&Settings {
        ulimits,
        terminal: true,
        no_new_privileges: true,
        ..settings()
    });
    assert_eq!(
        document["process"]["rlimits"],
        serde_json::json!([{"type": "RLIMIT_NOFILE", "hard": 20, "soft": 10}])
    );
    assert_eq!(document["process"]["terminal"], true);
    assert_eq!(document["process"]["noNewPrivileges"], true);
}

#[test]
fn the_engines_files_are_read_only_with_the_root() {
    for (read_only, access) in [(false, "rw"), (true, "ro")] {
        let document = document(&Settings {
            read_only,
            ..settings()
        });
        let mounts = document["mounts"].as_array().unwrap();
        let hosts = mounts
            .iter()
            .find(|mount| mount["destination"] == "/etc/hosts")
            .unwrap();
        assert!(
            hosts["options"].as_array().unwrap().contains(&access.into()),
            "{hosts}"
        );
    }
}
