//! `shale bench`: what it says, what it keeps, and that nothing is left of it, after a signal neither.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Outcome, Shale, USER};

/// Sizes with which a round is over in a moment.
const TINY: [&str; 8] = [
    "--files=20",
    "--size=4M",
    "--write-size=1M",
    "--create=5",
    "--random=5",
    "--names=7",
    "--inodes=50",
    "--shared-size=1M",
];

/// A call that needs no rights.
fn call(words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shale"));
    Outcome::of(command.arg("bench").args(words).output().unwrap())
}

/// A directory for everything that a run makes.
fn place(shale: &Shale, name: &str) -> PathBuf {
    let dir = shale.path(name);
    fs::create_dir(&dir).unwrap();
    dir
}

/// Nothing but these files is in the directory, and no loop device has its backing there.
#[track_caller]
fn assert_given_back(dir: &Path, left: &[&str]) {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, left);
    for device in fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        assert!(!backing.contains(dir.to_str().unwrap()), "{device:?}: {backing}");
    }
}

#[test]
fn workloads_are_listed_with_a_line_each() {
    let text = call(&["--list"]).ok();
    for name in ["walk-cold", "layers-127", "page-cache-8", "package"] {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        assert!(line.is_some_and(|line| line.len() > 40), "{text}");
    }
    assert!(text.contains("10 GiB of a layer (only when named)"), "{text}");
    assert_eq!(call(&["--list", "layers"]).ok().lines().count(), 4);
}

