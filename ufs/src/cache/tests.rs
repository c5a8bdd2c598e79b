use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use super::*;

fn page(length: usize, byte: u8) -> Arc<[u8]> {
    vec![byte; length].into()
}

/// Waits until that many requests wait for a fetch; they are counted when they are answered, so the flights are asked.
fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

#[test]
fn one_fetch_serves_all_who_wait() {
    let cache = PageCache::new(1 << 20);
    let stream = cache.stream_id();
    let (fetches, asked) = (AtomicU64::new(0), AtomicU64::new(0));
    let ask = || {
        asked.fetch_add(1, Ordering::SeqCst);
        cache.get_or_fetch(stream, 3, || {
            fetches.fetch_add(1, Ordering::SeqCst);
            until(|| asked.load(Ordering::SeqCst) == 16);
            Ok(page(1000, 7))
        })
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        for reader in readers {
            assert_eq!(&*reader.join().unwrap().unwrap(), &[7; 1000]);
        }
    });
    let counters = cache.counters();
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    assert_eq!(counters.misses, 1);
    // who had announced itself but not yet asked finds the page afterwards
    assert_eq!(counters.hits + counters.waits, 15);
    assert_eq!(counters.bytes, 1000);
}

#[test]
fn who_waits_for_a_fetch_that_fails_gets_its_error_and_the_next_one_tries_again() {
    let cache = Arc::new(PageCache::new(1 << 20));
    let stream = cache.stream_id();
    let started = Barrier::new(2);
    let waiting = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            cache.get_or_fetch(stream, 0, || {
                started.wait();
                until(|| waiting.load(Ordering::SeqCst) == 1);
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            })
        });
        started.wait();
        let second = scope.spawn(|| {
            waiting.store(1, Ordering::SeqCst);
            cache.get_or_fetch(stream, 0, || Err(io::Error::from_raw_os_error(libc::EMFILE)))
        });
        assert_eq!(
            first.join().unwrap().unwrap_err().raw_os_error(),
            Some(libc::ENOSPC)
        );
        let number = second.join().unwrap().unwrap_err().raw_os_error();
        // the second came while the first was in flight, or just after it
        assert!([Some(libc::ENOSPC), Some(libc::EMFILE)].contains(&number));
    });
    assert!(cache.get_or_fetch(stream, 0, || Ok(page(1, 1))).is_ok());
    assert!(cache.counters().failures >= 1);
}

#[test]
fn an_error_keeps_its_text_and_kind_for_everyone() {
    let cache = PageCache::new(1 << 20);
    let error = cache
        .get_or_fetch(cache.stream_id(), 0, || {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the archive is cut"))
        })
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(error.to_string(), "the archive is cut");
}

#[test]
fn a_panic_in_a_fetch_hangs_nobody() {
    let cache = PageCache::new(1 << 20);
    let stream = cache.stream_id();
    let started = Barrier::new(2);
    let waiting = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            cache.get_or_fetch(stream, 0, || {
                started.wait();
                until(|| waiting.load(Ordering::SeqCst) == 1);
                panic!("on purpose, by a test");
            })
        });
        started.wait();
        let second = scope.spawn(|| {
            waiting.store(1, Ordering::SeqCst);
            cache.get_or_fetch(stream, 0, || Ok(page(1, 1)))
        });
        assert!(first.join().is_err());
        // an error when it waited, the page when it came after
        let outcome = second.join().unwrap();
        assert!(outcome.is_ok() || outcome.unwrap_err().to_string().contains("unexpectedly"));
    });
    assert!(cache.get_or_fetch(stream, 0, || Ok(page(1, 1))).is_ok());
}

#[test]
fn the_limit_holds_with_many_threads() {
    let limit = 64 << 20;
    let cache = PageCache::new(limit);
    let streams = [cache.stream_id(), cache.stream_id()];
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (cache, streams) = (&cache, &streams);
            scope.spawn(move || {
                let mut state = thread + 1;
                for _ in 0..3000 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (stream, chunk) = (streams[(state >> 60) as usize % 2], (state >> 33) % 1500);
                    let byte = (chunk % 251) as u8;
                    let got = cache
                        .get_or_fetch(stream, chunk, || Ok(page(128 << 10, byte)))
                        .unwrap();
                    assert_eq!((got.len(), got[0], got[77_777]), (128 << 10, byte, byte));
                    assert!(cache.counters().bytes <= limit);
                }
            });
        }
    });
    let counters = cache.counters();
    assert_eq!(counters.hits + counters.misses + counters.waits, 12_000);
    assert!(counters.evictions > 0);
    // every chunk that was fetched is here or was put out
    assert_eq!(counters.misses, counters.evictions + counters.bytes / (128 << 10));
}

#[test]
fn streams_have_chunks_of_their_own() {
    let cache = PageCache::new(1 << 20);
    let (one, other) = (cache.stream_id(), cache.stream_id());
    cache.get_or_fetch(one, 0, || Ok(page(1, 1))).unwrap();
    assert!(cache.contains(one, 0) && !cache.contains(other, 0));
    let got = cache.get_or_fetch(other, 0, || Ok(page(1, 2))).unwrap();
    assert_eq!(got[0], 2);
}

#[test]
fn a_cache_of_no_bytes_still_answers() {
    let cache = PageCache::new(0);
    let stream = cache.stream_id();
    for _ in 0..2 {
        assert_eq!(
            &*cache.get_or_fetch(stream, 0, || Ok(page(3, 9))).unwrap(),
            &[9; 3]
        );
    }
    assert_eq!((cache.counters().misses, cache.counters().bytes), (2, 0));
}
