//! Marks written by hand, as overlayfs' documentation and fuse-overlayfs have them: what they mean to each program.

use rustix::fs::XattrFlags;
use shale_tests::fixture::{Fixture, listed, put, put_dir, put_opaque, put_whiteout, text};
use shale_tests::mount::{Backend, MountSpec};
use shale_tests::posix::{self, assert_errno, set_xattr};
use shale_tests::scratch::Scratch;
use shale_tests::snapshot::check_listing;
use std::path::{Path, PathBuf};

const KERNEL: Backend = Backend::KernelNoIndex;

/// Mounts layers and an upper that `fill` wrote by hand, by each of `backends`, and hands the tree to `check`.
fn by_hand(
    backends: &[Backend],
    options: &[&str],
    layers: usize,
    fill: fn(&Path, &[PathBuf]),
    check: fn(&Fixture),
) {
    for backend in backends {
        if !backend.is_available_or_skip() {
            continue;
        }
        let scratch = Scratch::new();
        let lowers: Vec<PathBuf> = (0..layers)
            .map(|index| scratch.directory(&format!("l{index}")))
            .collect();
        let upper = scratch.directory("upper");
        fill(&upper, &lowers);
        let spec = MountSpec {
            lowers,
            upper: Some((upper, scratch.directory("work"))),
            extra_options: options.iter().map(ToString::to_string).collect(),
            open_files_limit: None,
        };
        let mut fixture = Fixture::over(scratch, *backend, spec);
        for _ in 0..2 {
            check(&fixture);
            fixture.remount();
        }
    }
}

fn mark(path: &Path, name: &str, value: &[u8]) {
    set_xattr(path, name, value, XattrFlags::empty()).expect("set a mark");
}

const ALL: [Backend; 4] = [
    KERNEL,
    Backend::ShalePassthrough,
    Backend::ShalePlain,
    Backend::ShaleImage,
];
/// Those that read marks where they lie: an index has no place for marks that only an upper has.
const DIRECTORIES: [Backend; 3] = [KERNEL, Backend::ShalePassthrough, Backend::ShalePlain];

#[test]
fn redirects_in_the_upper_and_in_a_layer() {
    fn fill(upper: &Path, lowers: &[PathBuf]) {
        put(&lowers[1], "a/low", "1");
        put(&lowers[1], "a/sub/deep", "1");
        put(&lowers[1], "plain/low", "1");
        put(&lowers[0], "a/high", "0");
        // To a name beside it, and to a path; over two layers.
        put_dir(upper, "beside");
        mark(&upper.join("beside"), "trusted.overlay.redirect", b"a");
        put_whiteout(upper, "a");
        put_dir(upper, "in/here");
        mark(&upper.join("in/here"), "trusted.overlay.redirect", b"/a/sub");
        // A layer's own redirect counts for what is below it, and the upper's leads through it.
        put_dir(&lowers[0], "moved");
        mark(&lowers[0].join("moved"), "trusted.overlay.redirect", b"/plain");
        put_whiteout(&lowers[0], "plain");
        put_dir(upper, "again");
        mark(&upper.join("again"), "trusted.overlay.redirect", b"/moved");
        put_whiteout(upper, "moved");
        // Opaque and redirected: opaque counts.
        put(upper, "both/own", "u");
        mark(&upper.join("both"), "trusted.overlay.redirect", b"/a");
        mark(&upper.join("both"), "trusted.overlay.opaque", b"y");
    }
    by_hand(&DIRECTORIES, &[], 2, fill, |fixture| {
        assert_eq!(listed(fixture.root()), ["again", "beside", "both", "in"]);
        assert_eq!(listed(&fixture.at("beside")), ["high", "low", "sub"]);
        assert_eq!(listed(&fixture.at("in/here")), ["deep"]);
        assert_eq!(listed(&fixture.at("again")), ["low"]);
        assert_eq!(listed(&fixture.at("both")), ["own"]);
    });
}

