//! Listings of directories, through the operations of the file system, without the kernel.

use std::ffi::OsStr;

use ufs::fs::{Fs, NewNode, Owner, ROOT};
use ufs::idmap::IdMap;
use ufs::{Layout, Lower, UpperOptions};

const OWNER: Owner = Owner {
    uid: 0,
    gid: 0,
    mode: 0o644,
    umask: 0,
};

/// The names but for the dots, as somebody gets them who begins and gives every node back.
fn names(fs: &Fs, dir: u64) -> Vec<String> {
    let mut names = Vec::new();
    let mut position = 0;
    loop {
        let before = position;
        fs.read_dir(dir, before, |name, next, _, _| {
            names.push(name.to_str().unwrap().to_owned());
            position = next;
            true
        })
        .unwrap();
        if position == before {
            names.retain(|name| name != "." && name != "..");
            names.sort();
            return names;
        }
    }
}

#[test]
fn a_directory_that_was_forgotten_is_listed_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["lower", "lower/d", "upper", "work"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::write(path("lower/d/below"), "").unwrap();
    let layout = Layout {
        lowers: vec![Lower::Directory(path("lower"))],
        upper: Some((path("upper"), path("work"))),
        options: UpperOptions::default(),
        ..Layout::default()
    };
    let fs = Fs::open(&layout, IdMap::default()).unwrap();
    let find = |name: &str, dir| fs.lookup(dir, OsStr::new(name)).unwrap().node;

    let dir = find("d", ROOT);
    assert_eq!(names(&fs, dir), ["below"]);
    let (made, _) = fs.make(dir, OsStr::new("above"), NewNode::File, OWNER).unwrap();
    fs.forget(made.node, 1);
    fs.forget(dir, 1);
    let dir = find("d", ROOT);
    assert_eq!(names(&fs, dir), ["above", "below"]);

    // Made again under the number that it had.
    fs.unlink(dir, OsStr::new("above")).unwrap();
    assert_eq!(names(&fs, dir), ["below"]);
}
