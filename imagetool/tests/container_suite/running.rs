//! What a command finds in its container, and what the host finds afterwards.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::support::{Outcome, Shale};

#[test]
fn the_machine_is_untouched_and_diff_tells_what_was_done() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root_text = root.to_str().unwrap();
    fs::write(root.join("etc/old"), "old").unwrap();
    fs::write(root.join("etc/gone"), "gone").unwrap();
    let script = "echo new > /etc/new; echo changed > /etc/old; busybox rm /etc/gone; mkdir /made; exit 7";
    let outcome = shale.run(&["--name", "one", "--rootfs", root_text, "sh", "-c", script]);
    assert_eq!(outcome.status, 7, "{outcome:?}");
    assert_eq!(fs::read_to_string(root.join("etc/old")).unwrap(), "old");
    assert!(root.join("etc/gone").exists() && !root.join("etc/new").exists() && !root.join("made").exists());
    assert_eq!(
        shale.call(&["diff", "one"]).ok(),
        "C /etc\nD /etc/gone\nA /etc/new\nC /etc/old\nA /made\n"
    );
    assert_eq!(shale.field("one", "Status").split(" (").next(), Some("Exited"));
    assert_eq!(shale.call(&["rm", "one"]).ok(), "one\n");
    assert_eq!(shale.call(&["rm", "one"]).status, 1);
    assert_eq!(fs::read_dir(shale.store().join("containers")).unwrap().count(), 0);
    shale.assert_clean();
}

#[test]
fn the_first_command_of_a_newcomer() {
    let Some(shale) = Shale::root() else { return };
    let script = "test $(pwd) = / && echo x > /etc/shale-test-file && ls -A /proc/1/fd > /dev/null && cat /etc/shale-test-file";
    assert_eq!(
        shale
            .run(&["--name", "first", "--rootfs", "/", "sh", "-c", script])
            .ok(),
        "x\n"
    );
    assert!(!std::path::Path::new("/etc/shale-test-file").exists());
    assert_eq!(
        shale.call(&["diff", "first"]).ok(),
        "C /etc\nA /etc/shale-test-file\n"
    );
    shale.call(&["rm", "first"]).ok();
    shale.assert_clean();
}

#[test]
fn the_store_is_not_seen_from_inside() {
    let Some(shale) = Shale::root() else { return };
    let store = shale.store();
    let list = ["--rm", "--rootfs", "/", "ls", "-A", store.to_str().unwrap()];
    assert_eq!(shale.run(&list).ok(), "");
    let inside = shale.run(&[
        "--rm",
        "--rootfs",
        store.join("containers").to_str().unwrap(),
        "true",
    ]);
    assert_eq!(inside.status, 125);
    assert!(inside.stderr.contains("inside the store"), "{inside:?}");
}

#[test]
fn statuses_are_dockers() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    let table: [(&[&str], i32, &str); 9] = [
        (&["true"], 0, ""),
        (&["sh", "-c", "exit 42"], 42, ""),
        (&["sh", "-c", "exit 127"], 127, ""),
        (&["nope"], 127, "nope"),
        (&["/nope/nope"], 127, "nope"),
        (&["/etc/passwd"], 126, "ermission denied"),
        // The first process of a container ignores what it does not handle, but its child does not.
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        (&["sh", "-c", "no-such-thing"], 127, ""),
        (&[], 125, "no command specified"),
    ];
    for (words, status, text) in table {
        let arguments: Vec<&str> = ["--rm", "--rootfs", root]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        let outcome = shale.run(&arguments);
        assert_eq!(outcome.status, status, "{words:?} {outcome:?}");
        assert!(outcome.stderr.contains(text), "{words:?} {outcome:?}");
    }
    let image = shale.run(&["no-such-image", "true"]);
    assert_eq!(image.status, 125);
    assert!(
        image.stderr.contains("Unable to find image 'no-such-image"),
        "{image:?}"
    );
    for wrong in [
        &["--no-such-option"][..],
        &["--rootfs", "/nope", "true"],
        &["--rootfs", root, "--network", "bridge", "true"],
        &["--rootfs", root, "--cap-add", "FLY", "true"],
        &["--rootfs", root, "-v", "name:/x", "true"],
        &["--rootfs", root, "-u", "nobody-here", "true"],
        &["--rootfs", root, "--name", "a b", "true"],
        &["--rootfs", root, "--runtime", "no-such-runtime", "true"],
        &["--rootfs", root, "-w", "relative", "true"],
    ] {
        let outcome = shale.run(wrong);
        assert_eq!(outcome.status, 125, "{wrong:?} {outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{wrong:?}");
    }
    assert_eq!(
        shale.call(&["ps", "-aq"]).ok(),
        "",
        "a failure left a container behind"
    );
    shale.assert_clean();
}

