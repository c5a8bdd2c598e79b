//! Many layers, many threads, no space left.

use shale_tests::fixture::{Fixture, listed, put, put_whiteout, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix::{self, append, assert_errno, errno};
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::{Snapshot, check_listing};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Runs `work`; when it does not end in time the server is killed, which frees whoever waits for it.
fn within(limit: Duration, server_pid: Option<i32>, work: impl FnOnce()) {
    let (done, watch) = mpsc::channel::<()>();
    let dog = std::thread::spawn(move || {
        let late = watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if late && let Some(pid) = server_pid {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        late
    });
    work();
    drop(done);
    assert!(!dog.join().expect("the watchdog"), "not done within {limit:?}");
}

/// A small deterministic generator, so that a failure can be seen again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// One random operation among few names; only errors that a race explains are allowed.
fn one_step(fixture: &Fixture, dice: &mut Dice) -> std::io::Result<()> {
    let name = |dice: &mut Dice| {
        let (directory, file) = (dice.roll(4), dice.roll(6));
        fixture.at(&format!("d{directory}/f{file}"))
    };
    let path = name(dice);
    match dice.roll(12) {
        0 => std::fs::write(&path, "short"),
        1 => std::fs::remove_file(&path),
        2 => append(&path, b"x"),
        3 => std::fs::rename(&path, name(dice)),
        4 => posix::link(&path, &name(dice)),
        5 => posix::chmod(&path, 0o600),
        6 => std::fs::read(&path).map(|_| ()),
        7 => posix::names(path.parent().expect("a parent")).map(|_| ()),
        8 => posix::truncate(&path, 10),
        9 => path.symlink_metadata().map(|_| ()),
        10 => {
            let (from, to) = (dice.roll(4), dice.roll(4));
            let (from, to) = (fixture.at(&format!("m{from}")), fixture.at(&format!("m{to}")));
            if dice.roll(2) == 0 {
                posix::mkdir(&from, 0o755)
            } else {
                std::fs::rename(from, to)
            }
        }
        _ => {
            let file = posix::open(&path, libc::O_RDWR, 0)?;
            file.write_all_at(b"held", dice.roll(5000))?;
            file.read_at(&mut [0; 4], 0).map(|_| ())
        }
    }
}

for_each_union! {
    fn five_hundred_layers(backend) {
        let fixture = Fixture::with_layers(backend, 500, |layers| {
            for (index, layer) in layers.iter().enumerate() {
                put(layer, &format!("own/f{index}"), index.to_string());
                put(layer, "same", index.to_string());
                if index % 2 == 1 {
                    put(layer, &format!("deleted/f{index}"), "x");
                    put_whiteout(&layers[index - 1], &format!("deleted/f{index}"));
                }
            }
        });
        assert_eq!(listed(&fixture.at("own")).len(), 500);
        assert!(listed(&fixture.at("deleted")).is_empty());
        assert_eq!(text(&fixture.at("same")), "0");
        assert_eq!(text(&fixture.at("own/f499")), "499");
        append(&fixture.at("own/f499"), b"!").unwrap();
        assert_eq!(text(&fixture.at("own/f499")), "499!");
        std::fs::remove_dir(fixture.at("deleted")).unwrap();
        std::fs::rename(fixture.at("own"), fixture.at("moved")).unwrap();
        assert_eq!(listed(&fixture.at("moved")).len(), 500);
    }

    fn sixty_four_threads(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, |layers| {
            for directory in 0..4 {
                for file in 0..6 {
                    put(&layers[file % 2], &format!("d{directory}/f{file}"), vec![b'l'; 3000]);
                }
                put(&layers[0], &format!("m{directory}/inside/f"), "x");
            }
        });
        let pid = fixture.guard().server_pid();
        let steps = AtomicUsize::new(0);
        within(Duration::from_secs(60), pid, || {
            let deadline = Instant::now() + Duration::from_secs(4);
            std::thread::scope(|scope| {
                for thread in 0..64 {
                    let (fixture, steps) = (&fixture, &steps);
                    scope.spawn(move || {
                        let mut dice = Dice(thread);
                        while Instant::now() < deadline {
                            steps.fetch_add(1, Ordering::Relaxed);
                            let Err(error) = one_step(fixture, &mut dice) else { continue };
                            let allowed = [
                                libc::ENOENT, libc::EEXIST, libc::ENOTEMPTY, libc::ENOTDIR, libc::EISDIR,
                                libc::ESTALE, libc::EMLINK, libc::EINVAL,
                            ];
                            assert!(allowed.contains(&errno(&error)), "no race explains {error}");
                        }
                    });
                }
            });
        });
        eprintln!("{} steps", steps.load(Ordering::Relaxed));
        let before = Snapshot::of(fixture.root()).expect("the tree can be read");
        assert_eq!(check_listing(fixture.root()), Vec::<String>::new());
        fixture.remount();
        before.assert_same(&Snapshot::of(fixture.root()).expect("read again"), "after a remount");
    }

    /// While one large file is copied up, other files stay usable.
    fn many_copy_ups_at_once(backend) {
        let fixture = Fixture::new(backend, |lower| {
            for i in 0..64 {
                put(lower, &format!("f{i}"), vec![b'l'; 200_000]);
            }
        });
        std::thread::scope(|scope| {
            for i in 0..64 {
                let fixture = &fixture;
                scope.spawn(move || {
                    // Four threads meet on each file.
                    let path = fixture.at(&format!("f{}", i / 4));
                    posix::write_at(&path, 1000 + (i % 4), b"w").expect("write");
                });
            }
        });
        for i in 0..16 {
            let content = std::fs::read(fixture.at(&format!("f{i}"))).unwrap();
            assert!(&content[1000..1004] == b"wwww" && content.len() == 200_000, "file {i}");
        }
    }

    /// More open and mapped files than a process usually may have descriptors.
    fn three_thousand_open_files(backend) {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if hard < 4000 {
            let reason = format!("only {hard} descriptors are allowed; raise the hard limit");
            return shale_tests::skip::skip(shale_tests::skip::Tier::Feature, &reason);
        }
        // The server is started with the usual limit, which it has to raise.
        let scratch = Scratch::new();
        let lowers = vec![scratch.directory("lower")];
        for i in 0..1500 {
            put(&lowers[0], &format!("d/f{i}"), format!("content {i}"));
        }
        let upper = Some((scratch.directory("upper"), scratch.directory("work")));
        let spec = MountSpec { lowers, upper, extra_options: vec![], open_files_limit: Some(1024) };
        let fixture = Fixture::over(scratch, backend, spec);
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(4000), hard).unwrap();
        let mut held = Vec::new();
        for i in 0..1500 {
            held.push(File::open(fixture.at(&format!("d/f{i}"))).unwrap());
            let new = fixture.at(&format!("d/new{i}"));
            std::fs::write(&new, "new").unwrap();
            held.push(posix::open(&new, libc::O_RDWR, 0).unwrap());
        }
        for i in (0..1500).step_by(97) {
            assert_eq!(posix::read_all_at_start(&held[2 * i]).unwrap(), format!("content {i}").as_bytes());
            held[2 * i + 1].write_all_at(b"more", 3).unwrap();
            assert_eq!(text(&fixture.at(&format!("d/new{i}"))), "newmore");
        }
        drop(held);
        let mappings: Vec<_> = (0..1500)
            .map(|i| {
                let file = File::open(fixture.at(&format!("d/f{i}"))).unwrap();
                shale_tests::sys::Mapping::shared(&file, 8, false).unwrap()
            })
            .collect();
        assert!(mappings.iter().all(|mapping| mapping.read() == b"content "));
    }

    fn no_space_left(backend) {
        let scratch = Scratch::with_size_mib(24);
        let layers_at = Scratch::new();
        let lower = layers_at.directory("lower");
        put(&lower, "big", vec![b'b'; 64 << 20]);
        put(&lower, "small", "small");
        put(&lower, "d/f", "f");
        let upper = Some((scratch.directory("upper"), scratch.directory("work")));
        let spec = MountSpec { lowers: vec![lower], upper, extra_options: vec![], open_files_limit: None };
        let mut fixture = Fixture::over(scratch, backend, spec);
        let appended = append(&fixture.at("big"), b"x");
        let mut size_bytes = 64 << 20;
        if backend == Backend::ShalePartial {
            appended.expect("one block fits");
            size_bytes += 1;
        } else {
            assert_errno(appended, libc::ENOSPC, "the copy does not fit");
        }
        assert_eq!(fixture.at("big").metadata().unwrap().size(), size_bytes, "the old one or all of the new one");
        let mut file = File::create(fixture.at("new")).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[1; 65536]).and_then(|()| file.sync_data()) {
                break error;
            }
        };
        assert_eq!(errno(&error), libc::ENOSPC);
        drop(file);
        assert_eq!(text(&fixture.at("small")), "small", "reading goes on");
        std::fs::remove_file(fixture.at("new")).unwrap();
        append(&fixture.at("small"), b"er").unwrap();
        fixture.remount();
        assert_eq!(text(&fixture.at("small")), "smaller", "with space again, writing goes on");
        assert_eq!(listed(fixture.root()), ["big", "d", "small"]);
        let leftovers = used_bytes(&fixture.spec().upper.as_ref().unwrap().1);
        assert!(leftovers < 1 << 20, "{leftovers} bytes of a failed copy lie in the work directory");
    }

    fn a_layer_is_read_only_without_an_upper(backend) {
        let scratch = Scratch::new();
        let lowers = vec![scratch.directory("a"), scratch.directory("b")];
        put(&lowers[0], "d/one", "1");
        put(&lowers[1], "d/two", "2");
        put_whiteout(&lowers[0], "gone");
        put(&lowers[1], "gone", "x");
        let fixture = Fixture::over(scratch, backend, MountSpec { lowers, upper: None, extra_options: vec![], open_files_limit: None });
        assert_eq!(listed(&fixture.at("d")), ["one", "two"]);
        assert_eq!(listed(fixture.root()), ["d"]);
        posix::assert_errno(std::fs::write(fixture.at("new"), ""), libc::EROFS, "create");
        posix::assert_errno(append(&fixture.at("d/one"), b"x"), libc::EROFS, "append");
        posix::assert_errno(posix::chmod(&fixture.at("d/one"), 0o600), libc::EROFS, "chmod");
        posix::assert_errno(std::fs::remove_file(fixture.at("d/one")), libc::EROFS, "unlink");
        assert_eq!(text(&fixture.at("d/two")), "2");
    }
}

