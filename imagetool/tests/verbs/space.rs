//! Sizes: they add up to what the store takes on disk, and show what nobody sees.

use imagetool::store::Store;
use imagetool::system::usage::usage;
use serde_json::Value;

use crate::common::{Shale, dir, file, tar};
use crate::support::loaded;

/// Bytes on disk of all files below a folder of the store, those with several names once.
fn taken(shale: &Shale, folder: &str) -> u64 {
    imagetool::system::disk::of_tree(&shale.root().join(folder)).unwrap()
}

/// … of its directories alone, which belong to nobody.
fn directories(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = path.metadata().unwrap().blocks() * 512;
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            bytes += directories(&entry.path());
        }
    }
    bytes
}

#[test]
fn sizes_add_up_to_what_the_store_takes() {
    let (shale, _) = loaded();
    let store = Store::open(&shale.root()).unwrap();
    let usage = usage(&store).unwrap();
    let unique: u64 = usage.images.iter().map(|image| image.unique_bytes).sum();
    let sum = unique + usage.shared_bytes + usage.unused_bytes;
    let disk: u64 = ["blobs", "layers", "objects"]
        .iter()
        .map(|folder| taken(&shale, folder))
        .sum();
    // the folders themselves belong to no image; a layer's own does
    let layer_folders: u64 = std::fs::read_dir(shale.root().join("layers"))
        .unwrap()
        .map(|entry| directories(&entry.unwrap().path()))
        .sum();
    let folders: u64 = ["blobs", "layers", "objects"]
        .iter()
        .map(|folder| directories(&shale.root().join(folder)))
        .sum();
    assert_eq!(sum, disk - folders + layer_folders);
    assert!(usage.shared_bytes > 0 && unique > 0);
    assert_eq!(usage.unused_bytes, 0);
    let told: Value = serde_json::from_str(&shale.ok(["system", "df", "-v", "--format", "json"])).unwrap();
    assert_eq!(told["Totals"]["SharedBytes"], usage.shared_bytes);
    assert_eq!(told["Totals"]["UniqueBytes"], unique);
    assert_eq!(
        told["Images"].as_array().unwrap().len(),
        5,
        "one row for each image"
    );
    let rows = shale.ok([
        "system",
        "df",
        "-v",
        "--format",
        "{{range .Images}}{{.Repository}};{{end}}",
    ]);
    assert_eq!(rows, "<none>;localhost:5000/tool;app;base;nodate;");
}

#[test]
fn what_later_layers_hide_is_shown() {
    let (shale, images) = loaded();
    let format = "{{.Files}} {{.SizeBytes}} {{.HiddenFiles}} {{.HiddenBytes}}";
    assert_eq!(
        shale.ok(["image", "du", "--format", format, &images.lost.short()]),
        "1 300000 0 0\n1 40000 1 40000\n2 50004 0 0"
    );
    assert_eq!(
        shale.ok(["image", "du", "--format", format, "app:2"]),
        "1 40000 0 0\n2 50004 0 0"
    );
    let table = shale.ok(["image", "du", &images.lost.short()]);
    let heading = "LAYER          SIZE      HIDDEN    CREATED BY\n";
    assert!(
        table.starts_with(heading) && table.contains("   40kB      40kB      /bin/sh -c echo"),
        "{table}"
    );
    // an opaque directory, and a file where a directory was
    let low = tar(&[
        dir("d"),
        file("d/a", "aaa"),
        file("d/b", "bb"),
        dir("e"),
        file("e/f", "f"),
        file("keep", "k"),
    ]);
    let high = tar(&[
        dir("d"),
        file("d/.wh..wh..opq", ""),
        file("d/b", "new"),
        file("e", "file"),
    ]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [
            imagetool::digest::Digest::of(&low).to_string(), imagetool::digest::Digest::of(&high).to_string()]},
    })
    .to_string();
    let manifest = r#"[{"Config": "c.json", "RepoTags": ["opaque:1"], "Layers": ["1.tar", "2.tar"]}]"#;
    let raw = |name: &str, bytes: &[u8]| {
        let (mut member, _) = file(name, "");
        member.size_bytes = bytes.len() as u64;
        (member, bytes.to_vec())
    };
    let archive = tar(&[
        raw("1.tar", &low),
        raw("2.tar", &high),
        file("c.json", &config),
        file("manifest.json", manifest),
    ]);
    assert!(shale.feed(["load", "-q"], &archive).status.success());
    assert_eq!(
        shale.ok(["image", "du", "--format", format, "opaque:1"]),
        "2 7 0 0\n4 7 3 6"
    );
}
