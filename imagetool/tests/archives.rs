//! import, load, save, tag, rmi: the program from outside, with good and bad input.

mod common;

use std::io;
use std::process::{Command, Stdio};

use common::{Shale, dir, file, skip, tar};
use imagetool::digest::Digest;
use serde_json::{Value, json};

fn sample() -> Vec<u8> {
    tar(&[
        dir("etc"),
        file("etc/name", "value"),
        file("big", &"x".repeat(300_000)),
    ])
}

/// A Docker archive of one layer.
fn docker_archive(layer: &[u8], diff_id: &str, tag: &str) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let manifest = json!([{ "Config": "c.json", "RepoTags": [tag], "Layers": ["l/layer.tar"] }]);
    let (mut member, _) = file("l/layer.tar", "");
    member.size_bytes = layer.len() as u64;
    tar(&[
        file("c.json", &config.to_string()),
        (member, layer.to_vec()),
        file("manifest.json", &manifest.to_string()),
    ])
}

#[test]
fn an_image_goes_out_and_comes_back_the_same() {
    let (first, second) = (Shale::new(), Shale::new());
    let id = first.import(&sample(), "sample:1");
    first.ok(["tag", "sample:1", "localhost:5000/other"]);
    let (one, two) = (first.path("1.tar"), first.path("2.tar"));
    first.ok([
        "save",
        "-o",
        one.to_str().unwrap(),
        "sample:1",
        "localhost:5000/other",
    ]);
    let loaded = second.ok(["load", "-q", "-i", one.to_str().unwrap()]);
    assert_eq!(
        loaded,
        "Loaded image: sample:1\nLoaded image: localhost:5000/other:latest"
    );
    // a line for each name
    assert_eq!(second.ok(["images", "-q", "--no-trunc"]), format!("{id}\n{id}"));
    second.ok([
        "save",
        "-o",
        two.to_str().unwrap(),
        "sample:1",
        "localhost:5000/other",
    ]);
    assert!(
        std::fs::read(one).unwrap() == std::fs::read(two).unwrap(),
        "the saved archives differ"
    );
    let nowhere = first.path("nowhere/1.tar");
    let refused = first.fails(["save", "-o", nowhere.to_str().unwrap(), "sample:1"]);
    assert!(refused.contains("invalid output path: directory"), "{refused}");
    let layer = second.ok(["inspect", "-f", "{{index .RootFS.Layers 0}}", "sample:1"]);
    assert_eq!(layer, Digest::of(&sample()).to_string());
}

#[test]
fn compressed_imports_give_the_same_layer() {
    let shale = Shale::new();
    shale.import(&sample(), "plain");
    let expected = shale.ok(["inspect", "-f", "{{json .RootFS.Layers}}", "plain"]);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            skip(&format!("{program} is not installed"));
            continue;
        };
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &sample()).unwrap());
        let packed = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        shale.import(&packed, program);
        assert_eq!(
            shale.ok(["inspect", "-f", "{{json .RootFS.Layers}}", program]),
            expected,
            "{program}"
        );
        let cut = shale.feed(["import", "-q", "-"], &packed[..packed.len() - 9]);
        assert_eq!(cut.status.code(), Some(1), "a cut {program} archive passed");
    }
}

#[test]
fn nothing_of_a_refused_import_is_left() {
    let shale = Shale::new();
    let whole = sample();
    let mut inputs = vec![
        ("empty", Vec::new()),
        ("text", b"this is no archive".repeat(100)),
        ("cut in a header", whole[..700].to_vec()),
        ("cut in a file", whole[..100_000].to_vec()),
        ("without its end", whole[..whole.len() - 1024].to_vec()),
        ("escaping", tar(&[file("ok", "x"), file("../../escaped", "x")])),
    ];
    let mut bent = whole.clone();
    bent[0] ^= 1;
    inputs.push(("bent", bent));
    for (what, input) in inputs {
        let output = shale.feed(["import", "-q", "-", "bad"], &input);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {errors}");
        assert!(
            errors.starts_with("Error: ") && errors.lines().count() == 1,
            "{what}: {errors}"
        );
        assert!(errors.contains("standard input"), "{what}: {errors}");
        shale.assert_empty();
    }
    assert!(!shale.folder.path().join("escaped").exists());
}

