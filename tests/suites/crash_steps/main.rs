//! `kill -9` of the server at every change that an operation makes to the upper: the tree is the one before or the
//! one after, for Shale and for the kernel's overlayfs, and nothing is left in the work directory.
//!
//! By default over directories with passthrough, and what copies up also over an image;
//! `SHALE_TESTS_CRASH_ALL=1` runs everything on every kind of mount.

mod copy_up;
mod make;
mod mount;
mod remove;
mod rename;

use shale_tests::fixture::{put, put_dir, put_opaque, put_whiteout};
use shale_tests::mount::Backend;
use shale_tests::posix;
use shale_tests::skip::{Tier, skip};
use shale_tests::steps::{Scenario, kill_at_every_change};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Runs every scenario on every kind of mount.
const ALL_VARIABLE: &str = "SHALE_TESTS_CRASH_ALL";

/// Whether a scenario runs on this kind of mount by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Directories,
    DirectoriesAndImage,
}

fn run(on: On, backend: Backend, scenario: Scenario) {
    if !backend.is_available_or_skip() || !Backend::KernelNoIndex.is_available_or_skip() {
        return;
    }
    let by_default = match backend {
        Backend::ShalePassthrough => true,
        Backend::ShaleImage => on == On::DirectoriesAndImage,
        _ => false,
    };
    if !by_default && std::env::var_os(ALL_VARIABLE).is_none() {
        return skip(Tier::Feature, &format!("long; {ALL_VARIABLE}=1 runs it"));
    }
    let tally = kill_at_every_change(backend, scenario);
    let thread = std::thread::current();
    println!(
        "{}: killed at {} points",
        thread.name().unwrap_or_default(),
        tally.kills
    );
}

/// Makes a test per kind of mount out of a scenario: what is prepared in the mount, and the steps.
macro_rules! scenarios {
    ($($name:ident on $on:ident: $prepare:expr => [$($step:expr),+ $(,)?];)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            const SCENARIO: shale_tests::steps::Scenario = shale_tests::steps::Scenario {
                layers: 2,
                fill: $crate::fill,
                prepare: $prepare,
                steps: &[$($step),+],
            };

            #[test]
            fn shale_passthrough() {
                $crate::run($crate::On::$on, shale_tests::mount::Backend::ShalePassthrough, SCENARIO);
            }

            #[test]
            fn shale_plain() {
                $crate::run($crate::On::$on, shale_tests::mount::Backend::ShalePlain, SCENARIO);
            }

            #[test]
            fn shale_image() {
                $crate::run($crate::On::$on, shale_tests::mount::Backend::ShaleImage, SCENARIO);
            }
        }
    )*};
}
use scenarios;

/// For scenarios that need nothing.
fn nothing(_root: &Path) {}

/// Some of everything, in two layers.
fn fill(layers: &[PathBuf]) {
    let (top, bottom) = (&layers[0], &layers[1]);
    put(bottom, "d/file", vec![b'f'; 70_000]);
    put(bottom, "d/small", "small");
    put(bottom, "d/empty", "");
    put(bottom, "d/setuid", "program");
    posix::lchown(&bottom.join("d/setuid"), 1000, 1000).unwrap();
    posix::chmod(&bottom.join("d/setuid"), 0o6755).unwrap();
    put(bottom, "d/marked", "with attributes");
    let none = rustix::fs::XattrFlags::empty();
    posix::set_xattr(&bottom.join("d/marked"), "user.one", b"1", none).unwrap();
    posix::set_xattr(&bottom.join("d/marked"), "trusted.two", b"2", none).unwrap();
    put(bottom, "d/one", "one of two");
    posix::link(&bottom.join("d/one"), &bottom.join("d/two")).unwrap();
    posix::symlink(OsStr::new("file"), &bottom.join("d/symlink")).unwrap();
    posix::mkfifo(&bottom.join("d/fifo")).unwrap();
    posix::mknod_char(&bottom.join("d/null"), 1, 3).unwrap();
    put(bottom, "d/sub/x", "x of sub");
    put(bottom, "d/sub/deep/y", "y of deep");
    posix::chmod(&bottom.join("d/sub/deep"), 0o1711).unwrap();
    posix::set_xattr(&bottom.join("d/sub"), "user.dir", b"sub", none).unwrap();
    put_dir(bottom, "emptydir");
    posix::set_xattr(&bottom.join("emptydir"), "user.dir", b"empty", none).unwrap();
    put(bottom, "gone", "hidden file");
    put(bottom, "gonedir/inside", "hidden");
    put(bottom, "setgid/file", "of a group");
    posix::lchown(&bottom.join("setgid"), 0, 50).unwrap();
    posix::chmod(&bottom.join("setgid"), 0o2775).unwrap();
    put(bottom, "merged/below", "below");
    put(bottom, "other/name", "of other");
    put(top, "merged/above", "above");
    put(top, "d/top", "of the top layer");
    put_whiteout(top, "gone");
    put_whiteout(top, "gonedir");
    put(bottom, "opaque/hidden", "hidden");
    put_opaque(top, "opaque");
    put(top, "opaque/seen", "seen");
}
