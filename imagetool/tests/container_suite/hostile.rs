//! Root file systems that try to lead the engine outside: whatever they hold, nothing of the host is read or changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::Shale;

/// A place outside the root file system with a secret in it.
struct Outside {
    path: PathBuf,
}

impl Outside {
    fn new(shale: &Shale) -> Self {
        let path = shale.path("outside");
        fs::create_dir_all(path.join("folder")).unwrap();
        fs::write(path.join("secret"), "secret:x:4242:4242::/stolen:/bin/sh\n").unwrap();
        Self { path }
    }

    /// Nothing was added or changed.
    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(fs::read_dir(&self.path).unwrap().count(), 2);
        assert_eq!(fs::read_dir(self.path.join("folder")).unwrap().count(), 0);
        assert!(
            fs::read_to_string(self.path.join("secret"))
                .unwrap()
                .starts_with("secret:x")
        );
    }
}

/// Ways to a path outside: absolute, and up through many parents.
fn ways(outside: &Path) -> [PathBuf; 2] {
    let relative = PathBuf::from("../".repeat(40)).join(outside.strip_prefix("/").unwrap());
    [outside.to_owned(), relative]
}

#[test]
fn links_at_the_engines_places() {
    let Some(shale) = Shale::root() else { return };
    let outside = Outside::new(&shale);
    let mut count = 0;
    for place in [
        "etc/hosts",
        "etc/resolv.conf",
        "etc/hostname",
        "etc",
        "proc",
        "sys",
        "dev",
    ] {
        for way in ways(&outside.path.join("folder")) {
            count += 1;
            let root = shale.small_root(&format!("r{count}"));
            if place == "etc" {
                fs::remove_dir_all(root.join("etc")).unwrap();
            }
            symlink(way, root.join(place)).unwrap();
            // It may run or be refused; it may not reach outside.
            let outcome = shale.run(&[
                "--rm",
                "--rootfs",
                root.to_str().unwrap(),
                "sh",
                "-c",
                "echo x > /etc/x; echo ran",
            ]);
            assert!(
                outcome.status == 0 || !outcome.stderr.is_empty(),
                "{place} {outcome:?}"
            );
            if place != "etc" {
                assert_eq!(outcome.stdout, "ran\n", "{place} {outcome:?}");
            }
            outside.assert_untouched();
        }
    }
    shale.assert_clean();
}

#[test]
fn working_directories_and_volumes_through_links() {
    let Some(shale) = Shale::root() else { return };
    let outside = Outside::new(&shale);
    for (index, way) in ways(&outside.path.join("folder")).into_iter().enumerate() {
        let root = shale.small_root(&format!("r{index}"));
        symlink(way, root.join("link")).unwrap();
        symlink("/link/deeper", root.join("chain")).unwrap();
        let root = root.to_str().unwrap();
        for directory in ["/link/made", "/link", "/chain/made"] {
            shale.run(&["--rm", "-w", directory, "--rootfs", root, "touch", "here"]);
            outside.assert_untouched();
        }
        shale.run(&[
            "--rm",
            "--tmpfs",
            "/link/tmp",
            "--rootfs",
            root,
            "touch",
            "/link/tmp/x",
        ]);
        outside.assert_untouched();
        let volume = format!("{}:/link/volume", shale.path("source").display());
        shale.run(&["--rm", "-v", &volume, "--rootfs", root, "true"]);
        outside.assert_untouched();
    }
    shale.assert_clean();
}

#[test]
fn passwd_files_that_are_not() {
    let Some(shale) = Shale::root() else { return };
    let outside = Outside::new(&shale);
    for (index, way) in ways(&outside.path.join("secret")).into_iter().enumerate() {
        let root = shale.small_root(&format!("r{index}"));
        fs::remove_file(root.join("etc/passwd")).unwrap();
        symlink(way, root.join("etc/passwd")).unwrap();
        let outcome = shale.run(&["--rm", "-u", "secret", "--rootfs", root.to_str().unwrap(), "true"]);
        assert_eq!(outcome.status, 125, "{outcome:?}");
        assert!(
            outcome.stderr.contains("unable to find user secret"),
            "{outcome:?}"
        );
    }
    outside.assert_untouched();
    shale.assert_clean();
}

#[test]
fn pipes_do_not_hold_the_engine() {
    let Some(shale) = Shale::root() else { return };
    if shale.uses_runc() {
        eprintln!("SKIPPED: runc itself waits for a writer of /etc/passwd");
        return;
    }
    let root = shale.small_root("fifo");
    for file in ["etc/passwd", "etc/group"] {
        fs::remove_file(root.join(file)).unwrap();
        nix::unistd::mkfifo(&root.join(file), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let outcome = shale.run(&[
        "--rm",
        "--rootfs",
        root.to_str().unwrap(),
        "sh",
        "-c",
        "echo $HOME",
    ]);
    assert_eq!(outcome.ok(), "/\n");
    shale.assert_clean();
}

#[test]
fn files_where_directories_belong() {
    let Some(shale) = Shale::root() else { return };
    for place in ["proc", "sys", "dev"] {
        let root = shale.small_root(place);
        fs::write(root.join(place), "a file").unwrap();
        shale
            .run(&[
                "--rm",
                "--rootfs",
                root.to_str().unwrap(),
                "sh",
                "-c",
                "test -d /proc/1 && test -c /dev/null && test -d /sys",
            ])
            .ok();
        assert_eq!(fs::read_to_string(root.join(place)).unwrap(), "a file");
    }
    shale.assert_clean();
}