#[test]
fn archives_that_lie_are_refused() {
    let shale = Shale::new();
    let layer = sample();
    let good = Digest::of(&layer).to_string();
    let cases = [
        (
            docker_archive(&layer, &Digest::of(b"other").to_string(), "a"),
            "diff id",
        ),
        (docker_archive(&layer, "sha256:zz", "a"), "diff id"),
        (
            docker_archive(&layer, &good, "NOT A NAME"),
            "invalid reference format",
        ),
        (
            docker_archive(&layer[..1000], &Digest::of(&layer[..1000]).to_string(), "a"),
            "truncated",
        ),
        (tar(&[file("hello", "x")]), "holds no image"),
        (
            tar(&[file("index.json", "{"), file("manifest.json", "[]")]),
            "index.json",
        ),
        (tar(&[file("../index.json", "{}")]), "outside"),
    ];
    for (archive, part) in cases {
        let output = shale.feed(["load", "-q"], &archive);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(part), "{part}: {errors}");
        shale.assert_empty();
    }
    assert!(
        shale
            .feed(["load", "-q"], &docker_archive(&layer, &good, "a"))
            .status
            .success()
    );
}

#[test]
fn a_bent_blob_is_noticed() {
    let shale = Shale::new();
    shale.import(&sample(), "a");
    let path = shale.path("a.tar");
    shale.ok(["save", "-o", path.to_str().unwrap(), "a"]);
    let mut archive = std::fs::read(&path).unwrap();
    let at = archive.windows(5).position(|window| window == b"value").unwrap();
    archive[at] = b'V';
    let other = Shale::new();
    let output = other.feed(["load", "-q"], &archive);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the manifest says sha256:"));
    other.assert_empty();
}

#[test]
fn names_move_and_images_go_as_docker_says() {
    let shale = Shale::new();
    let first = shale.import(&sample(), "a:1");
    shale.ok(["tag", "a:1", "b:2"]);
    assert_eq!(shale.ok(["rmi", "b:2"]), "Untagged: b:2");
    let second = shale.import(&tar(&[file("x", "y")]), "a:1");
    assert_eq!(shale.ok(["images", "-q", "--no-trunc", "a"]), second);
    assert_eq!(
        shale.ok(["images", "-q", "--no-trunc", "-f", "dangling=true"]),
        first
    );
    let layer = Digest::of(&sample());
    assert_eq!(
        shale.ok(["rmi", &first[7..19]]),
        format!("Deleted: {first}\nDeleted: {layer}")
    );
    assert_eq!(
        shale.fails(["rmi", "nope"]),
        "Error: No such image: nope:latest\n"
    );
    shale.ok(["rmi", "a:1"]);
    shale.assert_empty();
}

#[test]
fn the_listing_takes_formats_and_filters() {
    let shale = Shale::new();
    shale.import(&sample(), "me/tool:1");
    assert_eq!(
        shale.ok(["images", "--format", "{{.Repository}}:{{.Tag}}"]),
        "me/tool:1"
    );
    assert_eq!(shale.ok(["images", "-q", "tool"]), "");
    let row: Value = serde_json::from_str(&shale.ok(["images", "--format", "json"])).unwrap();
    assert_eq!(
        (row["Size"].as_str(), row["Tag"].as_str()),
        (Some("300kB"), Some("1"))
    );
    let table = shale.ok(["images", "--digests"]);
    assert!(table.starts_with("REPOSITORY   TAG       DIGEST "), "{table}");
    let table = shale.ok(["images", "--format", "table {{.ID}}\\t{{.CreatedAt}}"]);
    assert!(table.starts_with("IMAGE ID       CREATED AT\n"), "{table}");
    assert!(shale.fails(["images", "-f", "nope=1"]).contains("invalid filter"));
    assert!(shale.fails(["images", "--format", "{{"]).contains("unclosed"));
}

