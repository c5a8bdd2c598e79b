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
    for filter in ["until=soon", "name=x"] {
        let errors = shale.fails(["system", "prune", "-f", "--filter", filter]);
        assert!(errors.contains("invalid filter"), "{errors}");
    }
    assert_eq!(shale.ok(["images", "-aq"]).lines().count(), 3);
}

/// Bytes of a size as tables show it.
fn bytes(text: &str) -> f64 {
    let at = text.find(|sign: char| sign.is_alphabetic()).unwrap();
    let unit = [("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)];
    let factor = unit.iter().find(|(unit, _)| *unit == &text[at..]).unwrap().1;
    text[..at].parse::<f64>().unwrap() * factor
}

#[test]
fn sizes_add_up() {
    let shale = Shale::new();
    let noise = |seed: u8, size: usize| -> String {
        (0..size)
            .map(|at| char::from(b'a' + (seed.wrapping_mul(31).wrapping_add((at * at % 251) as u8)) % 26))
            .collect()
    };
    let shared = file("shared", &noise(1, 300_000));
    shale.import(&tar(&[shared.clone(), file("one", &noise(2, 100_000))]), "one");
    shale.import(&tar(&[shared, file("two", &noise(3, 200_000))]), "two");
    let told: serde_json::Value =
        serde_json::from_str(&shale.ok(["system", "df", "-v", "--format", "json"])).unwrap();
    let sizes = |table: &str, field: &str| -> Vec<f64> {
        told[table]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| bytes(row[field].as_str().unwrap()))
            .collect()
    };
    for table in ["Images", "Layers"] {
        let (size, shared, unique) = (
            sizes(table, "Size"),
            sizes(table, "SharedSize"),
            sizes(table, "UniqueSize"),
        );
        assert_eq!(size.len(), 2);
        for at in 0..2 {
            assert!((size[at] - shared[at] - unique[at]).abs() < size[at] / 100.0);
            assert!(
                (300_000.0..320_000.0).contains(&shared[at]),
                "{table}: {shared:?}"
            );
        }
        assert!(
            unique
                .iter()
                .any(|unique| (100_000.0..130_000.0).contains(unique)),
            "{unique:?}"
        );
        assert!(
            unique
                .iter()
                .any(|unique| (200_000.0..230_000.0).contains(unique)),
            "{unique:?}"
        );
    }
    let images = bytes(
        shale
            .ok(["system", "df", "--format", "{{.Size}}"])
            .lines()
            .next()
            .unwrap(),
    );
    let sum = sizes("Images", "UniqueSize").iter().sum::<f64>() + sizes("Images", "SharedSize")[0];
    assert!((images - sum).abs() < images / 50.0, "{images} {sum}");

    let before = bytes(
        shale
            .ok(["system", "df", "--format", "{{.Reclaimable}}"])
            .lines()
            .next()
            .unwrap()
            .split(' ')
            .next()
            .unwrap(),
    );
    let told = shale.ok(["image", "prune", "-a", "-f"]);
    let freed = bytes(
        told.lines()
            .last()
            .unwrap()
            .strip_prefix("Total reclaimed space: ")
            .unwrap(),
    );
    assert!((before - freed).abs() < before / 50.0, "{before} {freed}");
    assert!(
        shale
            .ok(["system", "df"])
            .contains("Images          0         0         0B")
    );
}

#[test]
fn compressed_copies_can_be_dropped() {
    let shale = Shale::new();
    let layer = tar(&[dir("d"), file("d/a", &"content ".repeat(20_000))]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &layer).unwrap();
    let id = shale.import(&gzip.finish().unwrap(), "packed");
    let save = |name: &str| {
        let path = shale.path(name);
        shale.ok(["save", "-o", path.to_str().unwrap(), "packed"]);
        path
    };
    let before = save("before.tar");
    let blobs = shale.names("blobs/sha256").len();
    shale.ok(["system", "prune", "-f"]);
    assert_eq!(
        shale.names("blobs/sha256").len(),
        blobs,
        "blobs go only when asked for"
    );
    shale.ok(["system", "prune", "-f", "--blobs"]);
    assert_eq!(shale.names("blobs/sha256").len(), blobs - 1);
    shale.ok(["system", "check"]);
    let after = save("after.tar");
    assert_ne!(std::fs::read(&before).unwrap(), std::fs::read(&after).unwrap());
    for archive in [before, after] {
        let other = Shale::new();
        other.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
        assert_eq!(other.ok(["images", "-q", "--no-trunc", "packed"]), id);
        other.ok(["system", "check"]);
    }
}

#[test]
fn info_tells_where_the_store_is() {
    let shale = Shale::new();
    two_images(&shale);
    let text = shale.ok(["system", "info"]);
    assert!(
        text.contains(&format!("Storage Root: {}", shale.root().display())),
        "{text}"
    );
    assert!(text.contains("Images: 3"), "{text}");
    assert_eq!(shale.ok(["system", "info", "--format", "{{.Images}}"]), "3");
}
