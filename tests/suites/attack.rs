//! Hostile layers, uppers that change behind the server's back, and hostile programs in the mount.
//!
//! What must stay out of reach lies beside the layers, in `outside`: every test looks whether it is as it was.

use rustix::fs::{RenameFlags, XattrFlags};
use shale_tests::fixture::{Fixture, listed, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::posix::{self, assert_errno, get_xattr, list_xattrs, remove_xattr, set_xattr};
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::Snapshot;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

/// How often a race is run.
const ROUNDS: u32 = 3000;

/// Longer than anything here takes; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What lies beside the layers. Dropping it looks whether it was read or written.
struct Outside {
    path: PathBuf,
    before: Snapshot,
    read_at: SystemTime,
}

impl Outside {
    fn beside(scratch: &Path) -> Outside {
        let path = scratch.join("outside");
        put(&path, "secret", "secret content");
        put(&path, "d/f", "secret content");
        let before = Snapshot::digest(&path).expect("digest");
        // the scratch is mounted without times of access: they are set by us, and by those who ask for it
        let read_at = path.join("secret").metadata().unwrap().accessed().unwrap();
        Outside {
            path,
            before,
            read_at,
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let read_at = self.path.join("secret").metadata().unwrap().accessed().unwrap();
        assert_eq!(read_at, self.read_at, "the time of access is as it was");
        let after = Snapshot::digest(&self.path).expect("digest");
        self.before.assert_same(&after, "what lies outside");
    }
}

fn spec(scratch: &Scratch, lower: PathBuf, upper: PathBuf) -> MountSpec {
    MountSpec {
        lowers: vec![lower],
        upper: Some((upper, scratch.directory("work"))),
        extra_options: vec![],
        open_files_limit: None,
    }
}

/// Runs `act` in a thread of its own, which must end.
fn must_end<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(act()));
    receiver
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("{what} hangs"))
}

