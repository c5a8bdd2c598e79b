//! Archives and stream files that are cut or damaged: errors that say where, never other bytes.

use std::fs;

use proptest::prelude::*;

use super::*;

/// Every wrapping of the same plain bytes.
fn wrappings(plain: &[u8]) -> Vec<(Compression, Vec<u8>)> {
    let mut all = vec![
        (Compression::Gzip, gzip(plain, 6)),
        (Compression::Gzip, gzip_members(plain, 200_000)),
        (Compression::Zstd, zstd_frames(plain, 200_000)),
        (Compression::Zstd, zstd_frames(plain, plain.len())),
    ];
    for (name, compression) in [("bzip2", Compression::Bzip2), ("xz", Compression::Xz)] {
        all.extend(program(name, &["-c"], plain).map(|packed| (compression, packed)));
    }
    all
}

#[test]
fn a_cut_stream_is_an_error_that_names_file_and_offset() {
    let plain = mixture(700_000, 1);
    for (compression, packed) in wrappings(&plain) {
        let mut random = Random(2);
        for cut in [1, 5, 17, packed.len() - 1]
            .into_iter()
            .chain((0..10).map(|_| random.below(packed.len() as u64) as usize))
        {
            let place = Place::new();
            let outcome = place.index(place.write(&packed[..cut]), compression, &KEY);
            match outcome {
                Ok(finished) => {
                    // between two members or frames there is nothing to see
                    let parts = [Compression::Gzip, Compression::Zstd].contains(&compression);
                    assert!(
                        parts && finished.plain_bytes % 200_000 == 0,
                        "{compression:?} cut at {cut}"
                    );
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.starts_with(&place.archive().display().to_string()), "{text}");
                    assert!(text.contains("at offset"), "{compression:?} cut at {cut}: {text}");
                    assert!(!place.stream_file(&KEY).exists());
                }
            }
        }
    }
}