#[test]
fn an_unknown_workload_is_named() {
    let outcome = call(&["walk", "wlak"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("no workload \"wlak\""), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_tiny_run_is_kept_as_json_as_a_table_and_as_a_chart() {
    let Some(shale) = Shale::root() else { return };
    let dir = place(&shale, "place");
    let (json, svg) = (dir.join("run.json"), dir.join("run.svg"));
    let mut words = vec![
        "bench",
        "--against=native",
        "--modes=shale",
        "--rounds=2",
        "--no-fio",
    ];
    words.extend(["--date=today", "--format=json", "--dir", dir.to_str().unwrap()]);
    words.extend(["--json", json.to_str().unwrap(), "--svg", svg.to_str().unwrap()]);
    words.extend(TINY);
    let workloads = [
        "walk-cold",
        "random-write-lower",
        "create",
        "package",
        "layers-16",
        "server-memory",
    ];
    words.extend(workloads);
    let text = shale.call(&words).ok();
    assert_given_back(&dir, &["run.json", "run.svg", "run.txt"]);
    shale.assert_clean();

    assert_eq!(text, fs::read_to_string(&json).unwrap());
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["host"]["date"], "today");
    assert_eq!(report["base"], "native");
    assert_eq!(report["file_system"], "a fresh ext4 on a loop device");
    assert_eq!(report["caches_dropped"], true);
    assert_eq!(report["systems"][1]["name"], "shale");
    let options = report["systems"][1]["options"].as_str().unwrap();
    assert!(options.starts_with("fuse.shale-ufs: rw,"), "{options}");
    assert!(report["left_out"][0].as_str().unwrap().starts_with("package: "));
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["workload"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        workloads
            .into_iter()
            .filter(|name| *name != "package")
            .collect::<Vec<_>>()
    );
    for row in rows {
        for cell in row["cells"].as_array().unwrap() {
            assert_eq!(cell["failure"], Value::Null, "{row}");
            let absent = cell["absent"].is_string();
            assert_eq!(
                cell["samples"].as_array().unwrap().len(),
                if absent { 0 } else { 2 },
                "{row}"
            );
        }
        let ratio = &row["cells"][1]["ratio"];
        assert_eq!(ratio.is_null(), row["workload"] == "server-memory", "{row}");
    }

    let chart = fs::read_to_string(&svg).unwrap();
    let chart = roxmltree::Document::parse(&chart).unwrap();
    let bars = chart
        .descendants()
        .filter(|node| node.has_tag_name("title"))
        .count();
    assert_eq!(bars, 4);
    let table = fs::read_to_string(dir.join("run.txt")).unwrap();
    assert!(
        table.starts_with("today ") && table.contains("Medians as a ratio to native:"),
        "{table}"
    );
}

/// With 7 names in 16 layers most layers are alike, and an image may name the same one many times.
#[test]
fn images_have_as_many_layers_as_the_workload_asks_for() {
    let Some(shale) = Shale::root() else { return };
    let dir = place(&shale, "place");
    let modes = ["shale-image", "shale-image-rw"];
    let modes_option = format!("--modes={}", modes.join(","));
    let mut words = vec!["bench", "--against=native", &modes_option, "--rounds=1"];
    words.extend(["--format=json", "--dir", dir.to_str().unwrap()]);
    words.extend(["layers-1", "layers-16", "layers-127"]);
    words.extend(TINY);
    let report: Value = serde_json::from_str(&shale.call(&words).ok()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        for mode in modes {
            let cells = row["cells"].as_array().unwrap();
            let cell = cells.iter().find(|cell| cell["system"] == mode).unwrap();
            assert!(cell["ratio"].is_f64(), "{row}");
        }
    }
    assert_given_back(&dir, &[]);
    shale.assert_clean();
}

#[test]
fn a_missing_peer_is_said_and_does_not_stop_the_others() {
    let Some(shale) = Shale::root() else { return };
    let dir = place(&shale, "place");
    let mut words = vec!["bench", "--fuse-overlayfs=/nowhere/fuse-overlayfs", "--rounds=1"];
    words.extend([
        "--against=fuse-overlayfs,native",
        "--modes=shale-image-rw",
        "--no-loop",
    ]);
    words.extend(["--dir", dir.to_str().unwrap(), "create"]);
    words.extend(TINY);
    let outcome = shale.call(&words);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    let missing = outcome.stdout.lines().find(|line| line.starts_with("missing: "));
    assert!(
        missing.is_some_and(|line| line.contains("fuse-overlayfs: cannot start `/nowhere/fuse-overlayfs`")),
        "{outcome:?}"
    );
    assert!(outcome.stdout.contains("\n  shale-image-rw "), "{outcome:?}");
    assert!(
        !outcome.stdout.contains("failed") && !outcome.stdout.contains('\x1b'),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("[1/1] create: "), "{outcome:?}");
    assert_given_back(&dir, &[]);
    shale.assert_clean();
}

#[test]
fn a_plain_user_compares_in_a_directory() {
    let Some(shale) = Shale::user() else { return };
    let dir = place(&shale, "place");
    nix::unistd::chown(&dir, Some(USER.into()), Some(USER.into())).unwrap();
    let mut words = vec!["bench", "--against=native", "--rounds=1", "--format=json"];
    words.extend(["--dir", dir.to_str().unwrap()]);
    words.extend(["walk-cold", "copy-up-content", "server-memory-forgotten"]);
    words.extend(TINY);
    let text = shale.call(&words).ok();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["caches_dropped"], false);
    let caches = report["rows"][0]["caches"].as_str().unwrap();
    assert!(caches.contains("only root can make them cold"), "{caches}");
    let left_out = report["left_out"][0].as_str().unwrap();
    assert!(
        left_out.starts_with("server-memory-forgotten: only root"),
        "{left_out}"
    );
    let systems: Vec<_> = report["systems"].as_array().unwrap().iter().collect();
    assert_eq!(systems.len(), 2, "{text}");
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(row["cells"][1]["system"], "shale");
        assert!(row["cells"][1]["ratio"].is_f64(), "{row}");
    }
    assert_given_back(&dir, &[]);
    shale.assert_clean();
}

#[test]
fn a_signal_leaves_no_mount_and_no_loop_device() {
    let Some(shale) = Shale::root() else { return };
    let dir = place(&shale, "place");
    let mut words = vec![
        "bench",
        "--against=native",
        "--modes=shale",
        "--rounds=5000",
        "create",
    ];
    words.extend(["--dir", dir.to_str().unwrap()]);
    words.extend(TINY);
    let mut command = shale.command(&words);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("[1/1] create") {
        line.clear();
        assert_ne!(
            errors.read_line(&mut line).unwrap(),
            0,
            "ended before it measured"
        );
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!(outcome.status, 130, "{outcome:?} {rest}");
    assert!(rest.contains("stopping after this measurement"), "{rest}");
    assert!(outcome.stdout.contains("interrupted: "), "{outcome:?}");
    assert_given_back(&dir, &[]);
    shale.assert_clean();
}
