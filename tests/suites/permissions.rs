//! Who may do what, and what a change of a file takes from its permissions: as on ext4, for files of the layers too.

use rustix::fs::{FallocateFlags, XattrFlags};
use shale_tests::fixture::{Fixture, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::posix::{self, append, assert_errno, get_xattr, set_xattr};
use shale_tests::programs::system_binary;
use shale_tests::scratch::run;
use shale_tests::skip::{Tier, skip};
use shale_tests::users::{as_user, let_everybody_in};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

const ALICE: u32 = 12_345;
const BOB: u32 = 23_456;
const TEAM: u32 = 4_321;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("stat").mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = path.symlink_metadata().expect("stat");
    (meta.uid(), meta.gid())
}

/// A directory with its mode and owner, for filling layers.
fn put_dir_as(root: &Path, path: &str, (uid, gid): (u32, u32), mode: u32) {
    put_dir(root, path);
    posix::lchown(&root.join(path), uid, gid).expect("chown");
    posix::chmod(&root.join(path), mode).expect("chmod");
}

/// A file likewise.
fn put_as(root: &Path, path: &str, (uid, gid): (u32, u32), mode: u32) {
    put(root, path, "0123456789");
    posix::lchown(&root.join(path), uid, gid).expect("chown");
    posix::chmod(&root.join(path), mode).expect("chmod");
}

fn umask(mask: u32) {
    // A test's thread has a mask of its own, since it has left the namespace of the others.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
}