#[test]
fn user_environment_and_directory() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    let file = shale.path("env");
    fs::write(&file, "# comment\nFROM_FILE=1\nBOTH=file\n").unwrap();
    let file = file.to_str().unwrap();
    let run = |words: &[&str]| {
        let arguments: Vec<&str> = ["--rm", "--rootfs", root]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        shale.run(&arguments)
    };
    let text = run(&[
        "--env-file",
        file,
        "-e",
        "BOTH=option",
        "-e",
        "A=b=c",
        "-h",
        "box",
        "env",
    ])
    .ok();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        lines,
        [
            "A=b=c",
            "BOTH=option",
            "FROM_FILE=1",
            "HOME=/root",
            "HOSTNAME=box",
            path
        ]
    );
    assert_eq!(
        run(&["-u", "ann", "sh", "-c", "id -u; id -g; id -G; echo $HOME"]).ok(),
        "7\n8\n8 9\n/home/ann\n"
    );
    assert_eq!(
        run(&["-u", "1234:99", "sh", "-c", "id -u; id -G; echo $HOME"]).ok(),
        "1234\n99\n/\n"
    );
    assert_eq!(run(&["-w", "/new/place", "pwd"]).ok(), "/new/place\n");
    assert_eq!(
        run(&["-h", "box", "--network", "none", "cat", "/etc/hostname"]).ok(),
        "box\n"
    );
    assert!(run(&["-h", "box", "cat", "/etc/hosts"]).ok().contains("\tbox\n"));
    assert_eq!(run(&["--entrypoint", "echo", "a", "b"]).ok(), "a b\n");
}

#[test]
fn the_engines_files_are_in_no_diff() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    fs::remove_dir_all(root.join("etc")).unwrap();
    let script =
        "cat /etc/resolv.conf /etc/hosts /etc/hostname > /dev/null && test -d /proc/1 && test -c /dev/null";
    shale
        .run(&[
            "--name",
            "one",
            "--rootfs",
            root.to_str().unwrap(),
            "sh",
            "-c",
            script,
        ])
        .ok();
    assert_eq!(shale.call(&["diff", "one"]).ok(), "");
    shale.call(&["rm", "one"]).ok();
}

#[test]
fn mounts_are_as_asked() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    let data = shale.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("in"), "from host").unwrap();
    let run = |words: &[&str]| {
        let arguments: Vec<&str> = ["--rm", "--rootfs", root]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        shale.run(&arguments)
    };
    let writable = format!("{}:/data", data.display());
    assert_eq!(
        run(&["-v", &writable, "sh", "-c", "cat /data/in; echo back > /data/out"]).ok(),
        "from host"
    );
    assert_eq!(fs::read_to_string(data.join("out")).unwrap(), "back\n");
    let read_only = format!("{writable}:ro");
    assert_ne!(run(&["-v", &read_only, "touch", "/data/x"]).status, 0);
    assert_ne!(run(&["--read-only", "touch", "/x"]).status, 0);
    run(&[
        "--read-only",
        "--tmpfs",
        "/tmp:size=64k",
        "sh",
        "-c",
        "touch /tmp/x && ! touch /x",
    ])
    .ok();
    let made = shale.path("made/by/run");
    run(&["-v", &format!("{}:/data", made.display()), "touch", "/data/x"]).ok();
    assert!(made.join("x").exists());
}

