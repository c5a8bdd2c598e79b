use super::*;
use std::fs as stdfs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for part in ["upper", "lower"] {
            stdfs::create_dir(tree.dir.path().join(part)).unwrap();
        }
        tree
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.dir.path().join(path);
        stdfs::create_dir_all(path.parent().unwrap()).unwrap();
        stdfs::write(path, content).unwrap();
    }

    /// Makes `to` the copy that a copy-up makes of `from`.
    fn copy_up(&self, from: &str, to: &str) {
        let (from, to) = (self.dir.path().join(from), self.dir.path().join(to));
        let meta = stdfs::metadata(&from).unwrap();
        if meta.is_dir() {
            stdfs::create_dir_all(&to).unwrap();
        } else {
            stdfs::copy(&from, &to).unwrap();
        }
        let times = stdfs::FileTimes::new().set_modified(meta.modified().unwrap());
        stdfs::File::open(&to).unwrap().set_times(times).unwrap();
    }

    fn whiteout(&self, path: &str) {
        let path = self.dir.path().join(path);
        stdfs::create_dir_all(path.parent().unwrap()).unwrap();
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), 0).unwrap();
    }

    fn opaque(&self, path: &str) {
        let path = self.dir.path().join(path);
        stdfs::create_dir_all(&path).unwrap();
        let name = upper::marks_of_readers(false).name("opaque");
        rustix::fs::setxattr(path, name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    }

    fn changes(&self) -> Vec<String> {
        let path = |part| self.dir.path().join(part);
        let snapshot = Snapshot::open(&path("upper"), &[path("lower").into()]).unwrap();
        let told = snapshot.changes().unwrap();
        told.iter()
            .map(|change| {
                let letter = match change.kind {
                    ChangeKind::Added => "A",
                    ChangeKind::Modified => "C",
                    ChangeKind::Deleted => "D",
                };
                format!("{letter} {}", change.path.display())
            })
            .collect()
    }
}

#[test]
fn new_files_and_directories_are_added() {
    let tree = Tree::new();
    tree.write("upper/new/file", "x");
    tree.write("upper/a.txt", "x");
    symlink("target", tree.dir.path().join("upper/link")).unwrap();
    assert_eq!(tree.changes(), ["A a.txt", "A link", "A new", "A new/file"]);
}

#[test]
fn a_copy_up_alone_is_no_change() {
    let tree = Tree::new();
    tree.write("lower/dir/file", "same");
    tree.copy_up("lower/dir", "upper/dir");
    tree.copy_up("lower/dir/file", "upper/dir/file");
    tree.copy_up("lower/dir", "upper/dir");
    assert_eq!(tree.changes(), Vec::<String>::new());
}

#[test]
fn changed_content_with_old_times_is_found() {
    let tree = Tree::new();
    tree.write("lower/file", "same");
    tree.copy_up("lower/file", "upper/file");
    let path = tree.dir.path().join("upper/file");
    let modified = stdfs::metadata(&path).unwrap().modified().unwrap();
    stdfs::write(&path, "sane").unwrap();
    stdfs::File::open(&path)
        .unwrap()
        .set_times(stdfs::FileTimes::new().set_modified(modified))
        .unwrap();
    assert_eq!(tree.changes(), ["C file"]);
}