for_each_union! {
    /// Our own marks are neither seen nor changed by programs that name them, nor by what looks like them escaped.
    fn our_marks_are_out_of_reach(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "old/f", "f");
            put(lower, "other/g", "g");
            put(lower, "gone/below", "x");
            put(lower, "file", "whole content");
        });
        posix::rename(&fixture.at("old"), &fixture.at("new"), RenameFlags::empty()).unwrap();
        std::fs::remove_dir_all(fixture.at("gone")).unwrap();
        std::fs::create_dir(fixture.at("gone")).unwrap();
        posix::chmod(&fixture.at("file"), 0o600).unwrap();
        let marks = ["redirect", "opaque", "metacopy", "origin", "impure", "shale.ino", "uuid", "whiteout", "protattr"];
        for path in ["", "new", "gone", "file"] {
            let path = fixture.at(path);
            let names = list_xattrs(&path).unwrap();
            assert!(names.is_empty(), "{}: {names:?}", path.display());
            for mark in marks {
                for space in ["trusted", "user"] {
                    let name = format!("{space}.overlay.{mark}");
                    assert_errno(get_xattr(&path, &name), libc::ENODATA, &name);
                    assert_errno(remove_xattr(&path, &name), libc::ENODATA, &name);
                }
            }
        }
        let forged = [
            "trusted.overlay.redirect", "user.overlay.redirect", "trusted.overlay.overlay.redirect",
            "trusted.overlay.overlay.overlay.redirect", "user.overlay.overlay.redirect",
        ];
        for path in ["new", "gone", "file"] {
            let path = fixture.at(path);
            for name in forged {
                set_xattr(&path, name, b"/other", XattrFlags::CREATE).unwrap();
                assert_errno(set_xattr(&path, name, b"/x", XattrFlags::CREATE), libc::EEXIST, name);
                assert_eq!(get_xattr(&path, name).unwrap(), b"/other");
            }
            let mut names = list_xattrs(&path).unwrap();
            names.sort();
            let mut expected = forged.map(std::ffi::OsString::from);
            expected.sort();
            assert_eq!(names, expected, "{}", path.display());
        }
        for round in ["at once", "after a remount"] {
            assert_eq!(listed(&fixture.at("new")), ["f"], "{round}");
            assert!(listed(&fixture.at("gone")).is_empty(), "{round}");
            assert_eq!(text(&fixture.at("file")), "whole content", "{round}");
            assert_eq!(listed(fixture.root()), ["file", "gone", "new", "other"], "{round}");
            fixture.remount();
        }
        for path in ["new", "gone", "file"] {
            for name in forged {
                remove_xattr(&fixture.at(path), name).unwrap();
            }
            assert!(list_xattrs(&fixture.at(path)).unwrap().is_empty());
        }
        fixture.remount();
        assert_eq!(listed(&fixture.at("new")), ["f"]);
        assert_eq!(text(&fixture.at("file")), "whole content");
    }

    /// Nothing waits for the other end of a pipe, and nothing opens a device by looking at it.
    fn special_files_hold_nobody_up(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            posix::mkfifo(&lower.join("pipe")).unwrap();
            posix::mknod_char(&lower.join("device"), 10, 130).unwrap();
            drop(std::os::unix::net::UnixListener::bind(lower.join("socket")).unwrap());
            put(lower, "f", "f");
        });
        let root = fixture.root().to_owned();
        must_end("work on special files", move || {
            for name in ["pipe", "device", "socket"] {
                let path = root.join(name);
                let before = path.symlink_metadata().unwrap();
                let _ = posix::truncate(&path, 0);
                posix::chmod(&path, 0o640).unwrap();
                posix::lchown(&path, 3, 4).unwrap();
                set_xattr(&path, "trusted.x", b"y", XattrFlags::empty()).unwrap();
                posix::link(&path, &root.join(format!("{name}-link"))).unwrap();
                posix::rename(&path, &root.join(format!("{name}-moved")), RenameFlags::empty()).unwrap();
                let after = root.join(format!("{name}-moved")).symlink_metadata().unwrap();
                assert_eq!((before.mode() & libc::S_IFMT, before.rdev()), (after.mode() & libc::S_IFMT, after.rdev()));
                assert_eq!((after.uid(), after.gid(), after.nlink()), (3, 4, 2));
            }
            drop(posix::open(&root.join("pipe-moved"), libc::O_RDONLY | libc::O_NONBLOCK, 0).unwrap());
            assert_eq!(text(&root.join("f")), "f");
        });
        fixture.remount();
        assert_eq!(listed(fixture.root()).len(), 7);
    }

    /// A descriptor outlives its name: everything that can be done to it is done to the deleted file. (The kernel's
    /// overlayfs copies no deleted file up.)
    fn what_is_open_outlives_its_name(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "d/f", "of the lower");
            put(lower, "d/g", vec![b'g'; 200_000]);
        });
        let outside = Outside::beside(fixture.scratch().path());
        let f = posix::open(&fixture.at("d/f"), libc::O_RDWR, 0).unwrap();
        let g = posix::open(&fixture.at("d/g"), libc::O_RDONLY, 0).unwrap();
        let d = posix::open(&fixture.at("d"), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
        std::fs::remove_dir_all(fixture.at("d")).unwrap();
        // others take the names
        put(fixture.root(), "d/f", "another");
        put(fixture.root(), "d/g", "another");
        f.write_all_at(b"BY", 0).unwrap();
        f.set_len(20).unwrap();
        f.sync_all().unwrap();
        rustix::fs::fchmod(&f, rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
        rustix::fs::fchown(&f, Some(rustix::fs::Uid::from_raw(3)), None).unwrap();
        rustix::fs::fsetxattr(&f, "user.x", b"y", XattrFlags::empty()).unwrap();
        let changed = rustix::fs::fchmod(&g, rustix::fs::Mode::from_raw_mode(0o600));
        assert!(changed.is_ok() || backend.is_kernel(), "{changed:?}");
        assert_eq!(posix::read_all_at_start(&f).unwrap(), b"BY the lower\0\0\0\0\0\0\0\0");
        assert_eq!(posix::read_all_at_start(&g).unwrap(), vec![b'g'; 200_000]);
        let meta = f.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.mode() & 0o7777, meta.uid(), meta.len()), (0, 0o640, 3, 20));
        let within = |fd: &std::fs::File| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let again = rustix::fs::linkat(rustix::fs::CWD, within(&f), rustix::fs::CWD, fixture.at("back"), rustix::fs::AtFlags::SYMLINK_FOLLOW);
        assert_eq!(again, Err(rustix::io::Errno::NOENT), "a deleted file gets no name");
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        assert_eq!(rustix::fs::openat(&d, "new", flags, mode).err(), Some(rustix::io::Errno::NOENT));
        assert_eq!(posix::names(&within(&d)).map(|names| names.len()).unwrap_or(0), 0);
        for name in ["d/f", "d/g"] {
            assert_eq!(text(&fixture.at(name)), "another");
            assert_eq!(fixture.at(name).metadata().unwrap().mode() & 0o7777, 0o644);
        }
        drop((f, g, d));
        drop(outside);
    }

    /// Names move while files below them are looked up, copied up, made and removed; `..` leads up and never out.
    fn ancestors_that_move_lead_nowhere_else(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            for (top, n) in [("a", 0), ("b", 1)] {
                for file in 0..40 {
                    put(lower, &format!("{top}/x/y/f{file}"), format!("{n}"));
                }
            }
            put_dir(lower, "elsewhere");
        });
        let outside = Outside::beside(fixture.scratch().path());
        let stop = AtomicBool::new(false);
        let root = fixture.root().to_owned();
        let device = root.metadata().unwrap().dev();
        std::thread::scope(|scope| {
            let endless = |act: &(dyn Fn(u32) + Sync)| {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    act(round);
                    round += 1;
                }
            };
            scope.spawn(move || endless(&|round| {
                for top in ["a", "b"] {
                    let path = root.join(format!("{top}/x/y/f{}", round % 40));
                    // whose it is depends on the moment; that it is one of the two does not
                    if let Ok(()) = posix::append(&path, b".") {
                        let found = std::fs::read_to_string(&path).unwrap_or_default();
                        assert!(found.is_empty() || found.trim_end_matches('.').len() == 1, "{found:?}");
                    }
                }
            }));
            let root = fixture.root().to_owned();
            scope.spawn(move || endless(&|_| {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                let Ok(dir) = posix::open(&root.join("a/x/y"), flags, 0) else { return };
                let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
                for up in ["..", "../..", "../../..", "../x/../../../elsewhere/.."] {
                    let found = rustix::fs::openat(&dir, up, flags, rustix::fs::Mode::empty());
                    let meta = found.map(|fd| rustix::fs::fstat(&fd).unwrap());
                    assert!(meta.is_err() || meta.is_ok_and(|meta| meta.st_dev == device), "{up} leads out");
                }
            }));
            let root = fixture.root().to_owned();
            scope.spawn(move || endless(&|round| {
                let path = root.join(format!("b/x/y/new{}", round % 3));
                let _ = std::fs::write(&path, "2");
                let _ = std::fs::remove_file(&path);
            }));
            let at = |name: &str| fixture.at(name);
            for _ in 0..ROUNDS / 4 {
                posix::rename(&at("a"), &at("elsewhere/t"), RenameFlags::empty()).unwrap();
                posix::rename(&at("b"), &at("a"), RenameFlags::empty()).unwrap();
                posix::rename(&at("elsewhere/t"), &at("b"), RenameFlags::empty()).unwrap();
                posix::rename(&at("a/x"), &at("b/x"), RenameFlags::EXCHANGE).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let state = |fixture: &Fixture| {
            let paths = ["a", "b"].into_iter().flat_map(|top| (0..40).map(move |file| format!("{top}/x/y/f{file}")));
            paths.map(|path| (path.clone(), text(&fixture.at(&path)))).collect::<HashMap<_, _>>()
        };
        let before = state(&fixture);
        fixture.remount();
        assert_eq!(state(&fixture), before, "what was written is there");
        drop(outside);
    }
}