#[test]
fn an_import_takes_instructions() {
    let shale = Shale::new();
    let words = [
        "import",
        "-q",
        "-m",
        "hello",
        "-c",
        "CMD [\"sh\"]",
        "-c",
        "ENV A=b",
        "-",
        "x",
    ];
    assert!(shale.feed(words, &sample()).status.success());
    let found = shale.ok(["inspect", "-f", "{{.Comment}} {{json .Config}}", "x"]);
    assert_eq!(found, "hello {\"Env\":[\"A=b\"],\"Cmd\":[\"sh\"]}");
    assert!(shale.ok(["history", "x"]).contains("hello"));
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let shale = Shale::new();
    let archive = sample();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let (shale, archive) = (&shale, &archive);
            scope.spawn(move || shale.import(archive, name));
        }
    });
    assert_eq!(shale.ok(["images", "-q"]).lines().count(), 4);
    assert_eq!(shale.names("layers").len(), 1);
    assert_eq!(shale.names("tmp").len(), 0);
    shale.ok(["rmi", "a", "b", "c", "d"]);
    shale.assert_empty();
}

#[test]
fn a_killed_command_leaves_a_store_that_works() {
    let shale = Shale::new();
    let big = tar(&(0..2000)
        .map(|n| file(format!("f{n}"), &"x".repeat(2000)))
        .collect::<Vec<_>>());
    let path = shale.path("big.tar");
    std::fs::write(&path, &big).unwrap();
    let mut died_at_work = 0;
    for delay_ms in [0, 5, 10, 20, 30, 45, 60, 80, 110, 150, 200] {
        let mut child = shale
            .command(["import", "-q", path.to_str().unwrap(), "big"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        died_at_work += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let images = shale.ok(["images", "-q"]).lines().count();
        assert_eq!(shale.names("tmp"), Vec::<String>::new());
        assert_eq!(shale.names("layers").len(), usize::from(images > 0));
    }
    assert!(died_at_work > 2, "the delays never hit a command at work");
    shale.import(&big, "big");
    for image in shale.ok(["images", "-aq", "--no-trunc"]).lines() {
        shale.ok(["rmi", "-f", image]);
    }
    shale.assert_empty();
}

#[test]
fn layout_directories_and_other_programs() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        return skip("skopeo is not installed");
    }
    let (shale, compressed) = (Shale::new(), Shale::new());
    let id = shale.import(&sample(), "a:1");
    let archive = shale.path("a.tar");
    shale.ok(["save", "-o", archive.to_str().unwrap(), "a:1"]);
    let copies = [
        (
            format!("docker-archive:{}", archive.display()),
            format!("oci:{}:b:1", shale.path("layout").display()),
        ),
        (
            format!("oci-archive:{}", archive.display()),
            format!("oci-archive:{}:b:1", shale.path("o.tar").display()),
        ),
        (
            // a store whose layers came compressed is a layout that others can read
            format!("oci:{}:1", compressed.root().display()),
            format!("docker-archive:{}:b:1", shale.path("d.tar").display()),
        ),
    ];
    for ((from, to), file) in copies.iter().zip(["layout", "o.tar", "d.tar"]) {
        if file == "d.tar" {
            compressed.ok(["load", "-q", "-i", shale.path("o.tar").to_str().unwrap()]);
        }
        let output = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", from, to])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{from}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let other = Shale::new();
        assert_eq!(
            other.ok(["load", "-q", "-i", shale.path(file).to_str().unwrap()]),
            "Loaded image: b:1"
        );
        let layers = other.ok(["inspect", "-f", "{{json .RootFS.Layers}}", "b:1"]);
        assert_eq!(layers, format!("[\"{}\"]", Digest::of(&sample())), "{to}");
        // from one language into the other skopeo writes the configuration anew, and with it the id
        if from.starts_with("oci") && to.starts_with("oci") {
            assert_eq!(other.ok(["images", "-q", "--no-trunc"]), id, "{to}");
        }
    }
}

