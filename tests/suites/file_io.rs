//! What programs do with files once they have them: mappings, locks, pipes, sockets, space.

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use shale_tests::fixture::{Fixture, put, text};
use shale_tests::for_each_union;
use shale_tests::posix::{self, append, assert_errno, read_all_at_start};
use shale_tests::skip::{Tier, skip};
use shale_tests::sys::Mapping;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a shell script in the root of the union and returns what it printed.
fn shell(fixture: &Fixture, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(fixture.root())
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// `cp` and not this process: a copy of a descriptor open for writing in the child of another test would make the
/// program busy.
fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg("/bin/sleep").arg(to).status().unwrap();
    assert!(copied.success());
}

fn open_with(path: &Path, flags: OFlags) -> std::io::Result<()> {
    let opened = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    Ok(opened.map(drop)?)
}

for_each_union! {
    /// POSIX open: [ETXTBSY]. Linux knows it for `O_RDONLY | O_TRUNC` only after the file system was asked.
    fn a_running_program_is_not_emptied(backend) {
        let fixture = Fixture::new(backend, |lower| copy_program(&lower.join("born")));
        copy_program(&fixture.at("new"));
        let expected = std::fs::read("/bin/sleep").unwrap();
        // The kernel's overlayfs empties what it copies up for such an open before it refuses it.
        let names: &[&str] = if backend.is_kernel() { &["new"] } else { &["born", "new"] };
        for name in names {
            let path = fixture.at(name);
            let mut program = Command::new(&path).arg("60").spawn().unwrap();
            for flags in [OFlags::RDONLY | OFlags::TRUNC, OFlags::WRONLY | OFlags::TRUNC, OFlags::RDWR] {
                assert_errno(open_with(&path, flags), libc::ETXTBSY, &format!("{name} {flags:?}"));
            }
            assert!(std::fs::read(&path).unwrap() == expected, "{name} changed");
            assert!(program.try_wait().unwrap().is_none(), "{name} does not run any more");
            program.kill().unwrap();
            program.wait().unwrap();
            // A FUSE server hears of the end a little later.
            let end = Instant::now() + Duration::from_secs(10);
            while let Err(error) = open_with(&path, OFlags::RDONLY | OFlags::TRUNC) {
                assert!(Instant::now() < end, "{name} stays busy: {error}");
                std::thread::yield_now();
            }
            assert_eq!(path.metadata().unwrap().len(), 0);
        }
    }

    fn a_shared_mapping_is_written_back(backend) {
        let mut fixture = Fixture::new(backend, |lower| put(lower, "f", vec![b'.'; 10_000]));
        let file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
        let mut mapping = Mapping::shared(&file, 10_000, true).unwrap();
        mapping.write(5_000, b"by mapping");
        mapping.sync().unwrap();
        let mut seen = [0; 10];
        file.read_exact_at(&mut seen, 5_000).unwrap();
        assert_eq!(&seen, b"by mapping");
        file.write_all_at(b"by write", 0).unwrap();
        assert_eq!(&mapping.read()[..8], b"by write");
        drop(file);
        mapping.write(9_000, b"after close");
        drop(mapping);
        fixture.remount();
        let content = std::fs::read(fixture.at("f")).unwrap();
        assert_eq!((&content[..8], &content[5_000..5_010]), (&b"by write"[..], &b"by mapping"[..]));
        assert_eq!(&content[9_000..9_011], b"after close");
        fixture.assert_layers_untouched();
    }

    fn two_processes_share_a_mapping(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", vec![b'.'; 4096]));
        let file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
        let mapping = Mapping::shared(&file, 4096, true).unwrap();
        shell(&fixture, "printf other | dd of=f bs=1 seek=100 conv=notrunc 2>/dev/null");
        assert_eq!(&mapping.read()[100..105], b"other");
    }

    fn appends_of_two_descriptors_do_not_overwrite(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "0\n"));
        let mut one = posix::open(&fixture.at("f"), libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
        let mut two = posix::open(&fixture.at("f"), libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
        for _ in 0..50 {
            one.write_all(b"one\n").unwrap();
            two.write_all(b"two\n").unwrap();
        }
        assert_eq!(text(&fixture.at("f")), format!("0\n{}", "one\ntwo\n".repeat(50)));
    }

    fn a_large_file_written_in_parts(backend) {
        let mut fixture = Fixture::new(backend, |_| {});
        let file = posix::open(&fixture.at("f"), libc::O_RDWR | libc::O_CREAT, 0o644).unwrap();
        let block: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
        for part in (0..20_u64).rev() {
            file.write_all_at(&block, part * 1_000_003).unwrap();
        }
        file.sync_all().unwrap();
        let mut back = vec![0; block.len()];
        for part in 0..20 {
            file.read_exact_at(&mut back, part * 1_000_003).unwrap();
            assert!(back == block, "part {part}");
        }
        drop(file);
        fixture.remount();
        assert_eq!(fixture.at("f").metadata().unwrap().size(), 20 * 1_000_003);
        let content = std::fs::read(fixture.at("f")).unwrap();
        assert!(content.chunks(1_000_003).all(|chunk| chunk == block), "after a remount");
    }

    fn flock_excludes_other_processes(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "x"));
        let file = File::open(fixture.at("f")).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(shell(&fixture, "flock -n f echo got || echo busy").trim(), "busy");
        rustix::fs::flock(&file, FlockOperation::Unlock).unwrap();
        assert_eq!(shell(&fixture, "flock -n f echo got || echo busy").trim(), "got");
        rustix::fs::flock(&file, FlockOperation::LockShared).unwrap();
        assert_eq!(shell(&fixture, "flock -s -n f echo got || echo busy").trim(), "got");
        assert_eq!(shell(&fixture, "flock -n f echo got || echo busy").trim(), "busy");
    }

    fn record_locks_exclude_other_processes(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "0123456789"));
        let script = "import fcntl\nf=open('f','r+')\n\
            try:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,4,START)\n print('got')\n\
            except OSError: print('busy')";
        let ask = |start: &str| {
            let output = Command::new("python3")
                .args(["-c", &script.replace("START", start)])
                .current_dir(fixture.root())
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        if shale_tests::programs::system_binary("python3").is_none() {
            return skip(Tier::Tool, "python3 is missing");
        }
        let file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
        let lock = |kind: i32| {
            let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 4, l_pid: 0 };
            nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&lock)).unwrap();
        };
        lock(libc::F_WRLCK);
        assert_eq!(ask("0"), "busy");
        assert_eq!(ask("4"), "got", "another range");
        lock(libc::F_UNLCK);
        assert_eq!(ask("0"), "got");
    }

    fn a_fifo_carries_data(backend) {
        let fixture = Fixture::new(backend, |lower| posix::mkfifo(&lower.join("lower")).unwrap());
        posix::mkfifo(&fixture.at("upper")).unwrap();
        for name in ["lower", "upper"] {
            let script = format!("(echo through {name} >{name} &); cat {name}");
            assert_eq!(shell(&fixture, &script).trim(), format!("through {name}"));
        }
    }

    fn a_socket_connects(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "d/x", "x"));
        let listener = UnixListener::bind(fixture.at("d/s")).unwrap();
        assert!(fixture.at("d/s").symlink_metadata().unwrap().file_type().is_socket());
        let mut client = UnixStream::connect(fixture.at("d/s")).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut said = String::new();
        server.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
        assert_errno(UnixListener::bind(fixture.at("d/s")), libc::EADDRINUSE, "bound twice");
        std::fs::rename(fixture.at("d/s"), fixture.at("s2")).unwrap();
        UnixStream::connect(fixture.at("s2")).unwrap();
    }

    fn statfs_tells_of_the_upper(backend) {
        let fixture = Fixture::new(backend, |_| {});
        let inside = nix::sys::statvfs::statvfs(fixture.root()).unwrap();
        let upper = nix::sys::statvfs::statvfs(fixture.upper()).unwrap();
        assert_eq!(inside.blocks(), upper.blocks());
        assert_eq!(inside.fragment_size(), upper.fragment_size());
        assert_eq!(inside.name_max(), upper.name_max());
        let free = inside.blocks_available().abs_diff(upper.blocks_available());
        assert!(free < 1000, "free blocks differ by {free}");
    }

    fn fallocate_makes_and_frees_space(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", vec![1; 100_000]));
        let file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 200_000).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 200_000);
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 300_000).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 200_000);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, punch, 4096, 8192).unwrap();
        let content = read_all_at_start(&file).unwrap();
        assert!(content[..4096].iter().all(|b| *b == 1) && content[4096..12_288].iter().all(|b| *b == 0));
        assert!(content[12_288..100_000].iter().all(|b| *b == 1) && content[100_000..].iter().all(|b| *b == 0));
        assert_eq!(content.len(), 200_000);
        fixture.assert_layers_untouched();
    }

    fn copy_file_range_between_layer_and_upper(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "from", vec![b'f'; 50_000]));
        let from = File::open(fixture.at("from")).unwrap();
        let to = File::create(fixture.at("to")).unwrap();
        let (mut source, mut target) = (100, 10);
        while source < 40_100 {
            let left = usize::try_from(40_100 - source).unwrap();
            assert!(rustix::fs::copy_file_range(&from, Some(&mut source), &to, Some(&mut target), left).unwrap() > 0);
        }
        let content = std::fs::read(fixture.at("to")).unwrap();
        assert_eq!(content.len(), 40_010);
        assert!(content[..10].iter().all(|b| *b == 0) && content[10..].iter().all(|b| *b == b'f'));
    }

    fn an_unnamed_file_gets_a_name(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "d/x", "x"));
        let file = match posix::open(&fixture.at("d"), libc::O_TMPFILE | libc::O_RDWR, 0o640) {
            Ok(file) => file,
            Err(error) if posix::errno(&error) == libc::EOPNOTSUPP => {
                return skip(Tier::Feature, "no O_TMPFILE here");
            }
            Err(error) => panic!("O_TMPFILE: {error}"),
        };
        file.write_all_at(b"content", 0).unwrap();
        assert_eq!(posix::names(&fixture.at("d")).unwrap().len(), 1, "no name yet");
        let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        let (cwd, flags) = (rustix::fs::CWD, rustix::fs::AtFlags::SYMLINK_FOLLOW);
        rustix::fs::linkat(cwd, &descriptor, cwd, fixture.at("d/named"), flags).unwrap();
        assert_eq!(text(&fixture.at("d/named")), "content");
        assert_eq!(fixture.at("d/named").metadata().unwrap().mode() & 0o777, 0o640);
    }

    fn direct_and_synchronous_writes(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", vec![b'x'; 8192]));
        for flag in [libc::O_SYNC, libc::O_DSYNC] {
            let file = posix::open(&fixture.at("f"), libc::O_RDWR | flag, 0).unwrap();
            file.write_all_at(b"synced", 0).unwrap();
            file.sync_data().unwrap();
        }
        File::open(fixture.root()).unwrap().sync_all().unwrap();
        assert!(text(&fixture.at("f")).starts_with("syncedxx"));
    }

    fn execution_and_busy_text(backend) {
        let true_program = std::fs::read("/bin/true").unwrap();
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "true", &true_program);
            posix::chmod(&lower.join("true"), 0o755).unwrap();
            put(lower, "script", "#!/bin/sh\necho from the script\n");
            posix::chmod(&lower.join("script"), 0o755).unwrap();
        });
        assert!(Command::new(fixture.at("true")).status().unwrap().success());
        assert_eq!(shell(&fixture, "./script").trim(), "from the script");
        posix::chmod(&fixture.at("true"), 0o700).unwrap();
        assert!(Command::new(fixture.at("true")).status().unwrap().success(), "after a metadata-only copy");
        // Not by this process: what another test starts meanwhile would hold it open for writing until it is a program.
        shell(&fixture, "cp true copy");
        assert!(Command::new(fixture.at("copy")).status().unwrap().success(), "a program of the upper");
        append(&fixture.at("script"), b"echo more\n").unwrap();
        assert_eq!(shell(&fixture, "./script").trim(), "from the script\nmore");
        posix::chmod(&fixture.at("copy"), 0o644).unwrap();
        assert_errno(Command::new(fixture.at("copy")).status(), libc::EACCES, "not executable");
    }

    fn times_move_as_they_should(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "d/f", "x");
            posix::set_times(&lower.join("d/f"), 1_000_000_000, 0).unwrap();
            posix::set_times(&lower.join("d"), 1_000_000_000, 0).unwrap();
        });
        let mtime = |path: &str| fixture.at(path).metadata().unwrap().mtime();
        append(&fixture.at("d/f"), b"y").unwrap();
        assert!(mtime("d/f") > 1_600_000_000, "a write sets the time");
        assert_eq!(mtime("d"), 1_000_000_000, "a write does not touch the directory");
        std::fs::write(fixture.at("d/new"), "n").unwrap();
        assert!(mtime("d") > 1_600_000_000, "a new name touches the directory");
        posix::set_times(&fixture.at("d"), 1_000_000_000, 0).unwrap();
        std::fs::remove_file(fixture.at("d/new")).unwrap();
        assert!(mtime("d") > 1_600_000_000, "a removed name touches the directory");
        let before = fixture.at("d/f").metadata().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        posix::chmod(&fixture.at("d/f"), 0o600).unwrap();
        let after = fixture.at("d/f").metadata().unwrap();
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()), "chmod sets ctime");
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    }

    fn access_is_checked_for_other_users(backend) {
        if backend.is_shale() || backend.is_kernel() {
            let fixture = Fixture::new(backend, |lower| {
                put(lower, "secret", "x");
                posix::chmod(&lower.join("secret"), 0o600).unwrap();
                put(lower, "shared", "x");
                put(lower, "theirs/x", "x");
                posix::lchown(&lower.join("theirs"), 12345, 12345).unwrap();
            });
            // The scratch's own parent is private to root.
            let holder = fixture.scratch().path().parent().unwrap();
            posix::chmod(holder, 0o755).unwrap();
            let as_user = |script: &str| {
                let output = Command::new("setpriv")
                    .args(["--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-c", script])
                    .current_dir(fixture.root())
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                output.status.success()
            };
            assert!(as_user("cat shared"), "a readable file");
            assert!(!as_user("cat secret"), "a file of root alone");
            assert!(!as_user("echo x >>shared"), "a file that only root writes");
            assert!(!as_user("touch new"), "a directory of root");
            assert!(as_user("touch theirs/new && rm theirs/x"), "a directory of the user's own");
            assert_eq!(fixture.at("theirs/new").metadata().unwrap().uid(), 12345);
            assert!(!as_user("chmod 666 shared"), "chmod of another's file");
            assert!(!as_user("chown 12345 shared"), "chown");
        }
    }
}
