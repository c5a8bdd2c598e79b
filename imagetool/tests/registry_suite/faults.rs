//! What a network can do: it is overcome, or told clearly.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imagetool::digest::Digest;
use imagetool::registry::{Environment, Options, Registries, RegistryError, Repository, Upload, Which};

use crate::support::http::Head;
use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::Registry;
use crate::support::{name, noise, opener, put_blob, put_image, quick, read, repository};

pub(crate) fn tag(text: &str) -> Which {
    Which::Tag(text.to_owned())
}

/// A fault for the first `count` requests that `which` fits.
pub(crate) fn first(
    count: usize,
    which: impl Fn(&Head) -> bool + Send + 'static,
    fault: Fault,
) -> impl FnMut(&Head) -> Fault + Send {
    let mut left = count;
    move |head| match left > 0 && which(head) {
        true => {
            left -= 1;
            fault.clone()
        }
        false => Fault::Pass,
    }
}

pub(crate) fn blob_request(head: &Head) -> bool {
    head.method == "GET" && head.target.contains("/blobs/sha256")
}

pub(crate) fn manifest_request(head: &Head) -> bool {
    head.target.contains("/manifests/")
}

/// A registry with a blob of noise in the repository `a`.
pub(crate) fn with_blob(length: usize) -> Option<(Registry, Vec<u8>, Digest)> {
    let registry = Registry::plain()?;
    let bytes = noise(length);
    let digest = put_blob(&repository(&registry.address(), "a"), &bytes, Upload::Whole);
    Some((registry, bytes, digest))
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let Some((registry, bytes, digest)) = with_blob(1_000_000) else {
        return;
    };
    let cuts = first(12, blob_request, Fault::CutAfter(70_000));
    let proxy = Proxy::start(&registry.address(), cuts);
    let through = repository(&proxy.address(), "a");
    assert!(read(&through, &digest, 0).unwrap() == bytes);
    let ranges: Vec<_> = proxy
        .seen()
        .into_iter()
        .filter(blob_request)
        .map(|head| head.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 13);
    assert_eq!(ranges[0], None);
    let starts: Vec<u64> = ranges[1..]
        .iter()
        .map(|range| {
            range
                .as_ref()
                .unwrap()
                .trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse()
                .unwrap()
        })
        .collect();
    assert!(
        starts.is_sorted() && starts[0] > 0 && starts[11] <= 12 * 70_000,
        "{starts:?}"
    );
}

#[test]
fn a_server_without_ranges_is_read_again_and_skipped() {
    let Some((registry, bytes, digest)) = with_blob(500_000) else {
        return;
    };
    let mut count = 0;
    let proxy = Proxy::start(&registry.address(), move |head| {
        count += usize::from(blob_request(head));
        match (blob_request(head), count) {
            (true, 1) => Fault::CutAfter(100_000),
            (true, _) => Fault::IgnoreRange,
            _ => Fault::Pass,
        }
    });
    let through = repository(&proxy.address(), "a");
    assert!(read(&through, &digest, 0).unwrap() == bytes);
    assert!(read(&through, &digest, 400_000).unwrap() == bytes[400_000..]);
}

#[test]
fn a_download_without_progress_ends() {
    let Some((registry, bytes, digest)) = with_blob(200_000) else {
        return;
    };
    let started = AtomicUsize::new(0);
    let proxy = Proxy::start(&registry.address(), move |head| {
        match (
            blob_request(head),
            started.fetch_add(usize::from(blob_request(head)), Ordering::Relaxed),
        ) {
            (true, 0) => Fault::CutAfter(100_000),
            (true, _) => Fault::CutAfter(0),
            _ => Fault::Pass,
        }
    });
    let mut blob = repository(&proxy.address(), "a").blob(&digest, 0).unwrap();
    let mut got = Vec::new();
    let error = blob.read_to_end(&mut got).unwrap_err();
    assert!(!got.is_empty() && bytes.starts_with(&got));
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<RegistryError>())
        .unwrap();
    assert!(inner.is_transient());
    assert!(
        inner.to_string().contains("the connection ended early"),
        "{inner}"
    );
    // the first, and four that got no byte
    assert_eq!(proxy.count("GET", "/blobs/sha256"), 5);
}

