//! One workload from the loop device to the table, as small as it gets; needs root.

use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use shale_benches::scratch::Scratch;
use shale_benches::system::{Layout, System};

/// Says why nothing was tested, past libtest's capture.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP smoke: {reason}");
}

/// A user that may do nothing.
const NOBODY: u32 = 65534;

const TINY: &str = "--dirs 2 --files-per-dir 2 --large-mib 1 --write-mib 1 --create 2 --copy-up 2 --exec 1 --layers 3 --names 2";

/// How many file systems are mounted below a directory.
fn bench_mounts(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(dir)).count()
}

#[test]
fn a_tiny_comparison_measures_and_leaves_nothing_behind() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root for a loop device and mounts; run the tests with sudo");
    }
    if !std::fs::read_to_string("/proc/filesystems")
        .unwrap_or_default()
        .contains("\toverlay")
    {
        return skip("the kernel has no overlayfs");
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("run.json");
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args([
            "--systems",
            "overlayfs",
            "--rounds",
            "3",
            "--date",
            "today",
            "--dir",
        ])
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .args(TINY.split(' '))
        .args(["walk-warm", "lookup-many-layers"])
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(table.starts_with("today "), "{table}");
    assert!(
        table.contains("\nwalk-warm ") && !table.contains("failed"),
        "{table}"
    );
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let cell = &report["rows"][0]["cells"][0];
    assert_eq!(cell["seconds"].as_array().unwrap().len(), 3);
    assert!((cell["ratio"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    // Only what was asked for is left in the directory, and nothing is mounted there.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(bench_mounts(dir.path()), 0);
}

#[test]
fn a_panic_takes_the_mounts_along() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root for a loop device and mounts; run the tests with sudo");
    }
    let dir = tempfile::tempdir().unwrap();
    let panicked = std::panic::catch_unwind(|| {
        let scratch = Scratch::make(dir.path(), 16 << 20).unwrap();
        let part = |name: &str| {
            let path = scratch.base().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let layout = Layout {
            lowers: vec![part("l")],
            upper: part("u"),
            work: part("w"),
        };
        let mounted = System::Overlayfs.mount(&layout, &scratch.mountpoint()).unwrap();
        let busy = std::fs::File::create(mounted.root().join("x")).unwrap();
        assert_eq!(bench_mounts(dir.path()), 2);
        panic!("on purpose, while {busy:?} is open");
    });
    let message = panicked.unwrap_err().downcast::<String>().unwrap();
    assert!(message.starts_with("on purpose"), "{message}");
    assert_eq!(bench_mounts(dir.path()), 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn without_root_it_says_what_it_needs() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(["--systems", "overlayfs"]);
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return skip("other users cannot reach the build directory");
        }
        result => result.unwrap(),
    };
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains("needs root"), "{message}");
}

#[test]
fn an_unknown_workload_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .arg("wlak")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains("no workload `wlak`"), "{message}");
}

#[test]
fn images_lists_its_workloads_and_names_an_unknown_one() {
    let images = |word: &str| {
        Command::new(env!("CARGO_BIN_EXE_images"))
            .arg(word)
            .output()
            .unwrap()
    };
    let listed = images("--list");
    assert!(listed.status.success());
    assert!(String::from_utf8_lossy(&listed.stdout).contains("\ncommit "));
    let unknown = images("comit");
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no workload `comit`"));
}
