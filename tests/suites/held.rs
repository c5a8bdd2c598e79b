//! What is open, mapped or linked goes on being the same file, whatever happens to its names.

use rustix::fs::{AtFlags, CWD, RenameFlags};
use shale_tests::fixture::{Fixture, listed, put, put_dir, put_opaque, put_whiteout, text};
use shale_tests::for_each_union;
use shale_tests::mount::Backend;
use shale_tests::posix::{self, append, assert_errno, read_all_at_start};
use shale_tests::skip::{Tier, skip};
use shale_tests::snapshot::{Snapshot, check_listing};
use shale_tests::sys::Mapping;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

fn nlink(fixture: &Fixture, path: &str) -> u64 {
    fixture
        .at(path)
        .symlink_metadata()
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .nlink()
}

fn ino(fixture: &Fixture, path: &str) -> u64 {
    fixture
        .at(path)
        .symlink_metadata()
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .ino()
}

const LARGE: usize = 200_000;

for_each_union! {
    /// A writer's descriptor and mapping are the file, also when its name goes, or another file takes it.
    fn a_writer_survives_its_names(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "born", vec![b'.'; LARGE]);
            put(lower, "other", "other");
            put(lower, "replaced", vec![b'.'; LARGE]);
        });
        std::fs::write(fixture.at("new"), vec![b'.'; LARGE]).unwrap();
        for name in ["born", "new"] {
            let file = posix::open(&fixture.at(name), libc::O_RDWR, 0).unwrap();
            let mut mapping = Mapping::shared(&file, LARGE, true).unwrap();
            mapping.write(0, b"mapped");
            std::fs::rename(fixture.at(name), fixture.at("moved")).unwrap();
            mapping.write(100_000, b"after rename");
            file.write_all_at(b"written", 50_000).unwrap();
            mapping.sync().unwrap();
            let content = std::fs::read(fixture.at("moved")).unwrap();
            assert_eq!(&content[..6], b"mapped", "{name}");
            assert_eq!(&content[100_000..100_012], b"after rename", "{name}");
            assert_eq!(&content[50_000..50_007], b"written", "{name}");
            assert_eq!(&mapping.read()[50_000..50_007], b"written", "{name}");
            std::fs::remove_file(fixture.at("moved")).unwrap();
            mapping.write(0, b"nameless");
            mapping.sync().unwrap();
            let mut start = [0; 8];
            file.read_exact_at(&mut start, 0).unwrap();
            assert_eq!(&start, b"nameless", "{name}");
            assert_eq!(file.metadata().unwrap().nlink(), 0, "{name}");
        }
        let file = posix::open(&fixture.at("replaced"), libc::O_RDWR, 0).unwrap();
        std::fs::rename(fixture.at("other"), fixture.at("replaced")).unwrap();
        file.write_all_at(b"gone", 0).unwrap();
        assert_eq!(read_all_at_start(&file).unwrap().len(), LARGE);
        assert_eq!(text(&fixture.at("replaced")), "other");
        drop(file);
        fixture.remount();
        assert_eq!(listed(fixture.root()), ["replaced"]);
        assert_eq!(text(&fixture.at("replaced")), "other");
    }

    /// A reader's descriptor and mapping of a lower file show the old content or the new, never a mixture or an error,
    /// also when its names go.
    fn a_reader_survives_its_names(backend) {
        for size in [100, LARGE] {
            let fixture = Fixture::new(backend, |lower| {
                for name in ["renamed", "removed", "replaced", "emptied"] {
                    put(lower, &format!("d/{name}"), vec![b'o'; size]);
                }
            });
            let held: Vec<(File, Mapping)> = ["renamed", "removed", "replaced", "emptied"]
                .iter()
                .map(|name| {
                    let file = File::open(fixture.at("d").join(name)).unwrap();
                    let mapping = Mapping::shared(&file, size.min(64), false).unwrap();
                    (file, mapping)
                })
                .collect();
            std::fs::rename(fixture.at("d"), fixture.at("e")).unwrap();
            std::fs::rename(fixture.at("e/renamed"), fixture.at("elsewhere")).unwrap();
            std::fs::remove_file(fixture.at("e/removed")).unwrap();
            std::fs::write(fixture.at("new"), "new").unwrap();
            std::fs::rename(fixture.at("new"), fixture.at("e/replaced")).unwrap();
            for (file, mapping) in &held[..3] {
                assert_eq!(read_all_at_start(file).unwrap(), vec![b'o'; size]);
                assert_eq!(mapping.read(), vec![b'o'; size.min(64)]);
            }
            append(&fixture.at("elsewhere"), b"n").unwrap();
            let seen = read_all_at_start(&held[0].0).unwrap();
            assert!(seen.len() == size || seen.len() == size + 1, "{} bytes", seen.len());
            assert!(seen[..size].iter().all(|byte| *byte == b'o'));
            assert_eq!(std::fs::read(fixture.at("elsewhere")).unwrap().len(), size + 1);
            drop(held);
            fixture.assert_layers_untouched();
        }
    }

    /// All names of a lower file change together, whichever is used, and the counts are right at every step.
    fn names_of_one_file_change_together(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "a", "one");
            put_dir(lower, "d");
            for name in ["b", "d/c", "d/e"] {
                posix::link(&lower.join("a"), &lower.join(name)).unwrap();
            }
        });
        let names = ["a", "b", "d/c", "d/e"];
        let number = ino(&fixture, "a");
        let check = |fixture: &Fixture, names: &[&str], content: &str, mode: u32, what: &str| {
            for name in names {
                let meta = fixture.at(name).metadata().unwrap();
                assert_eq!(text(&fixture.at(name)), content, "{name} {what}");
                assert_eq!(meta.nlink(), names.len() as u64, "links of {name} {what}");
                assert_eq!(meta.ino(), number, "number of {name} {what}");
                assert_eq!(meta.mode() & 0o777, mode, "mode of {name} {what}");
            }
        };
        check(&fixture, &names, "one", 0o644, "at first");
        posix::chmod(&fixture.at("b"), 0o600).unwrap();
        check(&fixture, &names, "one", 0o600, "after chmod of one");
        fixture.remount();
        check(&fixture, &names, "one", 0o600, "after chmod of one and a remount");
        append(&fixture.at("d/c"), b" two").unwrap();
        check(&fixture, &names, "one two", 0o600, "after a write by one");
        posix::link(&fixture.at("d/e"), &fixture.at("f")).unwrap();
        check(&fixture, &["a", "b", "d/c", "d/e", "f"], "one two", 0o600, "with one more");
        std::fs::remove_file(fixture.at("a")).unwrap();
        check(&fixture, &["b", "d/c", "d/e", "f"], "one two", 0o600, "without the first");
        std::fs::rename(fixture.at("d"), fixture.at("moved")).unwrap();
        check(&fixture, &["b", "moved/c", "moved/e", "f"], "one two", 0o600, "in a moved directory");
        fixture.remount();
        check(&fixture, &["b", "moved/c", "moved/e", "f"], "one two", 0o600, "and after a remount");
        std::fs::write(fixture.at("new"), "new").unwrap();
        std::fs::rename(fixture.at("new"), fixture.at("moved/c")).unwrap();
        check(&fixture, &["b", "moved/e", "f"], "one two", 0o600, "with one replaced");
        for (gone, left) in [("b", &["moved/e", "f"][..]), ("f", &["moved/e"][..])] {
            std::fs::remove_file(fixture.at(gone)).unwrap();
            check(&fixture, left, "one two", 0o600, &format!("without {gone}"));
        }
    }

    /// Before any copy-up: a name that goes is one less for the others.
    fn names_of_a_lower_file_are_counted_down(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "a", "x");
            for name in ["b", "c"] {
                posix::link(&lower.join("a"), &lower.join(name)).unwrap();
            }
        });
        let held = File::open(fixture.at("a")).unwrap();
        std::fs::remove_file(fixture.at("b")).unwrap();
        assert_eq!((nlink(&fixture, "a"), nlink(&fixture, "c")), (2, 2));
        fixture.at("c").symlink_metadata().unwrap();
        drop(held);
        fixture.remount();
        assert_eq!((nlink(&fixture, "a"), nlink(&fixture, "c")), (2, 2), "after a remount");
        std::fs::remove_file(fixture.at("a")).unwrap();
        assert_eq!(nlink(&fixture, "c"), 1);
        posix::link(&fixture.at("c"), &fixture.at("a")).unwrap();
        posix::link(&fixture.at("c"), &fixture.at("b")).unwrap();
        fixture.remount();
        assert_eq!([nlink(&fixture, "a"), nlink(&fixture, "b"), nlink(&fixture, "c")], [3, 3, 3]);
    }

    /// A directory is counted as ext4 does, or with 1 where its parts are not counted (find(1), "-noleaf").
    fn link_counts_of_directories(backend) {
        let mut fixture = Fixture::with_layers(backend, 2, |layers| {
            put_dir(&layers[1], "low/a");
            put_dir(&layers[1], "low/b");
            put_dir(&layers[1], "merged/a");
            put_dir(&layers[0], "merged/b");
        });
        // The layers of an image are one index, which counts.
        let merged = if backend == Backend::ShaleImage { 4 } else { 1 };
        for _ in 0..2 {
            assert_eq!(nlink(&fixture, "low"), 4, "in one layer");
            assert_eq!(nlink(&fixture, "merged"), merged, "merged");
            fixture.remount();
        }
        posix::mkdir(&fixture.at("low/c"), 0o755).unwrap();
        assert_eq!(nlink(&fixture, "low"), 1, "merged now");
        for name in ["new", "new/a", "new/b"] {
            posix::mkdir(&fixture.at(name), 0o755).unwrap();
        }
        assert_eq!(nlink(&fixture, "new"), 4, "in the upper alone");
        std::fs::remove_dir(fixture.at("new/a")).unwrap();
        std::fs::rename(fixture.at("new/b"), fixture.at("b")).unwrap();
        assert_eq!(nlink(&fixture, "new"), 2, "without its directories");
        let held = File::open(fixture.at("new")).unwrap();
        std::fs::remove_dir(fixture.at("new")).unwrap();
        assert_eq!(held.metadata().unwrap().nlink(), 0, "removed");
        let held = File::open(fixture.at("low/a")).unwrap();
        std::fs::remove_dir(fixture.at("low/a")).unwrap();
        // overlayfs goes on showing the count of the layer.
        let expected = if backend.is_kernel() { 2 } else { 0 };
        assert_eq!(held.metadata().unwrap().nlink(), expected, "removed, of a layer");
    }

    /// Files of every kind keep their numbers over copy-up, rename and remount; no two share one; all are of one device.
    fn numbers_are_stable_and_of_one_file(backend) {
        let mut fixture = Fixture::with_layers(backend, 3, |layers| {
            for (index, layer) in layers.iter().enumerate() {
                put(layer, &format!("m/f{index}"), "x");
                put(layer, &format!("own{index}/sub/f"), "x");
                posix::symlink("x".as_ref(), &layer.join(format!("m/s{index}"))).unwrap();
                posix::mkfifo(&layer.join(format!("m/p{index}"))).unwrap();
                posix::mknod_char(&layer.join(format!("m/c{index}")), 1, 3).unwrap();
                posix::link(&layer.join(format!("m/f{index}")), &layer.join(format!("m/l{index}"))).unwrap();
            }
        });
        let all = |fixture: &Fixture| -> BTreeMap<Vec<u8>, u64> {
            let tree = Snapshot::of(fixture.root()).unwrap();
            let at = |path: &Vec<u8>| fixture.root().join(OsStr::from_bytes(path));
            tree.entries
                .iter()
                .filter(|(path, _)| !path.is_empty())
                .map(|(path, _)| {
                    let meta = at(path).symlink_metadata().unwrap();
                    assert_eq!(meta.dev(), fixture.root().metadata().unwrap().dev(), "one device");
                    (path.clone(), meta.ino())
                })
                .collect()
        };
        let before = all(&fixture);
        let distinct: BTreeSet<u64> = before.values().copied().collect();
        assert_eq!(distinct.len(), before.len() - 3, "three names are second names");
        type Act = fn(&mut Fixture);
        let rounds: [(&str, Act); 4] = [
            ("after a remount", Fixture::remount),
            ("after copy-up", |fixture| {
                let tree = Snapshot::of(fixture.root()).unwrap();
                for path in tree.entries.keys() {
                    posix::lchown(&fixture.root().join(OsStr::from_bytes(path)), 5, 6).unwrap();
                }
            }),
            ("after copy-up and a remount", Fixture::remount),
            ("after the data came", |fixture| {
                for index in 0..3 {
                    append(&fixture.at(&format!("m/f{index}")), b"y").unwrap();
                }
                fixture.remount();
            }),
        ];
        for (what, act) in rounds {
            act(&mut fixture);
            let now = all(&fixture);
            let changed: Vec<String> = before
                .iter()
                .filter(|(path, number)| now.get(*path) != Some(number))
                .map(|(path, number)| format!("{}: {number:?} then {:?}", path.escape_ascii(), now.get(path)))
                .collect();
            assert_eq!(changed, Vec::<String>::new(), "{what}");
            assert_eq!(check_listing(fixture.root()), Vec::<String>::new(), "{what}: d_ino and st_ino");
        }
    }

    /// O_TMPFILE and linkat: in a lower directory, over a whiteout, and the refusal of a taken name.
    fn an_unnamed_file_in_a_lower_directory(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "d/taken", "taken");
            put(lower, "d/gone", "gone");
        });
        std::fs::remove_file(fixture.at("d/gone")).unwrap();
        let file = match posix::open(&fixture.at("d"), libc::O_TMPFILE | libc::O_RDWR, 0o640) {
            Ok(file) => file,
            Err(error) if posix::errno(&error) == libc::EOPNOTSUPP => {
                return skip(Tier::Feature, "no O_TMPFILE here");
            }
            Err(error) => panic!("O_TMPFILE: {error}"),
        };
        file.write_all_at(b"content", 0).unwrap();
        let link = |name: &str| {
            let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
            let linked = rustix::fs::linkat(CWD, &descriptor, CWD, fixture.at(name), AtFlags::SYMLINK_FOLLOW);
            linked.map_err(std::io::Error::from)
        };
        assert_errno(link("d/taken"), libc::EEXIST, "a taken name");
        assert_eq!(listed(&fixture.at("d")), ["taken"]);
        link("d/gone").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        drop(file);
        fixture.remount();
        assert_eq!(text(&fixture.at("d/gone")), "content");
        assert_eq!(listed(&fixture.at("d")), ["gone", "taken"]);
    }

    /// Whiteouts and opaque directories of four layers in each other's way.
    fn marks_in_each_others_way(backend) {
        let mut fixture = Fixture::with_layers(backend, 4, |layers| {
            for name in ["opaque-over-whiteout", "whiteout-over-opaque", "twice-opaque", "file-between", "merged"] {
                put(&layers[3], &format!("{name}/bottom"), "3");
            }
            put_whiteout(&layers[2], "opaque-over-whiteout");
            put_opaque(&layers[1], "opaque-over-whiteout");
            put(&layers[1], "opaque-over-whiteout/one", "1");
            put(&layers[0], "opaque-over-whiteout/top", "0");

            put_opaque(&layers[2], "whiteout-over-opaque");
            put(&layers[2], "whiteout-over-opaque/two", "2");
            put_whiteout(&layers[1], "whiteout-over-opaque");
            put(&layers[0], "whiteout-over-opaque/top", "0");

            put_opaque(&layers[2], "twice-opaque");
            put(&layers[2], "twice-opaque/two", "2");
            put_opaque(&layers[0], "twice-opaque");

            put(&layers[2], "file-between", "a file");
            put_dir(&layers[1], "file-between");
            put(&layers[0], "file-between/top", "0");

            put(&layers[2], "merged/two", "2");
            put_whiteout(&layers[1], "merged/two");
            put_whiteout(&layers[1], "merged/bottom");
            put(&layers[0], "merged/two", "again");
        });
        let expected = [
            ("opaque-over-whiteout", vec!["one", "top"]),
            ("whiteout-over-opaque", vec!["top"]),
            ("twice-opaque", vec![]),
            ("file-between", vec!["top"]),
            ("merged", vec!["two"]),
        ];
        for _ in 0..2 {
            for (name, names) in &expected {
                assert_eq!(&listed(&fixture.at(name)), names, "{name}");
                assert_errno(fixture.at(name).join("bottom").symlink_metadata(), libc::ENOENT, name);
            }
            assert_eq!(text(&fixture.at("merged/two")), "again");
            fixture.remount();
        }
        // All of it gone, and made again: nothing comes back.
        for (name, _) in &expected {
            std::fs::remove_dir_all(fixture.at(name)).unwrap();
            posix::mkdir(&fixture.at(name), 0o755).unwrap();
        }
        for _ in 0..2 {
            for (name, _) in &expected {
                assert_eq!(listed(&fixture.at(name)), Vec::<String>::new(), "{name}");
            }
            fixture.remount();
        }
    }

    /// Names of 255 bytes and names that are no text: found, exchanged, linked, whiteouted, in each layer.
    fn odd_names_are_like_others(backend) {
        let odd: [&[u8]; 5] = [&[b'n'; 255], &[0xff; 255], b"\xff\xfe\x80", b"new\nline\x01", "\u{e4}".as_bytes()];
        let mut fixture = Fixture::with_layers(backend, 2, |layers| {
            for name in odd {
                let name = OsStr::from_bytes(name);
                for layer in layers {
                    std::fs::create_dir(layer.join(name)).unwrap();
                }
                std::fs::write(layers[1].join(name).join(name), "low").unwrap();
                std::fs::write(layers[1].join(name).join("gone"), "low").unwrap();
                posix::whiteout(&layers[0].join(name).join("gone")).unwrap();
            }
        });
        for name in odd {
            let name = OsStr::from_bytes(name);
            let file = fixture.root().join(name).join(name);
            append(&file, b" and high").unwrap();
            posix::link(&file, &fixture.at("linked")).unwrap();
            std::fs::write(fixture.at("new"), "new").unwrap();
            posix::rename(&fixture.at("new"), &file, RenameFlags::EXCHANGE).unwrap();
            fixture.remount();
            assert_eq!((text(&file), text(&fixture.at("new"))), ("new".into(), "low and high".into()));
            assert_eq!(nlink(&fixture, "linked"), 2);
            assert_eq!(posix::names(file.parent().unwrap()).unwrap(), [name.as_bytes()]);
            std::fs::remove_file(&file).unwrap();
            std::fs::remove_file(fixture.at("linked")).unwrap();
            std::fs::remove_file(fixture.at("new")).unwrap();
            std::fs::remove_dir(file.parent().unwrap()).unwrap();
        }
        fixture.remount();
        assert!(listed(fixture.root()).is_empty());
    }
}

/// Counts of a lower file of which a layer above hides a name. The kernel's overlayfs counts the hidden name; so does
/// Shale, until the file is copied up: then the names are counted that can be seen.
#[test]
fn hidden_names_are_counted_until_copy_up() {
    for backend in [
        Backend::Kernel,
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
    ] {
        if !backend.is_available_or_skip() {
            continue;
        }
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            put(&layers[1], "a", "x");
            posix::link(&layers[1].join("a"), &layers[1].join("b")).unwrap();
            posix::link(&layers[1].join("a"), &layers[1].join("hidden")).unwrap();
            put_whiteout(&layers[0], "hidden");
        });
        // An image's index is made of what can be seen.
        let expected = if backend == Backend::ShaleImage { 2 } else { 3 };
        assert_eq!(nlink(&fixture, "a"), expected, "{backend:?}");
        append(&fixture.at("a"), b"y").unwrap();
        assert_eq!(text(&fixture.at("b")), "xy", "{backend:?}");
        let expected = if backend.is_kernel() { 3 } else { 2 };
        assert_eq!(
            (nlink(&fixture, "a"), nlink(&fixture, "b")),
            (expected, expected),
            "{backend:?}"
        );
    }
}