/// Runs `body` for each way of serving, over layers that change: so without the comparison of a fixture.
fn for_ours(body: impl Fn(Backend)) {
    for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
        if backend.is_available_or_skip() {
            body(backend);
        }
    }
}

/// Marks in an upper that say a copy was another file, the root, or nothing that can be.
#[test]
fn forged_numbers_mix_up_no_files() {
    for_ours(|backend| {
        let scratch = Scratch::new();
        let outside = Outside::beside(scratch.path());
        let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
        put(&lower, "below", "below");
        let below = (1 << 48) + lower.join("below").metadata().unwrap().ino();
        put(&upper, "plain", "plain");
        let plain = upper.join("plain").metadata().unwrap().ino();
        let numbers = [
            0,
            1,
            2,
            plain,
            below,
            1 << 62,
            3 << 61,
            (3 << 61) + 1,
            7 << 61,
            u64::MAX,
        ];
        for (at, number) in numbers.iter().enumerate() {
            for (name, dir) in [
                (format!("one{at}"), false),
                (format!("two{at}"), false),
                (format!("dir{at}"), true),
            ] {
                put(
                    &upper,
                    &if dir {
                        format!("{name}/inside")
                    } else {
                        name.clone()
                    },
                    &name,
                );
                let value = format!("{number:016x}");
                set_xattr(
                    &upper.join(&name),
                    "trusted.overlay.shale.ino",
                    value.as_bytes(),
                    XattrFlags::empty(),
                )
                .unwrap();
            }
        }
        let at = scratch.directory("merged");
        let guard = MountGuard::mount(backend, &spec(&scratch, lower, upper), &at).unwrap();
        let root = at.clone();
        must_end("work on files with forged numbers", move || {
            assert_eq!(text(&root.join("below")), "below");
            let names = listed(&root);
            assert_eq!(names.len(), 3 * numbers.len() + 2, "{names:?}");
            for round in 0..3 {
                for name in names.iter().filter(|name| !name.starts_with("dir")) {
                    let expected = format!("{name}{}", ".".repeat(round));
                    assert_eq!(text(&root.join(name)), expected, "round {round}");
                    posix::append(&root.join(name), b".").unwrap();
                }
                for name in names.iter().filter(|name| name.starts_with("dir")) {
                    assert_eq!(listed(&root.join(name)), ["inside"], "{name}");
                    assert_eq!(text(&root.join(name).join("inside")), *name);
                }
            }
            for name in &names {
                posix::rename(&root.join(name), &root.join("moved"), RenameFlags::empty()).unwrap();
                posix::rename(&root.join("moved"), &root.join(name), RenameFlags::empty()).unwrap();
            }
        });
        guard.unmount().expect("unmount");
        drop(outside);
    });
}