#[test]
fn a_changed_mode_is_told_with_the_directories_above() {
    let tree = Tree::new();
    tree.write("lower/dir/file", "same");
    tree.copy_up("lower/dir", "upper/dir");
    tree.copy_up("lower/dir/file", "upper/dir/file");
    tree.copy_up("lower/dir", "upper/dir");
    let path = tree.dir.path().join("upper/dir/file");
    stdfs::set_permissions(&path, stdfs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(tree.changes(), ["C dir", "C dir/file"]);
    let snapshot = Snapshot::open(
        &tree.dir.path().join("upper"),
        &[tree.dir.path().join("lower").into()],
    )
    .unwrap();
    let told = snapshot.changes().unwrap();
    assert!(!told[0].self_changed, "only the file changed");
    assert!(told[1].self_changed);
    let mut content = String::new();
    snapshot
        .open_content(&told[1])
        .unwrap()
        .into_reader()
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(content, "same");
}

#[test]
fn whiteouts_delete_only_what_is_there() {
    let tree = Tree::new();
    tree.write("lower/dir/gone", "x");
    tree.write("lower/dir/stays", "x");
    tree.copy_up("lower/dir", "upper/dir");
    tree.whiteout("upper/dir/gone");
    tree.whiteout("upper/dir/never-there");
    tree.copy_up("lower/dir", "upper/dir");
    assert_eq!(tree.changes(), ["C dir", "D dir/gone"]);
}

#[test]
fn an_opaque_directory_is_compared_name_by_name() {
    let tree = Tree::new();
    tree.write("lower/dir/gone", "x");
    tree.write("lower/dir/changed", "x");
    tree.opaque("upper/dir");
    tree.write("upper/dir/changed", "y");
    tree.write("upper/dir/new", "y");
    assert_eq!(
        tree.changes(),
        ["C dir", "C dir/changed", "D dir/gone", "A dir/new"]
    );
}

#[test]
fn a_directory_in_place_of_a_file_and_the_other_way_round() {
    let tree = Tree::new();
    tree.write("lower/was-file", "x");
    tree.write("lower/was-dir/inner", "x");
    tree.write("upper/was-file/inner", "x");
    tree.write("upper/was-dir", "x");
    assert_eq!(tree.changes(), ["C was-dir", "C was-file", "A was-file/inner"]);
}

#[test]
fn a_stack_alone_is_all_added() {
    let tree = Tree::new();
    tree.write("upper/a", "x");
    tree.write("lower/a", "below");
    tree.write("lower/b/c", "x");
    let path = |part| tree.dir.path().join(part);
    let told = Snapshot::merged(&[path("upper").into(), path("lower").into()])
        .unwrap()
        .changes()
        .unwrap();
    let paths: Vec<_> = told
        .iter()
        .map(|change| change.path.display().to_string())
        .collect();
    assert_eq!(paths, ["a", "b", "b/c"]);
    assert!(told.iter().all(|change| change.kind == ChangeKind::Added));
}

#[test]
fn names_of_the_tars_form_are_names_in_an_upper_and_markers_in_a_layer() {
    let tree = Tree::new();
    tree.write("lower/file", "x");
    tree.write("upper/.wh.file", "");
    assert_eq!(tree.changes(), ["A .wh.file"]);
    let path = |part| tree.dir.path().join(part);
    let told = Snapshot::merged(&[path("upper").into(), path("lower").into()])
        .unwrap()
        .changes()
        .unwrap();
    assert!(told.is_empty(), "{told:?}");
}

/// fuse-overlayfs leaves an empty file in directories that it makes opaque; the user's own of that name are told.
#[test]
fn the_note_that_a_directory_is_opaque_is_not_told() {
    let tree = Tree::new();
    let note = |path: &str, mode| {
        tree.write(path, "");
        let permissions = stdfs::Permissions::from_mode(mode);
        stdfs::set_permissions(tree.dir.path().join(path), permissions).unwrap();
    };
    tree.write("lower/opaque/gone", "x");
    tree.opaque("upper/opaque");
    note("upper/opaque/.wh..wh..opq", 0o700);
    tree.opaque("upper/new");
    note("upper/new/.wh..wh..opq", 0o700);
    note("upper/merged/.wh..wh..opq", 0o700);
    tree.opaque("upper/users");
    note("upper/users/.wh..wh..opq", 0o644);
    assert_eq!(
        tree.changes(),
        [
            "A merged",
            "A merged/.wh..wh..opq",
            "A new",
            "C opaque",
            "D opaque/gone",
            "A users",
            "A users/.wh..wh..opq",
        ]
    );
}
