//! The store on disk: what is shared, what is deleted when, what a kill, a full disk or damage leaves.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Entry, Shale, dir, file, skip, tar};
use imagetool::digest::Digest;
use imagetool::store::{Store, chain_ids};
use serde_json::json;
use ufs::Lower;
use ufs::index::{Index, Kind};

/// A file that is larger than what goes to a pack.
fn large(name: &str, seed: u32) -> Entry {
    let numbers = (0..20_000u32).map(|n| n.wrapping_mul(2_654_435_761).wrapping_add(seed).to_string());
    file(name, &numbers.collect::<String>())
}

/// A Docker archive of these layers, bottom first.
fn docker_archive(layers: &[Vec<u8>], tag: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": "c.json", "RepoTags": [tag], "Layers": names }]);
    let mut entries = vec![file("c.json", &config.to_string())];
    for (name, layer) in names.iter().zip(layers) {
        let (mut member, _) = file(name, "");
        member.size_bytes = layer.len() as u64;
        entries.push((member, layer.clone()));
    }
    entries.push(file("manifest.json", &manifest.to_string()));
    tar(&entries)
}

fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root.join("objects")).unwrap() {
        let folder = folder.unwrap().path();
        found.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.sort();
    found
}

/// Whether every layer of every image gives its exact tar.
fn assert_whole(store: &Store) {
    for id in store.image_ids().unwrap() {
        for (diff_id, _) in store.image_details(&id).unwrap().layers {
            let mut stream = store.open_layer_stream(&diff_id).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        }
    }
}

fn load(shale: &Shale, archive: &[u8]) {
    let output = shale.feed(["load", "-q"], archive);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
}

#[test]
fn contents_are_shared_and_go_with_their_last_layer() {
    let shale = Shale::new();
    shale.import(&tar(&[large("a", 1), large("again", 1), large("own", 2)]), "one");
    let before = objects(&shale.root());
    assert_eq!(before.len(), 2, "the same content was stored twice");
    shale.import(&tar(&[dir("d"), large("d/other", 1)]), "two");
    assert_eq!(objects(&shale.root()), before);
    shale.ok(["rmi", "one"]);
    let shared = objects(&shale.root());
    assert_eq!(shared.len(), 1);
    assert_whole(&Store::open(&shale.root()).unwrap());
    // what is there is not written again
    let ino = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let inode = ino(&shared[0]);
    shale.import(&tar(&[large("third", 1)]), "three");
    shale.ok(["rmi", "two"]);
    assert_eq!(ino(&shared[0]), inode);
    shale.ok(["rmi", "three"]);
    shale.assert_empty();
}

#[test]
fn layers_that_are_taken_in_at_once_do_not_meet() {
    let shale = Shale::new();
    let layer = |number: u32| -> Vec<u8> {
        // some contents are in several layers
        let files = (0..20).map(|n| large(&format!("{number}-{n}"), n * (1 + number % 2)));
        tar(&files.collect::<Vec<_>>())
    };
    let layers: Vec<Vec<u8>> = (0..8).map(layer).collect();
    let path = shale.path("archive.tar");
    fs::write(&path, docker_archive(&layers, "many")).unwrap();
    shale.ok(["load", "-q", "-i", path.to_str().unwrap()]);
    assert_whole(&Store::open(&shale.root()).unwrap());
    assert_eq!(objects(&shale.root()).len(), 30);
    shale.ok(["rmi", "many"]);
    shale.assert_empty();
}

#[test]
fn a_layer_may_come_twice_in_an_image() {
    let (empty, own) = (tar(&[]), tar(&[large("a", 1), file("b", "x")]));
    let layers = [empty.clone(), own.clone(), empty, own];
    let archive = docker_archive(&layers, "twice");
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let from_file = Shale::new();
    let path = from_file.path("archive.tar");
    fs::write(&path, &archive).unwrap();
    from_file.ok(["load", "-q", "-i", path.to_str().unwrap()]);
    let from_pipe = Shale::new();
    load(&from_pipe, &archive);
    for shale in [from_file, from_pipe] {
        assert_eq!(
            shale.ok(["inspect", "-f", "{{json .RootFS.Layers}}", "twice"]),
            json!(diff_ids).to_string()
        );
        assert_eq!(shale.names("layers").len(), 2);
        assert_whole(&Store::open(&shale.root()).unwrap());
        // as it is when the store has them
        shale.ok(["rmi", "twice"]);
        load(&shale, &docker_archive(&layers[1..2], "once"));
        load(&shale, &archive);
        shale.ok(["rmi", "once", "twice"]);
        shale.assert_empty();
    }
}