/// Another process has the layers' directories, and puts pipes and links in the place of files that were just seen.
#[test]
fn files_that_become_pipes_hold_nobody_up() {
    for_ours(|backend| {
        let scratch = Scratch::new();
        let outside = Outside::beside(scratch.path());
        let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
        for layer in [&lower, &upper] {
            let side = if *layer == lower { "lower" } else { "upper" };
            for kind in ["pipe", "link", "dir", "gone", "copied"] {
                put(layer, &format!("{side}-{kind}"), vec![b'x'; 100_000]);
            }
        }
        let at = scratch.directory("merged");
        let guard = MountGuard::mount(backend, &spec(&scratch, lower.clone(), upper.clone()), &at).unwrap();
        let names = listed(&at);
        for name in &names {
            at.join(name).metadata().unwrap();
        }
        for name in &names {
            let place = if name.starts_with("lower") {
                lower.join(name)
            } else {
                upper.join(name)
            };
            std::fs::remove_file(&place).unwrap();
            match name.split_once('-').unwrap().1 {
                "pipe" | "copied" => posix::mkfifo(&place).unwrap(),
                "link" => posix::symlink("../outside/secret".as_ref(), &place).unwrap(),
                "dir" => std::fs::create_dir(&place).unwrap(),
                _ => {}
            }
        }
        let root = at.clone();
        must_end("work on files that were changed", move || {
            for name in &names {
                let path = root.join(name);
                // where the kernel sees a pipe, it would wait for the other end by itself
                let open = |flags| posix::open(&path, flags | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0);
                if !name.ends_with("copied") {
                    let read = open(libc::O_RDONLY).and_then(|file| posix::read_all_at_start(&file));
                    assert!(
                        !read.unwrap_or_default().starts_with(b"secret"),
                        "{name} shows what lies outside"
                    );
                }
                let _ = open(libc::O_WRONLY).and_then(|mut file| file.write_all(b"x"));
                let _ = posix::truncate(&path, 5);
                let _ = posix::chmod(&path, 0o777);
                let _ = set_xattr(&path, "user.x", b"y", XattrFlags::empty());
                let _ = list_xattrs(&path);
                let _ = std::fs::remove_file(&path);
            }
            put(&root, "new", "still at work");
            assert_eq!(text(&root.join("new")), "still at work");
        });
        guard.unmount().expect("unmount");
        drop(outside);
    });
}