#[test]
fn a_registry_in_trouble_is_asked_again() {
    let Some((registry, bytes, digest)) = with_blob(1000) else {
        return;
    };
    for fault in [
        Fault::status(500),
        Fault::status(503),
        Fault::status(429),
        Fault::Drop,
        Fault::CutAfter(10),
    ] {
        let proxy = Proxy::start(&registry.address(), first(4, blob_request, fault.clone()));
        let through = repository(&proxy.address(), "a");
        assert!(read(&through, &digest, 0).unwrap() == bytes, "{fault:?}");
    }
    let proxy = Proxy::start(&registry.address(), first(9, blob_request, Fault::status(500)));
    let error = read(&repository(&proxy.address(), "a"), &digest, 0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the registry failed (HTTP status 500)"), "{error}");
    assert_eq!(proxy.count("GET", "/blobs/sha256"), 5);
    // what is no trouble but an answer is not asked again
    let proxy = Proxy::start(&registry.address(), first(9, blob_request, Fault::status(403)));
    assert!(read(&repository(&proxy.address(), "a"), &digest, 0).is_err());
    assert_eq!(proxy.count("GET", "/blobs/sha256"), 1);
}

#[test]
fn retry_after_is_obeyed() {
    let Some((registry, bytes, digest)) = with_blob(1000) else {
        return;
    };
    let header = ("Retry-After".to_owned(), "1".to_owned());
    let fault = Fault::Answer(429, vec![header], Vec::new());
    let proxy = Proxy::start(&registry.address(), first(1, blob_request, fault));
    let started = Instant::now();
    assert!(read(&repository(&proxy.address(), "a"), &digest, 0).unwrap() == bytes);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

/// A repository of a client that waits for a byte no longer than this.
fn impatient(address: &str, stall: Duration) -> Repository {
    let options = Options {
        stall: Some(stall),
        ..quick()
    };
    let environment = Environment::of(std::path::Path::new("/nonexistent"), []);
    let registries = Registries::new(&options, &environment).unwrap();
    registries.destination(&name(address, "a")).unwrap()
}

#[test]
fn slow_is_fine_and_standing_still_is_not() {
    let Some((registry, bytes, digest)) = with_blob(100_000) else {
        return;
    };
    let slow = Fault::Slow(10_000, Duration::from_millis(60));
    let proxy = Proxy::start(&registry.address(), first(9, blob_request, slow));
    // longer in all than between two reads
    let patient = impatient(&proxy.address(), Duration::from_millis(400));
    assert!(read(&patient, &digest, 0).unwrap() == bytes);
    assert_eq!(proxy.count("GET", "/blobs/sha256"), 1);
    let still = Fault::Slow(50_000, Duration::from_secs(5));
    let proxy = Proxy::start(&registry.address(), first(1, blob_request, still));
    let started = Instant::now();
    let patient = impatient(&proxy.address(), Duration::from_millis(400));
    assert!(read(&patient, &digest, 0).unwrap() == bytes);
    assert_eq!(proxy.count("GET", "/blobs/sha256"), 2);
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_wrong_length_or_range_is_told() {
    let Some((registry, bytes, digest)) = with_blob(1000) else {
        return;
    };
    let outcome = |fault: Fault, offset: u64| {
        let proxy = Proxy::start(&registry.address(), first(9, blob_request, fault));
        read(&repository(&proxy.address(), "a"), &digest, offset)
    };
    let longer = outcome(Fault::Header("Content-Length", "2000".to_owned()), 0)
        .unwrap_err()
        .to_string();
    assert!(
        longer.contains("ended early") || longer.contains("had 2000 bytes"),
        "{longer}"
    );
    let shorter = outcome(Fault::Header("Content-Length", "10".to_owned()), 0).unwrap();
    assert_eq!(shorter, bytes[..10]);
    for range in [
        "bytes 0-999/1000",
        "bytes 10-9/1000",
        "bytes -1-999/1000",
        "nonsense",
        "bytes 10-999/99999999999999999999",
    ] {
        let error = outcome(Fault::Header("Content-Range", range.to_owned()), 10)
            .unwrap_err()
            .to_string();
        assert!(error.contains("gives the range"), "{range}: {error}");
    }
    for length in ["-5", "abc", "99999999999999999999999"] {
        assert!(
            outcome(Fault::Header("Content-Length", length.to_owned()), 0).is_err(),
            "{length}"
        );
    }
}

#[test]
fn uploads_survive_broken_connections() {
    let Some(registry) = Registry::plain() else { return };
    let bytes = noise(600_000);
    let digest = Digest::of(&bytes);
    let put = |head: &Head| head.method == "PUT" && head.target.contains("/blobs/");
    let patch = |head: &Head| head.method == "PATCH";
    for (at, fault) in [Fault::CutRequestAfter(100_000), Fault::Drop, Fault::status(502)]
        .into_iter()
        .enumerate()
    {
        let proxy = Proxy::start(&registry.address(), first(2, put, fault.clone()));
        let whole = repository(&proxy.address(), &format!("whole{at}"));
        whole
            .upload_blob(&digest, 600_000, &opener(&bytes), Upload::Whole)
            .unwrap();
        assert!(read(&whole, &digest, 0).unwrap() == bytes, "{fault:?}");

        let mut count = 0;
        let cut = fault.clone();
        let proxy = Proxy::start(&registry.address(), move |head| {
            count += usize::from(patch(head));
            match patch(head) && (count == 3 || count == 4) {
                true => cut.clone(),
                false => Fault::Pass,
            }
        });
        let parts = repository(&proxy.address(), &format!("parts{at}"));
        parts
            .upload_blob(&digest, 600_000, &opener(&bytes), Upload::Chunked(100_000))
            .unwrap();
        assert!(read(&parts, &digest, 0).unwrap() == bytes, "{fault:?}");
        // what was sent is not sent again
        assert_eq!(proxy.count("PATCH", ""), 8, "{fault:?}");
        assert_eq!(proxy.count("POST", ""), 1, "{fault:?}");
    }
}

#[test]
fn an_upload_the_registry_forgot_begins_anew() {
    let Some(registry) = Registry::plain() else { return };
    let bytes = noise(300_000);
    let digest = Digest::of(&bytes);
    let body = br#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}"#;
    let mut count = 0;
    let proxy = Proxy::start(&registry.address(), move |head| {
        count += usize::from(head.method == "PATCH");
        match head.method == "PATCH" && count == 2 {
            true => Fault::Answer(404, Vec::new(), body.to_vec()),
            false => Fault::Pass,
        }
    });
    let parts = repository(&proxy.address(), "a");
    parts
        .upload_blob(&digest, 300_000, &opener(&bytes), Upload::Chunked(100_000))
        .unwrap();
    assert!(read(&parts, &digest, 0).unwrap() == bytes);
    assert_eq!(proxy.count("POST", ""), 2);
}

#[test]
fn a_registry_that_is_not_there_is_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = repository(&free.to_string(), "a")
        .manifest(&tag("1"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("connect to {free}: nothing listens at http://{free}")),
        "{error}"
    );
}

#[test]
fn head_is_not_needed() {
    let Some(registry) = Registry::plain() else { return };
    let (digest, _) = put_image(&repository(&registry.address(), "a"), "1", b"layer");
    for fault in [
        Fault::status(405),
        Fault::Header("Docker-Content-Digest", "md5:x".to_owned()),
    ] {
        let proxy = Proxy::start(&registry.address(), first(9, |head| head.method == "HEAD", fault));
        assert_eq!(
            repository(&proxy.address(), "a")
                .manifest_digest(&tag("1"))
                .unwrap(),
            Some(digest)
        );
        assert_eq!(proxy.count("GET", "/manifests/"), 1);
    }
}

#[test]
fn a_proxy_of_the_environment_is_not_for_this_machine() {
    let Some((registry, bytes, digest)) = with_blob(10) else {
        return;
    };
    let environment = Environment::of(
        std::path::Path::new("/nonexistent"),
        [("HTTP_PROXY", "http://127.0.0.1:1")],
    );
    let registries = Registries::new(&quick(), &environment).unwrap();
    let direct = registries.destination(&name(&registry.address(), "a")).unwrap();
    assert!(read(&direct, &digest, 0).unwrap() == bytes);
}
