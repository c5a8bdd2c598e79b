//! Signals, names, removal, and supervisors that are killed.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Shale, finish, wait_until};

fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// A command that says when it is ready to be signalled, and what came.
const LISTENER: &str = "trap 'echo int; exit 3' INT; trap 'echo term; exit 4' TERM; trap 'echo hup; exit 5' HUP; \
                        trap 'echo alrm; exit 6' ALRM; trap 'echo pwr; exit 7' PWR; \
                        touch /ready; while :; do sleep 0.05; done";

#[test]
fn signals_reach_the_command() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    for (signal, said, status) in [
        (Signal::SIGINT, "int\n", 3),
        (Signal::SIGTERM, "term\n", 4),
        (Signal::SIGHUP, "hup\n", 5),
        (Signal::SIGALRM, "alrm\n", 6),
        (Signal::SIGPWR, "pwr\n", 7),
    ] {
        let child = shale.spawn(&[
            "--name",
            "one",
            "--rootfs",
            root.to_str().unwrap(),
            "sh",
            "-c",
            LISTENER,
        ]);
        wait_until("the command", || {
            shale
                .store()
                .join("containers")
                .read_dir()
                .is_ok_and(|mut folders| {
                    folders.any(|folder| folder.unwrap().path().join("upper/ready").exists())
                })
        });
        kill(pid(&child), signal).unwrap();
        let outcome = finish(child);
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (status, said),
            "{signal} {outcome:?}"
        );
        let shown = shale.field("one", "Status");
        assert!(shown.starts_with(&format!("Exited ({status})")), "{shown}");
        shale.call(&["rm", "one"]).ok();
    }
    shale.assert_clean();
}

/// What a program has mapped, changed and never synced is in the image, too.
#[test]
fn a_running_container_is_committed_with_what_is_mapped() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    std::fs::write(root.join("etc/mapped"), vec![b'.'; 8192]).unwrap();
    let root = root.to_str().unwrap();
    let child = shale.spawn(&["--name", "one", "--rootfs", root, "sh", "-c", LISTENER]);
    wait_until("the container", || shale.field("one", "Status").starts_with("Up"));
    let inside = shale.call(&["inspect", "--format", "{{.State.Pid}}", "one"]).ok();
    let inside = std::path::Path::new("/proc").join(inside.trim()).join("root");
    wait_until("the command", || inside.join("ready").exists());
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(inside.join("etc/mapped"))
        .unwrap();
    // SAFETY: nobody else cuts the file short.
    #[allow(unsafe_code)]
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    // When a child lets go of its copies of the two, that writes back.
    drop(file);
    map.advise(memmap2::Advice::DontFork).unwrap();
    map[5000..5003].copy_from_slice(b"new");
    shale.call(&["commit", "one", "with:map"]).ok();
    let committed = shale.run(&["--rm", "with:map", "cat", "/etc/mapped"]).ok();
    assert_eq!(&committed[4999..5004], ".new.");
    drop(map);
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert_eq!(finish(child).status, 4);
    shale.call(&["rm", "one"]).ok();
    shale.assert_clean();
}

#[test]
fn a_deaf_command_is_killed_after_a_while() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let child = shale.spawn(&[
        "--name",
        "one",
        "--rm",
        "--rootfs",
        root.to_str().unwrap(),
        "sleep",
        "1000",
    ]);
    shale.wait_for("one", "running");
    let started = std::time::Instant::now();
    kill(pid(&child), Signal::SIGTERM).unwrap();
    let outcome = finish(child);
    assert_eq!(outcome.status, 137, "{outcome:?}");
    assert!(
        started.elapsed() > Duration::from_secs(9),
        "the command was not given its time"
    );
    assert_eq!(shale.call(&["ps", "-aq"]).ok(), "");
    shale.assert_clean();
}

#[test]
fn running_containers_are_removed_by_force_only() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    for options in [&["--name", "one"][..], &["--name", "one", "--rm"]] {
        let tail = ["--rootfs", root.to_str().unwrap(), "sleep", "1000"];
        let child = shale.spawn(&options.iter().copied().chain(tail).collect::<Vec<_>>());
        shale.wait_for("one", "running");
        let refused = shale.call(&["rm", "one"]);
        assert_eq!(refused.status, 1);
        assert!(
            refused
                .stderr
                .contains("container is running: stop the container before removing or force remove"),
            "{refused:?}"
        );
        shale.call(&["rm", "-f", "one"]).ok();
        assert_eq!(finish(child).status, 137);
        assert_eq!(shale.call(&["ps", "-aq"]).ok(), "");
    }
    assert_eq!(shale.call(&["rm", "-f", "never-was"]).status, 0);
    shale.assert_clean();
}

