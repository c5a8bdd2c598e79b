//! Power loss: the file system below the upper lies on a disk that remembers what it was told, and is made again as it
//! was at every flush, with any part of what came after it. Every operation is there whole or not at all, what was
//! synced is there with its data, and a copy-up never shows a file without its content.
//!
//! `SHALE_TESTS_POWER_LOSSES` (1 by default) is the number of random losses after each flush, `SHALE_TESTS_SEED` makes
//! the same ones again.

use rustix::fs::RenameFlags;
use shale_tests::fixture::{put, put_dir};
use shale_tests::mount::Backend;
use shale_tests::posix;
use shale_tests::power::{Act, Below, lose_power};
use shale_tests::skip::{Tier, skip};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn run(backend: Backend, below: Below, acts: &[Act]) {
    if !backend.is_available_or_skip() || !Backend::KernelNoIndex.is_available_or_skip() {
        return;
    }
    if let Some(reason) = below.missing() {
        return skip(Tier::Tool, &reason);
    }
    let losses = lose_power(backend, below, fill, acts);
    let thread = std::thread::current();
    println!("{}: {losses} power losses", thread.name().unwrap_or_default());
}

/// Content in which a block that is missing or of another place shows.
fn content(size_bytes: usize, seed: u8) -> Vec<u8> {
    (0..size_bytes)
        .map(|at| (at / 4096 * 7 + at % 251) as u8 ^ seed | 1)
        .collect()
}

fn fill(layers: &[PathBuf]) {
    let (top, bottom) = (&layers[0], &layers[1]);
    for (index, name) in [
        "file",
        "metadata",
        "replaced",
        "emptied",
        "cut",
        "moved",
        "exchanged",
    ]
    .iter()
    .enumerate()
    {
        put(bottom, &format!("d/{name}"), content(50_000, index as u8));
    }
    put(bottom, "d/one", content(9_000, 9));
    posix::link(&bottom.join("d/one"), &bottom.join("d/two")).unwrap();
    put(bottom, "d/gone", "to be removed");
    put(bottom, "tree/sub/file", "of a tree");
    put(bottom, "merged/below", content(5_000, 11));
    put(top, "merged/above", "above");
    put_dir(bottom, "empty");
}

/// Opens what is there and syncs it, a directory too.
fn fsync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn open_to_write(path: &Path) -> io::Result<File> {
    posix::open(path, libc::O_RDWR, 0)
}

fn mv(root: &Path, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
    posix::rename(&root.join(from), &root.join(to), flags)
}

/// Copy-ups of every depth, each made safe by nobody but the server.
const COPY_UPS: &[Act] = &[
    Act::change(|root| open_to_write(&root.join("d/file")).map(drop)),
    Act::change(|root| posix::chmod(&root.join("d/metadata"), 0o600)),
    Act::fill("d/metadata", |root| {
        open_to_write(&root.join("d/metadata")).map(drop)
    }),
    Act::write("d/file", |root| {
        posix::write_at(&root.join("d/file"), 20_000, b"written")
    }),
    Act::sync("d/file", |root| fsync(&root.join("d/file"))),
    Act::change(|root| posix::chmod(&root.join("d/one"), 0o600)),
    Act::fill("d/one", |root| open_to_write(&root.join("d/two")).map(drop)),
    Act::lazy(|root| posix::truncate(&root.join("d/emptied"), 0)),
    Act::change(|root| posix::chmod(&root.join("tree/sub/file"), 0o640)),
    Act::write("d/cut", |root| posix::truncate(&root.join("d/cut"), 30_000)),
    Act::sync("d/cut", |root| fsync(&root.join("d/cut"))),
    Act::change(|root| posix::set_times(&root.join("d/gone"), 1_100_000_000, 5)),
    Act::write("d/gone", |root| posix::append(&root.join("d/gone"), b"more")),
    Act::sync("d/gone", |root| open_to_write(&root.join("d/gone"))?.sync_data()),
];

/// What programs do that want their data kept.
const CAREFUL: &[Act] = &[
    // A changed attribute, synced through a descriptor that only reads.
    Act::lazy(|root| posix::chmod(&root.join("d/metadata"), 0o600)),
    Act::settle(|root| fsync(&root.join("d/metadata"))),
    // The same through one descriptor.
    Act::settle(|root| {
        let file = File::open(root.join("d/moved"))?;
        file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
        file.sync_all()
    }),
    // Written aside, synced, renamed into place, the directory synced.
    Act::lazy(|root| File::create_new(root.join("d/.tmp")).map(drop)),
    Act::write("d/.tmp", |root| {
        posix::append(&root.join("d/.tmp"), &content(20_000, 77))
    }),
    Act::sync("d/.tmp", |root| fsync(&root.join("d/.tmp"))),
    Act::lazy(|root| mv(root, "d/.tmp", "d/replaced", RenameFlags::empty())),
    Act::settle(|root| fsync(&root.join("d"))),
    // Removed, the directory synced.
    Act::lazy(|root| std::fs::remove_file(root.join("d/gone"))),
    Act::settle(|root| fsync(&root.join("d"))),
    // Written in place and synced.
    Act::write("d/file", |root| {
        open_to_write(&root.join("d/file"))?.write_all_at(b"in place", 0)
    }),
    Act::sync("d/file", |root| fsync(&root.join("d/file"))),
    // A new file where one was removed, synced.
    Act::lazy(|root| File::create_new(root.join("d/gone")).map(drop)),
    Act::write("d/gone", |root| {
        posix::append(&root.join("d/gone"), b"back again")
    }),
    Act::sync("d/gone", |root| fsync(&root.join("d/gone"))),
    // Directories.
    Act::lazy(|root| posix::mkdir(&root.join("new"), 0o750)),
    Act::lazy(|root| mv(root, "merged", "new/moved", RenameFlags::empty())),
    Act::settle(|root| fsync(&root.join("new"))),
    Act::lazy(|root| std::fs::remove_dir(root.join("empty"))),
    Act::lazy(|root| mv(root, "new", "empty", RenameFlags::empty())),
    Act::settle(fsync),
];

