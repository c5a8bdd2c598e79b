//! What is done beside that which is held.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::XattrFlags;
use shale_tests::fixture::{listed, put, text};
use shale_tests::posix;

use crate::stand::{
    BYTES, LARGE_BYTES, OF_FAST, OF_SLOW, assert_longer, assert_original, assert_same, content, length_of,
};

/// What others do meanwhile, and that it does what it should.
pub(crate) type Act = fn(&Path);

/// In this order, each by a thread of its own.
pub(crate) const BESIDE: [(&str, Act); 23] = [
    ("stat of a file of the slow layer", |root| {
        assert_eq!(root.join("d/looked-at").metadata().unwrap().len(), BYTES as u64);
    }),
    ("stat of the held file", |root| {
        assert!(root.join("d/held").metadata().unwrap().len() >= LARGE_BYTES as u64);
    }),
    ("lookup of names that are not there", |root| {
        for name in ["d/none", "d/nothing", "d/sub/none"] {
            posix::assert_errno(root.join(name).symlink_metadata(), libc::ENOENT, name);
        }
    }),
    ("listing of the directory", |root| {
        let names = |paths: &[&str]| {
            paths
                .iter()
                .filter_map(|path| path.strip_prefix("d/")?.split('/').next().map(String::from))
                .collect::<Vec<_>>()
        };
        let mut expected = [names(&OF_SLOW), names(&OF_FAST), vec!["held".into()]].concat();
        expected.sort();
        assert_eq!(listed(&root.join("d")), expected);
        // With the attributes of each name.
        for entry in std::fs::read_dir(root.join("d")).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    }),
    ("statfs", |root| {
        assert!(rustix::fs::statfs(root.join("d")).unwrap().f_blocks > 0);
    }),
    ("create, write, sync", |root| {
        let file = File::create(root.join("d/new")).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(text(&root.join("d/new")), "new");
    }),
    ("rename of the new file", |root| {
        std::fs::rename(root.join("d/new"), root.join("d/newer")).unwrap();
        posix::assert_errno(
            root.join("d/new").symlink_metadata(),
            libc::ENOENT,
            "the old name",
        );
    }),
    ("unlink of the new file", |root| {
        std::fs::remove_file(root.join("d/newer")).unwrap();
        posix::assert_errno(
            root.join("d/newer").symlink_metadata(),
            libc::ENOENT,
            "the removed name",
        );
    }),
    ("unlink of a file of each layer", |root| {
        for name in ["d/fast-removed", "d/removed"] {
            std::fs::remove_file(root.join(name)).unwrap();
            posix::assert_errno(root.join(name).symlink_metadata(), libc::ENOENT, name);
        }
    }),
    ("chmod of a file", |root| {
        posix::chmod(&root.join("d/fast-chmod"), 0o600).unwrap();
        assert_eq!(
            root.join("d/fast-chmod").metadata().unwrap().mode() & 0o7777,
            0o600
        );
    }),
    ("chmod of the directory", |root| {
        posix::chmod(&root.join("d"), 0o711).unwrap();
        assert_eq!(root.join("d").metadata().unwrap().mode() & 0o7777, 0o711);
    }),
    ("attributes of a file of the slow layer", |root| {
        posix::set_xattr(&root.join("d/marked"), "user.note", b"here", XattrFlags::empty()).unwrap();
        assert_eq!(
            posix::get_xattr(&root.join("d/marked"), "user.note").unwrap(),
            b"here"
        );
        assert_eq!(posix::list_xattrs(&root.join("d/marked")).unwrap(), ["user.note"]);
    }),
    ("attributes of the directory", |root| {
        posix::set_xattr(&root.join("d"), "user.note", b"here", XattrFlags::empty()).unwrap();
        assert_eq!(posix::get_xattr(&root.join("d"), "user.note").unwrap(), b"here");
    }),
    ("attributes of the held file", |root| {
        posix::assert_errno(
            posix::get_xattr(&root.join("d/held"), "user.none"),
            libc::ENODATA,
            "none",
        );
    }),
    ("copy-up of a fast file", |root| {
        posix::append(&root.join("d/fast-written"), b"more").unwrap();
        assert_longer(root, "d/fast-written", b"more");
    }),
    ("copy-up of another file of the slow layer", |root| {
        posix::append(&root.join("d/written"), b"more").unwrap();
        assert_longer(root, "d/written", b"more");
    }),
    ("truncate of another file of the slow layer", |root| {
        posix::truncate(&root.join("d/cut"), 5).unwrap();
        assert_same(
            &std::fs::read(root.join("d/cut")).unwrap(),
            &content("d/cut", 5),
            "d/cut",
        );
    }),
    ("read of other files of the slow layer", |root| {
        for path in ["d/read", "d/tiny", "d/sub/inner"] {
            assert_original(root, path);
        }
    }),
    ("mkdir and rmdir", |root| {
        posix::mkdir(&root.join("d/made"), 0o755).unwrap();
        put(root, "d/made/inner", "inner");
        std::fs::remove_file(root.join("d/made/inner")).unwrap();
        std::fs::remove_dir(root.join("d/made")).unwrap();
    }),
    ("rename of files of both layers", |root| {
        for (from, to) in [("d/renamed", "d/was-renamed"), ("d/fast-renamed", "elsewhere")] {
            std::fs::rename(root.join(from), root.join(to)).unwrap();
            assert_same(&std::fs::read(root.join(to)).unwrap(), &content(from, BYTES), to);
        }
    }),
    ("link and symlink", |root| {
        posix::link(&root.join("d/fast-linked"), &root.join("d/link")).unwrap();
        assert_eq!(root.join("d/fast-linked").metadata().unwrap().nlink(), 2);
        posix::symlink("tiny".as_ref(), &root.join("d/symlink")).unwrap();
        assert_original_under(root, "d/symlink", "d/tiny");
    }),
    ("rename of directories", |root| {
        for (from, to) in [("d/sub", "d/sub-renamed"), ("d/fast-sub", "sub-elsewhere")] {
            std::fs::rename(root.join(from), root.join(to)).unwrap();
        }
        assert_original_under(root, "d/sub-renamed/inner", "d/sub/inner");
    }),
    ("stat of the held file, once more", |root| {
        let held = root.join("d/held");
        assert!(File::open(&held).unwrap().metadata().unwrap().len() >= LARGE_BYTES as u64);
    }),
];

#[track_caller]
pub(crate) fn assert_original_under(root: &Path, path: &str, origin: &str) {
    assert_same(
        &std::fs::read(root.join(path)).unwrap(),
        &content(origin, length_of(origin)),
        path,
    );
}

/// What `d` holds after all of it.
pub(crate) const LEFT: [&str; 14] = [
    "cut",
    "fast-chmod",
    "fast-linked",
    "fast-written",
    "held",
    "link",
    "looked-at",
    "marked",
    "read",
    "sub-renamed",
    "symlink",
    "tiny",
    "was-renamed",
    "written",
];
