//! Uppers that others wrote in a user namespace, as under rootless engines, read by Shale.
//!
//! Each test starts this very program again inside `unshare --user --map-root-user`, where the ignored test `inside` does
//! the work.

use shale_tests::fixture::{listed, put};
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::programs::system_binary;
use shale_tests::scratch::{SCRATCH_VARIABLE, Scratch, is_rootless, run};
use shale_tests::skip::{Tier, skip};
use shale_tests::snapshot::Snapshot;
use std::path::Path;
use std::process::Command;

const WRITER_VARIABLE: &str = "SHALE_TESTS_ROOTLESS_WRITER";

/// Runs [`inside`] in a user namespace of its own.
fn rootless(writer: &str) {
    if !Backend::ShalePlain.is_available_or_skip() {
        return;
    }
    if system_binary("unshare").is_none() {
        return skip(Tier::Tool, "unshare is missing; install util-linux");
    }
    if writer == "fuse-overlayfs" && !Backend::FuseOverlayfs.is_available_or_skip() {
        return;
    }
    let scratch = Scratch::new();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "inside", "--nocapture"])
        .env(SCRATCH_VARIABLE, scratch.path())
        .env(WRITER_VARIABLE, writer)
        .output()
        .expect("start unshare");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "inside the user namespace: {stdout}{stderr}");
}

/// `user.overlay.*`, as rootless Podman has the kernel write them.
#[test]
fn rootless_uppers_of_overlayfs() {
    rootless("overlay");
}

/// `user.fuseoverlayfs.*` and `user.overlay.*`, as rootless Podman has fuse-overlayfs write them.
#[test]
fn rootless_uppers_of_fuse_overlayfs() {
    rootless("fuse-overlayfs");
}

#[test]
#[ignore = "runs inside the user namespace that the other tests make"]
fn inside() {
    if !is_rootless() {
        return skip(Tier::Feature, "not inside a user namespace");
    }
    let writer = std::env::var(WRITER_VARIABLE).expect("a writer is named");
    let scratch = Scratch::new();
    let lowers = vec![scratch.directory("l0"), scratch.directory("l1")];
    for (path, layer) in [
        ("data/lower", 1),
        ("data/gone", 1),
        ("data/linked", 0),
        ("tree/sub/deep", 1),
        ("tree/high", 0),
        ("whole/x", 1),
        ("etc/passwd", 1),
        ("again/below", 1),
    ] {
        put(&lowers[layer], path, format!("{path} of the image\n"));
    }
    let (upper, work) = (scratch.directory("upper"), scratch.directory("work"));
    let at = scratch.directory("merged");
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        lowers[0].display(),
        lowers[1].display(),
        upper.display(),
        work.display()
    );
    let mount = || {
        if writer == "overlay" {
            let options = format!("{options},userxattr");
            run(Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(&at));
        } else {
            run(Command::new("fuse-overlayfs").args(["-o", &options]).arg(&at));
        }
    };
    mount();
    // The one user that there is owns everything; overlayfs moves no directory of a layer without a redirect, mv copies.
    let script = "echo more >>data/lower; rm data/gone; chmod 600 etc/passwd; ln data/linked data/linked2; rm -r whole; \
        mkdir whole; echo x >whole/new; mkdir -p new/dir; ln -s to link; rm -r again; mkdir again; mv new moved; \
        rm -r tree; mkdir -p tree/sub; echo y >tree/sub/other; rm -r moved/dir";
    run(Command::new("sh").args(["-e", "-c", script]).current_dir(&at));
    // overlayfs without an index sees that two names are one file once it has forgotten them.
    run(Command::new("umount").arg(&at));
    mount();
    let written = rootless_essence(&at);
    run(Command::new("umount").arg(&at));
    for backend in [Backend::ShalePassthrough, Backend::ShalePlain] {
        for as_layer in [false, true] {
            let (mut lowers, mut pair) = (
                lowers.clone(),
                Some((upper.clone(), scratch.directory("shale-work"))),
            );
            if as_layer {
                lowers.insert(0, upper.clone());
                pair = None;
            }
            let spec = MountSpec {
                lowers,
                upper: pair,
                extra_options: vec![],
                open_files_limit: None,
            };
            let guard = MountGuard::mount(backend, &spec, &at).expect("mount");
            let what = format!("written by {writer}, read by {backend:?}, as a layer: {as_layer}");
            written.assert_same(&rootless_essence(&at), &what);
            assert_eq!(listed(&at.join("tree")), ["sub"], "{what}");
            assert_eq!(listed(&at.join("again")), Vec::<String>::new(), "{what}");
            guard.unmount().expect("unmount");
        }
    }
}

/// The tree without times and without what only its writer notes.
fn rootless_essence(at: &Path) -> Snapshot {
    let mut tree = Snapshot::of(at).expect("read a tree").without_times();
    for entry in tree.entries.values_mut() {
        entry.xattrs.retain(|name, _| {
            !name.starts_with(b"user.fuseoverlayfs.") && !name.starts_with(b"user.overlay.")
        });
    }
    tree
}