#[test]
fn wrong_sums_lengths_and_headers_are_errors() {
    let packed = gzip(&mixture(100_000, 3), 6);
    let end = packed.len();
    for (at, text) in [
        (0, "this is not gzip data at offset 6"),
        (2, "a gzip header of an unknown kind at offset 6"),
        (end - 8, "does not match its sum (crc)"),
        (end - 1, "does not match its length"),
    ] {
        let mut damaged = packed.clone();
        damaged[at] ^= 0x20;
        let place = Place::new();
        let error = place
            .index(place.write(&damaged), Compression::Gzip, &KEY)
            .unwrap_err()
            .to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_slice_outside_of_its_archive_is_refused() {
    let place = Place::new();
    let mut slice = place.write(b"1234");
    slice.length = 1000;
    let text = "bytes 6 to 1006 lie outside of its 16 bytes";
    let error = place.index(slice.clone(), Compression::None, &KEY).unwrap_err();
    assert!(error.to_string().contains(text), "{error}");
    let error = write_plain(&place.repository, &KEY, &slice).unwrap_err();
    assert!(error.to_string().contains(text), "{error}");
    slice.offset = u64::MAX;
    assert!(write_plain(&place.repository, &KEY, &slice).is_err());
}

#[test]
fn a_stream_inside_of_itself_is_refused() {
    let place = Place::new();
    let slice = place.write(b"1234");
    write_plain(&place.repository, &KEY, &slice).unwrap();
    let within = Slice {
        base: Base::Stream(KEY),
        offset: 0,
        length: 4,
    };
    write_plain(&place.repository, &[2; 32], &within).unwrap();
    // by hand, since nothing writes such a thing
    fs::copy(place.stream_file(&[2; 32]), place.stream_file(&KEY)).unwrap();
    let error = place.open(&KEY).err().unwrap();
    assert!(matches!(error, StreamError::TooDeep { .. }), "{error}");
}

/// Bytes of the archive that change under an identity that does not: the sums find them.
#[test]
fn other_bytes_under_the_same_identity_are_never_given_out() {
    let plain = mixture(1_500_000, 4);
    for (compression, packed) in wrappings(&plain).into_iter().take(4) {
        let (mut random, mut damaged) = (Random(5), 0);
        for _ in 0..8 {
            let place = Place::new();
            let slice = place.write(&packed);
            place.index(slice, compression, &KEY).unwrap();
            let mut table = read_table(&place.repository, &KEY).unwrap();
            // damage, then a stream file that believes in it
            let mut bytes = fs::read(place.archive()).unwrap();
            let at = 6 + random.below(packed.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            fs::write(place.archive(), bytes).unwrap();
            let file = fs::File::open(place.archive()).unwrap();
            table.stamp = Stamp::File(Identity::settled(&file).unwrap());
            let stream_file = place.stream_file(&KEY);
            let data = fs::read(&stream_file).unwrap();
            let (header, tables) = table.write();
            let data = &data[header.len()..table.data_end as usize];
            fs::write(&stream_file, [&header, data, &tables].concat()).unwrap();
            let stream = place.open(&KEY).unwrap();
            let mut failures = 0;
            for offset in (0..plain.len()).step_by(50_000) {
                let mut buffer = vec![0; 50_000];
                match stream.read_at(&mut buffer, offset as u64) {
                    Ok(read) => assert!(buffer[..read] == plain[offset..offset + read]),
                    Err(_) => failures += 1,
                }
            }
            // names and flags in headers, and sums of members, do not touch the bytes; most others do
            damaged += u32::from(failures > 0);
        }
        assert!(
            damaged >= 4,
            "{compression:?}: damage was seen {damaged} times of 8"
        );
    }
}

fn with_stream_file(change: impl FnOnce(&mut Vec<u8>)) -> (Place, Vec<u8>) {
    let place = Place::new();
    let plain = mixture(2_500_000, 6);
    place
        .index(place.write(&gzip(&plain, 6)), Compression::Gzip, &KEY)
        .unwrap();
    let mut bytes = fs::read(place.stream_file(&KEY)).unwrap();
    change(&mut bytes);
    fs::write(place.stream_file(&KEY), bytes).unwrap();
    (place, plain)
}

#[test]
fn a_stream_file_of_another_version_says_so() {
    let (place, _) = with_stream_file(|bytes| bytes[8] = 9);
    let error = place.open(&KEY).err().unwrap();
    assert!(matches!(error, StreamError::Version { found: 9, .. }), "{error}");
}

#[test]
fn a_missing_stream_file_is_an_error() {
    let error = Place::new().open(&KEY).err().unwrap().to_string();
    assert!(error.contains("opening the stream file"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any damage to a stream file is an error at once or, in a window, an error for some reads.
    #[test]
    fn a_damaged_stream_file_gives_errors_or_the_right_bytes(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (place, plain) = with_stream_file(|bytes| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        });
        if let Ok(stream) = place.open(&KEY) {
            for offset in (0..plain.len()).step_by(200_000) {
                let mut buffer = [0; 100];
                if let Ok(read) = stream.read_at(&mut buffer, offset as u64) {
                    prop_assert_eq!(&buffer[..read], &plain[offset..offset + read]);
                }
            }
        }
    }

    #[test]
    fn a_cut_or_grown_stream_file_is_an_error(length in any::<prop::sample::Index>(), grow in any::<bool>()) {
        let (place, _) = with_stream_file(|bytes| {
            let length = length.index(bytes.len());
            if grow { bytes.push(length as u8) } else { bytes.truncate(length) }
        });
        let damaged = matches!(place.open(&KEY), Err(StreamError::Damaged { .. }));
        prop_assert!(damaged);
    }

    /// Tables with right sums that say nonsense: errors, no panic.
    #[test]
    fn nonsense_with_right_sums_is_survived(
        at in any::<prop::sample::Index>(),
        value in any::<u64>(),
        small in any::<bool>(),
    ) {
        let place = Place::new();
        let plain = mixture(2_500_000, 6);
        place.index(place.write(&gzip(&plain, 6)), Compression::Gzip, &KEY).unwrap();
        let path = place.stream_file(&KEY);
        let mut bytes = fs::read(&path).unwrap();
        let table = read_table(&place.repository, &KEY).unwrap();
        let data_end = table.data_end as usize;
        // a field of the header, or of the tables
        let fields = (29 + (bytes.len() - data_end) / 8) as u64;
        let field = at.index(fields as usize);
        let place_of = if field < 29 { 16 + field * 8 } else { data_end + (field - 29) * 8 };
        let value = if small { value % 300 } else { value };
        if place_of + 8 <= bytes.len() {
            bytes[place_of..place_of + 8].copy_from_slice(&value.to_le_bytes());
        }
        let sum = table::sum_of(&bytes[data_end..]);
        bytes[136..144].copy_from_slice(&sum.to_le_bytes());
        let sum = table::sum_of(&bytes[..248]);
        bytes[248..256].copy_from_slice(&sum.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        if let Ok(stream) = place.open(&KEY) {
            for offset in (0..plain.len()).step_by(150_000) {
                let mut buffer = [0; 100];
                let _ = stream.read_at(&mut buffer, offset as u64);
            }
        }
    }
}