/// Another process exchanges directories of the upper for links that lead outside, all the time.
#[test]
fn directories_that_become_links_lead_nowhere() {
    for_ours(|backend| {
        let scratch = Scratch::new();
        let outside = Outside::beside(scratch.path());
        let lower = scratch.directory("lower");
        put(&lower, "d/below", "below");
        put(&lower, "d/f", "f");
        // Seen from here, the links lead outside; from the mount, where programs follow them by themselves, nowhere.
        let upper = scratch.directory("deep/er/upper");
        put(&upper, "d/f", "f");
        put(&upper, "d/e/f", "f");
        posix::symlink("../../../outside".as_ref(), &upper.join("evil")).unwrap();
        posix::symlink("../../../../outside/d".as_ref(), &upper.join("d/evil")).unwrap();
        assert_eq!(
            text(&upper.join("evil/secret")),
            "secret content",
            "the links are right"
        );
        assert_eq!(
            text(&upper.join("d/evil/f")),
            "secret content",
            "the links are right"
        );
        let at = scratch.directory("merged");
        let mut spec = spec(&scratch, lower, upper.clone());
        spec.extra_options.push("timeout=0".into());
        let guard = MountGuard::mount(backend, &spec, &at).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = posix::rename(&upper.join("d"), &upper.join("evil"), RenameFlags::EXCHANGE);
                    let _ = posix::rename(&upper.join("d/e"), &upper.join("d/evil"), RenameFlags::EXCHANGE);
                }
            });
            for round in 0..ROUNDS {
                let name = |name: &str| at.join(name);
                let _ = posix::append(&name("d/f"), b".");
                let _ = posix::append(&name("d/e/f"), b".");
                let _ = std::fs::File::create(name(&format!("d/new{round}")))
                    .and_then(|mut file| file.write_all(b"x"));
                let _ = std::fs::create_dir(name(&format!("d/e/dir{round}")));
                let _ = posix::chmod(&name("d/below"), 0o600 + (round & 7));
                let _ = posix::rename(
                    &name(&format!("d/new{round}")),
                    &name("d/e/moved"),
                    RenameFlags::empty(),
                );
                let _ = std::fs::remove_file(name("d/secret"));
                let _ = std::fs::remove_file(name("d/e/moved"));
                let _ = std::fs::remove_dir(name(&format!("d/e/dir{round}")));
                for path in ["d/secret", "d/f", "d/e/f", "evil/secret"] {
                    let found = std::fs::read_to_string(name(path)).unwrap_or_default();
                    assert!(!found.contains("secret"), "{path} shows what lies outside");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        put(&at, "new", "still at work");
        assert_eq!(text(&at.join("new")), "still at work");
        guard.unmount().expect("unmount");
        drop(outside);
    });
}

