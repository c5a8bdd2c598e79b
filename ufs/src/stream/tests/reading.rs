use proptest::prelude::*;

use super::*;

#[test]
fn a_plain_slice_is_read_from_the_file_itself() {
    let place = Place::new();
    let plain = mixture(500_000, 1);
    let slice = place.write(&plain);
    write_plain(&place.repository, &KEY, &slice).unwrap();
    let stream = place.open(&KEY).unwrap();
    expect_everywhere(&*stream, &plain, 2, 200);
    assert_eq!(place.cache.counters().bytes, 0);
    // the pass over a plain slice writes the same, and knows its digest
    let stream = place.serve(&plain, Compression::None, &plain);
    expect_everywhere(&*stream, &plain, 3, 20);
}

#[test]
fn gzip_of_every_level_is_read_from_any_place() {
    let plain = mixture(5_000_000, 3);
    for level in [0, 1, 6, 9] {
        let place = Place::new();
        let stream = place.serve(&gzip(&plain, level), Compression::Gzip, &plain);
        expect_everywhere(&*stream, &plain, u64::from(level), 60);
        let table = read_table(&place.repository, &KEY).unwrap();
        let checkpoints = table.chunks.unwrap().checkpoints;
        // about one a MiB
        assert!(
            (4..=6).contains(&checkpoints.len()),
            "{} checkpoints",
            checkpoints.len()
        );
    }
}

#[test]
fn members_that_follow_each_other_are_one_stream() {
    let plain = mixture(3_000_000, 4);
    for member_bytes in [3000, 65_000, 1_500_000] {
        let place = Place::new();
        let packed = gzip_members(&plain, member_bytes);
        expect_everywhere(&*place.serve(&packed, Compression::Gzip, &plain), &plain, 5, 40);
    }
}

#[test]
fn what_programs_compress_is_read_from_any_place() {
    let plain = mixture(6_000_000, 5);
    let programs: [(&str, &[&str], Compression); 10] = [
        ("gzip", &["-c"], Compression::Gzip),
        ("gzip", &["-9c"], Compression::Gzip),
        ("pigz", &["-c", "-p2"], Compression::Gzip),
        ("pigz", &["-c", "-p2", "-i"], Compression::Gzip),
        ("zstd", &["-c", "-q"], Compression::Zstd),
        ("zstd", &["-c", "-q", "-9", "--long=24"], Compression::Zstd),
        (
            "zstd",
            &["-c", "-q", "--no-check", "-B500000", "-T2"],
            Compression::Zstd,
        ),
        ("bzip2", &["-c"], Compression::Bzip2),
        ("xz", &["-c", "-1"], Compression::Xz),
        ("xz", &["-c", "-0", "--block-size=1000000"], Compression::Xz),
    ];
    for (name, arguments, compression) in programs {
        let Some(packed) = program(name, arguments, &plain) else {
            continue;
        };
        let place = Place::new();
        expect_everywhere(&*place.serve(&packed, compression, &plain), &plain, 6, 30);
    }
}

#[test]
fn zstd_frames_are_read_where_they_lie_unless_they_are_large() {
    let plain = mixture(12_000_000, 6);
    let stored = |place: &Place| {
        let chunks = read_table(&place.repository, &KEY).unwrap().chunks.unwrap();
        chunks
            .checkpoints
            .iter()
            .filter(|point| point.start.is_stored())
            .count()
    };
    for (frame_bytes, expected) in [(10_000, 0), (900_000, 0), (4 << 20, 0), (plain.len(), 12)] {
        let place = Place::new();
        let packed = zstd_frames(&plain, frame_bytes);
        expect_everywhere(&*place.serve(&packed, Compression::Zstd, &plain), &plain, 7, 30);
        assert_eq!(stored(&place), expected, "frames of {frame_bytes}");
    }
    // small ones, a large one, a skippable one, an empty one, small ones
    let mut packed = zstd_frames(&plain[..1_000_000], 300_000);
    packed.extend(zstd_frames(&plain[1_000_000..8_000_000], 7_000_000));
    packed.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    packed.extend(zstd::bulk::compress(b"", 1).unwrap());
    packed.extend(zstd_frames(&plain[8_000_000..], 300_000));
    let place = Place::new();
    expect_everywhere(&*place.serve(&packed, Compression::Zstd, &plain), &plain, 8, 60);
    assert_eq!(stored(&place), 7);
}