#[test]
fn adding_and_removing_at_once_lose_nothing() {
    let shale = Shale::new();
    let (one, two) = (
        tar(&[large("a", 1), large("b", 2)]),
        tar(&[file("x", "y"), large("a", 1), large("b", 2)]),
    );
    std::thread::scope(|scope| {
        let turns = |archive: &[u8], name: &str, last: bool| {
            for turn in 0..6 {
                shale.import(archive, name);
                if turn < 5 || !last {
                    shale.ok(["rmi", name]);
                }
            }
        };
        let (one, two) = (&one, &two);
        scope.spawn(move || turns(one, "one", false));
        scope.spawn(move || turns(two, "two", true));
    });
    let store = Store::open(&shale.root()).unwrap();
    assert_eq!(store.image_ids().unwrap().len(), 1);
    assert_eq!(objects(&shale.root()).len(), 2);
    assert_whole(&store);
    drop(store);
    shale.ok(["rmi", "two"]);
    shale.assert_empty();
}

/// A layer with so many files that small ones lie over it for a while, two small ones, and one that hides something.
fn layers() -> Vec<Vec<u8>> {
    let many = |folder: &str, count: usize| -> Vec<u8> {
        let files = (0..count).map(|n| file(format!("{folder}/{n}"), folder));
        tar(&files
            .chain([file(format!(".wh.not-{folder}"), "")])
            .collect::<Vec<_>>())
    };
    vec![
        many("a", 50_000),
        many("b", 30),
        many("c", 30),
        tar(&[file("a/.wh.7", ""), file("top", "x")]),
    ]
}

fn lowers(store: &Store, name: &str) -> Vec<PathBuf> {
    let image = store.resolve_image(name).unwrap();
    let lowers = store.layer_lowers(&image).unwrap();
    lowers
        .iter()
        .map(|lower| match lower {
            Lower::Index { path, repository } => {
                assert_eq!(repository, store.root());
                path.clone()
            }
            Lower::Directory(path) => panic!("{} is a directory", path.display()),
        })
        .collect()
}

#[test]
fn images_are_mounted_from_few_indexes() {
    let shale = Shale::new();
    let layers = layers();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let chains = chain_ids(&diff_ids);
    load(&shale, &docker_archive(&layers[..1], "single"));
    let store = Store::open(&shale.root()).unwrap();
    let own = |at: usize| store.repository().index(diff_ids[at].as_bytes());
    assert_eq!(lowers(&store, "single"), [own(0)]);
    assert_eq!(shale.names("chains"), Vec::<String>::new());
    load(&shale, &docker_archive(&layers[..3], "three"));
    assert_eq!(shale.names("chains"), [chains[2].hex()]);
    let chain = store.root().join("chains").join(chains[2].hex());
    assert_eq!(lowers(&store, "three"), [chain.as_path()]);
    let index = Index::open(&chain).unwrap();
    index.check().unwrap();
    assert_eq!(index.kind(), Kind::Chain);
    assert!(index.find(b"b/3").unwrap().is_some());
    // a small layer above does not make the chain anew at every use
    let whole = |name: &str| lowers(&store, name).remove(0);
    load(&shale, &docker_archive(&layers, "four"));
    assert_eq!(lowers(&store, "four").len(), 1);
    fs::remove_file(whole("four")).unwrap();
    assert_eq!(lowers(&store, "four"), [own(3), chain.clone()]);
    let mut more = layers.clone();
    more.push(tar(&[file("more", "x")]));
    load(&shale, &docker_archive(&more, "five"));
    fs::remove_file(whole("five")).unwrap();
    let run = lowers(&store, "five").remove(0);
    assert_eq!(Index::open(&run).unwrap().kind(), Kind::Run);
    assert_eq!(lowers(&store, "five"), [run.clone(), chain.clone()]);
    // chains are caches
    for bytes in [&b""[..], b"no index", &fs::read(&chain).unwrap()[..100]] {
        fs::write(&chain, bytes).unwrap();
        for name in ["three", "four", "five"] {
            let paths = lowers(&store, name);
            assert_eq!(paths.len(), 2, "{name}");
            for path in paths {
                Index::open(&path).unwrap().check().unwrap();
            }
        }
    }
    shale.ok(["rmi", "three", "four"]);
    assert!(!shale.names("chains").is_empty());
    shale.ok(["rmi", "five"]);
    assert_eq!(shale.names("chains"), Vec::<String>::new());
    drop(store);
    shale.ok(["rmi", "single"]);
    shale.assert_empty();
}

