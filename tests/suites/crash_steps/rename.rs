//! Renames of files and of directories, onto everything that can be there.

use crate::{nothing, scenarios};
use rustix::fs::RenameFlags;
use shale_tests::posix;
use std::io;
use std::path::Path;

fn mv(root: &Path, from: &str, to: &str) -> io::Result<()> {
    posix::rename(&root.join(from), &root.join(to), RenameFlags::empty())
}

fn exchange(root: &Path, one: &str, other: &str) -> io::Result<()> {
    posix::rename(&root.join(one), &root.join(other), RenameFlags::EXCHANGE)
}

/// Empties a merged directory: its whiteouts stay in the upper.
fn emptied(root: &Path) {
    std::fs::remove_file(root.join("merged/above")).unwrap();
    std::fs::remove_file(root.join("merged/below")).unwrap();
    let none = rustix::fs::XattrFlags::empty();
    posix::set_xattr(&root.join("merged"), "user.mine", b"kept", none).unwrap();
    posix::chmod(&root.join("merged"), 0o1731).unwrap();
    posix::set_times(&root.join("merged"), 1_100_000_000, 3).unwrap();
}

fn new_directory(root: &Path) {
    posix::mkdir(&root.join("new"), 0o700).unwrap();
    std::fs::write(root.join("new/inside"), "inside").unwrap();
}

scenarios! {
    file_to_a_free_name on Directories: nothing => [
        |root| mv(root, "d/file", "d/renamed"),
        |root| mv(root, "d/renamed", "other/again"),
    ];
    file_without_replacing on Directories: nothing => [
        |root| posix::rename(&root.join("d/small"), &root.join("other/free"), RenameFlags::NOREPLACE),
    ];
    file_over_a_lower_file on Directories: nothing => [
        |root| mv(root, "d/file", "other/name"),
    ];
    file_over_one_of_two_names on Directories: nothing => [
        |root| mv(root, "d/small", "d/two"),
    ];
    file_over_a_whiteout on Directories: |root| {
        std::fs::remove_file(root.join("other/name")).unwrap();
    } => [
        |root| mv(root, "d/small", "other/name"),
    ];
    new_file_over_a_lower_file on Directories: |root| {
        std::fs::write(root.join("d/.tmp"), "new content").unwrap();
    } => [
        |root| mv(root, "d/.tmp", "d/file"),
    ];
    replaced_by_a_written_file on Directories: nothing => [
        |root| std::fs::File::create_new(root.join("d/.tmp")).map(drop),
        |root| posix::append(&root.join("d/.tmp"), b"new content"),
        |root| mv(root, "d/.tmp", "d/file"),
    ];
    linked_file on Directories: nothing => [
        |root| mv(root, "d/one", "other/one"),
    ];
    special_files on Directories: nothing => [
        |root| mv(root, "d/symlink", "other/symlink"),
        |root| mv(root, "d/null", "other/null"),
    ];
    directory_of_a_layer on Directories: nothing => [
        |root| mv(root, "d/sub", "renamed"),
        |root| mv(root, "renamed/deep", "other/deep"),
        |root| mv(root, "renamed", "d/sub"),
    ];
    merged_directory on Directories: nothing => [
        |root| mv(root, "merged", "other/moved"),
        |root| posix::append(&root.join("other/moved/below"), b"after the move"),
    ];
    directory_within_a_moved_one on Directories: |root| {
        mv(root, "d", "moved").unwrap();
    } => [
        |root| mv(root, "moved/sub", "sub"),
        |root| mv(root, "moved", "d"),
    ];
    directory_over_a_whiteout on Directories: |root| {
        std::fs::remove_dir(root.join("emptydir")).unwrap();
    } => [
        |root| mv(root, "d/sub", "emptydir"),
    ];
    new_directory_over_a_whiteout on Directories: |root| {
        new_directory(root);
        std::fs::remove_dir(root.join("emptydir")).unwrap();
    } => [
        |root| mv(root, "new", "emptydir"),
    ];
    from_a_new_directory_over_a_whiteout on Directories: |root| {
        new_directory(root);
        posix::mkdir(&root.join("new/dir"), 0o755).unwrap();
        std::fs::remove_dir(root.join("emptydir")).unwrap();
    } => [
        |root| mv(root, "new/dir", "emptydir"),
    ];
    new_directory_where_a_layer_has_a_whiteout on Directories: new_directory => [
        |root| mv(root, "new", "gonedir"),
    ];
    directory_onto_an_empty_lower_one on Directories: nothing => [
        |root| mv(root, "d/sub", "emptydir"),
    ];
    directory_onto_an_emptied_one on Directories: emptied => [
        |root| mv(root, "d/sub", "merged"),
    ];
    new_directory_onto_an_emptied_one on Directories: |root| {
        new_directory(root);
        emptied(root);
    } => [
        |root| mv(root, "new", "merged"),
    ];
    new_directory_onto_an_empty_lower_one on Directories: new_directory => [
        |root| mv(root, "new", "emptydir"),
    ];
    exchange_files on Directories: nothing => [
        |root| exchange(root, "d/file", "other/name"),
    ];
    exchange_file_and_directory on Directories: nothing => [
        |root| exchange(root, "d/file", "merged"),
    ];
    exchange_directories on Directories: nothing => [
        |root| exchange(root, "d/sub", "merged"),
    ];
    exchange_with_a_new_directory on Directories: new_directory => [
        |root| exchange(root, "new", "merged"),
    ];
    exchange_with_an_opaque_directory on Directories: nothing => [
        |root| exchange(root, "opaque", "merged"),
    ];
}