#[test]
fn copies_without_content_over_two_layers() {
    fn fill(upper: &Path, lowers: &[PathBuf]) {
        let copy = |root: &Path, path: &str, size: u64, redirect: Option<&str>| {
            put(root, path, "");
            let file = root.join(path);
            posix::truncate(&file, size).unwrap();
            mark(&file, "trusted.overlay.metacopy", b"");
            if let Some(redirect) = redirect {
                mark(&file, "trusted.overlay.redirect", redirect.as_bytes());
            }
        };
        put(&lowers[1], "d/f", "content");
        put(&lowers[1], "d/g", "content of g");
        // In the layer between, and once more above it.
        copy(&lowers[0], "d/f", 7, None);
        posix::chmod(&lowers[0].join("d/f"), 0o640).unwrap();
        copy(upper, "d/f", 7, None);
        posix::chmod(&upper.join("d/f"), 0o600).unwrap();
        copy(upper, "moved", 12, Some("/d/g"));
        put_whiteout(upper, "d/g");
        copy(&lowers[0], "in-layer", 12, Some("/d/g"));
    }
    by_hand(&DIRECTORIES, &[], 2, fill, |fixture| {
        assert_eq!(listed(fixture.root()), ["d", "in-layer", "moved"]);
        assert_eq!(text(&fixture.at("d/f")), "content");
        assert_eq!(text(&fixture.at("moved")), "content of g");
        assert_eq!(text(&fixture.at("in-layer")), "content of g");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fixture.at("d/f").metadata().unwrap().mode() & 0o777, 0o600);
    });
}

/// Whiteouts as attributes (`overlay.whiteout`, Linux 6.7), which count in a layer's directory that is marked for them.
#[test]
fn whiteouts_that_are_attributes() {
    fn fill(_upper: &Path, lowers: &[PathBuf]) {
        for name in ["gone", "stays", "also"] {
            put(&lowers[1], &format!("d/{name}"), "1");
            put(&lowers[1], &format!("unmarked/{name}"), "1");
        }
        for (directory, name) in [("d", "gone"), ("unmarked", "stays")] {
            put(&lowers[0], &format!("{directory}/{name}"), "");
            mark(
                &lowers[0].join(directory).join(name),
                "trusted.overlay.whiteout",
                b"",
            );
        }
        mark(&lowers[0].join("d"), "trusted.overlay.opaque", b"x");
        // The layer's root says that there are any.
        mark(&lowers[0], "trusted.overlay.opaque", b"x");
    }
    by_hand(&ALL, &[], 2, fill, |fixture| {
        assert_eq!(listed(&fixture.at("d")), ["also", "stays"]);
        assert_errno(
            fixture.at("d/gone").symlink_metadata(),
            libc::ENOENT,
            "a whiteout",
        );
    });
}

/// Attributes that a nested overlayfs set are stored with one `overlay.` more, and shown without it.
#[test]
fn escaped_attributes_of_a_nested_union() {
    fn fill(upper: &Path, lowers: &[PathBuf]) {
        put(&lowers[0], "d/low", "0");
        put_dir(upper, "d");
        mark(&upper.join("d"), "trusted.overlay.overlay.opaque", b"y");
        put(&lowers[0], "e/low", "0");
        mark(&lowers[0].join("e"), "trusted.overlay.overlay.redirect", b"/d");
    }
    by_hand(&DIRECTORIES, &[], 1, fill, |fixture| {
        assert_eq!(listed(&fixture.at("d")), ["low"], "it is no mark here");
        assert_eq!(
            posix::list_xattrs(&fixture.at("d")).unwrap(),
            ["trusted.overlay.opaque"]
        );
        assert_eq!(
            posix::get_xattr(&fixture.at("d"), "trusted.overlay.opaque").unwrap(),
            b"y"
        );
        assert_eq!(
            posix::list_xattrs(&fixture.at("e")).unwrap(),
            ["trusted.overlay.redirect"]
        );
    });
}

/// fuse-overlayfs' own marks. In a layer, `.wh.` names are marks for it and for Shale, and files for overlayfs.
#[test]
fn tar_marks_in_a_layer() {
    fn fill(_upper: &Path, lowers: &[PathBuf]) {
        put(&lowers[1], "d/gone", "1");
        put(&lowers[1], "d/stays", "1");
        put(&lowers[0], "d/.wh.gone", "");
        put(&lowers[1], "opaque/hidden", "1");
        put(&lowers[0], "opaque/.wh..wh..opq", "");
        put(&lowers[0], "opaque/own", "0");
    }
    let readers = [
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
        Backend::FuseOverlayfs,
    ];
    by_hand(&readers, &[], 2, fill, |fixture| {
        assert_eq!(listed(&fixture.at("d")), ["stays"]);
        assert_eq!(listed(&fixture.at("opaque")), ["own"]);
    });
    by_hand(&[KERNEL], &[], 2, fill, |fixture| {
        assert_eq!(listed(&fixture.at("d")), [".wh.gone", "gone", "stays"]);
        assert_eq!(listed(&fixture.at("opaque")), [".wh..wh..opq", "hidden", "own"]);
    });
}