fn used_bytes(path: &std::path::Path) -> u64 {
    let meta = path.symlink_metadata().expect("stat");
    let own = if meta.is_dir() { 0 } else { meta.blocks() * 512 };
    let children = if meta.is_dir() {
        posix::names(path).expect("list")
    } else {
        vec![]
    };
    use std::os::unix::ffi::OsStrExt;
    own + children
        .iter()
        .map(|name| used_bytes(&path.join(std::ffi::OsStr::from_bytes(name))))
        .sum::<u64>()
}

/// Twenty threads copying up different large files: ours must not queue them behind one lock, and a reader
/// of another file must not wait for a copy to end.
fn readers_do_not_wait_for_a_copy_up(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let size_bytes = 100 << 20;
    let mut fixture = Fixture::new(backend, |lower| {
        put(lower, "big", vec![b'b'; size_bytes]);
        for i in 0..50 {
            put(lower, &format!("small{i}"), "small");
        }
    });
    let pid = fixture.guard().server_pid();
    within(Duration::from_secs(60), pid, || {
        std::thread::scope(|scope| {
            let copier = scope.spawn(|| {
                let start = Instant::now();
                append(&fixture.at("big"), b"x").expect("append");
                start.elapsed()
            });
            let mut slowest = Duration::ZERO;
            let mut reads = 0_u32;
            while !copier.is_finished() {
                let start = Instant::now();
                assert_eq!(text(&fixture.at(&format!("small{}", reads % 50))), "small");
                reads += 1;
                slowest = slowest.max(start.elapsed());
            }
            let copy = copier.join().expect("the copier");
            // A copy that takes no time shows nothing.
            if copy > Duration::from_millis(100) {
                assert!(
                    slowest < copy * 3 / 4,
                    "a read took {slowest:?} beside a copy of {copy:?}"
                );
            }
        });
    });
}

#[test]
fn readers_do_not_wait_for_a_copy_up_shale_passthrough() {
    readers_do_not_wait_for_a_copy_up(Backend::ShalePassthrough);
}

#[test]
fn readers_do_not_wait_for_a_copy_up_shale_plain() {
    readers_do_not_wait_for_a_copy_up(Backend::ShalePlain);
}