#[test]
fn podman_takes_what_is_saved_and_gives_it_back() {
    let shale = Shale::new();
    let podman = |words: &[&str]| {
        let (root, run) = (shale.path("podman"), shale.path("podman-run"));
        Command::new("podman")
            .arg("--root")
            .arg(root)
            .arg("--runroot")
            .arg(run)
            .args(["--storage-driver", "vfs"])
            .args(words)
            .output()
    };
    match podman(&["images", "-q"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return skip(&format!(
                "podman does not work: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Err(error) => return skip(&format!("podman cannot be run: {error}")),
    }
    let id = shale.import(&sample(), "localhost/a:1");
    let archive = shale.path("a.tar");
    shale.ok(["save", "-o", archive.to_str().unwrap(), "localhost/a:1"]);
    let output = podman(&["load", "-q", "-i", archive.to_str().unwrap()]).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = podman(&["images", "-q", "--no-trunc", "localhost/a:1"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), id);
    for format in ["docker-archive", "oci-archive"] {
        let back = shale.path(format);
        let output = podman(&[
            "save",
            "-q",
            "--format",
            format,
            "-o",
            back.to_str().unwrap(),
            "localhost/a:1",
        ])
        .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let other = Shale::new();
        assert_eq!(
            other.ok(["load", "-q", "-i", back.to_str().unwrap()]),
            "Loaded image: localhost/a:1"
        );
        assert_eq!(other.ok(["images", "-q", "--no-trunc"]), id, "{format}");
    }
    let _ = podman(&["rmi", "-f", "localhost/a:1"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let shale = Shale::new();
    shale.import(&sample(), "a");
    for words in [
        &["inspect", "a"][..],
        &["ps"],
        &["mount"],
        &["completion", "bash"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = shale.command(words).stdout(writer).output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
            let output = shale.command(words).stdout(full).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{words:?}");
        }
    }
}

/// Bytes that no compression makes smaller.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0] % 64 + b' '
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn what_is_saved_is_whole_though_the_image_is_removed_meanwhile() {
    use std::io::{Read as _, Write as _};
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let shale = Shale::new();
    let mut layers = Vec::new();
    for number in 1..=4 {
        let text = String::from_utf8(noise(700_000, number)).unwrap();
        layers.push(tar(&[file(format!("file{number}"), &text)]));
    }
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut entries = vec![file("c.json", &config.to_string())];
    for (number, layer) in layers.iter().enumerate() {
        // some are files of the store, some are put together from their parts
        let bytes = if number % 2 == 0 {
            gzip(layer)
        } else {
            layer.clone()
        };
        let (mut member, _) = file(format!("{number}/layer.tar"), "");
        member.size_bytes = bytes.len() as u64;
        entries.push((member, bytes));
    }
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["noise:1"], "Layers": paths }]);
    entries.push(file("manifest.json", &manifest.to_string()));
    let loaded = shale.feed(["load", "-q"], &tar(&entries));
    assert!(
        loaded.status.success(),
        "{}",
        String::from_utf8_lossy(&loaded.stderr)
    );
    let expected = shale.run(["save", "noise:1"]).stdout;

    let mut command = shale.command(["save", "noise:1"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // it has begun, and waits for the pipe, which holds less than a layer, to be read
    let mut saved = vec![0; 1];
    out.read_exact(&mut saved).unwrap();
    shale.ok(["rmi", "noise:1"]);
    out.read_to_end(&mut saved).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(saved == expected, "{} bytes, not {}", saved.len(), expected.len());
}
