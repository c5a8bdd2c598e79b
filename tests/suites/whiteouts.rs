//! Deleted names, hidden directories, and answers that must not depend on what was looked up before.

use shale_tests::fixture::{Fixture, listed, put, put_dir, put_opaque, put_whiteout, text};
use shale_tests::for_each_union;
use shale_tests::mount::Backend;
use shale_tests::posix::{self, assert_errno};
use std::fs::{create_dir, remove_dir, remove_dir_all, remove_file, rename, write};

for_each_union! {
    fn a_deleted_file_stays_away(backend) {
        let mut fixture = Fixture::new(backend, |lower| put(lower, "d/f", "x"));
        remove_file(fixture.at("d/f")).unwrap();
        for _ in 0..2 {
            assert_errno(fixture.at("d/f").symlink_metadata(), libc::ENOENT, "a deleted file");
            assert!(listed(&fixture.at("d")).is_empty());
            fixture.remount();
        }
        remove_dir(fixture.at("d")).unwrap();
        create_dir(fixture.at("d")).unwrap();
        for _ in 0..2 {
            assert!(listed(&fixture.at("d")).is_empty(), "nothing comes back in a new directory of the old name");
            fixture.remount();
        }
    }

    fn a_directory_emptied_by_deletions_can_be_removed(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "d/a", "x");
            put(lower, "d/e/b", "x");
        });
        assert_errno(remove_dir(fixture.at("d")), libc::ENOTEMPTY, "a full lower directory");
        remove_file(fixture.at("d/a")).unwrap();
        assert_errno(remove_dir(fixture.at("d")), libc::ENOTEMPTY, "one directory left");
        remove_dir_all(fixture.at("d/e")).unwrap();
        remove_dir(fixture.at("d")).unwrap();
        assert!(listed(fixture.root()).is_empty());
    }

    fn a_directory_of_whiteouts_only_is_empty(backend) {
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            put_whiteout(&layers[0], "d/a");
            put_whiteout(&layers[0], "d/b");
            put(&layers[1], "d/a", "x");
            put(&layers[1], "d/b", "x");
        });
        assert!(listed(&fixture.at("d")).is_empty());
        remove_dir(fixture.at("d")).unwrap();
        create_dir(fixture.at("d")).unwrap();
        assert!(listed(&fixture.at("d")).is_empty());
    }

    fn rename_over_a_directory_of_whiteouts(backend) {
        let fixture = Fixture::with_layers(backend, 2, |layers| {
            put_whiteout(&layers[0], "d/a");
            put(&layers[1], "d/a", "x");
            put(&layers[1], "s/new", "n");
        });
        rename(fixture.at("s"), fixture.at("d")).unwrap();
        assert_eq!(listed(&fixture.at("d")), ["new"]);
        assert_eq!(listed(fixture.root()), ["d"]);
    }

    fn remove_and_make_many_times(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            put(lower, "d/f", "lower");
            put(lower, "d/sub/g", "lower");
        });
        for round in 0..5 {
            remove_dir_all(fixture.at("d")).unwrap();
            assert!(!fixture.at("d").exists(), "round {round}");
            create_dir(fixture.at("d")).unwrap();
            assert!(listed(&fixture.at("d")).is_empty(), "round {round}");
            create_dir(fixture.at("d/sub")).unwrap();
            assert!(listed(&fixture.at("d/sub")).is_empty(), "round {round}");
            write(fixture.at("d/f"), "upper").unwrap();
            if round == 2 {
                fixture.remount();
            }
        }
        assert_eq!(listed(&fixture.at("d")), ["f", "sub"]);
        assert_eq!(text(&fixture.at("d/f")), "upper");
    }

    fn a_file_takes_the_place_of_a_directory_and_back(backend) {
        let mut fixture = Fixture::new(backend, |lower| put(lower, "x/f", "lower"));
        remove_dir_all(fixture.at("x")).unwrap();
        write(fixture.at("x"), "file").unwrap();
        fixture.remount();
        assert_eq!(text(&fixture.at("x")), "file");
        remove_file(fixture.at("x")).unwrap();
        create_dir(fixture.at("x")).unwrap();
        fixture.remount();
        assert!(listed(&fixture.at("x")).is_empty());
    }

    fn type_changes_across_layers(backend) {
        let fixture = Fixture::with_layers(backend, 3, |layers| {
            put(&layers[2], "a/deep", "bottom");
            put(&layers[1], "a", "a file hides the directory");
            put_dir(&layers[0], "a");
            put(&layers[2], "b", "bottom");
            put(&layers[1], "b/in", "a directory hides the file");
            put(&layers[0], "b/top", "t");
            put(&layers[2], "c/one", "1");
            put_whiteout(&layers[1], "c");
            put(&layers[0], "c/two", "2");
        });
        assert!(listed(&fixture.at("a")).is_empty(), "merging stops at the file: {:?}", listed(&fixture.at("a")));
        assert_eq!(listed(&fixture.at("b")), ["in", "top"]);
        assert_eq!(listed(&fixture.at("c")), ["two"], "merging stops at the whiteout");
        write(fixture.at("c/one"), "new").unwrap();
        assert_eq!(text(&fixture.at("c/one")), "new");
    }

    fn opaque_directories_hide_what_is_below(backend) {
        let mut fixture = Fixture::with_layers(backend, 3, |layers| {
            put(&layers[2], "d/bottom", "x");
            put(&layers[2], "d/sub/deep", "x");
            put_opaque(&layers[1], "d");
            put(&layers[1], "d/middle", "x");
            put(&layers[0], "d/top", "x");
        });
        assert_eq!(listed(&fixture.at("d")), ["middle", "top"]);
        assert_errno(fixture.at("d/bottom").metadata(), libc::ENOENT, "a hidden file");
        assert_errno(fixture.at("d/sub/deep").metadata(), libc::ENOENT, "a file below a hidden directory");
        create_dir(fixture.at("d/sub")).unwrap();
        assert!(listed(&fixture.at("d/sub")).is_empty());
        fixture.remount();
        assert!(listed(&fixture.at("d/sub")).is_empty());
    }

    /// The same question first, and after all other questions have been asked.
    fn answers_do_not_depend_on_the_order_of_questions(backend) {
        let build = |layers: &[std::path::PathBuf]| {
            put(&layers[1], "a/b/c/f", "1");
            put(&layers[1], "a/b/g", "2");
            put_whiteout(&layers[0], "a/b/c");
            put(&layers[0], "a/x", "3");
            posix::link(&layers[1].join("a/b/g"), &layers[1].join("h")).unwrap();
        };
        let questions = ["a/b/c/f", "a/b/c", "a/b/g", "a/x", "h", "a/b", "a"];
        let ask = |fixture: &Fixture, path: &str| {
            use std::os::unix::fs::MetadataExt;
            let answer = fixture.at(path).symlink_metadata();
            answer.map(|meta| (meta.mode(), if meta.is_dir() { 1 } else { meta.nlink() })).map_err(|e| posix::errno(&e))
        };
        let mut fixture = Fixture::with_layers(backend, 2, build);
        let first: Vec<_> = questions
            .iter()
            .map(|path| {
                fixture.remount();
                ask(&fixture, path)
            })
            .collect();
        fixture.remount();
        let forwards: Vec<_> = questions.iter().map(|path| ask(&fixture, path)).collect();
        fixture.remount();
        let mut backwards: Vec<_> = questions.iter().rev().map(|path| ask(&fixture, path)).collect();
        backwards.reverse();
        assert_eq!(first, forwards);
        assert_eq!(first, backwards);
        assert_eq!(first[0], Err(libc::ENOENT));
        assert_eq!(first[2].unwrap().1, 2, "the link outside was not looked up and still counts");
    }

    fn names_that_exist_below_a_whiteout_can_be_made_again(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "f", "lower");
            put(lower, "d/x", "lower");
            put(lower, "keep", "k");
        });
        for make in ["file", "link", "symlink", "fifo", "rename", "dir"] {
            remove_file(fixture.at("f")).unwrap();
            match make {
                "file" => write(fixture.at("f"), "new").unwrap(),
                "link" => posix::link(&fixture.at("keep"), &fixture.at("f")).unwrap(),
                "symlink" => posix::symlink("keep".as_ref(), &fixture.at("f")).unwrap(),
                "fifo" => posix::mkfifo(&fixture.at("f")).unwrap(),
                "rename" => {
                    write(fixture.at("other"), "moved").unwrap();
                    rename(fixture.at("other"), fixture.at("f")).unwrap();
                }
                _ => {
                    create_dir(fixture.at("f")).unwrap();
                    assert!(listed(&fixture.at("f")).is_empty());
                    break;
                }
            }
            assert_errno(create_dir(fixture.at("f")), libc::EEXIST, make);
        }
        assert_eq!(listed(fixture.root()), ["d", "f", "keep"]);
    }

    fn rm_r_of_a_lower_tree(backend) {
        let mut fixture = Fixture::new(backend, |lower| {
            for directory in 0..20 {
                for file in 0..20 {
                    put(lower, &format!("t/d{directory}/s/f{file}"), "x");
                }
            }
        });
        remove_dir_all(fixture.at("t")).unwrap();
        assert!(listed(fixture.root()).is_empty());
        fixture.remount();
        assert!(listed(fixture.root()).is_empty());
        // One whiteout, not four hundred.
        assert_eq!(listed(fixture.upper()), ["t"]);
    }

    /// Whiteouts of the upper are not seen, listed, counted or linked to by a program inside.
    fn markers_are_not_visible(backend) {
        let fixture = Fixture::new(backend, |lower| {
            put(lower, "d/a", "x");
            put(lower, "d/b", "x");
        });
        remove_file(fixture.at("d/a")).unwrap();
        std::fs::rename(fixture.at("d"), fixture.at("e")).unwrap();
        posix::chmod(&fixture.at("e/b"), 0o600).unwrap();
        for path in ["e", "e/b", ""] {
            let xattrs = posix::list_xattrs(&fixture.at(path)).unwrap();
            assert!(xattrs.is_empty(), "{path} shows {xattrs:?}");
        }
        assert_eq!(listed(&fixture.at("e")), ["b"]);
        assert_errno(posix::link(&fixture.at("e/a"), &fixture.at("z")), libc::ENOENT, "link to a deleted name");
        assert_errno(rename(fixture.at("e/a"), fixture.at("z")), libc::ENOENT, "rename of a deleted name");
        assert_errno(remove_file(fixture.at("e/a")), libc::ENOENT, "unlink of a deleted name");
    }
}

/// A whiteout where there is nothing to hide is not shown. The kernel's overlayfs lists such a name in a
/// directory that is not merged and then does not find it, so this is asked of ours alone.
fn stray_whiteouts(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let fixture = Fixture::with_layers(backend, 2, |layers| {
        put_whiteout(&layers[0], "only/gone");
        put(&layers[0], "only/f", "x");
        put_whiteout(&layers[1], "lowest/gone");
        put_whiteout(&layers[1], "gone");
    });
    assert_eq!(listed(&fixture.at("only")), ["f"]);
    assert!(listed(&fixture.at("lowest")).is_empty());
    assert_eq!(listed(fixture.root()), ["lowest", "only"]);
    write(fixture.at("only/gone"), "back").unwrap();
    assert_eq!(text(&fixture.at("only/gone")), "back");
    remove_dir(fixture.at("lowest")).unwrap();
}

#[test]
fn stray_whiteouts_shale_passthrough() {
    stray_whiteouts(Backend::ShalePassthrough);
}

#[test]
fn stray_whiteouts_shale_plain() {
    stray_whiteouts(Backend::ShalePlain);
}
