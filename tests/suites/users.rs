//! Other users of the machine on a mount: they have the rights that the files give them, and no others.
//!
//! Each of them is a shell with an unused number for its user and group, and no other groups.

use shale_tests::fixture::{Fixture, listed, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix;
use shale_tests::scratch::Scratch;
use shale_tests::skip::{Tier, skip};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;
/// What the kernel shows for an owner that has no number here.
const OVERFLOW: u32 = 65_534;

/// A scratch that every user can get to.
fn open_scratch() -> Scratch {
    let scratch = Scratch::new();
    let holder = scratch.path().parent().expect("a holder");
    posix::chmod(holder, 0o755).expect("let others in");
    scratch
}

/// Runs a script as another user in the directory `at`; the output when it succeeded.
fn run_as(user: u32, at: &Path, script: &str) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-c", script])
        .uid(user)
        .gid(user)
        .current_dir(at)
        .output()
        .expect("start a shell");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(said(&output.stdout)),
        false => Err(said(&output.stderr)),
    }
}

#[track_caller]
fn allowed(user: u32, at: &Path, script: &str) -> String {
    run_as(user, at, script).unwrap_or_else(|said| panic!("{user} may `{script}`: {said}"))
}

#[track_caller]
fn refused(user: u32, at: &Path, script: &str) {
    if let Ok(said) = run_as(user, at, script) {
        panic!("{user} may not `{script}`, which said {said:?}");
    }
}

fn own(path: &Path, user: u32, mode: u32) {
    posix::lchown(path, user, user).expect("give away");
    posix::chmod(path, mode).expect("set permissions");
}

for_each_union! {
    fn others_have_the_rights_that_files_give_them(backend) {
        let fixture = Fixture::in_scratch(open_scratch(), backend, 1, |layers| {
            let lower = &layers[0];
            put(lower, "secret", "of root");
            own(&lower.join("secret"), 0, 0o600);
            put(lower, "alices", "of alice");
            own(&lower.join("alices"), ALICE, 0o600);
            put(lower, "public", "for all");
            put(lower, "private/f", "x");
            own(&lower.join("private"), 0, 0o700);
            put(lower, "tmp/of-root", "x");
            put(lower, "tmp/of-alice", "x");
            own(&lower.join("tmp/of-alice"), ALICE, 0o666);
            own(&lower.join("tmp"), 0, 0o1777);
        });
        let at = fixture.root();
        for round in ["below", "copied up"] {
            // what root has read is in the kernel's cache, and no easier to get at
            assert_eq!(text(&fixture.at("secret")), "of root", "{round}");
            for script in [
                "cat secret", "echo x >> secret", "chmod 666 secret", "chown $(id -u) secret", "cat alices",
                "echo x >> public", "chmod 666 public", "touch -d 2001-01-01 public", "rm -f public", "mv public p",
                "echo x > new", "mkdir new", "ln -s x new", "ls private", "cat private/f", "rm -rf private",
                "mv private tmp/private", "rm -f tmp/of-root", "mv tmp/of-root tmp/x", "rm -f tmp/of-alice",
                "mv tmp/of-alice tmp/x", "chmod 777 tmp", "setfattr -n user.x -v y public",
                "setfattr -n trusted.overlay.opaque -v y tmp", "setfattr -n user.overlay.opaque -v y public",
                "mknod tmp/null c 1 3", "mknod tmp/whiteout c 0 0", "truncate -s 0 public",
            ] {
                refused(BOB, at, script);
            }
            assert_eq!(allowed(BOB, at, "cat public"), "for all", "{round}");
            allowed(BOB, at, "echo b > tmp/of-bob && chmod 600 tmp/of-bob");
            assert_eq!(fixture.at("tmp/of-bob").metadata().unwrap().uid(), BOB);
            refused(ALICE, at, "cat tmp/of-bob");
            refused(ALICE, at, "rm -f tmp/of-bob");
            assert_eq!(allowed(ALICE, at, "cat alices"), "of alice");
            allowed(BOB, at, "rm tmp/of-bob");
            for (path, mode) in [("secret", 0o600), ("public", 0o644), ("private", 0o700), ("tmp", 0o1777)] {
                posix::chmod(&fixture.at(path), mode).unwrap();
            }
        }
        allowed(ALICE, at, "echo more >> alices && mv tmp/of-alice tmp/moved && rm tmp/moved");
        assert_eq!(text(&fixture.at("alices")), "of alicemore\n");
        assert_eq!(listed(&fixture.at("tmp")), ["of-root"]);
    }

    /// A file made in a set-group-id directory has its group, and a change of owner takes the bits that run as another.
    fn set_id_bits_are_not_for_the_taking(backend) {
        let fixture = Fixture::in_scratch(open_scratch(), backend, 1, |layers| {
            put_dir(&layers[0], "shared");
            own(&layers[0].join("shared"), BOB, 0o2777);
            put(&layers[0], "program", "x");
            own(&layers[0].join("program"), ALICE, 0o6777);
        });
        let at = fixture.root();
        allowed(ALICE, at, "echo x > shared/f && chmod 2755 shared/f");
        let made = fixture.at("shared/f").metadata().unwrap();
        assert_eq!((made.gid(), made.mode() & 0o7777), (BOB, 0o755), "not a member, no set-group-id");
        allowed(BOB, at, "echo y >> program");
        assert_eq!(fixture.at("program").metadata().unwrap().mode() & 0o7777, 0o777, "written to by another");
    }
}

