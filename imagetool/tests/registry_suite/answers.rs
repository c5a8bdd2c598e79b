//! What a hostile or odd registry can answer: it is told clearly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imagetool::digest::Digest;
use imagetool::registry::{Upload, Which};

use crate::faults::{blob_request, first, manifest_request, tag, with_blob};
use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::Registry;
use crate::support::{opener, put_blob, put_image, read, repository};

#[test]
fn redirects_end() {
    let Some((registry, _, digest)) = with_blob(10) else {
        return;
    };
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let proxy = Proxy::start(&registry.address(), move |head| {
        match blob_request(head) || head.target.starts_with("/loop") {
            true => Fault::redirect(&format!("/loop{}", counted.fetch_add(1, Ordering::Relaxed))),
            false => Fault::Pass,
        }
    });
    let error = read(&repository(&proxy.address(), "a"), &digest, 0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than 10 times"), "{error}");
    assert_eq!(count.load(Ordering::Relaxed), 11);
    for location in [
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/",
        "",
        "http://[",
        "http://127.0.0.1:99999/",
    ] {
        let proxy = Proxy::start(
            &registry.address(),
            first(9, blob_request, Fault::redirect(location)),
        );
        let error = read(&repository(&proxy.address(), "a"), &digest, 0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("leads elsewhere") && !error.contains("secret"),
            "{location}: {error}"
        );
        assert_eq!(proxy.count("GET", "/blobs/sha256"), 1);
    }
    // where something is sent, a redirect that turns it into a question is refused
    let fault = Fault::Answer(302, vec![("Location".to_owned(), "/".to_owned())], Vec::new());
    let proxy = Proxy::start(&registry.address(), first(9, |head| head.method == "POST", fault));
    let through = repository(&proxy.address(), "a");
    let error = through
        .upload_blob(&digest, 1, &opener(b"x"), Upload::Whole)
        .unwrap_err()
        .to_string();
    assert!(error.contains("where something is sent"), "{error}");
    // 307 is followed with what is sent
    let port = registry.address();
    let mut once = true;
    let proxy = Proxy::start(&registry.address(), move |head| {
        match head.method == "PUT" && std::mem::take(&mut once) {
            true => Fault::redirect(&format!("http://{port}{}", head.target)),
            false => Fault::Pass,
        }
    });
    let through = repository(&proxy.address(), "b");
    let sent = put_blob(&through, b"sent elsewhere", Upload::Whole);
    assert_eq!(read(&through, &sent, 0).unwrap(), b"sent elsewhere");
}

#[test]
fn hostile_manifests_are_refused() {
    let Some(registry) = Registry::plain() else { return };
    let (digest, bytes) = put_image(&repository(&registry.address(), "a"), "1", b"layer");
    let outcome = |fault: Fault, which: Which| {
        let proxy = Proxy::start(&registry.address(), first(99, manifest_request, fault));
        repository(&proxy.address(), "a")
            .manifest(&which)
            .map_err(|error| error.to_string())
    };
    let wrong = outcome(Fault::WrongByte(5), Which::Digest(digest)).unwrap_err();
    assert!(wrong.contains("another digest"), "{wrong}");
    let wrong = outcome(Fault::WrongByte(5), tag("1")).unwrap_err();
    assert!(wrong.contains("the registry says it is"), "{wrong}");
    let named = Digest::of(b"other").to_string();
    let wrong = outcome(Fault::Header("Docker-Content-Digest", named), tag("1")).unwrap_err();
    assert!(wrong.contains("the registry says it is"), "{wrong}");
    let huge = vec![b' '; (4 << 20) + 1];
    let large = outcome(Fault::Answer(200, Vec::new(), huge.clone()), tag("1")).unwrap_err();
    assert!(large.contains("larger than 4194304 bytes"), "{large}");
    // without a length it is counted
    let raw = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), huge].concat();
    let large = outcome(Fault::Raw(raw), tag("1")).unwrap_err();
    assert!(large.contains("larger than 4194304 bytes"), "{large}");
    let head = [
        b"HTTP/1.1 200 OK\r\nX: ".to_vec(),
        vec![b'x'; 100_000],
        b"\r\n\r\n".to_vec(),
    ]
    .concat();
    let large = outcome(Fault::Raw(head), tag("1")).unwrap_err();
    assert!(large.contains("the head of the answer"), "{large}");
    let noise = outcome(Fault::Raw(b"\x00\x01garbage\r\n\r\n".to_vec()), tag("1")).unwrap_err();
    assert!(noise.contains("no answer in HTTP"), "{noise}");
    // a manifest cut off is asked for again, and then told
    let cut = outcome(Fault::CutAfter(10), tag("1")).unwrap_err();
    assert!(cut.contains("ended early"), "{cut}");
    let proxy = Proxy::start(
        &registry.address(),
        first(2, manifest_request, Fault::CutAfter(10)),
    );
    assert_eq!(
        repository(&proxy.address(), "a")
            .manifest(&tag("1"))
            .unwrap()
            .bytes,
        bytes
    );
}