/// Who holds files of a mount that was taken away goes on with them, and the server ends when they are closed.
#[test]
fn what_is_open_outlives_its_mount() {
    for_ours(|backend| {
        let scratch = Scratch::new();
        let outside = Outside::beside(scratch.path());
        let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
        put(&lower, "f", "below");
        put(&lower, "d/g", vec![b'g'; 100_000]);
        let at = scratch.directory("merged");
        let guard = MountGuard::mount(backend, &spec(&scratch, lower, upper.clone()), &at).unwrap();
        let f = posix::open(&at.join("f"), libc::O_RDWR, 0).unwrap();
        let d = posix::open(&at.join("d"), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        f.write_all_at(b"B", 0).unwrap();
        f.sync_all().unwrap();
        let none = rustix::fs::Mode::empty();
        let cloexec = rustix::fs::OFlags::CLOEXEC;
        let g = rustix::fs::openat(&d, "g", cloexec | rustix::fs::OFlags::RDONLY, none).unwrap();
        assert_eq!(
            posix::read_all_at_start(&std::fs::File::from(g)).unwrap().len(),
            100_000
        );
        // the way up ends at the root of what was a mount
        let up = rustix::fs::openat(&d, "../..", cloexec | rustix::fs::OFlags::PATH, none).unwrap();
        assert_eq!(
            rustix::fs::fstat(&up).unwrap().st_dev,
            f.metadata().unwrap().dev()
        );
        assert_eq!(text(&upper.join("f")), "Below");
        let server = guard.server_pid().expect("a server");
        drop((f, d, up));
        must_end("the server", move || {
            let stat = PathBuf::from(format!("/proc/{server}/stat"));
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        drop(guard);
        drop(outside);
    });
}

/// Attributes of the greatest size, many names of one file, and names of the greatest length in a layer.
#[test]
fn what_is_as_large_as_can_be_is_survived() {
    for_ours(|backend| {
        let scratch = Scratch::new();
        let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
        let long = "n".repeat(255);
        put(&lower, &format!("{long}/{long}/{long}/f"), "deep");
        put(&lower, "attributes", "x");
        let value = vec![b'v'; 3000];
        set_xattr(
            &lower.join("attributes"),
            "user.large",
            &value,
            XattrFlags::empty(),
        )
        .unwrap();
        put_dir(&upper, "redirected");
        set_xattr(
            &upper.join("redirected"),
            "trusted.overlay.redirect",
            &[b'/'; 3000],
            XattrFlags::empty(),
        )
        .unwrap();
        put_dir(&upper, "long-redirect");
        let path = format!("/{long}/{long}/{long}").into_bytes();
        set_xattr(
            &upper.join("long-redirect"),
            "trusted.overlay.redirect",
            &path,
            XattrFlags::empty(),
        )
        .unwrap();
        put(&lower, "linked", "x");
        for name in 0..500 {
            posix::link(&lower.join("linked"), &lower.join(format!("link{name}"))).unwrap();
        }
        let at = scratch.directory("merged");
        let guard = MountGuard::mount(backend, &spec(&scratch, lower, upper), &at).unwrap();
        assert!(
            at.join("redirected").symlink_metadata().is_err(),
            "a redirect to nothing is damage"
        );
        assert_eq!(listed(&at.join("long-redirect")), ["f"]);
        assert_eq!(get_xattr(&at.join("attributes"), "user.large").unwrap(), value);
        posix::append(&at.join("attributes"), b"y").unwrap();
        assert_eq!(get_xattr(&at.join("attributes"), "user.large").unwrap(), value);
        posix::append(&at.join("link77"), b"y").unwrap();
        assert_eq!(text(&at.join("link499")), "xy");
        posix::append(&at.join(format!("{long}/{long}/{long}/f")), b"er").unwrap();
        assert_eq!(text(&at.join(format!("{long}/{long}/{long}/f"))), "deeper");
        guard.unmount().expect("unmount");
    });
}
