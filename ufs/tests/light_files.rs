//! Files of indexed layers through the operations of the file system, without the kernel.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ufs::attr::{FileType, Time};
use ufs::error::Error;
use ufs::fs::{Fs, NewNode, Owner, ROOT};
use ufs::idmap::IdMap;
use ufs::index::Index;
use ufs::index::Kind;
use ufs::index::build::{Meta, Tree};
use ufs::index::merge::merge;
use ufs::repository::Repository;
use ufs::{Layout, Lower, UpperOptions};

const OWNER: Owner = Owner {
    uid: 0,
    gid: 0,
    mode: 0o644,
    umask: 0,
};

/// A repository with layers, in a directory that goes with it.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["objects", "chains", "upper", "work"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a layer; its number tells it from others.
    fn layer(&self, number: u8, fill: impl FnOnce(&mut Tree)) -> PathBuf {
        let repository = Repository::at(self.folder.path());
        let layer = [number; 32];
        fs::create_dir_all(repository.layer(&layer)).unwrap();
        let mut tree = Tree::new();
        fill(&mut tree);
        let path = repository.index(&layer);
        let mut file = File::create(&path).unwrap();
        tree.finish().unwrap().write(&layer, &mut file).unwrap();
        path
    }

    /// Merges layers, bottom first.
    fn chain(&self, name: &str, layers: &[&Path]) -> PathBuf {
        let layers: Vec<Index> = layers.iter().map(|layer| Index::open(layer).unwrap()).collect();
        let layers: Vec<&Index> = layers.iter().collect();
        let path = self.path("chains").join(name);
        let merged = merge(&layers, Kind::Chain).unwrap();
        merged.write(&mut File::create(&path).unwrap()).unwrap();
        path
    }

    /// Opens indexes, top first, below an upper or alone.
    fn open(&self, indexes: &[&Path], writable: bool) -> Fs {
        let lower = |path: &&Path| Lower::Index {
            path: path.to_path_buf(),
            repository: self.folder.path().to_path_buf(),
        };
        let layout = Layout {
            lowers: indexes.iter().map(lower).collect(),
            upper: writable.then(|| (self.path("upper"), self.path("work"))),
            options: UpperOptions {
                user_marks: true,
                ..UpperOptions::default()
            },
            ..Layout::default()
        };
        Fs::open(&layout, IdMap::default()).unwrap()
    }
}

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

fn file(tree: &mut Tree, path: &str) {
    tree.file(path.as_bytes(), meta(0o644), 0, None).unwrap();
}

fn lookup(fs: &Fs, dir: u64, name: &str) -> u64 {
    fs.lookup(dir, OsStr::new(name)).unwrap().node
}

fn find(fs: &Fs, path: &str) -> u64 {
    path.split('/').fold(ROOT, |dir, name| lookup(fs, dir, name))
}

fn names(fs: &Fs, dir: u64) -> Vec<String> {
    let listed = fs.list(dir).unwrap();
    let mut names: Vec<String> = listed
        .into_iter()
        .map(|entry| entry.name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_directory_that_was_kept_for_nothing_stays_one() {
    let scratch = Scratch::new();
    let layer = scratch.layer(1, |tree| {
        file(tree, "d/c/x");
        file(tree, "d/y");
    });
    let fs = scratch.open(&[&layer], true);
    let d = lookup(&fs, ROOT, "d");
    let c = lookup(&fs, d, "c");
    // The child's node stays in use, and with it its parent.
    assert_eq!(names(&fs, c), ["x"]);
    assert!(matches!(fs.rmdir(ROOT, OsStr::new("d")), Err(Error::NotEmpty)));
    fs.forget(c, 1);
    fs.forget(d, 1);
    let again = lookup(&fs, ROOT, "d");
    assert_eq!(again, d);
    let c = lookup(&fs, again, "c");
    let make = |dir, name| fs.make(dir, OsStr::new(name), NewNode::File, OWNER);
    make(c, "new").unwrap();
    make(again, "beside").unwrap();
    assert_eq!(names(&fs, c), ["new", "x"]);
    assert_eq!(names(&fs, again), ["beside", "c", "y"]);
}

#[test]
fn nothing_is_kept_of_files_that_are_only_looked_at() {
    let scratch = Scratch::new();
    let layer = scratch.layer(1, |tree| (0..500).for_each(|n| file(tree, &format!("d/{n}"))));
    let fs = scratch.open(&[&layer], true);
    let before = fs.node_count();
    let d = find(&fs, "d");
    let nodes: Vec<u64> = (0..500).map(|n| lookup(&fs, d, &n.to_string())).collect();
    assert!(fs.attr(nodes[7]).is_ok());
    for node in nodes {
        fs.forget(node, 1);
    }
    fs.forget(d, 1);
    assert_eq!(fs.node_count(), before);
}

#[test]
fn hard_links_can_be_read_by_number_where_nothing_changes() {
    let scratch = Scratch::new();
    let layer = scratch.layer(1, |tree| {
        file(tree, "a/f");
        tree.hard_link(b"b/g", b"a/f").unwrap();
    });
    let fs = scratch.open(&[&layer], false);
    let mut listed = Vec::new();
    let b = find(&fs, "b");
    fs.read_dir_plus(b, 0, |name, _, entry| {
        listed.push((name.to_os_string(), entry.node, entry.attr.nlink));
        true
    })
    .unwrap();
    let (_, node, nlink) = listed.last().unwrap();
    assert_eq!(*nlink, 2);
    assert_eq!(fs.attr(*node).unwrap().ino, *node);
    assert!(fs.xattr_names(*node).unwrap().is_empty());
    assert_eq!(find(&fs, "a/f"), *node);
}

#[test]
fn numbers_do_not_depend_on_what_is_merged() {
    let scratch = Scratch::new();
    let layers = [1, 2, 3].map(|number| {
        scratch.layer(number, |tree| {
            file(tree, &format!("d/{number}"));
            file(tree, "d/same");
        })
    });
    let [one, two, three] = &layers;
    let two_of_them = scratch.chain("12", &[one, two]);
    let all = scratch.chain("123", &[one, two, three]);
    let forms: [&[&Path]; 3] = [&[three, two, one], &[three, &two_of_them], &[&all]];
    let seen = forms.map(|form| {
        let fs = scratch.open(form, false);
        ["d/1", "d/2", "d/3", "d/same"].map(|path| find(&fs, path))
    });
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
}

#[test]
fn an_opaque_root_hides_everything_below_merged_or_not() {
    let scratch = Scratch::new();
    let below = scratch.layer(1, |tree| file(tree, "gone"));
    let above = scratch.layer(2, |tree| {
        file(tree, "there");
        tree.opaque(b"").unwrap();
    });
    let merged = scratch.chain("12", &[&below, &above]);
    for form in [&[above.as_path(), &below][..], &[&merged]] {
        assert_eq!(names(&scratch.open(form, false), ROOT), ["there"]);
    }
}

#[test]
fn a_removed_file_stays_removed_for_who_holds_it() {
    let scratch = Scratch::new();
    let layer = scratch.layer(1, |tree| file(tree, "d/f"));
    let fs = scratch.open(&[&layer], true);
    let (d, f) = (find(&fs, "d"), find(&fs, "d/f"));
    fs.unlink(d, OsStr::new("f")).unwrap();
    let attr = fs.attr(f).unwrap();
    assert_eq!((attr.nlink, attr.file_type()), (0, FileType::Regular));
    assert!(names(&fs, d).is_empty());
}