#[test]
fn a_pinned_layer_stays() {
    let shale = Shale::new();
    shale.import(&tar(&[large("a", 1)]), "one");
    let store = Store::open(&shale.root()).unwrap();
    let pins = store
        .pin_layers_for(&store.resolve_image("one").unwrap())
        .unwrap();
    shale.ok(["rmi", "one"]);
    assert_eq!(
        (shale.names("layers").len(), objects(&shale.root()).len()),
        (1, 1)
    );
    // another image's removal finds it, once it is free
    shale.import(&tar(&[file("other", "x")]), "other");
    shale.ok(["rmi", "other"]);
    assert_eq!(shale.names("layers").len(), 1);
    drop(pins);
    shale.import(&tar(&[file("other", "x")]), "other");
    shale.ok(["rmi", "other"]);
    shale.assert_empty();
    // and a prune does with no image to remove
    shale.import(&tar(&[large("a", 1)]), "one");
    let pins = store.pin_layers_for(&store.resolve_image("one").unwrap());
    shale.ok(["rmi", "one"]);
    drop(pins);
    let told = shale.ok(["image", "prune", "-f"]);
    assert!(told.contains("deleted: sha256:"), "{told}");
    drop(store);
    shale.assert_empty();
}

#[test]
fn what_a_kill_left_without_a_row_is_deleted() {
    let shale = Shale::new();
    shale.import(&tar(&[large("a", 1)]), "one");
    let kept = objects(&shale.root());
    // killed after the objects got their names, and before the layer got its own
    let left = Digest::of(b"left").hex();
    let folder = shale.root().join("objects").join(&left[..2]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(&left), "left").unwrap();
    fs::create_dir(shale.root().join("tmp/load.killed")).unwrap();
    shale.ok(["images"]);
    assert_eq!(objects(&shale.root()), kept);
    assert_eq!(shale.names("tmp"), Vec::<String>::new());
    assert_whole(&Store::open(&shale.root()).unwrap());
}

#[test]
fn a_damaged_configuration_does_not_stop_removals() {
    let shale = Shale::new();
    load(&shale, &docker_archive(&layers()[..3], "good"));
    load(&shale, &docker_archive(&layers()[..2], "bad"));
    let bad = shale.ok(["images", "-q", "--no-trunc", "bad"]);
    let database = rusqlite::Connection::open(shale.root().join("shale.db")).unwrap();
    let damaged = database.execute("UPDATE images SET config = 'x' WHERE id = ?1", [&bad]);
    assert_eq!(damaged.unwrap(), 1);
    shale.ok(["rmi", "good"]);
    let listed = fs::read_to_string(shale.root().join("index.json")).unwrap();
    assert!(listed.contains("bad") && !listed.contains("good"), "{listed}");
    assert_eq!(shale.names("layers").len(), 2);
    shale.ok(["image", "prune", "-a", "-f"]);
    shale.ok(["rmi", "bad"]);
    shale.assert_empty();
}