#[test]
fn walls_stand_unless_taken_down() {
    let Some(shale) = Shale::root() else { return };
    let run = |words: &[&str]| {
        let arguments: Vec<&str> = ["--rm", "--rootfs", "/"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        shale.run(&arguments)
    };
    let status = run(&["cat", "/proc/self/status"]).ok();
    let line = |name: &str| {
        status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or("")
            .replace('\t', " ")
    };
    assert_eq!(line("CapEff:"), "CapEff: 00000000a80425fb");
    assert_eq!(line("CapBnd:"), "CapBnd: 00000000a80425fb");
    assert_eq!(line("CapInh:"), "CapInh: 0000000000000000");
    assert_eq!(line("Seccomp:"), "Seccomp: 2");
    assert_eq!(line("NoNewPrivs:"), "NoNewPrivs: 0");
    let open = run(&[
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "no-new-privileges",
        "cat",
        "/proc/self/status",
    ])
    .ok();
    assert!(
        open.contains("Seccomp:\t0") && open.contains("NoNewPrivs:\t1"),
        "{open}"
    );
    let few = run(&[
        "--cap-drop",
        "ALL",
        "--cap-add",
        "kill",
        "cat",
        "/proc/self/status",
    ])
    .ok();
    assert!(few.contains("CapEff:\t0000000000000020"), "{few}");
    assert_ne!(run(&["unshare", "--user", "true"]).status, 0);
    run(&[
        "--security-opt",
        "seccomp=unconfined",
        "unshare",
        "--user",
        "true",
    ])
    .ok();
    assert_eq!(
        run(&["sh", "-c", "cat /proc/timer_list /proc/keys | wc -c"])
            .ok()
            .trim(),
        "0"
    );
    assert_ne!(run(&["sh", "-c", "echo 1 > /proc/sys/kernel/panic"]).status, 0);
    assert_eq!(
        run(&["--ulimit", "nofile=123:456", "sh", "-c", "ulimit -Sn; ulimit -Hn"]).ok(),
        "123\n456\n"
    );
    let interfaces = run(&["--network", "none", "sh", "-c", "grep -c : /proc/net/dev"]).ok();
    assert_eq!(interfaces.trim(), "1");
}

#[test]
fn input_goes_in_only_when_asked() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    let feed = |words: &[&str]| {
        let mut command = shale.command(&shale.run_arguments(words));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"hello");
        Outcome::of(child.wait_with_output().unwrap())
    };
    assert_eq!(feed(&["--rm", "-i", "--rootfs", root, "cat"]).ok(), "hello");
    assert_eq!(feed(&["--rm", "--rootfs", root, "cat"]).ok(), "");
    let no_terminal = feed(&["--rm", "-it", "--rootfs", root, "cat"]);
    assert_eq!(no_terminal.status, 1);
    assert!(
        no_terminal.stderr.contains("the input device is not a TTY"),
        "{no_terminal:?}"
    );
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let words = [
        "--rm",
        "-it",
        "--rootfs",
        root.to_str().unwrap(),
        "sh",
        "-c",
        "busybox tty; echo $TERM; exit 5",
    ];
    let line = std::iter::once(env!("CARGO_BIN_EXE_shale"))
        .chain(shale.run_arguments(&words).iter().copied())
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(" ");
    // script(1) gives the terminal.
    let mut command = std::process::Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env("SHALE_ROOT", shale.store())
        .stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take();
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    drop(input);
    assert_eq!(outcome.status, 5, "{outcome:?}");
    assert!(
        outcome.stdout.contains("/dev/pts/0") || outcome.stdout.contains("/dev/console"),
        "{outcome:?}"
    );
    assert!(outcome.stdout.contains("xterm"), "{outcome:?}");
    shale.assert_clean();
}

#[test]
fn flags_that_there_are_not_are_no_images() {
    let Some(shale) = Shale::root() else { return };
    for (words, flag) in [
        (&["--bogus", "image", "true"][..], "--bogus"),
        (&["--rm", "-d", "image"], "-d: detached"),
        (&["--publish=80:80", "image"], "--publish: "),
        (&["--rootfs", "/", "--bogus", "true"], "--bogus"),
    ] {
        let refused = shale.run(words);
        assert_eq!(refused.status, 125, "{refused:?}");
        let said = format!("unknown flag: {flag}");
        assert!(refused.stderr.contains(&said), "{refused:?}");
    }
    shale.assert_clean();
}

