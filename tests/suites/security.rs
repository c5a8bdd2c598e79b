//! What a program inside, or a hostile layer, must not reach.

use rustix::fs::{RenameFlags, XattrFlags};
use shale_tests::fixture::{Fixture, listed, put, put_dir, text};
use shale_tests::for_each_union;
use shale_tests::mount::{Backend, MountGuard, MountSpec};
use shale_tests::posix::{self, assert_errno, set_xattr};
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::Untouched;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A union whose upper was written by an enemy; `secret/dir/file` lies beside the layers.
fn hostile(scratch: &Scratch, fill: impl FnOnce(&Path, &Path)) -> MountSpec {
    let (lower, upper) = (scratch.directory("lower"), scratch.directory("upper"));
    put(scratch.path(), "secret/dir/file", "secret content");
    put(&lower, "inside/f", "inside");
    fill(&lower, &upper);
    MountSpec {
        lowers: vec![lower],
        upper: Some((upper, scratch.directory("work"))),
        extra_options: vec![],
        open_files_limit: None,
    }
}

/// Walks the whole tree, errors aside, and fails when anything of the secret shows.
fn assert_no_secret(root: &Path) {
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(listing) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in listing.flatten() {
            let path = entry.path();
            assert_ne!(entry.file_name(), "file", "{} leads outside", path.display());
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                pending.push(path);
            } else if meta.is_file() {
                let content = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    !content.contains("secret"),
                    "{} shows what lies outside",
                    path.display()
                );
            }
        }
    }
}

fn mark(path: &Path, name: &str, value: &[u8]) {
    set_xattr(path, name, value, XattrFlags::empty()).expect("set an attribute of the layer");
}

