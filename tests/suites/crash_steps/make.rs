//! New names: files, directories, links.

use crate::{nothing, scenarios};
use rustix::fs::{AtFlags, CWD};
use shale_tests::posix;
use shale_tests::skip::{Tier, skip};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

const NONE: rustix::fs::XattrFlags = rustix::fs::XattrFlags::empty();

/// A default ACL: `user::rwx user:1000:rwx group::r-x mask::rwx other::---` (acl(5), linux/posix_acl_xattr.h).
const DEFAULT_ACL: &[u8] = b"\x02\0\0\0\
    \x01\0\x07\0\xff\xff\xff\xff\
    \x02\0\x07\0\xe8\x03\0\0\
    \x04\0\x05\0\xff\xff\xff\xff\
    \x10\0\x07\0\xff\xff\xff\xff\
    \x20\0\0\0\xff\xff\xff\xff";

fn with_default_acl(root: &Path) {
    posix::set_xattr(&root.join("other"), "system.posix_acl_default", DEFAULT_ACL, NONE).unwrap();
}

/// A file without a name that gets one. Where there are no files without names, one with a name is moved.
fn from_nameless(root: &Path, to: &str) -> io::Result<()> {
    use std::io::Write;
    let dir = root.join("d");
    match posix::open(&dir, libc::O_TMPFILE | libc::O_RDWR, 0o644) {
        Ok(mut file) => {
            file.write_all(b"from nowhere")?;
            let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            Ok(rustix::fs::linkat(
                CWD,
                name,
                CWD,
                root.join(to),
                AtFlags::SYMLINK_FOLLOW,
            )?)
        }
        Err(error) if posix::errno(&error) == libc::EOPNOTSUPP => {
            skip(Tier::Feature, "no files without names here");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

scenarios! {
    create on Directories: nothing => [
        |root| File::create_new(root.join("d/sub/new")).map(drop),
        |root| posix::append(&root.join("d/sub/new"), b"new"),
    ];
    create_over_a_whiteout on Directories: |root| {
        std::fs::remove_file(root.join("d/small")).unwrap();
    } => [
        |root| File::create_new(root.join("d/small")).map(drop),
    ];
    create_where_a_layer_has_a_whiteout on Directories: nothing => [
        |root| File::create_new(root.join("gone")).map(drop),
        |root| posix::mkdir(&root.join("gonedir"), 0o755),
    ];
    create_in_a_directory_of_a_group on Directories: nothing => [
        |root| File::create_new(root.join("setgid/new")).map(drop),
        |root| posix::mkdir(&root.join("setgid/newdir"), 0o755),
    ];
    create_with_an_inherited_acl on Directories: with_default_acl => [
        |root| File::create_new(root.join("other/new")).map(drop),
        |root| posix::mkdir(&root.join("other/newdir"), 0o755),
    ];
    mkdir on Directories: nothing => [
        |root| posix::mkdir(&root.join("d/sub/new"), 0o1751),
    ];
    mkdir_over_a_whiteout on Directories: |root| {
        std::fs::remove_dir_all(root.join("d/sub")).unwrap();
        std::fs::remove_file(root.join("d/small")).unwrap();
    } => [
        |root| posix::mkdir(&root.join("d/sub"), 0o755),
        |root| posix::mkdir(&root.join("d/small"), 0o755),
    ];
    special_over_a_whiteout on Directories: |root| {
        std::fs::remove_file(root.join("d/small")).unwrap();
        std::fs::remove_file(root.join("d/file")).unwrap();
        std::fs::remove_file(root.join("d/fifo")).unwrap();
    } => [
        |root| posix::symlink(OsStr::new("target"), &root.join("d/small")),
        |root| posix::mkfifo(&root.join("d/file")),
        |root| posix::mknod_char(&root.join("d/fifo"), 1, 5),
    ];
    special on Directories: nothing => [
        |root| posix::symlink(OsStr::new("target"), &root.join("d/new1")),
        |root| posix::mkfifo(&root.join("d/new2")),
        |root| posix::mknod_char(&root.join("d/new3"), 1, 5),
    ];
    link_of_a_lower_file on Directories: nothing => [
        |root| posix::link(&root.join("d/small"), &root.join("other/linked")),
    ];
    link_over_a_whiteout on Directories: |root| {
        std::fs::remove_file(root.join("other/name")).unwrap();
    } => [
        |root| posix::link(&root.join("d/file"), &root.join("other/name")),
    ];
    link_of_a_linked_file on Directories: nothing => [
        |root| posix::link(&root.join("d/one"), &root.join("other/three")),
    ];
    link_of_a_new_file on Directories: |root| {
        std::fs::write(root.join("new"), "new").unwrap();
        std::fs::remove_file(root.join("d/small")).unwrap();
    } => [
        |root| posix::link(&root.join("new"), &root.join("d/linked")),
        |root| posix::link(&root.join("new"), &root.join("d/small")),
    ];
    nameless_file_is_linked on Directories: nothing => [
        |root| from_nameless(root, "d/from nowhere"),
    ];
    nameless_file_is_linked_over_a_whiteout on Directories: |root| {
        std::fs::remove_file(root.join("d/small")).unwrap();
    } => [
        |root| from_nameless(root, "d/small"),
    ];
}