#[test]
fn ids_are_written_to_a_new_file_only() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let root = root.to_str().unwrap();
    let file = shale.path("cid");
    let words = [
        "--name",
        "one",
        "--cidfile",
        file.to_str().unwrap(),
        "-l",
        "a=b",
        "--rootfs",
        root,
        "true",
    ];
    shale.run(&words).ok();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        shale.call(&["ps", "-aq", "--no-trunc"]).ok().trim()
    );
    assert_eq!(
        shale
            .call(&[
                "ps",
                "-a",
                "--filter",
                "label=a=b",
                "--format",
                "{{.Names}} {{.Labels}}"
            ])
            .ok(),
        "one a=b\n"
    );
    for (format, shown) in [
        ("{{json .Names}}", "\"one\"\n"),
        ("{{.Names | upper}}", "ONE\n"),
        (
            "table {{.Names}}\\t{{.RunningFor}}\\t{{.State}}",
            "NAMES     CREATED",
        ),
        ("{{json .}}", "{\"Command\":\"\\\"true\\\"\""),
    ] {
        let listed = shale.call(&["ps", "-a", "--format", format]).ok();
        assert!(listed.starts_with(shown), "{format}: {listed}");
    }
    let again = shale.run(&["--cidfile", file.to_str().unwrap(), "--rootfs", root, "true"]);
    assert_eq!(again.status, 125);
    assert!(again.stderr.contains("container ID file found"), "{again:?}");
    assert!(file.exists());
    shale.call(&["rm", "one"]).ok();
}

#[test]
fn an_image_says_how_it_is_run() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let archive = shale.path("image.tar");
    let tar = std::process::Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    let changes = [
        "ENV FROM_IMAGE=1",
        "USER ann",
        "WORKDIR /work",
        "ENTRYPOINT [\"sh\", \"-c\", \"echo $0 $FROM_IMAGE $MORE; id -u; pwd\"]",
        "CMD [\"default\"]",
    ];
    let mut words = vec!["import"];
    changes.iter().for_each(|change| words.extend(["-c", change]));
    words.extend([archive.to_str().unwrap(), "img:1"]);
    shale.call(&words).ok();
    assert_eq!(shale.run(&["--rm", "img:1"]).ok(), "default 1\n7\n/work\n");
    assert_eq!(
        shale
            .run(&["--rm", "-e", "MORE=2", "-u", "0", "-w", "/", "img:1", "given"])
            .ok(),
        "given 1 2\n0\n/\n"
    );
    assert_eq!(
        shale.run(&["--rm", "--entrypoint", "pwd", "img:1"]).ok(),
        "/work\n"
    );
    let nothing = shale.run(&["--rm", "--entrypoint", "", "img:1"]);
    assert!(
        nothing.status == 125 && nothing.stderr.contains("no command specified"),
        "{nothing:?}"
    );
    let made = [
        "--name",
        "one",
        "-u",
        "0",
        "--entrypoint",
        "sh",
        "img:1",
        "-c",
        "echo kept > /kept",
    ];
    shale.run(&made).ok();
    assert_eq!(shale.call(&["diff", "one"]).ok(), "A /kept\nA /work\n");
    shale.call(&["commit", "one", "img:2"]).ok();
    assert_eq!(
        shale.run(&["--rm", "--entrypoint", "cat", "img:2", "/kept"]).ok(),
        "kept\n"
    );
    shale.call(&["rm", "one"]).ok();
    shale.assert_clean();
}

/// Scripts pass `"$VALUE"`.
#[test]
fn empty_values_are_as_good_as_none() {
    let Some(shale) = Shale::root() else { return };
    let root = shale.small_root("r");
    let mut arguments = vec!["--rm"];
    for option in [
        "--name",
        "--hostname",
        "--workdir",
        "--user",
        "--network",
        "--stop-signal",
    ] {
        arguments.extend([option, ""]);
    }
    arguments.extend(["--rootfs", root.to_str().unwrap(), "id", "-u"]);
    assert_eq!(shale.run(&arguments).ok(), "0\n");
}
