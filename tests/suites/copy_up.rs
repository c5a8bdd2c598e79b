//! What happens to a file of a layer when it is first changed.

use rustix::fs::{SeekFrom, XattrFlags};
use shale_tests::fixture::{Fixture, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::posix::{self, append, get_xattr, read_all_at_start, set_xattr};
use shale_tests::programs::system_binary;
use shale_tests::scratch::run;
use shale_tests::skip::{Tier, skip};
use shale_tests::sys::Mapping;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Blocks of 512 bytes that everything below `path` takes up.
fn blocks_below(path: &Path) -> u64 {
    let meta = path.symlink_metadata().expect("stat");
    let mut blocks = if meta.is_file() { meta.blocks() } else { 0 };
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).expect("list") {
            blocks += blocks_below(&entry.expect("entry").path());
        }
    }
    blocks
}

for_each_union! {
    /// `exec 3<f; echo x >>f`: a reader's descriptor must never become the way of a writer into the layer.
    fn a_reader_then_an_append_leaves_the_layer_alone(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "old\n"));
        let reader = File::open(fixture.at("f")).unwrap();
        assert_eq!(read_all_at_start(&reader).unwrap(), b"old\n");
        append(&fixture.at("f"), b"new\n").unwrap();
        assert_eq!(text(&fixture.at("f")), "old\nnew\n");
        assert_eq!(text(&fixture.lower(0).join("f")), "old\n");
        // The old descriptor shows the old file (as overlayfs documents) or the new one; never anything else.
        let seen = read_all_at_start(&reader).unwrap();
        assert!(seen == b"old\n" || seen == b"old\nnew\n", "the reader sees {:?}", seen.escape_ascii().to_string());
        fixture.assert_layers_untouched();
    }

    fn a_reader_then_a_writer_by_shell(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "old\n"));
        let script = "exec 3<f; echo x >>f; cat f; exec 4>>f; echo y >&4; cat f; cat <&3 >/dev/null";
        let output = Command::new("sh").args(["-c", script]).current_dir(fixture.root()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "old\nx\nold\nx\ny\n");
        fixture.assert_layers_untouched();
    }

    fn a_mapping_then_an_overwrite_leaves_the_layer_alone(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", vec![b'o'; 8192]));
        let reader = File::open(fixture.at("f")).unwrap();
        let mapping = Mapping::shared(&reader, 8192, false).unwrap();
        assert_eq!(mapping.read(), vec![b'o'; 8192]);
        posix::write_at(&fixture.at("f"), 0, &[b'n'; 8192]).unwrap();
        assert_eq!(std::fs::read(fixture.at("f")).unwrap(), vec![b'n'; 8192]);
        let seen = mapping.read();
        assert!(seen == vec![b'o'; 8192] || seen == vec![b'n'; 8192], "the mapping shows a mixture");
        fixture.assert_layers_untouched();
    }

    /// Many readers hold the file in both ways while writers come and go.
    fn readers_and_writers_come_and_go(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", vec![b'0'; 300_000]));
        let mut held = Vec::new();
        for round in 0..10_u8 {
            held.push(File::open(fixture.at("f")).unwrap());
            let writer = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
            writer.write_all_at(&[b'a' + round], u64::from(round) * 20_000).unwrap();
            let mut byte = [0];
            writer.read_exact_at(&mut byte, u64::from(round) * 20_000).unwrap();
            assert_eq!(byte[0], b'a' + round);
            let fresh = std::fs::read(fixture.at("f")).unwrap();
            assert_eq!(fresh[usize::from(round) * 20_000], b'a' + round, "a fresh reader sees the write");
            assert_eq!(fresh.len(), 300_000);
            held.push(writer);
        }
        // Those opened after the first write see everything.
        for file in &held[1..] {
            assert_eq!(read_all_at_start(file).unwrap()[9 * 20_000], b'j');
        }
        drop(held);
        fixture.assert_layers_untouched();
    }

    fn truncating_open_of_a_held_file(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "lower content"));
        let reader = File::open(fixture.at("f")).unwrap();
        std::fs::write(fixture.at("f"), "x").unwrap();
        assert_eq!(text(&fixture.at("f")), "x");
        assert_eq!(fixture.at("f").metadata().unwrap().size(), 1);
        drop(reader);
        fixture.assert_layers_untouched();
    }

    fn hard_links_stay_links(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put_dir(lower, "d");
            put(lower, "a", "one");
            posix::link(&lower.join("a"), &lower.join("d/b")).unwrap();
            posix::link(&lower.join("a"), &lower.join("c")).unwrap();
        });
        let ino = fixture.at("a").metadata().unwrap().ino();
        append(&fixture.at("d/b"), b" two").unwrap();
        for round in ["at once", "after a remount"] {
            for path in ["a", "d/b", "c"] {
                assert_eq!(text(&fixture.at(path)), "one two", "{path} {round}");
                let meta = fixture.at(path).metadata().unwrap();
                assert_eq!(meta.nlink(), 3, "links of {path} {round}");
                assert_eq!(meta.ino(), ino, "inode of {path} {round}");
            }
            fixture.remount();
        }
        std::fs::remove_file(fixture.at("a")).unwrap();
        assert_eq!(fixture.at("c").metadata().unwrap().nlink(), 2);
        posix::link(&fixture.at("c"), &fixture.at("e")).unwrap();
        assert_eq!(fixture.at("d/b").metadata().unwrap().nlink(), 3);
        fixture.assert_layers_untouched();
    }

    fn attributes_survive(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put_dir(lower, "d");
            put(lower, "d/f", "content");
            let file = lower.join("d/f");
            set_xattr(&file, "user.note", b"\x00binary\xff", XattrFlags::empty()).unwrap();
            set_xattr(&file, "user.empty", b"", XattrFlags::empty()).unwrap();
            posix::lchown(&file, 1234, 4321).unwrap();
            posix::chmod(&file, 0o640).unwrap();
            posix::set_times(&file, 1_111_111_111, 123_456_789).unwrap();
            set_xattr(&lower.join("d"), "user.note", b"dir", XattrFlags::empty()).unwrap();
            posix::lchown(&lower.join("d"), 77, 88).unwrap();
            posix::chmod(&lower.join("d"), 0o2751).unwrap();
            posix::set_times(&lower.join("d"), 1_222_222_222, 987_654_321).unwrap();
        });
        let before = fixture.at("d").metadata().unwrap();
        // A change of one attribute copies the file up and must leave all others as they were.
        posix::chmod(&fixture.at("d/f"), 0o600).unwrap();
        let meta = fixture.at("d/f").metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 4321, 0o600));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_111_111_111, 123_456_789));
        assert_eq!(get_xattr(&fixture.at("d/f"), "user.note").unwrap(), b"\x00binary\xff");
        assert_eq!(get_xattr(&fixture.at("d/f"), "user.empty").unwrap(), b"");
        let after = fixture.at("d").metadata().unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode()), (77, 88, before.mode()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (1_222_222_222, 987_654_321));
        assert_eq!(get_xattr(&fixture.at("d"), "user.note").unwrap(), b"dir");
        append(&fixture.at("d/f"), b"!").unwrap();
        assert_eq!(get_xattr(&fixture.at("d/f"), "user.note").unwrap(), b"\x00binary\xff");
        assert_eq!(fixture.at("d/f").metadata().unwrap().mode() & 0o7777, 0o600);
    }

    fn access_control_lists_survive(backend) {
        let (Some(setfacl), Some(getfacl)) = (system_binary("setfacl"), system_binary("getfacl")) else {
            return skip(Tier::Tool, "setfacl and getfacl are missing; install acl");
        };
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "d/f", "x");
            run(Command::new(&setfacl).args(["-m", "u:1234:rwx,g:4321:r"]).arg(lower.join("d/f")));
            run(Command::new(&setfacl).args(["-d", "-m", "u:1234:rx"]).arg(lower.join("d")));
        });
        let acl = |path: &str| {
            let output = Command::new(&getfacl).args(["-cnp"]).arg(fixture.at(path)).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let (file, directory) = (acl("d/f"), acl("d"));
        assert!(file.contains("user:1234:rwx"), "{file}");
        assert!(directory.contains("default:user:1234:r-x"), "{directory}");
        append(&fixture.at("d/f"), b"y").unwrap();
        assert_eq!(acl("d/f"), file);
        std::fs::write(fixture.at("d/new"), "n").unwrap();
        assert_eq!(acl("d"), directory);
        assert!(acl("d/new").contains("user:1234:r-x"), "a new file takes the default: {}", acl("d/new"));
        std::fs::create_dir(fixture.at("d/sub")).unwrap();
        assert!(acl("d/sub").contains("default:user:1234:r-x"), "{}", acl("d/sub"));
        posix::chmod(&fixture.at("d/f"), 0o600).unwrap();
        assert!(acl("d/f").contains("mask::---"), "chmod sets the mask: {}", acl("d/f"));
        run(Command::new(&setfacl).args(["-m", "u:5:r"]).arg(fixture.at("d/new")));
        assert!(acl("d/new").contains("user:5:r--"), "{}", acl("d/new"));
    }

    fn file_capabilities_survive_and_end(backend) {
        let Some(setcap) = system_binary("setcap") else {
            return skip(Tier::Tool, "setcap is missing; install libcap2-bin");
        };
        let fixture = Fixture::new(backend, |lower| {
            for name in ["moved", "chowned", "written"] {
                put(lower, name, "#!/bin/true\n");
                posix::chmod(&lower.join(name), 0o755).unwrap();
                run(Command::new(&setcap).arg("cap_net_raw+ep").arg(lower.join(name)));
            }
        });
        let name = "security.capability";
        let value = get_xattr(&fixture.at("moved"), name).unwrap();
        posix::chmod(&fixture.at("moved"), 0o700).unwrap();
        std::fs::rename(fixture.at("moved"), fixture.at("elsewhere")).unwrap();
        assert_eq!(get_xattr(&fixture.at("elsewhere"), name).unwrap(), value);
        posix::lchown(&fixture.at("chowned"), 5, 5).unwrap();
        posix::assert_errno(get_xattr(&fixture.at("chowned"), name), libc::ENODATA, "capability after chown");
        append(&fixture.at("written"), b"x").unwrap();
        posix::assert_errno(get_xattr(&fixture.at("written"), name), libc::ENODATA, "capability after a write");
    }

    fn a_sparse_file_stays_sparse(backend) {
        let fixture = Fixture::new(backend, |lower| {
            let file = File::create(lower.join("f")).unwrap();
            file.set_len(64 << 20).unwrap();
            file.write_all_at(&[1; 4096], 1 << 20).unwrap();
            file.write_all_at(&[2; 4096], 40 << 20).unwrap();
        });
        posix::write_at(&fixture.at("f"), 0, b"x").unwrap();
        let content = std::fs::read(fixture.at("f")).unwrap();
        assert_eq!(content.len(), 64 << 20);
        assert_eq!((content[0], content[1 << 20], content[40 << 20], content[41 << 20]), (b'x', 1, 2, 0));
        let used = blocks_below(fixture.upper()) * 512;
        assert!(used < 4 << 20, "the upper takes {used} bytes for three blocks of data");
    }

    /// chmod, chown, times and attributes of a large file copy none of its data, and the data is still read.
    fn metadata_changes_copy_no_data(backend) {
        let size_bytes = 32 << 20;
        let mut fixture = Fixture::new(backend, |lower| put(lower, "f", vec![7; size_bytes]));
        posix::chmod(&fixture.at("f"), 0o600).unwrap();
        posix::lchown(&fixture.at("f"), 12, 34).unwrap();
        posix::set_times(&fixture.at("f"), 1_000_000_000, 1).unwrap();
        set_xattr(&fixture.at("f"), "user.a", b"b", XattrFlags::empty()).unwrap();
        std::fs::rename(fixture.at("f"), fixture.at("g")).unwrap();
        for round in ["at once", "after a remount"] {
            let used = blocks_below(fixture.upper()) * 512;
            assert!(used < 1 << 20, "the upper takes {used} bytes {round}");
            assert!(std::fs::read(fixture.at("g")).unwrap() == vec![7; size_bytes], "content {round}");
            let meta = fixture.at("g").metadata().unwrap();
            assert_eq!((meta.size(), meta.uid(), meta.gid()), (size_bytes as u64, 12, 34));
            fixture.remount();
        }
        append(&fixture.at("g"), b"end").unwrap();
        let content = std::fs::read(fixture.at("g")).unwrap();
        assert!(content.len() == size_bytes + 3 && content.ends_with(b"\x07end"), "content after the data came");
        assert_eq!(get_xattr(&fixture.at("g"), "user.a").unwrap(), b"b");
    }

    /// A metadata-only copy that is linked, unlinked and truncated.
    fn a_metadata_copy_is_a_whole_file(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "f", "0123456789");
            put(lower, "g", "abcdefghij");
        });
        posix::chmod(&fixture.at("f"), 0o600).unwrap();
        posix::chmod(&fixture.at("g"), 0o600).unwrap();
        posix::link(&fixture.at("f"), &fixture.at("f2")).unwrap();
        posix::truncate(&fixture.at("f2"), 4).unwrap();
        assert_eq!(text(&fixture.at("f")), "0123");
        let held = File::open(fixture.at("g")).unwrap();
        std::fs::remove_file(fixture.at("g")).unwrap();
        assert_eq!(read_all_at_start(&held).unwrap(), b"abcdefghij");
        assert!(!fixture.at("g").exists());
    }

    fn inode_numbers_are_stable(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "d/f", "x");
            put(lower, "d/g", "y");
        });
        let inos = |fixture: &Fixture| {
            ["d", "d/f", "d/g"].map(|path| fixture.at(path).metadata().unwrap().ino())
        };
        let before = inos(&fixture);
        append(&fixture.at("d/f"), b"z").unwrap();
        posix::chmod(&fixture.at("d/g"), 0o600).unwrap();
        assert_eq!(inos(&fixture), before, "inode numbers after copy-up");
        fixture.remount();
        assert_eq!(inos(&fixture), before, "inode numbers after a remount");
        std::fs::rename(fixture.at("d/f"), fixture.at("moved")).unwrap();
        assert_eq!(fixture.at("moved").metadata().unwrap().ino(), before[1], "inode number after a rename");
    }

    fn a_symlink_and_a_fifo_are_copied_up(backend) {
        let fixture = Fixture::new(backend, |lower| {
            posix::symlink("some/target".as_ref(), &lower.join("s")).unwrap();
            posix::mkfifo(&lower.join("p")).unwrap();
        });
        posix::lchown(&fixture.at("s"), 3, 4).unwrap();
        posix::chmod(&fixture.at("p"), 0o600).unwrap();
        assert_eq!(std::fs::read_link(fixture.at("s")).unwrap(), Path::new("some/target"));
        assert_eq!(fixture.at("s").symlink_metadata().unwrap().uid(), 3);
        let mode = fixture.at("p").symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode, 0o010_600, "still a fifo, mode {mode:o}");
    }

    fn an_unlinked_open_file_lives_on(backend) {
        let fixture = Fixture::new(backend, |lower| put(lower, "f", "lower"));
        let file = posix::open(&fixture.at("f"), libc::O_RDWR, 0).unwrap();
        std::fs::remove_file(fixture.at("f")).unwrap();
        file.write_all_at(b"LOWER and more", 0).unwrap();
        assert_eq!(read_all_at_start(&file).unwrap(), b"LOWER and more");
        let meta = file.metadata().unwrap();
        assert_eq!((meta.size(), meta.nlink()), (14, 0));
        std::fs::write(fixture.at("f"), "another").unwrap();
        assert_eq!(read_all_at_start(&file).unwrap(), b"LOWER and more");
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_ne!(fixture.at("f").metadata().unwrap().mode() & 0o777, 0o600);
    }

    fn holes_are_found_by_seek(backend) {
        let fixture = Fixture::new(backend, |lower| {
            let file = File::create(lower.join("f")).unwrap();
            file.set_len(1 << 20).unwrap();
            file.write_all_at(&[1; 4096], 512 << 10).unwrap();
        });
        let file = File::open(fixture.at("f")).unwrap();
        let seek = |file: &File, position| rustix::fs::seek(file, position).map_err(std::io::Error::from);
        assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), 512 << 10);
        assert_eq!(seek(&file, SeekFrom::Hole(512 << 10)).unwrap(), (512 << 10) + 4096);
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
        posix::assert_errno(seek(&file, SeekFrom::Data(600 << 10)), libc::ENXIO, "data after the last");
        // A copy may fill small holes, but what is called a hole has no data, and the end is one.
        append(&fixture.at("f"), b"end").unwrap();
        let file = File::open(fixture.at("f")).unwrap();
        assert!(seek(&file, SeekFrom::Data(0)).unwrap() <= 512 << 10);
        assert!(seek(&file, SeekFrom::Hole(512 << 10)).unwrap() >= (512 << 10) + 4096);
        assert_eq!(seek(&file, SeekFrom::Data(1 << 20)).unwrap(), 1 << 20);
        assert_eq!(seek(&file, SeekFrom::Hole(1 << 20)).unwrap(), (1 << 20) + 3);
    }
}
