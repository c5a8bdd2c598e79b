//! `shale mount` and `shale umount`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Shale, wait_until};

/// Two layers with a file each and one in both, and a place to mount at.
fn layers(shale: &Shale) -> (String, String, PathBuf) {
    for (layer, files) in [("top", ["both", "top"]), ("bottom", ["both", "bottom"])] {
        fs::create_dir(shale.path(layer)).unwrap();
        for file in files {
            fs::write(shale.path(layer).join(file), layer).unwrap();
        }
    }
    let target = shale.path("target");
    fs::create_dir(&target).unwrap();
    let text = |name: &str| shale.path(name).to_str().unwrap().to_owned();
    (text("top"), text("bottom"), target)
}

#[test]
fn directories_are_mounted_read_only() {
    let Some(shale) = Shale::root() else { return };
    let (top, bottom, target) = layers(&shale);
    let place = target.to_str().unwrap();
    shale.call(&["mount", &top, &bottom, place]).ok();
    assert_eq!(fs::read_to_string(target.join("both")).unwrap(), "top");
    assert_eq!(fs::read_to_string(target.join("bottom")).unwrap(), "bottom");
    assert!(fs::write(target.join("new"), "").is_err());
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(place)).unwrap();
    assert!(
        line.contains("nosuid") && line.contains("nodev"),
        "others can run what is in it: {line}"
    );
    let list = shale.call(&["mount"]).ok();
    assert!(
        list.lines()
            .nth(1)
            .is_some_and(|line| line.contains(place) && line.contains(" ro ")),
        "{list}"
    );
    let twice = shale.call(&["mount", &top, place]);
    assert!(
        twice.status == 1 && twice.stderr.contains("already mounted"),
        "{twice:?}"
    );
    let holder = fs::File::open(target.join("both")).unwrap();
    let busy = shale.call(&["umount", place]);
    assert!(busy.status == 1 && busy.stderr.contains("busy"), "{busy:?}");
    drop(holder);
    shale.call(&["umount", place]).ok();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(shale.call(&["mount"]).ok().lines().count(), 1);
    let gone = shale.call(&["umount", place]);
    assert!(
        gone.status == 1 && gone.stderr.contains("is not mounted by shale"),
        "{gone:?}"
    );
    shale.assert_clean();
}

#[test]
fn changes_go_to_scratch_or_to_a_directory() {
    let Some(shale) = Shale::root() else { return };
    let (top, bottom, target) = layers(&shale);
    let place = target.to_str().unwrap();
    shale.call(&["mount", "--rw", &top, &bottom, place]).ok();
    fs::write(target.join("both"), "changed").unwrap();
    let id = shale
        .call(&["mount"])
        .ok()
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    shale.call(&["umount", &id]).ok();
    assert_eq!(fs::read_to_string(shale.path("top/both")).unwrap(), "top");
    let upper = shale.path("upper");
    for expected in ["top", "changed"] {
        shale
            .call(&[
                "mount",
                "--rw",
                "--upper",
                upper.to_str().unwrap(),
                &top,
                &bottom,
                place,
            ])
            .ok();
        assert_eq!(fs::read_to_string(target.join("both")).unwrap(), expected);
        fs::write(target.join("both"), "changed").unwrap();
        shale.call(&["umount", "--all"]).ok();
    }
    assert_eq!(fs::read_to_string(upper.join("both")).unwrap(), "changed");
    shale.assert_clean();
}

#[test]
fn a_dead_server_is_cleaned_up_after() {
    let Some(shale) = Shale::root() else { return };
    let (top, _, target) = layers(&shale);
    let place = target.to_str().unwrap();
    shale.call(&["mount", &top, place]).ok();
    let records = shale.store().join("run/mounts");
    let record = fs::read_dir(&records)
        .unwrap()
        .flatten()
        .find(|entry| entry.path().extension().is_some())
        .unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record.path()).unwrap()).unwrap();
    let server = Pid::from_raw(i32::try_from(record["server"]["pid"].as_i64().unwrap()).unwrap());
    kill(server, Signal::SIGKILL).unwrap();
    wait_until("the mount to be dead", || {
        nix::sys::statfs::statfs(&target).is_err()
    });
    assert_eq!(shale.call(&["mount"]).ok().lines().count(), 1);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    shale.assert_clean();
}

#[test]
fn nothing_is_mounted_over_the_root() {
    let Some(shale) = Shale::root() else { return };
    let (top, _, _) = layers(&shale);
    // should it be: in a namespace that ends with the test
    let script = "exec timeout 20 \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_shale"));
    command
        .args(["mount", &top, "/"])
        .env("SHALE_ROOT", shale.store());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("no place"),
        "{output:?}"
    );
    shale.assert_clean();
}

