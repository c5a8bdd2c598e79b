//! `shale pull` of images as they should be.

use std::process::Stdio;
use std::time::Duration;

use imagetool::digest::Digest;

use crate::common::Shale;
use crate::shelf::{Kind, Made, Pack, Shelf, downloads, id_of, image, index, layer, small, three};
use crate::support::proxy::{Fault, Proxy};

#[test]
fn an_image_comes_as_it_is_and_docker_s_words_are_said() {
    for kind in [Kind::Oci, Kind::Docker] {
        let shelf = Shelf::new();
        let made = three(kind);
        let digest = shelf.image("team/tool", "1", &made);
        let proxy = Proxy::start(&shelf.address(), |_| Fault::Pass);
        let shale = Shale::new();
        let name = format!("{}/team/tool:1", proxy.address());
        let said = shale.ok(["pull", &name]);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "1: Pulling from team/tool");
        for blob in &made.layers {
            let line = format!("{}: Pull complete", Digest::of(blob).short());
            assert!(lines.contains(&line.as_str()), "{said}");
        }
        let end = [
            format!("Digest: {digest}"),
            format!("Status: Downloaded newer image for {name}"),
            name.clone(),
        ];
        assert_eq!(lines[lines.len() - 3..], end);
        assert_eq!(id_of(&shale, &name), made.id().to_string());
        assert_eq!(
            shale.ok(["inspect", "-f", "{{index .RepoDigests 0}}", &name]),
            format!("{}/team/tool@{digest}", proxy.address())
        );
        // the documents and the compressed layers are kept byte for byte
        let blob = |digest: &Digest| std::fs::read(shale.root().join("blobs/sha256").join(digest.hex()));
        assert_eq!(blob(&digest).unwrap(), made.manifest);
        assert_eq!(blob(&made.id()).unwrap(), made.config);
        assert!(
            blob(&Digest::of(&made.layers[0])).is_err(),
            "a plain tar was kept"
        );
        for packed in &made.layers[1..] {
            assert_eq!(&blob(&Digest::of(packed)).unwrap(), packed);
        }
        assert_eq!(downloads(&shale), []);
        shale.ok(["system", "check"]);

        let asked = proxy.count("GET", "/blobs/");
        let said = shale.ok(["pull", &name]);
        assert!(
            said.contains(&format!("Status: Image is up to date for {name}")),
            "{said}"
        );
        assert_eq!(said.matches(": Already exists").count(), 3, "{said}");
        assert_eq!(proxy.count("GET", "/blobs/"), asked);
        assert_eq!(shale.ok(["pull", "-q", &name]), name);
        assert_eq!(shale.names("tmp"), Vec::<String>::new());
    }
}

#[test]
fn what_the_store_has_is_not_asked_for() {
    let shelf = Shelf::new();
    let base = (layer("base", 1, 100_000), Pack::Gzip);
    let first = image(
        Kind::Oci,
        "linux/amd64",
        &[base.clone(), (layer("a", 2, 10), Pack::Gzip)],
    );
    // the same layer in another compression
    let second = image(
        Kind::Docker,
        "linux/amd64",
        &[
            (base.0, Pack::Zstd),
            (layer("b", 3, 10), Pack::Gzip),
            (layer("b", 3, 10), Pack::Gzip),
        ],
    );
    shelf.image("one", "latest", &first);
    let digest = shelf.image("two", "latest", &second);
    let proxy = Proxy::start(&shelf.address(), |_| Fault::Pass);
    let shale = Shale::new();
    shale.ok(["pull", "-q", &format!("{}/one", proxy.address())]);
    let said = shale.ok(["pull", &format!("{}/two", proxy.address())]);
    assert_eq!(said.matches("Already exists").count(), 1, "{said}");
    assert_eq!(
        proxy.count("GET", &format!("two/blobs/{}", Digest::of(&second.layers[0]))),
        0
    );
    assert_eq!(
        proxy.count("GET", &format!("two/blobs/{}", Digest::of(&second.layers[1]))),
        1
    );
    assert_eq!(
        std::fs::read(shale.root().join("blobs/sha256").join(digest.hex())).unwrap(),
        second.manifest
    );
    shale.ok(["system", "check"]);
    shale.ok(["rmi", &format!("{}/one", proxy.address())]);
    shale.ok(["rmi", &format!("{}/two", proxy.address())]);
    shale.assert_empty();
}

#[test]
fn a_moved_tag_takes_the_new_image() {
    let shelf = Shelf::new();
    let (old, new) = (small("linux/amd64", 1), small("linux/amd64", 2));
    shelf.image("tool", "latest", &old);
    let shale = Shale::new();
    let name = format!("{}/tool", shelf.address());
    let said = shale.ok(["pull", &name]);
    assert!(
        said.starts_with("Using default tag: latest\nlatest: Pulling from tool\n"),
        "{said}"
    );
    shelf.image("tool", "latest", &new);
    let said = shale.ok(["pull", &name]);
    assert!(said.contains("Downloaded newer image"), "{said}");
    assert_eq!(id_of(&shale, &name), new.id().to_string());
    assert_eq!(shale.ok(["images", "-q", "--no-trunc"]).lines().count(), 2);
}

