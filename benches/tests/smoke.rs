//! The base on its loop device, and the program of the images. `shale bench` is tested with the other verbs.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use shale_benches::scratch::Scratch;
use shale_benches::system::{Layout, System};

/// Says why nothing was tested, past libtest's capture.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP smoke: {reason}");
}

/// How many file systems are mounted below a directory.
fn bench_mounts(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(dir)).count()
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
