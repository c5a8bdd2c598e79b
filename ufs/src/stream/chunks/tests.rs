//! Who decompresses, who waits for whom: with the turns taken by hand, so that no scheduler has a say.

use super::*;
use crate::stream::tests::{KEY, Place, gzip, mixture};
use crate::stream::{Compression, DEPTH_MAX, Source, Stats, open_stream, stats};

const CHUNK: u64 = crate::stream::table::CHUNK_BYTES as u64;

/// Runs `act` on a gzip stream of 24 chunks, the first 7 of which have one checkpoint.
fn with_stream(act: impl FnOnce(&Compressed, &Place)) {
    let place = Place::with_cache(64 << 20);
    let plain = mixture(24 * CHUNK as usize, 16);
    place.serve(&gzip(&plain, 6), Compression::Gzip, &plain);
    let stream = open_stream(&place.repository, &KEY, &place.cache, DEPTH_MAX).unwrap();
    let Source::Compressed(compressed) = &stream.source else {
        panic!("gzip is compressed");
    };
    assert_eq!(compressed.checkpoint_before(7 * CHUNK), 0);
    act(compressed, &place);
}

/// Does the work of a turn: up to the end of the chunk.
fn work(compressed: &Compressed, wanted: u64, live: Option<Live>, run: Run<'_>) {
    let mut live = live.unwrap_or_else(|| compressed.begin(wanted * CHUNK).unwrap());
    while live.plain < (wanted + 1) * CHUNK {
        let chunk = live.plain / CHUNK;
        compressed.decompress(&mut live, chunk).unwrap();
    }
    run.park(live);
}

#[test]
fn who_comes_while_a_decoder_is_on_its_way_waits_for_it() {
    with_stream(|compressed, place| {
        let Turn::Decode(None, run) = compressed.turn(3) else {
            panic!("nobody is at work yet");
        };
        std::thread::scope(|scope| {
            scope.spawn(|| compressed.page(5).unwrap());
            // until it waits; or has gone on without
            while stats(&place.cache).waited + stats(&place.cache).started == 0 {
                std::thread::yield_now();
            }
            work(compressed, 3, None, run);
        });
        let once = Stats {
            continued: 1,
            started: 0,
            waited: 1,
            plain_bytes: 2 * CHUNK,
        };
        assert_eq!(stats(&place.cache), once);
    });
}

#[test]
fn who_wants_what_a_decoder_passes_over_waits_for_it() {
    with_stream(|compressed, place| {
        let Turn::Decode(None, run) = compressed.turn(6) else {
            panic!("nobody is at work yet");
        };
        std::thread::scope(|scope| {
            scope.spawn(|| compressed.page(2).unwrap());
            while stats(&place.cache).waited + stats(&place.cache).started == 0 {
                std::thread::yield_now();
            }
            let mut live = compressed.begin(0).unwrap();
            for chunk in 0..=2 {
                let page = compressed.decompress(&mut live, chunk).unwrap();
                place.cache.offer(compressed.id, chunk, page);
            }
            run.park(live);
        });
        let nothing = Stats {
            waited: 1,
            ..Stats::default()
        };
        assert_eq!(stats(&place.cache), nothing);
    });
}

/// The thread looked into the cache, was held up, and takes its turn when the decoder has passed.
#[test]
fn what_was_passed_over_meanwhile_is_not_decompressed_again() {
    with_stream(|compressed, place| {
        compressed.page(6).unwrap();
        assert!(matches!(compressed.turn(4), Turn::Page(_)));
        let once = Stats {
            started: 1,
            plain_bytes: 7 * CHUNK,
            ..Stats::default()
        };
        assert_eq!(stats(&place.cache), once);
    });
}

/// A decoder far behind is at hand, one that runs will stop nearer.
#[test]
fn a_decoder_that_will_stop_nearer_is_waited_for() {
    with_stream(|compressed, place| {
        let Turn::Decode(None, behind) = compressed.turn(0) else {
            panic!("nobody is at work yet");
        };
        // from the checkpoint once more, as after a thread has lost patience
        let run = compressed.announce(&mut compressed.decoders.table.lock(), 0, 5 * CHUNK);
        work(compressed, 0, None, behind);
        std::thread::scope(|scope| {
            scope.spawn(|| compressed.page(5).unwrap());
            while stats(&place.cache).waited + stats(&place.cache).continued == 0 {
                std::thread::yield_now();
            }
            work(compressed, 4, None, run);
        });
        let nearest = Stats {
            continued: 1,
            started: 0,
            waited: 1,
            plain_bytes: CHUNK,
        };
        assert_eq!(stats(&place.cache), nearest);
    });
}