#[test]
fn an_index_gives_the_image_for_a_platform() {
    for kind in [Kind::Oci, Kind::Docker] {
        let shelf = Shelf::new();
        let platforms = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"];
        let all: Vec<Made> = (1..)
            .zip(platforms)
            .map(|(seed, name)| small(name, seed))
            .collect();
        let mut entries = Vec::new();
        for (made, platform) in all.iter().zip(platforms) {
            shelf.image("multi", ".", made);
            entries.push((made.manifest.as_slice(), made.media_type, platform));
        }
        let (bytes, media_type) = index(kind, &entries);
        let digest = shelf.document("multi", "1", media_type, &bytes);
        let shale = Shale::new();
        let name = format!("{}/multi:1", shelf.address());
        let pull = |platform: &str| {
            let said = shale.ok(["pull", "--platform", platform, &name]);
            assert!(said.contains(&format!("Digest: {digest}")), "{said}");
            id_of(&shale, &name)
        };
        for (wanted, found) in [
            ("linux/arm/v7", 2),
            ("linux/arm", 2),
            ("linux/arm/v6", 1),
            ("arm64", 3),
            ("linux/amd64", 0),
        ] {
            assert_eq!(pull(wanted), all[found].id().to_string(), "{wanted}");
        }
        let error = shale.fails(["pull", "--platform", "linux/s390x", &name]);
        assert!(
            error.contains("no matching manifest for linux/s390x")
                && error.contains("linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64;"),
            "{error}"
        );
        assert!(!shale.run(["pull", "--platform", "a b", &name]).status.success());
    }
}

#[test]
fn an_image_alone_may_be_for_another_platform() {
    let shelf = Shelf::new();
    shelf.image("tool", "1", &small("linux/s390x", 1));
    let shale = Shale::new();
    let name = format!("{}/tool:1", shelf.address());
    let error = shale.fails(["pull", "--platform", "linux/arm64", &name]);
    assert!(
        error.contains("wanted linux/arm64, actual: linux/s390x"),
        "{error}"
    );
    shale.assert_empty();
    let output = shale.run(["pull", "-q", &name]);
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && warned.contains("(linux/s390x) does not match"),
        "{warned}"
    );
}

#[test]
fn indexes_in_indexes_are_followed_but_not_for_ever() {
    let shelf = Shelf::new();
    let made = small("linux/amd64", 1);
    shelf.image("deep", ".", &made);
    let (mut bytes, mut media_type) = (made.manifest.clone(), made.media_type);
    let shale = Shale::new();
    for depth in 1..=5 {
        (bytes, media_type) = index(Kind::Oci, &[(&bytes, media_type, "linux/amd64")]);
        shelf.document("deep", &depth.to_string(), media_type, &bytes);
        let name = format!("{}/deep:{depth}", shelf.address());
        if depth <= 4 {
            shale.ok(["pull", "-q", &name]);
        } else {
            let error = shale.fails(["pull", &name]);
            assert!(error.contains("nested more than 4 deep"), "{error}");
        }
    }
}

#[test]
fn a_digest_is_a_name() {
    let shelf = Shelf::new();
    let made = small("linux/amd64", 1);
    let manifest = shelf.image("tool", ".", &made);
    let (bytes, media_type) = index(Kind::Oci, &[(&made.manifest, made.media_type, "linux/amd64")]);
    let whole = shelf.document("tool", "1", media_type, &bytes);
    let shale = Shale::new();
    let address = shelf.address();
    for digest in [manifest, whole] {
        let name = format!("{address}/tool@{digest}");
        let said = shale.ok(["pull", &name]);
        assert!(said.starts_with(&format!("{name}: Pulling from tool")), "{said}");
        assert!(said.ends_with(&name), "{said}");
        assert_eq!(id_of(&shale, &name), made.id().to_string());
    }
    let listed = shale.ok(["images", "--format", "{{.Repository}} {{.Tag}}"]);
    assert!(listed.starts_with(&format!("{address}/tool <none>")), "{listed}");
    shale.ok(["image", "prune", "-f"]);
    assert_eq!(
        id_of(&shale, &format!("{address}/tool@{whole}")),
        made.id().to_string()
    );
    // a tag in the same repository takes the digests' place
    shale.ok(["pull", "-q", &format!("{address}/tool:1")]);
    assert_eq!(
        shale.ok(["inspect", "-f", "{{json .RepoTags}}", &made.id().hex()]),
        format!("[\"{address}/tool:1\"]")
    );
    assert_eq!(
        id_of(&shale, &format!("{address}/tool@{whole}")),
        made.id().to_string()
    );
    let removed = shale.ok(["rmi", &format!("{address}/tool:1")]);
    for line in [
        format!("Untagged: {address}/tool:1"),
        format!("Untagged: {address}/tool@{whole}"),
    ] {
        assert!(removed.contains(&line), "{removed}");
    }
    shale.assert_empty();
    // what is there is not what was asked for
    let other = small("linux/amd64", 9);
    shelf.answer(
        &format!("tool/manifests/{}", other.digest()),
        made.media_type,
        &made.manifest,
    );
    let error = shale.fails(["pull", &format!("{address}/tool@{}", other.digest())]);
    assert!(error.contains("digest"), "{error}");
}