#[test]
fn a_layer_that_lost_its_files_is_brought_back_by_the_next_load() {
    let shale = Shale::new();
    let archive = docker_archive(&layers()[..2], "two");
    load(&shale, &archive);
    let layer = shale.root().join("layers").join(Digest::of(&layers()[0]).hex());
    fs::remove_file(layer.join("index")).unwrap();
    load(&shale, &archive);
    assert!(layer.join("index").is_file());
    // a repair that was killed leaves an empty directory
    fs::remove_dir_all(&layer).unwrap();
    fs::create_dir(&layer).unwrap();
    load(&shale, &archive);
    assert_whole(&Store::open(&shale.root()).unwrap());
}

#[test]
fn a_store_of_the_earlier_form_is_brought_into_the_new_one() {
    let shale = Shale::new();
    let archive = tar(&[large("a", 1), file("small", "x")]);
    shale.import(&archive, "one");
    let diff_id = Digest::of(&archive);
    let layer = shale.root().join("layers").join(diff_id.hex());
    // as it was: the blob, and a directory
    for name in ["index", "pack", "recipe"] {
        fs::remove_file(layer.join(name)).unwrap();
    }
    fs::remove_dir_all(shale.root().join("objects")).unwrap();
    fs::create_dir(layer.join("diff")).unwrap();
    fs::write(layer.join("diff/small"), "x").unwrap();
    fs::write(shale.root().join("blobs/sha256").join(diff_id.hex()), &archive).unwrap();
    let store = Store::open(&shale.root()).unwrap();
    assert_eq!(lowers(&store, "one"), [layer.join("index")]);
    assert!(!layer.join("diff").exists());
    assert_whole(&store);
    assert_eq!(objects(&shale.root()).len(), 1);
    drop(store);
    shale.ok(["rmi", "one"]);
    shale.assert_empty();
}

#[test]
fn a_layer_of_the_earlier_form_serves_another_image() {
    let shale = Shale::new();
    let (base, top) = (tar(&[large("a", 1)]), tar(&[file("top", "x")]));
    load(&shale, &docker_archive(std::slice::from_ref(&base), "base"));
    let diff_id = Digest::of(&base);
    let layer = shale.root().join("layers").join(diff_id.hex());
    // its blob came compressed
    let mut blob = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    blob.write_all(&base).unwrap();
    let blob = blob.finish().unwrap();
    let digest = Digest::of(&blob);
    fs::write(shale.root().join("blobs/sha256").join(digest.hex()), &blob).unwrap();
    let database = rusqlite::Connection::open(shale.root().join("shale.db")).unwrap();
    let changed = database.execute("UPDATE image_layers SET blob_digest = ?1", [digest.to_string()]);
    assert_eq!(changed.unwrap(), 1);
    for name in ["index", "pack", "recipe"] {
        fs::remove_file(layer.join(name)).unwrap();
    }
    fs::remove_dir_all(shale.root().join("objects")).unwrap();
    fs::create_dir(layer.join("diff")).unwrap();
    let path = shale.path("archive.tar");
    fs::write(&path, docker_archive(&[base, top], "both")).unwrap();
    shale.ok(["load", "-q", "-i", path.to_str().unwrap()]);
    // the plain tar is to be had when the compressed one is gone
    shale.ok(["rmi", "base"]);
    assert!(!shale.root().join("blobs/sha256").join(digest.hex()).exists());
    assert!(!layer.join("diff").exists());
    assert_whole(&Store::open(&shale.root()).unwrap());
    shale.ok(["rmi", "both"]);
    shale.assert_empty();
}

