//! Registries that lie: nothing of what they give may be seen afterwards.

use imagetool::digest::Digest;
use imagetool::manifest::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

use crate::common::Shale;
use crate::shelf::{Kind, Made, Pack, Shelf, downloads, image, index, layer, small};
use crate::support::proxy::{Fault, Proxy};

fn two_layers() -> Made {
    let layers = [
        (layer("a", 1, 40_000), Pack::Gzip),
        (layer("b", 2, 5000), Pack::Gzip),
    ];
    image(Kind::Oci, "linux/amd64", &layers)
}

/// Pulls what must fail with status 1 and this text, and leaves nothing.
fn refused(shale: &Shale, name: &str, part: &str) {
    let error = shale.fails(["pull", name]);
    assert!(
        error.starts_with("Error: ") && error.contains(part),
        "{part}: {error}"
    );
    shale.assert_empty();
}

#[test]
fn documents_that_are_no_images() {
    let made = small("linux/amd64", 1);
    let text = |from: &str, to: &str| (made.media_type, made.edited(from, to));
    let mut huge = made.manifest.clone();
    huge.resize((4 << 20) + 1, b' ');
    let many = vec![
        r#"{"mediaType":"","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
        1001
    ];
    let many = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"","digest":"{}","size":1}},"layers":[{}]}}"#,
        made.id(),
        many.join(",")
    );
    let size = format!("\"size\": {}", made.layers[0].len());
    let cases: Vec<(&str, (&str, Vec<u8>))> = vec![
        (
            "schema 1",
            (
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
            ),
        ),
        ("schema 1", (OCI_MANIFEST, br#"{"schemaVersion":1}"#.to_vec())),
        ("media type", ("text/html", b"<html>".to_vec())),
        (
            "content of an image's manifest",
            (OCI_INDEX, {
                made.edited(&format!("\"mediaType\": \"{OCI_MANIFEST}\","), "")
            }),
        ),
        (
            "at once",
            text("\"schemaVersion\"", "\"manifests\": [], \"schemaVersion\""),
        ),
        (
            "no image",
            text("vnd.oci.image.config.v1+json", "vnd.cncf.helm.config.v1+json"),
        ),
        (
            "none of an image's layers",
            text(OCI_LAYER, "application/vnd.in-toto"),
        ),
        ("\"sha512:", text("sha256:", "sha512:")),
        ("does not parse", text(&size, "\"size\": -1")),
        ("cannot be", text(&size, "\"size\": 9223372036854775807")),
        ("more than 1000 layers", (OCI_MANIFEST, many.into_bytes())),
        ("does not parse", (OCI_MANIFEST, b"{".to_vec())),
        ("larger than 4194304", (OCI_MANIFEST, huge)),
    ];
    let shale = Shale::new();
    for (part, (media_type, bytes)) in cases {
        let shelf = Shelf::new();
        shelf.image("tool", ".", &made);
        shelf.document("tool", "1", media_type, &bytes);
        refused(&shale, &format!("{}/tool:1", shelf.address()), part);
    }
}

#[test]
fn contents_that_are_not_what_the_manifest_says() {
    let made = two_layers();
    let shale = Shale::new();
    let path = |blob: &[u8]| format!("tool/blobs/{}", Digest::of(blob));
    let first = &made.layers[0];
    let with = |change: &dyn Fn(&Shelf)| {
        let shelf = Shelf::new();
        shelf.image("tool", "1", &made);
        change(&shelf);
        shelf
    };
    let flipped = |at: usize| {
        let mut bytes = first.clone();
        bytes[at] ^= 1;
        bytes
    };
    type Change<'a> = Box<dyn Fn(&Shelf) + 'a>;
    let cases: [(&str, Change<'_>); 7] = [
        (
            "the content has the digest",
            Box::new(|shelf| shelf.answer(&path(first), "", &flipped(5))),
        ),
        (
            "the content has the digest",
            Box::new(|shelf| shelf.answer(&path(first), "", &flipped(30_000))),
        ),
        (
            "bytes",
            Box::new(|shelf| shelf.answer(&path(first), "", &first[..20_000])),
        ),
        (
            "bytes",
            Box::new(|shelf| shelf.answer(&path(first), "", &[first.as_slice(), b"more"].concat())),
        ),
        ("not here", Box::new(|shelf| shelf.remove(&path(first)))),
        (
            "the content is",
            Box::new(|shelf| shelf.answer(&path(&made.config), "", &vec![b' '; made.config.len()])),
        ),
        ("not here", Box::new(|shelf| shelf.remove(&path(&made.config)))),
    ];
    for (part, change) in cases {
        let shelf = with(&change);
        refused(&shale, &format!("{}/tool:1", shelf.address()), part);
        // the second layer may be kept for the next try, the bad one is not
        assert!(
            !downloads(&shale)
                .iter()
                .any(|(name, _)| *name == Digest::of(first).hex() && part == "the content has the digest")
        );
    }
    // what was kept is good for something: the image as it should be
    let shelf = with(&|_| ());
    shale.ok(["pull", "-q", &format!("{}/tool:1", shelf.address())]);
    assert_eq!(downloads(&shale), []);
}

#[test]
fn layers_that_are_not_what_the_configuration_says() {
    let shale = Shale::new();
    let (one, two) = (layer("a", 1, 1000), layer("b", 2, 1000));
    let good = image(Kind::Oci, "linux/amd64", &[(one.clone(), Pack::Gzip)]);
    let other = image(Kind::Oci, "linux/amd64", &[(two.clone(), Pack::Gzip)]);
    let both = image(Kind::Oci, "linux/amd64", &[(one, Pack::Gzip), (two, Pack::Gzip)]);
    let config = |made: &Made| (made.id().to_string(), format!("\"size\": {}", made.config.len()));
    for (made, wrong, part) in [
        (&good, &other, "diff id"),
        (&good, &both, "layers in its manifest"),
    ] {
        let shelf = Shelf::new();
        shelf.image("tool", ".", made);
        shelf.blob("tool", &wrong.config);
        let ((from, from_size), (to, to_size)) = (config(made), config(wrong));
        let text = String::from_utf8(made.manifest.clone()).unwrap();
        let text = text.replace(&from, &to).replace(&from_size, &to_size);
        shelf.document("tool", "1", made.media_type, text.as_bytes());
        refused(&shale, &format!("{}/tool:1", shelf.address()), part);
    }
    // no archive at all, rightly digested
    let mut junk = good.clone();
    let bytes = b"this is no tar archive, whatever the manifest says".repeat(30);
    let text = junk
        .edited(
            &Digest::of(&junk.layers[0]).to_string(),
            &Digest::of(&bytes).to_string(),
        )
        .clone();
    junk.manifest = text;
    junk.manifest = junk.edited(
        &format!("\"size\": {}", junk.layers[0].len()),
        &format!("\"size\": {}", bytes.len()),
    );
    junk.layers = vec![bytes];
    let shelf = Shelf::new();
    shelf.image("tool", "1", &junk);
    refused(&shale, &format!("{}/tool:1", shelf.address()), "layer");
    assert_eq!(downloads(&shale), []);
}

#[test]
fn an_index_lies_about_its_entries() {
    let shale = Shale::new();
    let made = small("linux/amd64", 1);
    let (bytes, media_type) = index(Kind::Oci, &[(&made.manifest, made.media_type, "linux/amd64")]);
    let right = String::from_utf8(bytes.clone()).unwrap();
    let size = format!("\"size\":{}", made.manifest.len());
    let cases = [
        (right.replace(&size, "\"size\":1"), "its index says 1"),
        (right.replace(OCI_MANIFEST, OCI_INDEX), "its index says"),
        (
            right.replace(&made.digest().to_string(), &Digest::of(b"gone").to_string()),
            "not found",
        ),
    ];
    for (text, part) in cases {
        let shelf = Shelf::new();
        shelf.image("tool", ".", &made);
        shelf.document("tool", "1", media_type, text.as_bytes());
        refused(&shale, &format!("{}/tool:1", shelf.address()), part);
    }
    // an index that is found under its own entry's digest cannot be: the digest is another one
    let shelf = Shelf::new();
    shelf.document("tool", "1", media_type, &bytes);
    shelf.answer(&format!("tool/manifests/{}", made.digest()), media_type, &bytes);
    refused(&shale, &format!("{}/tool:1", shelf.address()), "digest");
}

#[test]
fn wrong_bytes_on_the_way() {
    let shelf = Shelf::new();
    let made = two_layers();
    shelf.image("tool", "1", &made);
    let blob = Digest::of(&made.layers[0]).to_string();
    let proxy = Proxy::start(&shelf.address(), move |head| match head.target.contains(&blob) {
        true => Fault::WrongByte(20_000),
        false => Fault::Pass,
    });
    refused(
        &Shale::new(),
        &format!("{}/tool:1", proxy.address()),
        "the content has the digest",
    );
}