#[test]
fn errors_of_all_kinds_are_texts() {
    let Some(registry) = Registry::plain() else { return };
    let outcome = |status: u16, kind: &str, body: &[u8]| {
        let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
        let fault = Fault::Answer(status, headers, body.to_vec());
        let proxy = Proxy::start(&registry.address(), first(99, manifest_request, fault));
        let address = proxy.address();
        let error = repository(&address, "a")
            .manifest(&tag("1"))
            .unwrap_err()
            .to_string();
        error.replace(&address, "HOST")
    };
    let cases = [
        (404, "application/json", &b"{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"repository name not known to registry\"}]}"[..],
            "get manifest 1 of HOST/a: name unknown: repository name not known to registry (HTTP status 404)"),
        (404, "application/json", b"[[[[[[", "get manifest 1 of HOST/a: [[[[[[ (HTTP status 404)"),
        (404, "text/html", b"<html>", "get manifest 1 of HOST/a: there is no such thing (HTTP status 404)"),
        (400, "text/plain", b"\x1b[2Jgone\r\nmore", "get manifest 1 of HOST/a: [2Jgone (HTTP status 400)"),
        (418, "application/json", &[0xff; 100], "get manifest 1 of HOST/a: the registry's answer is not understood (HTTP status 418)"),
        (403, "application/json", b"{\"errors\":[{\"code\":\"DENIED\"}]}", "get manifest 1 of HOST/a: denied"),
    ];
    for (status, kind, body, expected) in cases {
        assert_eq!(outcome(status, kind, body), expected);
    }
    let deep = [vec![b'['; 100_000], b"]".to_vec()].concat();
    assert!(outcome(404, "application/json", &deep).len() < 500);
}

#[test]
fn lists_that_do_not_end_are_left() {
    let Some(registry) = Registry::plain() else { return };
    let outcome = |link: &'static str, body: &'static str| {
        let proxy = Proxy::start(&registry.address(), move |head| {
            match head.target.contains("/tags/") {
                true => {
                    let link = link.replace("TARGET", &format!("{}x", head.target));
                    Fault::Answer(200, vec![("Link".to_owned(), link)], body.as_bytes().to_vec())
                }
                false => Fault::Pass,
            }
        });
        repository(&proxy.address(), "a")
            .tags()
            .map_err(|error| error.to_string())
    };
    let circle = outcome("</v2/a/tags/list?n=1000>; rel=\"next\"", r#"{"tags":["a"]}"#).unwrap_err();
    assert!(circle.contains("circle"), "{circle}");
    let away = outcome("<http://127.0.0.2/>; rel=\"next\"", r#"{"tags":["a"]}"#).unwrap_err();
    assert!(away.contains("another host"), "{away}");
    for garbage in ["[1]", "{\"tags\":[1]}", "{\"tags\":{}}", "", "<html>"] {
        let error = outcome("", garbage).unwrap_err();
        assert!(error.contains("no list of tags"), "{garbage}: {error}");
    }
    assert!(outcome("", "{\"tags\":null}").unwrap().is_empty());
    let mut page = 0;
    let proxy = Proxy::start(&registry.address(), move |head| {
        match head.target.contains("/tags/") {
            true => {
                page += 1;
                let link = match page {
                    1..=3 => vec![(
                        "Link".to_owned(),
                        format!("</v2/a/tags/list?n=1000&last={page}>; rel=\"next\""),
                    )],
                    _ => Vec::new(),
                };
                Fault::Answer(200, link, format!(r#"{{"tags":["t{page}"]}}"#).into_bytes())
            }
            false => Fault::Pass,
        }
    });
    assert_eq!(
        repository(&proxy.address(), "a").tags().unwrap(),
        ["t1", "t2", "t3", "t4"]
    );
}