fn shale_with(options: &[&str], fill: impl FnOnce(&Path)) -> Option<Fixture> {
    if !Backend::ShalePassthrough.is_available_or_skip() {
        return None;
    }
    let scratch = open_scratch();
    let lower = scratch.directory("lower");
    fill(&lower);
    let spec = MountSpec {
        lowers: vec![lower],
        upper: Some((scratch.directory("upper"), scratch.directory("work"))),
        extra_options: options.iter().map(|&option| option.to_owned()).collect(),
        open_files_limit: None,
    };
    Some(Fixture::over(scratch, Backend::ShalePassthrough, spec))
}

#[test]
fn programs_run_as_another_only_where_the_mount_lets_them() {
    let id = shale_tests::programs::system_binary("id").expect("id of the base system");
    for (options, shown) in [(&[][..], "0\n"), (&["nosuid"], "54321\n")] {
        let filled = shale_with(options, |lower| {
            std::fs::copy(&id, lower.join("id")).unwrap();
            own(&lower.join("id"), 0, 0o4755);
        });
        let Some(fixture) = filled else { return };
        assert_eq!(allowed(ALICE, fixture.root(), "./id -u"), shown, "{options:?}");
    }
}

#[test]
fn devices_are_files_only_unless_the_mount_lets_them_be_more() {
    for (options, opens) in [(&[][..], false), (&["nodev"], false), (&["dev"], true)] {
        let filled = shale_with(options, |lower| {
            posix::mknod_char(&lower.join("zero"), 1, 5).unwrap();
            own(&lower.join("zero"), 0, 0o666);
        });
        let Some(fixture) = filled else { return };
        let opened = posix::open(&fixture.at("zero"), libc::O_RDONLY, 0);
        match opens {
            true => assert!(opened.is_ok(), "{options:?}: {opened:?}"),
            false => posix::assert_errno(opened, libc::EACCES, "open a device"),
        }
        posix::assert_errno(
            posix::truncate(&fixture.at("zero"), 0),
            libc::EINVAL,
            "set the length of a device",
        );
    }
}

