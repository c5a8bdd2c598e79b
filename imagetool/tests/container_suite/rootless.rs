//! A plain user without any range of ids.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Shale, USER, finish};

#[test]
fn a_plain_user_runs_and_keeps_the_machine_untouched() {
    let Some(shale) = Shale::user() else { return };
    let script = "id -u; echo x > /etc/shale-test-user && mkdir /made && cat /etc/shale-test-user; cat /proc/self/uid_map; exit 6";
    let outcome = shale.run(&["--name", "one", "--rootfs", "/", "sh", "-c", script]);
    assert_eq!(outcome.status, 6, "{outcome:?}");
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "x", "0", &USER.to_string(), "1"]);
    assert!(
        !std::path::Path::new("/etc/shale-test-user").exists() && !std::path::Path::new("/made").exists()
    );
    assert_eq!(
        shale.call(&["diff", "one"]).ok(),
        "C /etc\nA /etc/shale-test-user\nA /made\n"
    );
    shale.call(&["rm", "one"]).ok();
    assert_eq!(fs::read_dir(shale.store().join("containers")).unwrap().count(), 0);
    shale.assert_clean();
}

#[test]
fn limits_of_a_single_id_are_told() {
    let Some(shale) = Shale::user() else { return };
    let outcome = shale.run(&["-u", "1", "--rm", "--rootfs", "/", "true"]);
    assert_eq!(outcome.status, 125, "{outcome:?}");
    assert!(
        outcome.stderr.contains("newuidmap") && outcome.stderr.contains("--add-subuids"),
        "{outcome:?}"
    );
    let network = shale.run(&[
        "--rm",
        "--network",
        "none",
        "--rootfs",
        "/",
        "sh",
        "-c",
        "grep -c : /proc/net/dev",
    ]);
    assert_eq!(network.ok().trim(), "1");
    assert_eq!(
        shale.run(&["--rm", "--rootfs", "/", "no-such-command"]).status,
        127
    );
    shale.assert_clean();
}

#[test]
fn a_plain_user_removes_by_force() {
    let Some(shale) = Shale::user() else { return };
    let child = shale.spawn(&["--name", "one", "--rootfs", "/", "sleep", "1000"]);
    shale.wait_for("one", "running");
    shale.call(&["rm", "-f", "one"]).ok();
    assert_eq!(finish(child).status, 137);
    shale.assert_clean();
}

#[test]
fn a_killed_supervisor_is_noticed() {
    let Some(shale) = Shale::user() else { return };
    let mut child = shale.spawn(&["--name", "one", "--rootfs", "/", "sleep", "1000"]);
    shale.wait_for("one", "running");
    // unshare, sh and setpriv have become shale: its process is the one that was started.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(shale.field("one", "State"), "running");
    let id = shale.call(&["ps", "-aq", "--no-trunc"]).ok();
    let command = fs::read_to_string(shale.store().join("containers").join(id.trim()).join("pid")).unwrap();
    kill(Pid::from_raw(command.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    shale.wait_for("one", "exited");
    shale.call(&["rm", "one"]).ok();
    shale.assert_clean();
}

#[test]
fn without_fuse_the_advice_is_given() {
    let Some(shale) = Shale::user() else { return };
    // This time without the node that everyone may open.
    let mut command = std::process::Command::new("setpriv");
    let user = USER.to_string();
    command
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .arg(shale.path("bin/shale"));
    command
        .args(["run", "--rm", "--rootfs", "/", "true"])
        .env("HOME", shale.path("home"))
        .current_dir("/");
    if fs::metadata("/dev/fuse")
        .is_ok_and(|node| std::os::unix::fs::PermissionsExt::mode(&node.permissions()) & 0o006 == 0o006)
    {
        eprintln!("SKIPPED: /dev/fuse is open to all here");
        return;
    }
    let outcome = crate::support::Outcome::of(command.output().unwrap());
    assert_eq!(outcome.status, 125, "{outcome:?}");
    assert!(outcome.stderr.contains("chmod 666 /dev/fuse"), "{outcome:?}");
    shale.assert_clean();
}

#[test]
fn a_mount_of_a_plain_user_lives_as_long_as_its_command() {
    let Some(shale) = Shale::user() else { return };
    let (layer, target) = (shale.path("layer"), shale.path("home/target"));
    fs::create_dir(&layer).unwrap();
    fs::write(layer.join("file"), "content").unwrap();
    fs::create_dir(&target).unwrap();
    let (layer, target) = (layer.to_str().unwrap(), target.to_str().unwrap());
    let refused = shale.call(&["mount", layer, target]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("give a command"), "{refused:?}");
    let file = format!("{target}/file");
    assert_eq!(
        shale.call(&["mount", layer, target, "--", "cat", &file]).ok(),
        "content"
    );
    shale.assert_clean();
}

#[test]
fn a_range_of_ids_gives_all_users() {
    let Some(shale) = Shale::user_with_ranges() else {
        return;
    };
    let script = "touch /file && chown 33:44 /file && stat -c %u:%g /file";
    assert_eq!(
        shale
            .run(&["--name", "one", "--rootfs", "/", "sh", "-c", script])
            .ok(),
        "33:44\n"
    );
    assert_eq!(shale.call(&["diff", "one"]).ok(), "A /file\n");
    shale.call(&["rm", "one"]).ok();
    // The command is another user of the host's: only its supervisor may end it.
    let child = shale.spawn(&["--name", "two", "-u", "33", "--rootfs", "/", "sleep", "1000"]);
    shale.wait_for("two", "running");
    shale.call(&["rm", "-f", "two"]).ok();
    assert_eq!(finish(child).status, 137);
    shale.assert_clean();
}
