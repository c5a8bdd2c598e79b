//! Mounts and containers whose file server is killed.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, Write};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Shale, finish, wait_until};

const KILLS: usize = 5;

#[test]
fn a_mount_outlives_its_server() {
    let Some(shale) = Shale::root() else { return };
    let (layer, target) = (shale.path("layer"), shale.path("target"));
    for folder in [&layer, &target] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(layer.join("file"), "first").unwrap();
    let place = target.to_str().unwrap();
    shale
        .call(&["mount", "--rw", layer.to_str().unwrap(), place])
        .ok();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(target.join("file"))
        .unwrap();
    let mut expected = "first".to_owned();
    for number in 0..KILLS {
        shale.kill_server();
        file.write_all(number.to_string().as_bytes()).unwrap();
        expected += &number.to_string();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), expected);
    }
    drop(file);
    assert_eq!(shale.call(&["mount"]).ok().lines().count(), 2);
    shale.call(&["umount", place]).ok();
    assert_eq!(fs::read_to_string(layer.join("file")).unwrap(), "first");
    shale.assert_clean();
}

/// Makes, reads and removes files until it is told to end.
const LOOP: &str = "trap 'echo $((i > 0)); exit 0' TERM; i=0; touch /ready; \
                    while :; do i=$((i + 1)); echo $i > /file$i; read found < /file$i; \
                    [ \"$found\" = $i ] || { echo \"$found is not $i\"; exit 1; }; \
                    busybox rm /file$i || exit 2; done";

fn container_outlives(shale: &Shale) {
    let root = shale.small_root("r");
    let child = shale.spawn(&[
        "--name",
        "one",
        "--rootfs",
        root.to_str().unwrap(),
        "sh",
        "-c",
        LOOP,
    ]);
    wait_until("the command", || {
        let folders = shale.store().join("containers").read_dir();
        folders.is_ok_and(|mut folders| {
            folders.any(|folder| folder.unwrap().path().join("upper/ready").exists())
        })
    });
    for _ in 0..KILLS {
        shale.kill_server();
        let outcome = shale.call(&["ps", "-q"]);
        assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:?}");
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let outcome = finish(child);
    assert_eq!(
        (outcome.status, outcome.stdout.as_str()),
        (0, "1\n"),
        "{outcome:?}"
    );
    let changes = shale.call(&["diff", "one"]).ok();
    assert!(changes.contains("A /ready"), "{changes}");
    shale.call(&["rm", "one"]).ok();
    shale.assert_clean();
}

#[test]
fn a_container_outlives_its_server() {
    if let Some(shale) = Shale::root() {
        container_outlives(&shale);
    }
}

#[test]
fn a_plain_users_container_outlives_its_server() {
    if let Some(shale) = Shale::user() {
        container_outlives(&shale);
    }
}