/// Operations of which nobody syncs anything, while the file system below commits at any moment.
const CARELESS: &[Act] = &[
    Act::change(|root| std::fs::remove_file(root.join("d/gone"))),
    Act::change(|root| std::fs::remove_file(root.join("d/one"))),
    Act::change(|root| mv(root, "d/moved", "tree/moved", RenameFlags::NOREPLACE)),
    Act::change(|root| mv(root, "d/exchanged", "d/file", RenameFlags::EXCHANGE)),
    Act::change(|root| std::fs::remove_dir_all(root.join("empty"))),
    Act::change(|root| posix::mkdir(&root.join("empty"), 0o700)),
    Act::change(|root| mv(root, "tree/sub", "sub", RenameFlags::empty())),
    Act::lazy(|root| std::fs::remove_file(root.join("merged/above"))),
    Act::lazy(|root| std::fs::remove_file(root.join("merged/below"))),
    Act::change(|root| mv(root, "sub", "merged", RenameFlags::empty())),
    Act::lazy(|root| std::fs::remove_file(root.join("merged/file"))),
    Act::change(|root| std::fs::remove_dir(root.join("merged"))),
    Act::change(|root| posix::symlink(std::ffi::OsStr::new("target"), &root.join("merged"))),
    Act::change(|root| posix::link(&root.join("d/cut"), &root.join("d/gone"))),
    Act::change(|root| posix::mkfifo(&root.join("tree/fifo"))),
    Act::change(|root| std::fs::remove_dir_all(root.join("empty"))),
    Act::change(|root| mv(root, "tree", "empty", RenameFlags::empty())),
];

/// Has everything sealed, and waits for it.
fn seal(root: &Path) -> io::Result<()> {
    posix::set_xattr(root, "user.shale.seal", b"1", rustix::fs::XattrFlags::empty())?;
    while posix::get_xattr(root, "user.shale.seal")? != br#"{"waiting":0,"looking":false}"# {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

/// Files of which a part is copied up: written, cut, grown, moved, filled in.
const PARTS: &[Act] = &[
    Act::write("d/file", |root| {
        posix::write_at(&root.join("d/file"), 20_000, b"written")
    }),
    Act::sync("d/file", |root| fsync(&root.join("d/file"))),
    Act::write("d/file", |root| {
        posix::write_at(&root.join("d/file"), 4_000, &content(9_000, 78))
    }),
    Act::write("d/cut", |root| posix::truncate(&root.join("d/cut"), 30_001)),
    Act::write("d/cut", |root| posix::truncate(&root.join("d/cut"), 45_000)),
    Act::sync("d/cut", |root| open_to_write(&root.join("d/cut"))?.sync_data()),
    Act::change(|root| posix::chmod(&root.join("d/moved"), 0o600)),
    Act::write("d/moved", |root| {
        posix::write_at(&root.join("d/moved"), 49_000, &content(9_000, 79))
    }),
    Act::sync("d/moved", |root| {
        open_to_write(&root.join("d/moved"))?.sync_data()
    }),
    Act::change(|root| mv(root, "d/moved", "tree/moved", RenameFlags::NOREPLACE)),
    Act::write("d/replaced", |root| {
        posix::write_at(&root.join("d/replaced"), 10_000, b"x")
    }),
    // What was not synced before is, with all that was below.
    Act::lazy(seal),
    Act::write("d/file", |root| {
        posix::write_at(&root.join("d/file"), 40_000, b"sealed")
    }),
    Act::sync("d/file", |root| fsync(&root.join("d/file"))),
];

#[test]
fn parts_ext4_shale_partial() {
    run(Backend::ShalePartial, Below::Ext4, PARTS);
}

#[test]
fn parts_xfs_shale_partial() {
    run(Backend::ShalePartial, Below::Xfs, PARTS);
}

macro_rules! on_every_disk {
    ($($name:ident: $acts:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn ext4_shale_passthrough() {
                run(Backend::ShalePassthrough, Below::Ext4, $acts);
            }

            #[test]
            fn xfs_shale_plain() {
                run(Backend::ShalePlain, Below::Xfs, $acts);
            }
        }
    )*};
}

on_every_disk! {
    copy_ups: COPY_UPS;
    careful: CAREFUL;
    careless: CARELESS;
}

/// Over an image, what is copied up comes out of a pack or an object.
#[test]
fn copy_ups_from_an_image() {
    run(Backend::ShaleImage, Below::Ext4, COPY_UPS);
}