/// In an upper, every name is the user's for Shale and overlayfs, but for the file that fuse-overlayfs puts into
/// directories that are opaque anyway: Shale hides that one, and gives its name away when it is wanted.
#[test]
fn the_opaque_note_of_fuse_overlayfs_in_an_upper() {
    fn fill(upper: &Path, lowers: &[PathBuf]) {
        put(&lowers[0], "d/hidden", "0");
        put_opaque(upper, "d");
        put(upper, "d/own", "u");
        put(upper, "d/.wh..wh..opq", "");
        posix::chmod(&upper.join("d/.wh..wh..opq"), 0o700).unwrap();
        put(upper, "users/.wh..wh..opq", "");
        put(upper, "users/.wh.f", "");
    }
    let ours = [
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
    ];
    by_hand(&ours, &[], 1, fill, |fixture| {
        assert_eq!(listed(&fixture.at("d")), ["own"]);
        assert_errno(
            fixture.at("d/.wh..wh..opq").symlink_metadata(),
            libc::ENOENT,
            "the note",
        );
        assert_eq!(listed(&fixture.at("users")), [".wh..wh..opq", ".wh.f"]);
    });
    by_hand(&[KERNEL], &[], 1, fill, |fixture| {
        assert_eq!(listed(&fixture.at("d")), [".wh..wh..opq", "own"]);
        assert_eq!(listed(&fixture.at("users")), [".wh..wh..opq", ".wh.f"]);
    });
    for backend in ours {
        by_hand(&[backend], &[], 1, fill, |fixture| {
            let note = fixture.at("d/.wh..wh..opq");
            std::fs::write(&note, "mine").unwrap();
            assert_eq!(
                (listed(&fixture.at("d")), text(&note)),
                (vec![".wh..wh..opq".into(), "own".into()], "mine".into())
            );
            std::fs::remove_file(&note).unwrap();
            // Emptied and removed, with the note in it or without.
            std::fs::remove_file(fixture.at("d/own")).unwrap();
            std::fs::remove_dir(fixture.at("d")).unwrap();
            posix::mkdir(&fixture.at("d"), 0o755).unwrap();
            assert_eq!(listed(&fixture.at("d")), Vec::<String>::new());
            put(fixture.root(), "d/own", "u");
        });
    }
}

/// Rootless marks: overlayfs' `user.overlay.*` with `userxattr`, and fuse-overlayfs' `user.fuseoverlayfs.*`.
#[test]
fn marks_of_rootless_programs() {
    fn fill(upper: &Path, lowers: &[PathBuf]) {
        for name in ["ours", "theirs", "neither"] {
            put(&lowers[0], &format!("{name}/hidden"), "0");
            put(upper, &format!("{name}/own"), "u");
        }
        mark(&upper.join("ours"), "user.overlay.opaque", b"y");
        mark(&upper.join("theirs"), "user.fuseoverlayfs.opaque", b"y");
        mark(&upper.join("neither"), "trusted.overlay.opaque", b"y");
        mark(&upper.join("neither"), "user.fuseoverlayfs.origin", b"/somewhere");
        put_whiteout(upper, "theirs/hidden");
    }
    let ours = [
        Backend::ShalePassthrough,
        Backend::ShalePlain,
        Backend::ShaleImage,
    ];
    by_hand(&ours, &["userxattr"], 1, fill, |fixture| {
        assert_eq!(listed(&fixture.at("ours")), ["own"]);
        assert_eq!(listed(&fixture.at("theirs")), ["own"]);
        assert_eq!(
            listed(&fixture.at("neither")),
            ["hidden", "own"],
            "not a mark of this mount"
        );
        assert_eq!(
            posix::list_xattrs(&fixture.at("theirs")).unwrap(),
            Vec::<std::ffi::OsString>::new()
        );
        assert_eq!(
            posix::list_xattrs(&fixture.at("neither")).unwrap(),
            ["trusted.overlay.opaque"]
        );
    });
    // On a privileged mount a user's attributes are no marks: anybody could set them.
    by_hand(&ours, &[], 1, fill, |fixture| {
        assert_eq!(listed(&fixture.at("ours")), ["hidden", "own"]);
        assert_eq!(listed(&fixture.at("neither")), ["own"]);
    });
}

/// The kernel lists a merged directory under the number of the one below only where the directory above is marked.
#[test]
fn a_copied_up_directory_has_one_number_for_the_kernel() {
    for backend in [Backend::ShalePlain, Backend::ShaleImage] {
        if !(backend.is_available_or_skip() && KERNEL.is_available_or_skip()) {
            return;
        }
        let mut fixture = Fixture::new(backend, |lower| put_dir(lower, "d/merged"));
        posix::chmod(&fixture.at("d/merged"), 0o700).unwrap();
        fixture.remount_as(KERNEL);
        assert_eq!(check_listing(fixture.root()), Vec::<String>::new(), "{backend:?}");
    }
}
