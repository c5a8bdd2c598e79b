//! Taking names away.

use crate::{nothing, scenarios};
use shale_tests::posix;

scenarios! {
    unlink_of_a_lower_file on Directories: nothing => [
        |root| std::fs::remove_file(root.join("d/small")),
    ];
    unlink_in_a_deep_directory on Directories: nothing => [
        |root| std::fs::remove_file(root.join("d/sub/deep/y")),
    ];
    unlink_of_a_copy on Directories: |root| {
        posix::append(&root.join("d/small"), b"copied").unwrap();
    } => [
        |root| std::fs::remove_file(root.join("d/small")),
    ];
    unlink_of_a_new_file on Directories: |root| {
        std::fs::write(root.join("d/new"), "new").unwrap();
    } => [
        |root| std::fs::remove_file(root.join("d/new")),
    ];
    unlink_of_one_of_two_names on Directories: nothing => [
        |root| std::fs::remove_file(root.join("d/one")),
    ];
    unlink_of_special_files on Directories: nothing => [
        |root| std::fs::remove_file(root.join("d/null")),
        |root| std::fs::remove_file(root.join("d/fifo")),
        |root| std::fs::remove_file(root.join("d/symlink")),
    ];
    rmdir_of_a_lower_directory on Directories: nothing => [
        |root| std::fs::remove_dir(root.join("emptydir")),
    ];
    rmdir_of_an_emptied_directory on Directories: |root| {
        std::fs::remove_file(root.join("merged/above")).unwrap();
        std::fs::remove_file(root.join("merged/below")).unwrap();
    } => [
        |root| std::fs::remove_dir(root.join("merged")),
    ];
    rmdir_of_an_opaque_directory on Directories: |root| {
        std::fs::remove_file(root.join("opaque/seen")).unwrap();
    } => [
        |root| std::fs::remove_dir(root.join("opaque")),
    ];
    rmdir_of_a_new_directory on Directories: |root| {
        posix::mkdir(&root.join("d/new"), 0o755).unwrap();
    } => [
        |root| std::fs::remove_dir(root.join("d/new")),
    ];
    rmdir_of_a_moved_and_emptied_directory on Directories: |root| {
        std::fs::rename(root.join("merged"), root.join("moved")).unwrap();
        std::fs::remove_file(root.join("moved/above")).unwrap();
        std::fs::remove_file(root.join("moved/below")).unwrap();
    } => [
        |root| std::fs::remove_dir(root.join("moved")),
    ];
    remove_a_tree on Directories: nothing => [
        |root| std::fs::remove_file(root.join("d/sub/deep/y")),
        |root| std::fs::remove_dir(root.join("d/sub/deep")),
        |root| std::fs::remove_file(root.join("d/sub/x")),
        |root| std::fs::remove_dir(root.join("d/sub")),
    ];
}