#[test]
fn all_tags_are_pulled() {
    let shelf = Shelf::new();
    for seed in 1..=3 {
        shelf.image("many", &format!("t{seed}"), &small("linux/amd64", seed));
    }
    let shale = Shale::new();
    let name = format!("{}/many", shelf.address());
    let said = shale.ok(["pull", "-a", &name]);
    assert_eq!(said.matches(": Pulling from many").count(), 3, "{said}");
    assert_eq!(shale.ok(["images", "-q"]).lines().count(), 3);
    let error = shale.fails(["pull", "-a", &format!("{name}:t1")]);
    assert!(error.contains("tag can't be used with --all-tags/-a"), "{error}");
}

#[test]
fn foreign_layers_come_from_elsewhere() {
    let shelf = Shelf::new();
    let elsewhere = Shelf::new();
    let made = small("linux/amd64", 1);
    let blob = &made.layers[0];
    let from = "application/vnd.oci.image.layer.v1.tar+gzip\",";
    let to = format!(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip\",\n\"urls\": [\"http://{0}/v2/gone\", \"http://{0}/v2/x/blobs/{1}\"],",
        elsewhere.address(),
        Digest::of(blob)
    );
    let manifest = made.edited(from, &to);
    shelf.blob("tool", &made.config);
    elsewhere.blob("x", blob);
    shelf.document("tool", "1", made.media_type, &manifest);
    let shale = Shale::new();
    let name = format!("{}/tool:1", shelf.address());
    shale.ok(["pull", &name]);
    assert_eq!(id_of(&shale, &name), made.id().to_string());
    shale.ok(["rmi", &name]);
    // as verified as any other
    elsewhere.answer(
        &format!("x/blobs/{}", Digest::of(blob)),
        "a/b",
        &vec![7; blob.len()],
    );
    let error = shale.fails(["pull", &name]);
    assert!(error.contains("the content has the digest"), "{error}");
    shale.assert_empty();
}

#[test]
fn what_is_not_there_is_told_in_docker_s_words() {
    let shelf = Shelf::new();
    shelf.image("tool", "1", &small("linux/amd64", 1));
    let shale = Shale::new();
    let address = shelf.address();
    let error = shale.fails(["pull", &format!("{address}/tool:2")]);
    assert!(
        error.contains(&format!(
            "manifest for {address}/tool:2 not found: manifest unknown"
        )),
        "{error}"
    );
    let denied = Proxy::start(&address, |head| match head.target.as_str() {
        "/v2/" => Fault::Pass,
        _ => Fault::Answer(
            403,
            vec![("Content-Type".to_owned(), "application/json".to_owned())],
            br#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#
                .to_vec(),
        ),
    });
    let error = shale.fails(["pull", &format!("{}/tool:1", denied.address())]);
    assert!(
        error.contains(&format!(
            "pull access denied for {}/tool, repository does not exist or may require 'shale login'",
            denied.address()
        )) && error.contains("requested access to the resource is denied"),
        "{error}"
    );
    let error = shale.fails(["pull", "127.0.0.1:1/tool"]);
    assert!(
        error.contains("127.0.0.1:1") && error.contains("nothing listens"),
        "{error}"
    );
    let output = shale.run(["run", "--pull", "never", &format!("{address}/tool:1"), "true"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(125) && error.contains("No such image"),
        "{error}"
    );
    shale.assert_empty();
}

#[test]
fn two_pulls_of_one_image_ask_once() {
    let shelf = Shelf::new();
    let layers: Vec<_> = (1..=6)
        .map(|seed| (layer("file", seed, 200_000), Pack::Gzip))
        .collect();
    let made = image(Kind::Oci, "linux/amd64", &layers);
    // another one of the same layers, the other way round
    let turned: Vec<_> = layers.iter().rev().cloned().collect();
    let other = image(Kind::Oci, "linux/amd64", &turned);
    shelf.image("tool", "1", &made);
    shelf.image("tool", "2", &other);
    let proxy = Proxy::start(&shelf.address(), |head| match head.target.contains("/blobs/") {
        true => Fault::Slow(20_000, Duration::from_millis(20)),
        false => Fault::Pass,
    });
    let shale = Shale::new();
    shale.ok(["images"]);
    let start = |tag: &str| {
        let mut command = shale.command(["pull", &format!("{}/tool:{tag}", proxy.address())]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let running = [start("1"), start("2"), start("1")];
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for blob in &made.layers {
        assert_eq!(proxy.count("GET", &format!("blobs/{}", Digest::of(blob))), 1);
    }
    assert_eq!(downloads(&shale), []);
    shale.ok(["system", "check"]);
}
