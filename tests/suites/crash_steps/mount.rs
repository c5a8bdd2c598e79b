//! Mounting itself: the work directory is prepared, and what a crash left is put right, in several steps.

use nix::mount::{MntFlags, umount2};
use shale_tests::fixture::{listed, put, text};
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::posix;
use shale_tests::programs;
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::{Snapshot, Untouched};
use shale_tests::steps::check_work;
use shale_tests::tracer::{Tracer, Watched};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A server that waits for a line before it becomes one, so that it is watched from its first call on.
fn held_server(spec: &MountSpec, at: &Path) -> Child {
    let program = programs::workspace_binary("shale-ufs").expect("the mount program");
    Command::new("sh")
        .args(["-c", "read line; exec \"$0\" \"$@\""])
        .arg(program)
        .arg("-f")
        .arg("-o")
        .arg(spec.fuse_options())
        .arg(at)
        .stdin(Stdio::piped())
        .spawn()
        .expect("start the server")
}

/// Kills a server at its `kill_at`-th change, at the latest when the mount answers.
fn mount_and_kill(spec: &MountSpec, at: &Path, kill_at: usize) -> Watched {
    let mut server = held_server(spec, at);
    let pid = i32::try_from(server.id()).expect("a pid fits");
    let tracer = Tracer::seize(pid).expect("trace the server");
    server
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"go\n")
        .expect("let it go");
    let (is_over, is_dead) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let asking = {
        let (is_over, is_dead, at) = (Arc::clone(&is_over), Arc::clone(&is_dead), at.to_owned());
        let outside = at
            .parent()
            .expect("a parent")
            .metadata()
            .expect("its attributes")
            .dev();
        std::thread::spawn(move || {
            while !is_dead.load(Ordering::Acquire) {
                if at.metadata().is_ok_and(|meta| meta.dev() != outside) {
                    is_over.store(true, Ordering::Release);
                    let _ = at.join("no such name").symlink_metadata();
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let watched = tracer.watch(kill_at, &is_over).expect("watch the server");
    server.wait().expect("the server's end");
    is_dead.store(true, Ordering::Release);
    asking.join().expect("who asks");
    let _ = umount2(at, MntFlags::MNT_DETACH);
    watched
}

/// An upper with changes, made by the server itself.
fn used(scratch: &Scratch, spec: &MountSpec) -> Snapshot {
    let at = scratch.directory("merged");
    let guard = MountGuard::mount(Backend::ShalePassthrough, spec, &at).expect("mount");
    posix::append(&at.join("d/small"), b"changed").unwrap();
    std::fs::remove_file(at.join("d/file")).unwrap();
    std::fs::rename(at.join("merged"), at.join("moved")).unwrap();
    let tree = Snapshot::of(&at).expect("read the tree");
    guard.unmount().expect("unmount");
    tree
}

/// Kills at every change of a mount whose upper and work directory `leave` has filled further.
fn killed_while_mounting(leave: fn(&MountSpec)) {
    for backend in [Backend::ShalePassthrough, Backend::KernelNoIndex] {
        if !backend.is_available_or_skip() {
            return;
        }
    }
    let scratch = Scratch::new();
    let lowers = vec![scratch.directory("l0"), scratch.directory("l1")];
    crate::fill(&lowers);
    let layers = Untouched::watch(&lowers);
    for kill_at in 1..100 {
        let (upper, work) = (format!("trial {kill_at}/upper"), format!("trial {kill_at}/work"));
        let spec = MountSpec {
            lowers: lowers.clone(),
            upper: Some((scratch.directory(&upper), scratch.directory(&work))),
            extra_options: vec![],
            open_files_limit: None,
        };
        let tree = used(&scratch, &spec);
        leave(&spec);
        let at = scratch.directory("merged");
        let watched = mount_and_kill(&spec, &at, kill_at);
        let context = format!("mount killed at change {kill_at} ({watched:?})");
        for reader in [Backend::ShalePassthrough, Backend::KernelNoIndex] {
            let guard = MountGuard::mount(reader, &spec, &at)
                .unwrap_or_else(|error| panic!("{context}: mount by {reader:?}: {error}"));
            let seen = Snapshot::of(&at).expect("read the tree");
            tree.assert_same(
                &without_new_times(&seen, &tree),
                &format!("{context}, read by {reader:?}"),
            );
            if reader == Backend::ShalePassthrough {
                check_work(&spec.upper.as_ref().unwrap().1, &context);
                put(&at, "d/new", "new");
                assert_eq!(text(&at.join("d/new")), "new");
                std::fs::remove_file(at.join("d/new")).unwrap();
            }
            guard.unmount().expect("unmount");
        }
        layers.check(&context);
        if matches!(watched, Watched::Finished { .. }) {
            println!("mount: killed at {kill_at} points");
            return;
        }
    }
    panic!("a mount makes too many changes");
}

/// Directories show the time of the change that was made after the crash, and of what was put right.
fn without_new_times(seen: &Snapshot, expected: &Snapshot) -> Snapshot {
    let mut seen = seen.clone();
    for (path, entry) in &mut seen.entries {
        if let Some(expected) = expected.entries.get(path)
            && entry.kind == shale_tests::snapshot::Kind::Dir
        {
            entry.mtime = expected.mtime;
        }
    }
    seen
}

#[test]
fn with_a_clean_work_directory() {
    killed_while_mounting(|_spec| {});
}

#[test]
fn with_leftovers() {
    killed_while_mounting(|spec| {
        let work = &spec.upper.as_ref().unwrap().1;
        put(work, "work/#2", "half a copy");
        put(work, "work/#3/deep/file", "of a tree");
        posix::whiteout(&work.join("work/#3/whiteout")).unwrap();
        posix::mkdir(&work.join("work/#3/closed"), 0).unwrap();
        posix::symlink(std::ffi::OsStr::new("/etc"), &work.join("work/#4")).unwrap();
    });
}

/// As when the server is killed while it gives a copy its other names.
#[test]
fn with_a_copy_that_has_names_already() {
    killed_while_mounting(|spec| {
        let (upper, work) = spec.upper.as_ref().unwrap();
        put(work, "work/links#9", "one of two");
        posix::link(&work.join("work/links#9"), &upper.join("d/two")).unwrap();
        posix::link(&work.join("work/links#9"), &upper.join("three")).unwrap();
        assert_eq!(listed(upper), ["d", "merged", "moved", "three"]);
    });
}
