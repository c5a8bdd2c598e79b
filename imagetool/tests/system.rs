//! `shale system` and `shale image prune`, as a person or a script calls them.

mod common;

use common::{Shale, dir, file, tar};

/// Two images that share nothing, the second one without a name.
fn two_images(shale: &Shale) -> (String, String) {
    let named = shale.import(&tar(&[file("a", "one")]), "named");
    shale.import(&tar(&[dir("d"), file("d/b", "two")]), "lost");
    let lost = shale.ok(["images", "-q", "--no-trunc", "lost"]);
    shale.import(&tar(&[file("c", "three")]), "lost");
    (named, lost)
}

#[test]
fn image_prune_takes_dangling_images_and_with_all_unused_ones() {
    let shale = Shale::new();
    let (named, lost) = two_images(&shale);
    let told = shale.ok(["image", "prune", "-f"]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..2], ["Deleted Images:", &format!("deleted: {lost}")]);
    assert!(lines[2].starts_with("deleted: sha256:"), "{told}");
    assert_eq!(lines[3], "");
    assert!(
        lines[4].starts_with("Total reclaimed space: ") && !lines[4].ends_with(": 0B"),
        "{told}"
    );
    assert_eq!(lines.len(), 5);
    assert_eq!(shale.ok(["image", "prune", "-f"]), "Total reclaimed space: 0B");

    let kept = shale.ok(["image", "prune", "-a", "-f", "--filter", "until=1h"]);
    assert_eq!(kept, "Total reclaimed space: 0B");
    let told = shale.ok(["image", "prune", "-a", "-f"]);
    assert!(told.contains("untagged: named:latest\n") && told.contains(&format!("deleted: {named}\n")));
    assert!(told.contains("untagged: lost:latest\n"));
    shale.assert_empty();
}

#[test]
fn prunes_ask_first() {
    let shale = Shale::new();
    two_images(&shale);
    for (words, question) in [
        (
            &["image", "prune"][..],
            "WARNING! This will remove all dangling images.\nAre you sure you want to continue? [y/N] ",
        ),
        (
            &["image", "prune", "-a"],
            "WARNING! This will remove all images without at least one container associated to them.\nAre you sure you \
             want to continue? [y/N] ",
        ),
        (
            &["system", "prune", "--filter", "label=x"],
            "WARNING! This will remove:\n  - all stopped containers\n  - all dangling images\n  - unused caches\n\n  \
             Items to be pruned will be filtered with:\n  - label=x\n\nAre you sure you want to continue? [y/N] ",
        ),
    ] {
        for answer in ["n\n", "", "\n"] {
            let output = shale.feed(words, answer.as_bytes());
            assert!(output.status.success());
            assert_eq!(String::from_utf8_lossy(&output.stdout), question);
        }
    }
    assert_eq!(shale.ok(["images", "-aq"]).lines().count(), 3);
    let output = shale.feed(["image", "prune"], b"y\n");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Deleted Images:"));
    assert_eq!(shale.ok(["images", "-aq"]).lines().count(), 2);
}

#[test]
fn filters_that_make_no_sense_remove_nothing() {
    let shale = Shale::new();
    two_images(&shale);
    for filter in ["until=soon", "name=x", "label"] {
        let errors = shale.fails(["system", "prune", "-f", "--filter", filter]);
        assert!(errors.contains("invalid filter"), "{errors}");
    }
    assert_eq!(shale.ok(["images", "-aq"]).lines().count(), 3);
}