#[test]
fn empty_and_tiny_streams_are_streams() {
    for plain in [&b""[..], b"x", b"four"] {
        for (packed, compression) in [
            (gzip(plain, 6), Compression::Gzip),
            (gzip_members(&[plain, plain].concat(), 1), Compression::Gzip),
            (zstd::bulk::compress(plain, 1).unwrap(), Compression::Zstd),
            (plain.to_vec(), Compression::None),
        ] {
            let place = Place::new();
            if packed.is_empty() && compression == Compression::Gzip {
                continue;
            }
            let twice = [plain, plain].concat();
            let plain = if compression == Compression::Gzip && packed == gzip_members(&twice, 1) {
                &twice[..]
            } else {
                plain
            };
            let stream = place.serve(&packed, compression, plain);
            expect(&*stream, plain, 0, 100);
            expect(&*stream, plain, 1, 100);
        }
    }
}

#[test]
fn what_follows_the_last_member_is_left_alone_as_gzip_does() {
    let plain = mixture(100_000, 7);
    for tail in [&[0u8; 1000][..], b"garbage", &[0x1f], &[0, 0, 0x1f, 0x8b]] {
        let place = Place::new();
        let packed = [&gzip(&plain, 6), tail].concat();
        expect_everywhere(&*place.serve(&packed, Compression::Gzip, &plain), &plain, 8, 5);
    }
}

/// A gzip'd archive with a plain part, a gzip'd one and a zstd'd one in it.
#[test]
fn streams_lie_in_streams() {
    let (one, two, three) = (mixture(700_000, 8), mixture(3_000_000, 9), mixture(2_000_000, 10));
    let (packed_two, packed_three) = (gzip(&two, 6), zstd_frames(&three, 300_000));
    let outer = [&b"header"[..], &one, &packed_two, &packed_three, b"trailer"].concat();
    let place = Place::new();
    place.serve(&gzip(&outer, 1), Compression::Gzip, &outer);
    let part = |offset: usize, length: usize| Slice {
        base: Base::Stream(KEY),
        offset: offset as u64,
        length: length as u64,
    };
    let at_two = 6 + one.len();
    let at_three = at_two + packed_two.len();
    write_plain(&place.repository, &[1; 32], &part(6, one.len())).unwrap();
    place
        .index(part(at_two, packed_two.len()), Compression::Gzip, &[2; 32])
        .unwrap();
    place
        .index(part(at_three, packed_three.len()), Compression::Zstd, &[3; 32])
        .unwrap();
    for (key, plain) in [([1; 32], &one), ([2; 32], &two), ([3; 32], &three)] {
        expect_everywhere(&*place.open(&key).unwrap(), plain, 11, 30);
    }
}

/// The same in one pass: the inner stream is indexed from the bytes that the outer pass decompresses.
#[test]
fn a_stream_in_a_stream_can_be_indexed_in_the_same_pass() {
    let inner = mixture(3_000_000, 12);
    let packed = gzip(&inner, 6);
    let outer = [&b"header"[..], &packed, b"trailer"].concat();
    let place = Place::new();
    let slice = place.write(&gzip(&outer, 1));
    let options = Options::default();
    let mut pass = Indexer::new(&place.repository, slice, Compression::Gzip, options).unwrap();
    let mut header = [0; 6];
    pass.read_exact(&mut header).unwrap();
    let shared = Arc::new(Mutex::new(pass));
    struct Shared(Arc<Mutex<Indexer>>);
    impl Read for Shared {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.lock().read(buffer)
        }
    }
    let part = Slice {
        base: Base::Stream(KEY),
        offset: 6,
        length: packed.len() as u64,
    };
    let reader = Box::new(Shared(Arc::clone(&shared)));
    let within = Indexer::over(&place.repository, part, Compression::Gzip, options, reader).unwrap();
    within.finish(&[2; 32]).unwrap();
    Arc::into_inner(shared)
        .unwrap()
        .into_inner()
        .finish(&KEY)
        .unwrap();
    expect_everywhere(&*place.open(&[2; 32]).unwrap(), &inner, 13, 30);
}

#[test]
fn a_reader_in_order_never_goes_back_to_a_checkpoint() {
    let plain = mixture(8_000_000, 14);
    let place = Place::with_cache(64 << 20);
    let stream = place.serve(&gzip(&plain, 6), Compression::Gzip, &plain);
    for offset in (0..plain.len()).step_by(4096) {
        expect(&*stream, &plain, offset, 4096);
    }
    let stats = stats(&place.cache);
    assert_eq!((stats.started, stats.plain_bytes), (1, plain.len() as u64));
    let counters = place.cache.counters();
    assert_eq!(
        counters.misses,
        plain.len().div_ceil(table::CHUNK_BYTES as usize) as u64
    );
}