#[test]
fn a_mount_whose_command_was_killed_is_known() {
    let Some(shale) = Shale::root() else { return };
    let (top, _, target) = layers(&shale);
    let place = target.to_str().unwrap();
    let ufs = Path::new(env!("CARGO_BIN_EXE_shale")).with_file_name("shale-ufs");
    let slow = shale.path("slow-ufs");
    let script = format!("#!/bin/sh\nsleep 0.5\nexec {} \"$@\"\n", ufs.display());
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let mut mounting = shale
        .command(&["mount", &top, place])
        .env("SHALE_UFS", &slow)
        .spawn()
        .unwrap();
    wait_until("the server to be noted", || {
        shale.call(&["mount"]).ok().contains(place)
    });
    mounting.kill().unwrap();
    mounting.wait().unwrap();
    wait_until("the mount to be there", || target.join("both").exists());
    let again = shale.call(&["mount", &top, place]);
    assert!(again.stderr.contains("already mounted"), "{again:?}");
    shale.call(&["umount", place]).ok();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    shale.call(&["mount", &top, place]).ok();
    shale.call(&["umount", place]).ok();
    shale.assert_clean();
}

#[test]
fn a_command_runs_while_it_is_mounted() {
    let Some(shale) = Shale::root() else { return };
    let (top, bottom, target) = layers(&shale);
    let place = target.to_str().unwrap();
    let outcome = shale.call(&[
        "mount",
        &top,
        &bottom,
        place,
        "--",
        "sh",
        "-c",
        &format!("ls {place}; exit 4"),
    ]);
    assert_eq!(
        (outcome.status, outcome.stdout.as_str()),
        (4, "both\nbottom\ntop\n"),
        "{outcome:?}"
    );
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    shale.assert_clean();
}

#[test]
fn containers_are_mounted_as_they_were_left() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    shale
        .run(&[
            "--name",
            "one",
            "--rootfs",
            root.to_str().unwrap(),
            "sh",
            "-c",
            "echo x > /made",
        ])
        .ok();
    let target = shale.path("target");
    fs::create_dir(&target).unwrap();
    let made = target.join("made");
    assert_eq!(
        shale
            .call(&[
                "mount",
                "one",
                target.to_str().unwrap(),
                "--",
                "cat",
                made.to_str().unwrap()
            ])
            .ok(),
        "x\n"
    );
    shale.call(&["rm", "one"]).ok();
    shale.assert_clean();
}

#[test]
fn mistakes_are_named() {
    let Some(shale) = Shale::root() else { return };
    let (top, _, target) = layers(&shale);
    let place = target.to_str().unwrap();
    let table: [(&[&str], &str); 6] = [
        (&["mount", place], "name what to mount and where"),
        (
            &["mount", "nothing-of-that-name", place],
            "no image or container is called nothing-of-that-name",
        ),
        (&["mount", "/nope", place], "/nope: No such file"),
        (&["mount", &top, "/nope"], "mount point /nope"),
        (&["mount", "/etc/passwd", place], "no tar archive"),
        (&["mount", &top, "/etc/passwd"], "is not a directory"),
    ];
    for (words, text) in table {
        let outcome = shale.call(words);
        assert_eq!(outcome.status, 1, "{words:?} {outcome:?}");
        assert!(outcome.stderr.contains(text), "{words:?} {outcome:?}");
    }
    shale.assert_clean();
}

#[test]
fn statistics_of_a_mount_count_what_it_was_asked() {
    let Some(shale) = Shale::root() else { return };
    let (top, bottom, target) = layers(&shale);
    let place = target.to_str().unwrap();
    shale.call(&["mount", &top, &bottom, place]).ok();
    for name in ["none-1", "none-2", "none-3"] {
        assert!(!target.join(name).exists());
    }
    let lookups = |text: &str| {
        let rows = text
            .lines()
            .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        let mut lookups = rows.filter(|row| row["Mount"] == place && row["Operation"] == "lookup");
        lookups.next().and_then(|row| row["Count"].as_u64()).unwrap()
    };
    let counted = lookups(&shale.call(&["stats", "--fs", "--format", "json"]).ok());
    assert!(counted >= 3, "{counted}");
    assert!(!target.join("none-4").exists());
    let again = lookups(&shale.call(&["stats", "--fs", "--format", "json", place]).ok());
    assert!(again > counted, "{counted}, then {again}");
    let table = shale.call(&["stats", "--fs", place]).ok();
    assert!(
        table.starts_with("MOUNT ") && table.contains(" lookup "),
        "{table}"
    );
    let text = shale
        .call(&["stats", "--fs", "--format", "prometheus", place])
        .ok();
    let count = format!("shale_fs_request_duration_seconds_count{{mount=\"{place}\",operation=\"lookup\"}} ");
    assert!(text.lines().any(|line| line.starts_with(&count)), "{text}");
    let other = shale.call(&["stats", "--fs", &top]);
    assert!(
        other.status == 1
            && other
                .stderr
                .contains("not the root directory of a mount of shale"),
        "{other:?}"
    );
    let nothing = shale.call(&["stats", "--fs", "no-such-container"]);
    assert!(
        nothing.status == 1 && nothing.stderr.contains("no-such-container"),
        "{nothing:?}"
    );
    shale.call(&["umount", place]).ok();
    shale.assert_clean();
}