/// Owners that a mapping cannot name are nobody's here, also not those of the user whose number stands for them.
#[test]
fn who_is_not_mapped_owns_nothing_and_is_owned_by_nobody() {
    let mapping = ["uidmapping=0:100000:65536", "gidmapping=0:100000:65536"];
    let filled = shale_with(&mapping, |lower| {
        for (name, user, mode) in [
            ("inside", 100_005, 0o600),
            ("outside", 42, 0o600),
            ("outside-for-all", 42, 0o666),
            ("above", 300_000, 0o600),
        ] {
            put(lower, name, "content");
            own(&lower.join(name), user, mode);
        }
        put_dir(lower, "tmp");
        own(&lower.join("tmp"), 100_000, 0o777);
        put_dir(lower, "foreign");
        own(&lower.join("foreign"), 42, 0o700);
        own(lower, 100_000, 0o755);
    });
    let Some(mut fixture) = filled else { return };
    let shown = |name: &str| fixture.at(name).metadata().unwrap().uid();
    assert_eq!(["inside", "outside", "above"].map(shown), [5, OVERFLOW, OVERFLOW]);
    let at = fixture.root();
    assert_eq!(allowed(5, at, "cat inside && echo more >> inside"), "content");
    for script in [
        "cat outside",
        "echo x >> outside",
        "chmod 666 outside",
        "chown 5 outside",
        "cat above",
        "ls foreign",
        "echo x > foreign/f",
        "touch outside",
        "setfattr -n user.x -v y outside",
        "echo x >> inside",
    ] {
        refused(OVERFLOW, at, script);
    }
    // 70000 has no number below
    refused(70_000, at, "echo x > tmp/of-a-stranger");
    posix::assert_errno(
        posix::lchown(&fixture.at("inside"), 70_000, 70_000),
        libc::EINVAL,
        "chown to a stranger",
    );
    allowed(OVERFLOW, at, "echo x > tmp/of-nobody");
    allowed(
        7,
        at,
        "echo x > tmp/of-seven && mkdir tmp/dir && ln -s x tmp/link",
    );
    let shown = |name: &str| fixture.at(name).symlink_metadata().unwrap().uid();
    assert_eq!(
        ["tmp/of-nobody", "tmp/of-seven", "tmp/link"].map(shown),
        [OVERFLOW, 7, 7]
    );
    fixture.unmount();
    let stored = |name: &str| fixture.upper().join(name).symlink_metadata().unwrap().uid();
    let owners = ["inside", "tmp/of-nobody", "tmp/of-seven", "tmp/dir", "tmp/link"].map(stored);
    assert_eq!(owners, [100_005, 100_000 + OVERFLOW, 100_007, 100_007, 100_007]);
}

/// A plain user's mount is nobody else's, not even root's (`fuse_allow_current_process` in the kernel's fs/fuse/dir.c).
#[test]
fn a_plain_users_mount_is_for_that_user() {
    if !Backend::ShalePlain.is_available_or_skip() {
        return;
    }
    let Some(unshare) = shale_tests::programs::system_binary("unshare") else {
        return skip(Tier::Tool, "unshare is missing; install util-linux");
    };
    let server = shale_tests::programs::workspace_binary("shale-ufs").expect("it was there just now");
    let scratch = open_scratch();
    // This machine may keep the device to root: in the test's own mount namespace, all may have it.
    let device = scratch.path().join("fuse");
    posix::mknod_char(&device, 10, 229).unwrap();
    posix::chmod(&device, 0o666).unwrap();
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&device), "/dev/fuse", None::<&str>, bind, None::<&str>).expect("bind the device");
    let home = scratch.directory("home");
    for name in ["lower", "upper", "work", "merged"] {
        put_dir(&home, name);
        posix::lchown(&home.join(name), ALICE, ALICE).unwrap();
    }
    put(&home, "lower/f", "of alice");
    let script = "\"$0\" -f -o lowerdir=lower,upperdir=upper,workdir=work merged & \
                  until grep -q 'merged fuse' /proc/self/mounts || ! kill -0 $!; do sleep 0.01; done; \
                  cat merged/f && echo && read line; umount merged; wait";
    let mut shell = Command::new(unshare)
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(server)
        .uid(ALICE)
        .gid(ALICE)
        .current_dir(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start unshare");
    let mut said = String::new();
    use std::io::BufRead;
    std::io::BufReader::new(shell.stdout.as_mut().expect("a pipe"))
        .read_line(&mut said)
        .expect("read");
    let seen = Path::new("/proc")
        .join(shell.id().to_string())
        .join("root")
        .join(home.strip_prefix("/").unwrap());
    let as_root = std::fs::read_to_string(seen.join("merged/f"));
    let beside = std::fs::read_to_string(seen.join("lower/f"));
    drop(shell.stdin.take());
    let output = shell.wait_with_output().expect("wait");
    nix::mount::umount2("/dev/fuse", nix::mount::MntFlags::MNT_DETACH).expect("take the device away");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.is_empty() {
        return skip(
            Tier::Feature,
            &format!("a plain user cannot mount here: {errors}"),
        );
    }
    assert_eq!(said, "of alice\n");
    assert_eq!(beside.expect("root sees the directory"), "of alice");
    posix::assert_errno(as_root, libc::EACCES, "root reads another user's mount");
}