#[test]
fn chunks_on_the_way_are_kept_for_who_asks_next() {
    let plain = mixture(4_000_000, 15);
    let place = Place::with_cache(64 << 20);
    let stream = place.serve(&gzip(&plain, 6), Compression::Gzip, &plain);
    let chunk = table::CHUNK_BYTES as usize;
    expect(&*stream, &plain, 6 * chunk, 10);
    let before = place.cache.counters();
    assert_eq!((before.misses, before.offered), (1, 6));
    for number in 0..6 {
        expect(&*stream, &plain, number * chunk + 5, 10);
    }
    assert_eq!(place.cache.counters().misses, 1);
}

#[test]
fn threads_that_read_one_file_in_turn_read_it_right() {
    let plain = mixture(16_000_000, 16);
    let place = Place::with_cache(64 << 20);
    let stream = place.serve(&gzip(&plain, 6), Compression::Gzip, &plain);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(131_072, Ordering::Relaxed) as usize;
                    if offset >= plain.len() {
                        return;
                    }
                    expect(&*stream, &plain, offset, 131_072);
                }
            });
        }
    });
    // how much of it is decompressed twice depends on who is held up: see the tests of `chunks`
}

#[test]
fn many_threads_read_many_places() {
    let plain = mixture(6_000_000, 17);
    for (packed, compression) in [
        (gzip(&plain, 6), Compression::Gzip),
        (zstd_frames(&plain, 500_000), Compression::Zstd),
        (zstd_frames(&plain, 6_000_000), Compression::Zstd),
    ] {
        // small, so that chunks come and go
        let place = Place::with_cache(1 << 20);
        let stream = place.serve(&packed, compression, &plain);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (stream, plain) = (&stream, &plain);
                scope.spawn(move || {
                    let mut random = Random(thread);
                    for _ in 0..60 {
                        let offset = random.below(plain.len() as u64) as usize;
                        expect(&**stream, plain, offset, random.below(200_000) as usize);
                    }
                });
            }
        });
        assert!(place.cache.counters().bytes <= 1 << 20);
    }
}

#[test]
fn a_stream_that_is_opened_twice_is_shared() {
    let plain = mixture(1_000_000, 18);
    let place = Place::new();
    let one = place.serve(&gzip(&plain, 6), Compression::Gzip, &plain);
    let other = place.open(&KEY).unwrap();
    expect(&*one, &plain, 0, 10);
    expect(&*other, &plain, 20, 10);
    assert_eq!(place.cache.counters().misses, 1);
}

#[test]
fn the_pass_itself_gives_the_plain_bytes() {
    let plain = mixture(3_000_000, 19);
    for (packed, compression) in [
        (gzip_members(&plain, 700_000), Compression::Gzip),
        (zstd_frames(&plain, 700_000), Compression::Zstd),
        (plain.clone(), Compression::None),
    ] {
        let place = Place::new();
        let options = Options { digests: false };
        let slice = place.write(&packed);
        let mut pass = Indexer::new(&place.repository, slice, compression, options).unwrap();
        let mut read = Vec::new();
        let mut portion = vec![0; 70_001];
        loop {
            let count = pass.read(&mut portion).unwrap();
            if count == 0 {
                break;
            }
            read.extend_from_slice(&portion[..count]);
        }
        assert!(read == plain);
        let finished = pass.finish(&KEY).unwrap();
        assert_eq!((finished.plain_sha256, finished.slice_sha256), (None, None));
        expect_everywhere(&*place.open(&KEY).unwrap(), &plain, 20, 5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_data_in_any_wrapping_reads_the_same(
        length in 0usize..2_500_000,
        seed in any::<u64>(),
        kind in 0u32..6,
        part_bytes in 1000usize..2_000_000,
        cache_bytes in prop::sample::select(vec![0u64, 200_000, 1 << 20, 64 << 20]),
    ) {
        let plain = mixture(length, seed);
        let (packed, compression) = match kind {
            0 => (plain.clone(), Compression::None),
            1 => (gzip(&plain, (seed % 10) as u32), Compression::Gzip),
            2 if length > 0 => (gzip_members(&plain, part_bytes), Compression::Gzip),
            3 if length > 0 => (zstd_frames(&plain, part_bytes), Compression::Zstd),
            _ => (zstd::bulk::compress(&plain, 1).unwrap(), Compression::Zstd),
        };
        let place = Place::with_cache(cache_bytes);
        let stream = place.serve(&packed, compression, &plain);
        expect_everywhere(&*stream, &plain, seed, 12);
    }
}
