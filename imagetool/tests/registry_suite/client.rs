//! The client and a plain registry that does nothing wrong.

use std::io::Read;

use imagetool::digest::Digest;
use imagetool::registry::{Mounted, Upload, Which};

use crate::support::registry::Registry;
use crate::support::{noise, opener, put_blob, put_image, read, repository};

fn tag(text: &str) -> Which {
    Which::Tag(text.to_owned())
}

#[test]
fn manifests_come_back_byte_for_byte() {
    let Some(registry) = Registry::plain() else { return };
    let repository = repository(&registry.address(), "team/tool");
    assert!(repository.manifest(&tag("1")).unwrap_err().is_not_found());
    assert_eq!(repository.manifest_digest(&tag("1")).unwrap(), None);
    let (digest, bytes) = put_image(&repository, "1", b"layer");
    assert_eq!(digest, Digest::of(&bytes));
    for which in [tag("1"), Which::Digest(digest)] {
        let document = repository.manifest(&which).unwrap();
        assert_eq!(
            (document.digest, document.bytes.as_slice()),
            (digest, bytes.as_slice())
        );
        assert_eq!(document.media_type, "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(repository.manifest_digest(&which).unwrap(), Some(digest));
    }
    let absent = repository.manifest(&tag("2")).unwrap_err();
    assert!(absent.is_not_found());
    let text = absent.to_string();
    let expected = format!(
        "get manifest 2 of {}/team/tool: manifest unknown (HTTP status 404)",
        registry.address()
    );
    assert_eq!(text, expected);
}

#[test]
fn blobs_are_sent_whole_and_in_parts_and_read_from_anywhere() {
    let Some(registry) = Registry::plain() else { return };
    let repository = repository(&registry.address(), "a");
    let bytes = noise(1_000_003);
    let digest = Digest::of(&bytes);
    assert_eq!(repository.blob_size(&digest).unwrap(), None);
    for (at, method) in [
        Upload::Whole,
        Upload::Chunked(300_000),
        Upload::Chunked(5_000_000),
    ]
    .into_iter()
    .enumerate()
    {
        let mut bytes = bytes.clone();
        bytes[0] = at as u8;
        let digest = put_blob(&repository, &bytes, method);
        assert_eq!(
            repository.blob_size(&digest).unwrap(),
            Some(bytes.len() as u64),
            "{method:?}"
        );
        for offset in [0, 1, 999_999, bytes.len() as u64] {
            let mut blob = repository.blob(&digest, offset).unwrap();
            assert_eq!(blob.total_bytes(), Some(bytes.len() as u64));
            let mut rest = Vec::new();
            blob.read_to_end(&mut rest).unwrap();
            assert!(rest == bytes[offset as usize..], "{method:?} {offset}");
        }
    }
    let first = {
        let mut bytes = bytes.clone();
        bytes[0] = 0;
        Digest::of(&bytes)
    };
    let beyond = repository.blob(&first, 2_000_000).unwrap_err().to_string();
    assert!(beyond.contains("nothing from byte 2000000 on"), "{beyond}");
    assert!(repository.blob(&digest, 0).unwrap_err().is_not_found());
}

#[test]
fn empty_and_tiny_blobs_are_blobs() {
    let Some(registry) = Registry::plain() else { return };
    let repository = repository(&registry.address(), "a");
    for bytes in [&b""[..], b"x", b"xyz"] {
        for method in [Upload::Whole, Upload::Chunked(1)] {
            let digest = put_blob(&repository, bytes, method);
            assert_eq!(repository.blob_size(&digest).unwrap(), Some(bytes.len() as u64));
            assert_eq!(read(&repository, &digest, 0).unwrap(), bytes);
        }
    }
}

#[test]
fn what_is_not_the_digest_is_refused_by_the_registry() {
    let Some(registry) = Registry::plain() else { return };
    let repository = repository(&registry.address(), "a");
    let wrong = Digest::of(b"other");
    for method in [Upload::Whole, Upload::Chunked(2)] {
        let error = repository
            .upload_blob(&wrong, 4, &opener(b"this"), method)
            .unwrap_err();
        assert!(error.to_string().contains("digest invalid"), "{error}");
    }
    let short = repository
        .upload_blob(&wrong, 9, &opener(b"this"), Upload::Whole)
        .unwrap_err();
    assert!(short.to_string().contains("ends 5 bytes early"), "{short}");
    assert_eq!(repository.blob_size(&wrong).unwrap(), None);
}

#[test]
fn a_blob_is_mounted_or_sent() {
    let Some(registry) = Registry::plain() else { return };
    let (from, to) = (
        repository(&registry.address(), "from/here"),
        repository(&registry.address(), "to"),
    );
    assert!(from.same_registry(&to));
    let bytes = noise(5000);
    let digest = put_blob(&from, &bytes, Upload::Whole);
    assert_eq!(to.mount_blob(&digest, "from/here").unwrap(), Mounted::Done);
    assert_eq!(to.blob_size(&digest).unwrap(), Some(5000));
    for (other, method) in [
        (b"other".as_slice(), Upload::Whole),
        (b"one more", Upload::Chunked(3)),
    ] {
        let digest = Digest::of(other);
        assert_eq!(to.mount_blob(&digest, "from/here").unwrap(), Mounted::Refused);
        // goes on with the upload that the registry began
        put_blob(&to, other, method);
        assert_eq!(read(&to, &digest, 0).unwrap(), other);
    }
}

#[test]
fn tags_come_in_pages() {
    let Some(registry) = Registry::plain() else { return };
    let repository = repository(&registry.address(), "many");
    assert!(repository.tags().unwrap_err().is_not_found());
    let (_, bytes) = put_image(&repository, "first", b"layer");
    for number in 0..20 {
        let which = tag(&format!("t{number}"));
        let kind = "application/vnd.oci.image.manifest.v1+json";
        repository.put_manifest(&which, kind, &bytes).unwrap();
    }
    let tags = repository.tags().unwrap();
    assert_eq!(tags.len(), 21);
    assert!(tags.contains(&"first".to_owned()) && tags.contains(&"t19".to_owned()));
}

#[test]
fn many_threads_share_a_repository() {
    let Some(registry) = Registry::plain() else { return };
    let repository = repository(&registry.address(), "a");
    std::thread::scope(|scope| {
        for number in 0..8_u8 {
            let repository = repository.clone();
            scope.spawn(move || {
                let bytes = vec![number; 100_000];
                let digest = put_blob(&repository, &bytes, Upload::Whole);
                assert_eq!(read(&repository, &digest, 0).unwrap(), bytes);
            });
        }
    });
}
