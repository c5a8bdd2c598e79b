//! Pulls that are interrupted, and go on where they ended.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use imagetool::digest::Digest;

use crate::common::Shale;
use crate::shelf::{Kind, Made, Pack, Shelf, downloads, id_of, image, layer};
use crate::support::http::Head;
use crate::support::proxy::{Fault, Proxy};

const LAYER_BYTES: usize = 400_000;

fn one_layer() -> Made {
    image(
        Kind::Oci,
        "linux/amd64",
        &[(layer("file", 1, LAYER_BYTES), Pack::Gzip)],
    )
}

/// The offsets that a blob was asked for from.
fn offsets(proxy: &Proxy, blob: &Digest) -> Vec<u64> {
    let of_blob = |head: &Head| head.method == "GET" && head.target.contains(&blob.to_string());
    let offset = |head: &Head| {
        let range = head.header("range")?.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    };
    let seen = proxy.seen();
    seen.iter()
        .filter(|head| of_blob(head))
        .map(|head| offset(head).unwrap_or(0))
        .collect()
}

/// A proxy whose rule for the layer can be changed.
fn switch(shelf: &Shelf, blob: &Digest, first: Fault) -> (Proxy, Arc<Mutex<Fault>>) {
    let rule = Arc::new(Mutex::new(first));
    let (own, blob) = (rule.clone(), blob.to_string());
    let proxy = Proxy::start(&shelf.address(), move |head| match head.target.contains(&blob) {
        true => own.lock().unwrap().clone(),
        false => Fault::Pass,
    });
    (proxy, rule)
}

#[test]
fn a_cut_connection_is_gone_on_with() {
    let shelf = Shelf::new();
    let made = one_layer();
    shelf.image("tool", "1", &made);
    let blob = Digest::of(&made.layers[0]);
    let (text, calls) = (blob.to_string(), AtomicUsize::new(0));
    let proxy = Proxy::start(&shelf.address(), move |head| match head.target.contains(&text) {
        true if calls.fetch_add(1, Ordering::SeqCst) < 3 => Fault::CutAfter(100_000),
        _ => Fault::Pass,
    });
    let shale = Shale::new();
    shale.ok(["pull", "-q", &format!("{}/tool:1", proxy.address())]);
    // each time from where the one before ended
    assert_eq!(offsets(&proxy, &blob), [0, 100_000, 200_000, 300_000]);
}

#[test]
fn the_next_pull_goes_on_where_this_one_ended() {
    let shelf = Shelf::new();
    let made = one_layer();
    shelf.image("tool", "1", &made);
    let blob = Digest::of(&made.layers[0]);
    let (text, calls) = (blob.to_string(), AtomicUsize::new(0));
    let proxy = Proxy::start(&shelf.address(), move |head| match head.target.contains(&text) {
        true => match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Fault::CutAfter(150_000),
            1 => Fault::status(403),
            _ => Fault::Pass,
        },
        false => Fault::Pass,
    });
    let shale = Shale::new();
    let name = format!("{}/tool:1", proxy.address());
    shale.fails(["pull", &name]);
    shale.assert_empty();
    assert_eq!(downloads(&shale), [(blob.hex(), 150_000)]);
    let shown = shale.ok(["system", "df", "-v"]);
    assert!(shown.contains("Unfinished downloads"), "{shown}");
    shale.ok(["system", "check"]);
    shale.ok(["pull", "-q", &name]);
    assert_eq!(offsets(&proxy, &blob), [0, 150_000, 150_000]);
    assert_eq!(downloads(&shale), []);
    assert_eq!(id_of(&shale, &name), made.id().to_string());
}

#[test]
fn what_an_earlier_try_left_is_verified() {
    let shelf = Shelf::new();
    let made = one_layer();
    shelf.image("tool", "1", &made);
    let blob = Digest::of(&made.layers[0]);
    let (proxy, rule) = switch(&shelf, &blob, Fault::status(403));
    let shale = Shale::new();
    let name = format!("{}/tool:1", proxy.address());
    shale.ok(["images"]);
    let path = shale.root().join("downloads").join(blob.hex());
    let whole = &made.layers[0];
    // whole: nothing is asked for
    std::fs::write(&path, whole).unwrap();
    shale.ok(["pull", "-q", &name]);
    assert_eq!(offsets(&proxy, &blob), [] as [u64; 0]);
    shale.ok(["rmi", &name]);
    // damaged, too long, of nothing but zeros: begun anew
    *rule.lock().unwrap() = Fault::Pass;
    let mut damaged = whole[..100_000].to_vec();
    damaged[50_000] ^= 1;
    for bytes in [damaged, [whole.as_slice(), b"more"].concat(), vec![0; 1000]] {
        std::fs::write(&path, &bytes).unwrap();
        shale.ok(["pull", "-q", &name]);
        assert_eq!(offsets(&proxy, &blob).last(), Some(&0));
        assert_eq!(id_of(&shale, &name), made.id().to_string());
        assert_eq!(downloads(&shale), []);
        shale.ok(["rmi", &name]);
    }
    shale.assert_empty();
}

#[test]
fn a_killed_pull_leaves_only_what_the_next_one_needs() {
    let shelf = Shelf::new();
    let made = one_layer();
    shelf.image("tool", "1", &made);
    let blob = Digest::of(&made.layers[0]);
    let (proxy, rule) = switch(&shelf, &blob, Fault::Slow(20_000, Duration::from_millis(50)));
    let shale = Shale::new();
    shale.ok(["images"]);
    let name = format!("{}/tool:1", proxy.address());
    let mut command = shale.command(["pull", &name]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let came = || downloads(&shale).first().map_or(0, |(_, bytes)| *bytes);
    while came() < 100_000 {
        assert!(Instant::now() < deadline, "nothing comes");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = came();
    assert!(left < made.layers[0].len() as u64);
    shale.assert_empty();
    shale.ok(["system", "check"]);
    *rule.lock().unwrap() = Fault::Pass;
    shale.ok(["pull", "-q", &name]);
    assert_eq!(offsets(&proxy, &blob), [0, left]);
    shale.ok(["system", "check"]);
}

#[test]
fn nobody_wants_it_any_more() {
    let shelf = Shelf::new();
    let made = one_layer();
    shelf.image("tool", "1", &made);
    let (proxy, _rule) = switch(&shelf, &Digest::of(&made.layers[0]), Fault::status(403));
    let shale = Shale::new();
    shale.ok(["images"]);
    let (old, new) = (Digest::of(b"old").hex(), Digest::of(b"new").hex());
    for name in [&old, &new] {
        std::fs::write(shale.root().join("downloads").join(name), [1; 20_000]).unwrap();
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    let file = std::fs::File::options()
        .write(true)
        .open(shale.root().join("downloads").join(&old))
        .unwrap();
    file.set_modified(long_ago).unwrap();
    shale.fails(["pull", &format!("{}/tool:1", proxy.address())]);
    let left = shale.names("downloads");
    assert!(left.contains(&new) && !left.contains(&old), "{left:?}");
    shale.ok(["system", "prune", "-f"]);
    assert_eq!(downloads(&shale), []);
}