#[test]
fn names_are_held_by_one() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    shale.run(&["--name", "one", "--rootfs", root, "true"]).ok();
    let id = shale.call(&["ps", "-aq", "--no-trunc"]).ok();
    let taken = shale.run(&["--name", "one", "--rootfs", root, "true"]);
    assert_eq!(taken.status, 125);
    let message = format!(
        "Conflict. The container name \"/one\" is already in use by container \"{}\". You have to remove (or rename) \
         that container to be able to reuse that name.",
        id.trim()
    );
    assert!(taken.stderr.contains(&message), "{taken:?}");
    shale.call(&["rm", id.trim().get(..12).unwrap()]).ok();
}

#[test]
fn many_containers_at_once() {
    let Some(shale) = Shale::without_store() else {
        return;
    };
    let root = shale.small_root("r");
    let script = "echo $$ > /mine; sleep 0.2; cat /mine; exit 9";
    let children: Vec<_> = (0..8)
        .map(|_| shale.spawn(&["--rootfs", root.to_str().unwrap(), "sh", "-c", script]))
        .collect();
    for child in children {
        let outcome = finish(child);
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (9, "1\n"),
            "{outcome:?}"
        );
    }
    let names = shale
        .call(&["ps", "-a", "--filter", "exited=9", "--format", "{{.Names}}"])
        .ok();
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(names.len(), 8);
    shale
        .call(&["rm"].into_iter().chain(names).collect::<Vec<_>>())
        .ok();
    shale.assert_clean();
}

#[test]
fn a_killed_supervisor_is_noticed() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    for (options, left) in [
        (&["--name", "one"][..], "exited"),
        (&["--name", "one", "--rm"], ""),
    ] {
        let tail = [
            "--rootfs",
            root.to_str().unwrap(),
            "sh",
            "-c",
            "echo x > /made; while test ! -e /go; do sleep 0.05; done",
        ];
        let mut child = shale.spawn(&options.iter().copied().chain(tail).collect::<Vec<_>>());
        shale.wait_for("one", "running");
        wait_until("the file", || !shale.call(&["diff", "one"]).stdout.is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(shale.field("one", "State"), "running", "the command goes on");
        let refused = shale.call(&["rm", "one"]);
        assert_eq!(refused.status, 1, "{refused:?}");
        // The command's end, as if it came by itself.
        let id = shale.call(&["ps", "-aq", "--no-trunc"]).ok();
        let command =
            fs::read_to_string(shale.store().join("containers").join(id.trim()).join("pid")).unwrap();
        kill(Pid::from_raw(command.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
        wait_until("the end to be noticed", || shale.field("one", "State") == left);
        if !left.is_empty() {
            assert!(shale.field("one", "Status").starts_with("Exited (255)"));
            assert_eq!(shale.call(&["diff", "one"]).ok(), "A /made\n");
            shale.call(&["rm", "one"]).ok();
        }
        shale.assert_clean();
    }
}

#[test]
fn killed_at_any_moment() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    for delay_ms in (0..120).step_by(8) {
        let mut child = shale.spawn(&["--name", "one", "--rootfs", root, "sh", "-c", "echo x > /made"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever there is, it can be listed and removed, and the name is free again.
        wait_until("the container to be no longer running", || {
            shale.field("one", "State") != "running"
        });
        let outcome = shale.call(&["rm", "-f", "one"]);
        assert_eq!(outcome.status, 0, "after {delay_ms} ms: {outcome:?}");
        assert_eq!(shale.call(&["ps", "-aq"]).ok(), "", "after {delay_ms} ms");
        shale.assert_clean();
    }
    assert_eq!(fs::read_dir(shale.store().join("containers")).unwrap().count(), 0);
    shale
        .run(&["--name", "one", "--rm", "--rootfs", root, "true"])
        .ok();
}

/// Killed after the command was started and before that was written down: nothing that runs is forgotten.
#[test]
fn a_command_that_nobody_noted_is_found() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    for (removal, refused) in [(&["rm", "one"][..], true), (&["rm", "-f", "one"], false)] {
        let mut child = shale.spawn(&[
            "--name",
            "one",
            "--rootfs",
            root.to_str().unwrap(),
            "sleep",
            "1000",
        ]);
        shale.wait_for("one", "running");
        child.kill().unwrap();
        child.wait().unwrap();
        // The notes as they were before.
        let folder = shale.store().join("containers");
        let folder = folder.read_dir().unwrap().next().unwrap().unwrap().path();
        fs::remove_file(folder.join("processes.json")).unwrap();
        let database = rusqlite::Connection::open(shale.store().join("shale.db")).unwrap();
        database
            .execute("UPDATE containers SET status = 'created', pid = NULL", [])
            .unwrap();
        drop(database);
        let outcome = shale.call(removal);
        assert_eq!(outcome.status == 1, refused, "{outcome:?}");
        if refused {
            assert_eq!(shale.field("one", "State"), "running");
            shale.call(&["rm", "-f", "one"]).ok();
        }
        assert_eq!(shale.call(&["ps", "-aq"]).ok(), "");
        shale.assert_clean();
    }
}
