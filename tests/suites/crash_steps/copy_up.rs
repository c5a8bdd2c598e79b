//! Bringing what is below into the upper, by every kind of change.

use crate::{nothing, scenarios};
use shale_tests::posix;
use std::fs::File;
use std::path::Path;

const NONE: rustix::fs::XattrFlags = rustix::fs::XattrFlags::empty();

/// Makes a metadata-only copy.
fn metadata_only(root: &Path) {
    posix::chmod(&root.join("d/file"), 0o604).unwrap();
    posix::set_times(&root.join("d/file"), 1_100_000_000, 7).unwrap();
}

scenarios! {
    append_to_a_file on DirectoriesAndImage: nothing => [
        |root| posix::append(&root.join("d/file"), b"more"),
    ];
    append_in_a_deep_directory on DirectoriesAndImage: nothing => [
        |root| posix::append(&root.join("d/sub/deep/y"), b"more"),
    ];
    append_with_owner_and_attributes on DirectoriesAndImage: nothing => [
        |root| posix::append(&root.join("d/marked"), b"more"),
        |root| posix::write_at(&root.join("d/setuid"), 3, b"G"),
    ];
    open_for_writing_only on Directories: nothing => [
        |root| posix::open(&root.join("d/file"), libc::O_RDWR, 0).map(drop),
    ];
    write_synced on Directories: nothing => [
        |root| {
            let file = posix::open(&root.join("d/file"), libc::O_RDWR, 0)?;
            std::os::unix::fs::FileExt::write_all_at(&file, b"synced", 60_000)?;
            file.sync_all()
        },
    ];
    change_permissions on DirectoriesAndImage: nothing => [
        |root| posix::chmod(&root.join("d/file"), 0o600),
        |root| posix::chmod(&root.join("d/setuid"), 0o4711),
    ];
    change_permissions_of_an_empty_file on Directories: nothing => [
        |root| posix::chmod(&root.join("d/empty"), 0o600),
    ];
    change_owner on Directories: nothing => [
        |root| posix::lchown(&root.join("d/small"), 7, 8),
        |root| posix::lchown(&root.join("d/setuid"), 7, 8),
    ];
    change_times on Directories: nothing => [
        |root| posix::set_times(&root.join("d/small"), 1_200_000_000, 5),
    ];
    set_attributes on Directories: nothing => [
        |root| posix::set_xattr(&root.join("d/marked"), "user.three", b"3", NONE),
        |root| posix::remove_xattr(&root.join("d/marked"), "user.one"),
    ];
    metadata_copy_becomes_whole on DirectoriesAndImage: metadata_only => [
        |root| posix::append(&root.join("d/file"), b"more"),
    ];
    metadata_copy_is_emptied_by_open on DirectoriesAndImage: metadata_only => [
        |root| File::create(root.join("d/file")).map(drop),
    ];
    metadata_copy_is_emptied_by_truncate on Directories: metadata_only => [
        |root| posix::truncate(&root.join("d/file"), 0),
    ];
    metadata_copy_with_links_is_emptied on Directories: |root| {
        posix::chmod(&root.join("d/one"), 0o604).unwrap();
    } => [
        |root| posix::truncate(&root.join("d/two"), 0),
    ];
    truncate_to_nothing on DirectoriesAndImage: nothing => [
        |root| posix::truncate(&root.join("d/file"), 0),
    ];
    truncate_shorter on Directories: nothing => [
        |root| posix::truncate(&root.join("d/file"), 5000),
    ];
    truncate_longer on Directories: nothing => [
        |root| posix::truncate(&root.join("d/small"), 5000),
    ];
    emptied_by_open on DirectoriesAndImage: nothing => [
        |root| File::create(root.join("d/file")).map(drop),
    ];
    overwritten on Directories: nothing => [
        |root| File::create(root.join("d/file")).map(drop),
        |root| posix::append(&root.join("d/file"), b"new"),
    ];
    directory_permissions on DirectoriesAndImage: nothing => [
        |root| posix::chmod(&root.join("d/sub/deep"), 0o750),
    ];
    directory_attribute on Directories: nothing => [
        |root| posix::set_xattr(&root.join("d/sub/deep"), "user.x", b"x", NONE),
    ];
    root_permissions on Directories: nothing => [
        |root| posix::chmod(root, 0o711),
    ];
    hard_links_metadata on DirectoriesAndImage: nothing => [
        |root| posix::chmod(&root.join("d/one"), 0o600),
    ];
    hard_links_content on DirectoriesAndImage: nothing => [
        |root| posix::append(&root.join("d/two"), b"more"),
    ];
    symbolic_link_owner on DirectoriesAndImage: nothing => [
        |root| posix::lchown(&root.join("d/symlink"), 5, 6),
    ];
    special_files on DirectoriesAndImage: nothing => [
        |root| posix::lchown(&root.join("d/null"), 5, 6),
        |root| posix::chmod(&root.join("d/fifo"), 0o600),
    ];
    deleted_while_open on Directories: nothing => [
        |root| {
            let file = File::open(root.join("d/file"))?;
            std::fs::remove_file(root.join("d/file"))?;
            std::os::unix::fs::fchown(&file, Some(3), Some(4))?;
            file.metadata().map(drop)
        },
    ];
    reserve_space on Directories: nothing => [
        |root| {
            let file = posix::open(&root.join("d/small"), libc::O_RDWR, 0)?;
            let mode = rustix::fs::FallocateFlags::empty();
            Ok(rustix::fs::fallocate(&file, mode, 0, 9000)?)
        },
    ];
}