/// The access control list as `getfacl` prints it, without comments.
fn acl(path: &Path) -> String {
    let output = Command::new("getfacl")
        .args(["-cnpE"])
        .arg(path)
        .output()
        .expect("start getfacl");
    String::from_utf8(output.stdout)
        .expect("text")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn has_acl_tools_or_skip() -> bool {
    let has = system_binary("setfacl").is_some() && system_binary("getfacl").is_some();
    if !has {
        skip(Tier::Tool, "setfacl and getfacl are missing; install acl");
    }
    has
}

fn set_acl(path: &Path, arguments: &[&str]) {
    run(Command::new("setfacl").args(arguments).arg(path));
}

for_each_union! {
    fn the_mask_of_the_caller_counts(backend) {
        let fixture = Fixture::new(backend, |lower| put_dir(lower, "d"));
        for mask in [0o022, 0o077, 0o000, 0o027] {
            umask(mask);
            let at = |name: &str| fixture.at(&format!("d/{name}{mask:o}"));
            drop(posix::open(&at("f"), libc::O_CREAT | libc::O_WRONLY, 0o666).unwrap());
            posix::mkdir(&at("d"), 0o777).unwrap();
            posix::mkfifo(&at("p")).unwrap();
            assert_eq!(mode(&at("f")), 0o666 & !mask, "file, mask {mask:o}");
            assert_eq!(mode(&at("d")), 0o777 & !mask, "directory, mask {mask:o}");
            assert_eq!(mode(&at("p")), 0o644 & !mask, "fifo, mask {mask:o}");
        }
        umask(0o022);
    }

    fn a_set_group_id_directory_hands_down(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put_dir_as(lower, "team", (ALICE, TEAM), 0o2777);
            put_dir_as(lower, "plain", (ALICE, TEAM), 0o777);
            put(lower, "team/gone", "x");
        });
        let_everybody_in(fixture.scratch().path());
        std::fs::remove_file(fixture.at("team/gone")).unwrap();
        let make = |root: &Path, prefix: &str| -> io::Result<()> {
            posix::open(&root.join(format!("{prefix}f")), libc::O_CREAT | libc::O_WRONLY, 0o664)?;
            posix::mkdir(&root.join(format!("{prefix}d")), 0o775)?;
            posix::mkfifo(&root.join(format!("{prefix}p")))?;
            posix::symlink("x".as_ref(), &root.join(format!("{prefix}s")))
        };
        for directory in ["team", "plain"] {
            let root = fixture.at(directory);
            make(&root, "root-").unwrap();
            as_user(BOB, BOB, &[], || make(&root, "bob-")).unwrap();
        }
        // Over a whiteout as well.
        posix::mkdir(&fixture.at("team/gone"), 0o755).unwrap();
        assert_eq!((mode(&fixture.at("team/gone")), owner(&fixture.at("team/gone"))), (0o2755, (0, TEAM)));
        for round in 0..2 {
            for (who, id) in [("root", 0), ("bob", BOB)] {
                for kind in ["f", "d", "p", "s"] {
                    let team = fixture.at(&format!("team/{who}-{kind}"));
                    let plain = fixture.at(&format!("plain/{who}-{kind}"));
                    assert_eq!(owner(&team), (id, TEAM), "{} round {round}", team.display());
                    assert_eq!(owner(&plain), (id, id), "{} round {round}", plain.display());
                }
                assert_eq!(mode(&fixture.at(&format!("team/{who}-d"))), 0o2755, "round {round}");
                assert_eq!(mode(&fixture.at(&format!("plain/{who}-d"))), 0o755, "round {round}");
                assert_eq!(mode(&fixture.at(&format!("team/{who}-f"))), 0o644, "round {round}");
            }
            fixture.remount();
        }
        // Who is not of the group makes no program that runs as it (inode(7), S_ISGID).
        let program = fixture.at("team/program");
        let made = |path: &Path| posix::open(path, libc::O_CREAT | libc::O_WRONLY, 0o2775).map(drop);
        as_user(BOB, BOB, &[], || made(&program)).unwrap();
        assert_eq!(mode(&program), 0o755, "by a stranger");
        let program = fixture.at("team/program2");
        as_user(BOB, BOB, &[TEAM], || made(&program)).unwrap();
        assert_eq!(mode(&program), 0o2755, "by a member");
    }

    fn a_sticky_directory_protects_its_files(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put_dir_as(lower, "tmp", (0, 0), 0o1777);
            put_dir_as(lower, "alices", (ALICE, ALICE), 0o1777);
            for name in ["tmp/alice", "tmp/alice2", "alices/bob", "alices/bob2"] {
                let id = if name.contains("bob") { BOB } else { ALICE };
                put_as(lower, name, (id, id), 0o666);
            }
        });
        let_everybody_in(fixture.scratch().path());
        for _ in 0..2 {
            let root = fixture.root().to_owned();
            as_user(BOB, BOB, &[], || {
                assert_errno(std::fs::remove_file(root.join("tmp/alice")), libc::EPERM, "unlink of another's");
                let moved = std::fs::rename(root.join("tmp/alice"), root.join("tmp/x"));
                assert_errno(moved, libc::EPERM, "rename of another's");
                std::fs::write(root.join("tmp/bob"), "x").unwrap();
                let onto = std::fs::rename(root.join("tmp/bob"), root.join("tmp/alice"));
                assert_errno(onto, libc::EPERM, "rename onto another's");
                std::fs::remove_file(root.join("tmp/bob")).unwrap();
            });
            fixture.remount();
        }
        let root = fixture.root().to_owned();
        as_user(ALICE, ALICE, &[], || {
            std::fs::remove_file(root.join("tmp/alice")).expect("the file's owner may");
            std::fs::rename(root.join("tmp/alice2"), root.join("tmp/x")).expect("the file's owner may");
            std::fs::remove_file(root.join("alices/bob")).expect("the directory's owner may");
            std::fs::rename(root.join("alices/bob2"), root.join("alices/x")).expect("the directory's owner may");
        });
    }

    /// A write by who may not keep them takes set-id bits away; root keeps them (CAP_FSETID).
    fn writes_drop_set_id_bits(backend) {
        type Write = (&'static str, fn(&Path) -> io::Result<()>);
        let writes: [Write; 6] = [
            ("write", |path| append(path, b"x")),
            ("write inside", |path| posix::write_at(path, 2, b"x")),
            ("truncate", |path| posix::truncate(path, 3)),
            ("ftruncate", |path| posix::open(path, libc::O_WRONLY, 0)?.set_len(4)),
            ("truncating open", |path| std::fs::write(path, "")),
            ("fallocate", |path| {
                let file = posix::open(path, libc::O_WRONLY, 0)?;
                Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100)?)
            }),
        ];
        let mut fixture = Fixture::new(backend, |lower| {
            for index in 0..writes.len() {
                for who in ["root", "alice"] {
                    put_as(lower, &format!("both-{who}-{index}"), (ALICE, TEAM), 0o6777);
                    // Without the right to execute for the group it is no set-id bit, but mandatory locking.
                    put_as(lower, &format!("locking-{who}-{index}"), (ALICE, TEAM), 0o2767);
                }
            }
        });
        let_everybody_in(fixture.scratch().path());
        let root = fixture.root().to_owned();
        for place in ["lower", "upper"] {
            for (index, (what, write)) in writes.iter().enumerate() {
                for (kind, bits, left) in [("both", 0o6777, 0o777), ("locking", 0o2767, 0o2767)] {
                    let alices = root.join(format!("{kind}-alice-{index}"));
                    as_user(ALICE, ALICE, &[TEAM], || write(&alices)).unwrap();
                    assert_eq!(mode(&alices), left, "{what} of a {place} file by its owner");
                    let roots = root.join(format!("{kind}-root-{index}"));
                    write(&roots).unwrap();
                    assert_eq!(mode(&roots), bits, "{what} of a {place} file by root");
                    // Now both are in the upper: once more.
                    posix::chmod(&alices, bits).unwrap();
                }
            }
        }
        fixture.remount();
        assert_eq!(mode(&fixture.at("both-root-0")), 0o6777);
    }

    /// A descriptor that was there before the bits were set loses them by its next write too.
    fn a_write_by_an_old_descriptor_drops_set_id_bits(backend) {
        let fixture = Fixture::new(backend, |lower| put_as(lower, "f", (ALICE, ALICE), 0o644));
        let_everybody_in(fixture.scratch().path());
        let path = fixture.at("f");
        as_user(ALICE, ALICE, &[], || {
            let file = posix::open(&path, libc::O_RDWR, 0).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            posix::chmod(&path, 0o4755).unwrap();
            assert_eq!(mode(&path), 0o4755);
            file.write_all_at(b"y", 1).unwrap();
            assert_eq!(mode(&path), 0o755);
        });
        assert_eq!(text(&path), "xy23456789");
    }

    fn a_change_of_owner_drops_set_id_bits(backend) {
        let fixture = Fixture::new(backend, |lower| {
            for name in ["f", "g", "h"] {
                put_as(lower, name, (ALICE, TEAM), 0o6755);
            }
            put_as(lower, "locking", (ALICE, TEAM), 0o2745);
            put_dir_as(lower, "d", (ALICE, TEAM), 0o6755);
        });
        let_everybody_in(fixture.scratch().path());
        posix::lchown(&fixture.at("f"), BOB, TEAM).unwrap();
        assert_eq!((mode(&fixture.at("f")), owner(&fixture.at("f"))), (0o755, (BOB, TEAM)), "by root");
        let path = fixture.at("g");
        as_user(ALICE, ALICE, &[TEAM], || posix::lchown(&path, ALICE, ALICE)).unwrap();
        assert_eq!((mode(&path), owner(&path)), (0o755, (ALICE, ALICE)), "by its owner, to another group");
        let path = fixture.at("h");
        let refused = as_user(ALICE, ALICE, &[TEAM], || posix::lchown(&path, BOB, ALICE));
        assert_errno(refused, libc::EPERM, "giving a file away");
        let refused = as_user(ALICE, ALICE, &[], || posix::lchown(&path, ALICE, BOB));
        assert_errno(refused, libc::EPERM, "to a group one is not of");
        assert_eq!(mode(&path), 0o6755, "what is refused changes nothing");
        posix::lchown(&fixture.at("locking"), BOB, TEAM).unwrap();
        assert_eq!(mode(&fixture.at("locking")), 0o2745, "no set-id bit without the right to execute");
        posix::lchown(&fixture.at("d"), BOB, BOB).unwrap();
        assert_eq!(mode(&fixture.at("d")), 0o6755, "directories keep theirs (Linux)");
    }

    fn chmod_by_a_stranger_to_the_group(backend) {
        let fixture = Fixture::new(backend, |lower| put_as(lower, "f", (ALICE, TEAM), 0o755));
        let_everybody_in(fixture.scratch().path());
        let path = fixture.at("f");
        as_user(ALICE, ALICE, &[], || posix::chmod(&path, 0o2755)).unwrap();
        assert_eq!(mode(&path), 0o755, "the bit is not given");
        as_user(ALICE, ALICE, &[TEAM], || posix::chmod(&path, 0o2755)).unwrap();
        assert_eq!(mode(&path), 0o2755, "a member may");
        assert_errno(as_user(BOB, BOB, &[TEAM], || posix::chmod(&path, 0o777)), libc::EPERM, "not the owner");
    }

    /// capabilities(7): a change of the content or of the owner ends a file's capabilities, by root too.
    fn changes_end_file_capabilities(backend) {
        let Some(setcap) = system_binary("setcap") else {
            return skip(Tier::Tool, "setcap is missing; install libcap2-bin");
        };
        type Change = (&'static str, fn(&Path) -> io::Result<()>);
        let changes: [Change; 5] = [
            ("write", |path| append(path, b"x")),
            ("truncate", |path| posix::truncate(path, 3)),
            ("truncating open", |path| std::fs::write(path, "")),
            ("chown", |path| posix::lchown(path, BOB, BOB)),
            ("chgrp", |path| posix::lchown(path, ALICE, BOB)),
        ];
        let fixture = Fixture::new(backend, |lower| {
            for index in 0..changes.len() {
                for who in ["root", "alice"] {
                    put_as(lower, &format!("{who}-{index}"), (ALICE, ALICE), 0o755);
                    run(Command::new(&setcap).arg("cap_net_raw+ep").arg(lower.join(format!("{who}-{index}"))));
                }
            }
        });
        let_everybody_in(fixture.scratch().path());
        let name = "security.capability";
        for place in ["lower", "upper"] {
            for (index, (what, change)) in changes.iter().enumerate() {
                for who in ["root", "alice"] {
                    if who == "alice" && what.starts_with("ch") {
                        continue;
                    }
                    let path = fixture.at(&format!("{who}-{index}"));
                    assert!(get_xattr(&path, name).is_ok(), "{place} {what}: there at first");
                    if who == "alice" {
                        as_user(ALICE, ALICE, &[], || change(&path)).unwrap();
                    } else {
                        change(&path).unwrap();
                    }
                    assert_errno(get_xattr(&path, name), libc::ENODATA, &format!("{what} of a {place} file by {who}"));
                    posix::lchown(&path, ALICE, ALICE).unwrap();
                    run(Command::new(&setcap).arg("cap_net_raw+ep").arg(&path));
                }
            }
        }
        // What changes neither leaves them.
        let path = fixture.at("root-0");
        posix::chmod(&path, 0o700).unwrap();
        posix::set_times(&path, 1, 1).unwrap();
        set_xattr(&path, "user.x", b"x", XattrFlags::empty()).unwrap();
        assert!(get_xattr(&path, name).is_ok());
    }

    /// acl(5), "Object creation and default ACLs": the mask of the caller does not count, the mode asked for does.
    fn default_lists_are_inherited(backend) {
        if !has_acl_tools_or_skip() {
            return;
        }
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "d/gone", "x");
            set_acl(&lower.join("d"), &["-d", "-m", "u::rwx,u:12345:rwx,g::rx,g:4321:rw,o::-"]);
        });
        std::fs::remove_file(fixture.at("d/gone")).unwrap();
        umask(0o077);
        drop(posix::open(&fixture.at("d/file"), libc::O_CREAT | libc::O_WRONLY, 0o666).unwrap());
        drop(posix::open(&fixture.at("d/narrow"), libc::O_CREAT | libc::O_WRONLY, 0o640).unwrap());
        drop(posix::open(&fixture.at("d/gone"), libc::O_CREAT | libc::O_WRONLY, 0o666).unwrap());
        posix::mkdir(&fixture.at("d/sub"), 0o777).unwrap();
        posix::mkdir(&fixture.at("d/sub/sub"), 0o700).unwrap();
        posix::mkfifo(&fixture.at("d/fifo")).unwrap();
        posix::symlink("x".as_ref(), &fixture.at("d/link")).unwrap();
        umask(0o022);
        let (named, default) = (
            "user:12345:rwx group::r-x group:4321:rw-",
            "default:user::rwx default:user:12345:rwx default:group::r-x default:group:4321:rw- default:mask::rwx \
             default:other::---",
        );
        for round in ["at once", "after a remount"] {
            let at = |path: &str| fixture.at(path);
            assert_eq!(acl(&at("d/file")), format!("user::rw- {named} mask::rw- other::---"), "{round}");
            assert_eq!(acl(&at("d/gone")), format!("user::rw- {named} mask::rw- other::---"), "{round}");
            assert_eq!(acl(&at("d/narrow")), format!("user::rw- {named} mask::r-- other::---"), "{round}");
            assert_eq!(acl(&at("d/fifo")), format!("user::rw- {named} mask::r-- other::---"), "{round}");
            assert_eq!(acl(&at("d/sub")), format!("user::rwx {named} mask::rwx other::--- {default}"), "{round}");
            assert_eq!(acl(&at("d/sub/sub")), format!("user::rwx {named} mask::--- other::--- {default}"), "{round}");
            assert_eq!(mode(&at("d/link")), 0o777, "{round}");
            assert_eq!((mode(&at("d/file")), mode(&at("d/narrow")), mode(&at("d/sub"))), (0o660, 0o640, 0o770));
            fixture.remount();
        }
        // Once the default is gone, the mask counts again.
        set_acl(&fixture.at("d"), &["-k"]);
        umask(0o027);
        std::fs::write(fixture.at("d/after"), "x").unwrap();
        posix::mkdir(&fixture.at("d/afterdir"), 0o777).unwrap();
        umask(0o022);
        assert_eq!(acl(&fixture.at("d/after")), "user::rw- group::r-- other::---");
        assert_eq!(acl(&fixture.at("d/afterdir")), "user::rwx group::r-x other::---");
    }

    fn lists_decide_who_may(backend) {
        if !has_acl_tools_or_skip() {
            return;
        }
        let mut fixture = Fixture::new(backend, |lower| {
            for name in ["read", "write", "masked", "denied"] {
                put_as(lower, name, (0, 0), 0o600);
            }
            set_acl(&lower.join("read"), &["-m", "u:12345:r"]);
            set_acl(&lower.join("write"), &["-m", "g:4321:rw"]);
            set_acl(&lower.join("masked"), &["-m", "u:12345:rw,m::r"]);
            posix::chmod(&lower.join("denied"), 0o644).unwrap();
            set_acl(&lower.join("denied"), &["-m", "u:12345:-"]);
            put_dir(lower, "d");
            set_acl(&lower.join("d"), &["-m", "u:12345:rwx"]);
        });
        let_everybody_in(fixture.scratch().path());
        for round in ["below", "copied up", "after a remount"] {
            let root = fixture.root().to_owned();
            as_user(ALICE, ALICE, &[], || {
                assert!(File::open(root.join("read")).is_ok(), "{round}");
                assert_errno(append(&root.join("read"), b"x"), libc::EACCES, round);
                assert!(File::open(root.join("masked")).is_ok(), "{round}");
                assert_errno(append(&root.join("masked"), b"x"), libc::EACCES, round);
                assert_errno(File::open(root.join("denied")).map(drop), libc::EACCES, round);
                assert_errno(File::open(root.join("write")).map(drop), libc::EACCES, round);
                std::fs::write(root.join("d/new"), "x").expect("a directory by its list");
            });
            as_user(BOB, BOB, &[TEAM], || {
                append(&root.join("write"), b"x").expect("a group of the list");
                assert!(File::open(root.join("denied")).is_ok(), "{round}");
                assert_errno(std::fs::write(root.join("d/more"), "x"), libc::EACCES, round);
            });
            for name in ["read", "masked", "denied"] {
                posix::set_times(&fixture.at(name), 5, 5).unwrap();
            }
            if round != "below" {
                fixture.remount();
            }
        }
    }
}