for_each_union! {
    /// Attributes that look like overlayfs' own, set by a program inside, change nothing.
    fn markers_set_inside_are_not_ours(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "d/f", "f");
            put(lower, "other/g", "g");
            put(lower, "file", "content");
        });
        for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
            // To be refused is as good as to be kept apart.
            let _ = set_xattr(&fixture.at("d"), name, b"y", XattrFlags::empty());
            let _ = set_xattr(&fixture.at(""), name, b"y", XattrFlags::empty());
        }
        let _ = set_xattr(&fixture.at("d"), "trusted.overlay.redirect", b"/other", XattrFlags::empty());
        let _ = set_xattr(&fixture.at("d"), "user.overlay.redirect", b"/other", XattrFlags::empty());
        posix::append(&fixture.at("file"), b"!").unwrap();
        for prefix in ["trusted", "user"] {
            let _ = set_xattr(&fixture.at("file"), &format!("{prefix}.overlay.metacopy"), b"", XattrFlags::empty());
        }
        for round in ["at once", "after a remount"] {
            assert_eq!(listed(&fixture.at("d")), ["f"], "{round}");
            assert_eq!(listed(fixture.root()), ["d", "file", "other"], "{round}");
            assert_eq!(text(&fixture.at("file")), "content!", "{round}");
            fixture.remount();
        }
    }

    fn a_whiteout_cannot_be_made_inside(backend) {
        let mut fixture = Fixture::new(backend, |lower| put(lower, "f", "x"));
        assert_errno(posix::whiteout(&fixture.at("w")), libc::EPERM, "mknod c 0 0");
        let whiteout = RenameFlags::WHITEOUT;
        assert_errno(posix::rename(&fixture.at("f"), &fixture.at("g"), whiteout), libc::EINVAL, "RENAME_WHITEOUT");
        posix::mknod_char(&fixture.at("null"), 1, 3).unwrap();
        // Whether it can be opened is the mount's `dev` option; that it is a device, and no whiteout, is ours.
        assert!(fixture.at("null").symlink_metadata().unwrap().file_type().is_char_device());
        fixture.remount();
        assert!(fixture.at("null").symlink_metadata().unwrap().file_type().is_char_device());
        assert_eq!(listed(fixture.root()), ["f", "null"]);
    }

    fn redirects_do_not_lead_outside(backend) {
        for value in [
            "/../secret/dir", "/inside/../../secret/dir", "../secret", "..", "/..", ".", "/.", "//secret", "",
            "/", "/link/dir", "link", "/absolute/dir", "inside/../../secret",
        ] {
            let scratch = Scratch::new();
            let spec = hostile(&scratch, |lower, upper| {
                posix::symlink("../secret".as_ref(), &lower.join("link")).unwrap();
                posix::symlink(scratch.path().join("secret").as_os_str(), &lower.join("absolute")).unwrap();
                put_dir(upper, "d");
                mark(&upper.join("d"), "trusted.overlay.redirect", value.as_bytes());
            });
            let at = scratch.directory("merged");
            // Refusing the mount, the name or the listing: all are right.
            let _layers = Untouched::watch(&spec.lowers);
            if let Ok(guard) = MountGuard::mount(backend, &spec, &at) {
                assert_no_secret(&at);
                drop(guard);
            }
        }
    }

    fn metadata_copies_do_not_lead_outside(backend) {
        for value in ["/../secret/dir/file", "../secret/dir/file", "/link/dir/file", "/absolute/dir/file", "link"] {
            let scratch = Scratch::new();
            let spec = hostile(&scratch, |lower, upper| {
                posix::symlink("../secret".as_ref(), &lower.join("link")).unwrap();
                posix::symlink(scratch.path().join("secret").as_os_str(), &lower.join("absolute")).unwrap();
                let file = std::fs::File::create(upper.join("stolen")).unwrap();
                file.set_len(14).unwrap();
                mark(&upper.join("stolen"), "trusted.overlay.metacopy", b"");
                mark(&upper.join("stolen"), "trusted.overlay.redirect", value.as_bytes());
            });
            let at = scratch.directory("merged");
            let _layers = Untouched::watch(&spec.lowers);
            if let Ok(guard) = MountGuard::mount(backend, &spec, &at) {
                assert_no_secret(&at);
                drop(guard);
            }
        }
    }

    /// A redirect loop or a deep chain ends.
    fn redirects_to_each_other_end(backend) {
        let scratch = Scratch::new();
        let spec = hostile(&scratch, |_, upper| {
            for (name, to) in [("a", "/b"), ("b", "/a"), ("self", "/self/self")] {
                put_dir(upper, name);
                mark(&upper.join(name), "trusted.overlay.redirect", to.as_bytes());
            }
        });
        let at = scratch.directory("merged");
        let _layers = Untouched::watch(&spec.lowers);
        if let Ok(guard) = MountGuard::mount(backend, &spec, &at) {
            for name in ["a", "b", "self"] {
                let _ = posix::names(&at.join(name));
                let _ = at.join(name).join("a/b/a").symlink_metadata();
            }
            assert_eq!(listed(&at.join("inside")), ["f"], "the rest still works");
            drop(guard);
        }
    }

    /// Symbolic links of a layer are never followed by the server, also when it copies up below them.
    fn symlinks_of_a_layer_are_only_links(backend) {
        let scratch = Scratch::new();
        let spec = hostile(&scratch, |lower, upper| {
            posix::symlink("../secret".as_ref(), &lower.join("link")).unwrap();
            posix::symlink("../secret/dir".as_ref(), &upper.join("inside-link")).unwrap();
        });
        let fixture = Fixture::over(scratch, backend, spec);
        let secret = fixture.scratch().path().join("secret/dir/file");
        assert!(fixture.at("link").symlink_metadata().unwrap().file_type().is_symlink());
        posix::lchown(&fixture.at("link"), 7, 7).unwrap();
        let _ = posix::set_xattr(&fixture.at("link"), "trusted.x", b"y", XattrFlags::empty());
        assert_eq!(text(&secret), "secret content");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fixture.scratch().path().join("secret").metadata().unwrap().uid(), 0);
    }

    /// What is mounted below a layer's directory is not part of the layer.
    fn mounts_below_a_layer_are_not_seen(backend) {
        if matches!(backend, Backend::ShaleImage | Backend::ShaleLayers) {
            return; // such a layer is made of what the test sees
        }
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let scratch = Scratch::new();
        let lower = scratch.directory("lower");
        put(&lower, "m/of-the-layer", "x");
        put(&lower, "f", "f");
        let upper = Some((scratch.directory("upper"), scratch.directory("work")));
        mount(Some("tmpfs"), &lower.join("m"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        put(&lower, "m/of-the-mount", "x");
        let at = scratch.directory("merged");
        let spec = MountSpec { lowers: vec![lower.clone()], upper, extra_options: vec![], open_files_limit: None };
        let guard = MountGuard::mount(backend, &spec, &at).unwrap();
        let names = listed(&at.join("m"));
        let unmounted = guard.unmount();
        umount2(&lower.join("m"), MntFlags::MNT_DETACH).unwrap();
        unmounted.unwrap();
        assert_eq!(names, ["of-the-layer"]);
    }
}

/// Directory names of hostile layers that no program should choke on.
fn strange_uppers(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let scratch = Scratch::new();
    let spec = hostile(&scratch, |lower, upper| {
        // Opaque on a file, metacopy on a directory, metacopy without anything below, and a whiteout of nothing.
        put(upper, "opaque-file", "x");
        mark(&upper.join("opaque-file"), "trusted.overlay.opaque", b"y");
        put_dir(upper, "metacopy-dir");
        mark(&upper.join("metacopy-dir"), "trusted.overlay.metacopy", b"");
        put(upper, "metacopy-of-nothing", "x");
        mark(
            &upper.join("metacopy-of-nothing"),
            "trusted.overlay.metacopy",
            b"",
        );
        put(lower, "metacopy-of-a-dir/x", "x");
        put(upper, "metacopy-of-a-dir", "x");
        mark(&upper.join("metacopy-of-a-dir"), "trusted.overlay.metacopy", b"");
        posix::whiteout(&upper.join("nothing")).unwrap();
        put_dir(upper, "opaque-odd");
        mark(&upper.join("opaque-odd"), "trusted.overlay.opaque", b"maybe");
        mark(
            &upper.join("opaque-odd"),
            "trusted.overlay.origin",
            b"\x00\xfbgarbage",
        );
    });
    let at = scratch.directory("merged");
    let _layers = Untouched::watch(&spec.lowers);
    let guard = MountGuard::mount(backend, &spec, &at).expect("mount");
    let names = listed(&at);
    assert!(
        names.contains(&"inside".to_owned()) && !names.contains(&"nothing".to_owned()),
        "{names:?}"
    );
    for name in names {
        let path = at.join(&name);
        let _ = path.symlink_metadata();
        let _ = std::fs::read(&path);
        let _ = posix::names(&path);
    }
    assert_eq!(text(&at.join("inside/f")), "inside", "the rest still works");
    guard.unmount().expect("unmount");
}

#[test]
fn strange_uppers_kernel() {
    strange_uppers(Backend::Kernel);
}

#[test]
fn strange_uppers_shale_passthrough() {
    strange_uppers(Backend::ShalePassthrough);
}

#[test]
fn strange_uppers_shale_plain() {
    strange_uppers(Backend::ShalePlain);
}