#[test]
fn damage_never_gives_other_bytes() {
    let shale = Shale::new();
    let archive = tar(&[
        large("a", 1),
        file("small", "some bytes"),
        file("other", "more bytes"),
    ]);
    shale.import(&archive, "one");
    let store = Store::open(&shale.root()).unwrap();
    let diff_id = Digest::of(&archive);
    let layer = shale.root().join("layers").join(diff_id.hex());
    let mut files = objects(&shale.root());
    files.extend(["index", "pack", "recipe"].map(|name| layer.join(name)));
    for path in files {
        let whole = fs::read(&path).unwrap();
        let changed = |at: usize, cut: bool| {
            let mut bytes = whole.clone();
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= 0x10,
            }
            fs::remove_file(&path).unwrap();
            fs::write(&path, &bytes).unwrap();
            let read = store.open_layer_stream(&diff_id).map(|mut stream| {
                let mut back = Vec::new();
                stream.read_to_end(&mut back).map(|_| back)
            });
            if let Ok(Ok(back)) = read {
                assert!(back == archive, "{} at {at}: other bytes", path.display());
            }
        };
        for at in (0..whole.len()).step_by(whole.len() / 40 + 1) {
            changed(at, false);
            changed(at, true);
        }
        fs::remove_file(&path).unwrap();
        assert!(store.open_layer_stream(&diff_id).map_or(true, |mut stream| {
            std::io::copy(&mut stream, &mut std::io::sink()).is_err()
        }));
        fs::write(&path, &whole).unwrap();
    }
    assert_whole(&store);
}

/// A small file system of its own; taken away again when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(path.to_owned()))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = std::process::Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    let shale = Shale::new();
    let Some(disk) = Small::mount(&shale.root(), "4m") else {
        return skip("no file system can be mounted here");
    };
    let small: Vec<Entry> = (0..300)
        .map(|n| file(format!("f{n}"), &n.to_string().repeat(300)))
        .collect();
    let layers = [tar(&small), tar(&[large("a", 1), large("b", 2), large("c", 3)])];
    let archive = docker_archive(&layers, "full");
    shale.import(&tar(&[file("there", "before")]), "before");
    let mut failed = 0;
    // the database and what is there need some 200 KiB; all of it some 2 MiB
    for room_kib in (250..2600).step_by(150) {
        disk.resize(&format!("{room_kib}k"));
        let output = shale.feed(["load", "-q"], &archive);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            disk.resize("8m");
            assert_whole(&Store::open(&shale.root()).unwrap());
            shale.ok(["rmi", "full"]);
        } else {
            failed += 1;
            assert!(
                errors.contains("o space left on device") || errors.contains("full"),
                "{room_kib} KiB: {errors}"
            );
        }
        disk.resize("8m");
        assert_eq!(
            shale.ok(["images", "-q"]).lines().count(),
            1,
            "{room_kib} KiB: {errors}"
        );
        assert_eq!(shale.names("tmp"), Vec::<String>::new());
        assert_eq!(
            (shale.names("layers").len(), objects(&shale.root()).len()),
            (1, 0)
        );
    }
    assert!((3..15).contains(&failed), "{failed} of the sizes were too small");
    load(&shale, &archive);
    assert_whole(&Store::open(&shale.root()).unwrap());
}

#[test]
fn memory_does_not_grow_with_the_layer() {
    let shale = Shale::new();
    const FILE_BYTES: u64 = 300 << 20;
    let mut child = shale
        .command(["import", "-q", "-", "large"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = std::io::BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
    let mut writer = imagetool::archive::write::Writer::new(&mut input);
    let (mut member, _) = file("large", "");
    member.size_bytes = FILE_BYTES;
    writer.member(&member, &mut std::io::repeat(b'x')).unwrap();
    for number in 0..20_000u32 {
        let (mut member, _) = file(format!("small/{number}"), "");
        member.size_bytes = 4;
        writer.member(&member, &mut &number.to_le_bytes()[..]).unwrap();
    }
    let (mut sparse, _) = file("sparse", "");
    sparse.size_bytes = 2 << 30;
    sparse.segments = Some(vec![(1 << 30, 512)]);
    writer.member(&sparse, &mut std::io::repeat(b's')).unwrap();
    writer.finish().unwrap().flush().unwrap();
    drop(input);
    // the peak only rises, so that the last look before the end tells nearly all
    let mut peak_kib = None;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let found = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak_kib = found.or(peak_kib);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    let Some(peak_kib) = peak_kib else {
        return skip("the kernel does not tell the peak of a process's memory");
    };
    assert!(peak_kib < 100 << 10, "{peak_kib} KiB");
}
