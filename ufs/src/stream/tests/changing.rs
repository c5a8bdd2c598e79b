//! Archives that change, shrink, move and disappear.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;

/// A gzip'd stream and a plain one of the same file.
fn both(place: &Place, plain: &[u8]) -> (Vec<u8>, [Arc<dyn ReadAt>; 2]) {
    let packed = gzip(plain, 6);
    let compressed = place.serve(&packed, Compression::Gzip, plain);
    let slice = Slice {
        base: Base::File(place.archive()),
        offset: 6,
        length: packed.len() as u64,
    };
    write_plain(&place.repository, &[8; 32], &slice).unwrap();
    let raw = place.open(&[8; 32]).unwrap();
    (packed, [compressed, raw])
}

fn error_of(stream: &dyn ReadAt, offset: u64) -> String {
    stream.read_at(&mut [0; 1000], offset).unwrap_err().to_string()
}

/// Every read fails and says that the archive changed; and it cannot be opened any more.
fn expect_changed(place: &Place, streams: &[Arc<dyn ReadAt>; 2], what: &str) {
    for stream in streams {
        let error = error_of(&**stream, 10_000);
        assert!(
            error.contains("archive changed while mounted") && error.contains(what),
            "{error}"
        );
        assert!(
            error.starts_with(&place.archive().display().to_string()),
            "{error}"
        );
    }
    for key in [KEY, [8; 32]] {
        let error = place.open(&key).err().unwrap().to_string();
        assert!(error.contains("changed since it was indexed"), "{error}");
    }
}

#[test]
fn a_written_byte_is_noticed() {
    let place = Place::new();
    let (_, streams) = both(&place, &mixture(1_000_000, 1));
    fs::OpenOptions::new()
        .write(true)
        .open(place.archive())
        .unwrap()
        .write_all_at(b"!", 5000)
        .unwrap();
    expect_changed(&place, &streams, "written to");
}

#[test]
fn a_cut_file_is_noticed() {
    let place = Place::new();
    let (packed, streams) = both(&place, &mixture(1_000_000, 2));
    let size = packed.len() as u64 + 12;
    fs::OpenOptions::new()
        .write(true)
        .open(place.archive())
        .unwrap()
        .set_len(20)
        .unwrap();
    expect_changed(&place, &streams, &format!("it had {size} bytes, now 20"));
}

#[test]
fn a_change_is_noticed_although_the_time_was_set_back() {
    let place = Place::new();
    let (_, streams) = both(&place, &mixture(1_000_000, 3));
    let file = fs::OpenOptions::new().write(true).open(place.archive()).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"!", 5000).unwrap();
    file.set_modified(before).unwrap();
    expect_changed(&place, &streams, "ctime");
}

#[test]
fn a_removed_archive_stays_readable_but_cannot_be_opened() {
    let place = Place::new();
    let plain = mixture(1_000_000, 4);
    let (packed, [compressed, raw]) = both(&place, &plain);
    fs::remove_file(place.archive()).unwrap();
    expect_everywhere(&*compressed, &plain, 5, 10);
    expect_everywhere(&*raw, &packed, 5, 10);
    let error = place.open(&KEY).err().unwrap().to_string();
    assert!(error.contains("opening the archive"), "{error}");
}

#[test]
fn a_replaced_archive_is_read_as_it_was_and_the_new_one_is_not_opened() {
    let place = Place::new();
    let plain = mixture(1_000_000, 6);
    let (packed, [compressed, raw]) = both(&place, &plain);
    let other = place.folder.path().join("other");
    fs::write(&other, gzip(&mixture(1_000_000, 7), 6)).unwrap();
    fs::rename(&other, place.archive()).unwrap();
    expect_everywhere(&*compressed, &plain, 8, 10);
    expect_everywhere(&*raw, &packed, 8, 10);
    let error = place.open(&KEY).err().unwrap().to_string();
    assert!(error.contains("another file has its name"), "{error}");
}

#[test]
fn names_and_rights_may_change() {
    let place = Place::new();
    let plain = mixture(1_000_000, 9);
    let (packed, [compressed, raw]) = both(&place, &plain);
    let moved = place.folder.path().join("moved");
    let steps: [&dyn Fn(); 4] = [
        &|| fs::rename(place.archive(), &moved).unwrap(),
        &|| fs::hard_link(&moved, place.archive()).unwrap(),
        &|| fs::set_permissions(&moved, fs::Permissions::from_mode(0o400)).unwrap(),
        &|| fs::remove_file(&moved).unwrap(),
    ];
    for step in steps {
        step();
        expect(&*raw, &packed, 1000, 1000);
        expect_everywhere(&*compressed, &plain, 10, 3);
    }
    // and a change after all that is still noticed
    fs::set_permissions(place.archive(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(place.archive())
        .unwrap()
        .write_all_at(b"!", 9)
        .unwrap();
    assert!(error_of(&*raw, 0).contains("archive changed while mounted"));
}

#[test]
fn a_change_below_a_stream_in_a_stream_is_noticed() {
    let place = Place::with_cache(0);
    let outer = mixture(2_000_000, 11);
    place.serve(&gzip(&outer, 6), Compression::Gzip, &outer);
    let slice = Slice {
        base: Base::Stream(KEY),
        offset: 100,
        length: 1_000_000,
    };
    write_plain(&place.repository, &[2; 32], &slice).unwrap();
    let stream = place.open(&[2; 32]).unwrap();
    expect(&*stream, &outer[100..1_000_100], 5, 100);
    fs::OpenOptions::new()
        .append(true)
        .open(place.archive())
        .unwrap()
        .write_all(b"!")
        .unwrap();
    assert!(error_of(&*stream, 500_000).contains("archive changed while mounted"));
    // another content under the outer key is another stream
    let other = mixture(2_000_000, 12);
    place.serve(&gzip(&other, 6), Compression::Gzip, &other);
    let error = place.open(&[2; 32]).err().unwrap().to_string();
    assert!(error.contains("has other bytes"), "{error}");
}

#[test]
fn a_change_during_the_pass_is_noticed() {
    let place = Place::new();
    let plain = mixture(3_000_000, 13);
    let slice = place.write(&gzip(&plain, 6));
    let mut pass = Indexer::new(&place.repository, slice, Compression::Gzip, Options::default()).unwrap();
    pass.read_exact(&mut [0; 1000]).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(place.archive())
        .unwrap()
        .write_all(b"!")
        .unwrap();
    let error = pass.finish(&KEY).unwrap_err().to_string();
    assert!(error.contains("archive changed while it was indexed"), "{error}");
    assert_eq!(drafts(&place), 0);
    assert!(!place.stream_file(&KEY).exists());
}

#[test]
fn a_pass_that_is_given_up_leaves_nothing() {
    let place = Place::new();
    let slice = place.write(&gzip(&mixture(3_000_000, 14), 6));
    let mut pass = Indexer::new(&place.repository, slice, Compression::Gzip, Options::default()).unwrap();
    pass.read_exact(&mut [0; 1_000_000]).unwrap();
    assert_eq!(drafts(&place), 1);
    drop(pass);
    assert_eq!(drafts(&place), 0);
}

#[test]
fn what_a_killed_writer_left_is_swept_and_nothing_else() {
    let place = Place::new();
    let slice = place.write(&gzip(&mixture(1_000_000, 15), 6));
    place.index(slice.clone(), Compression::Gzip, &KEY).unwrap();
    let pass = Indexer::new(&place.repository, slice, Compression::Gzip, Options::default()).unwrap();
    let folder = place.repository.root().join("archives");
    let left = |name: &str| folder.join(format!("{DRAFT_PREFIX}{name}"));
    fs::write(left("old"), b"x").unwrap();
    fs::write(left("young"), b"x").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != *format!("{DRAFT_PREFIX}young") && entry.file_type().unwrap().is_file() {
            // the one at work too: its lock has to save it
            fs::File::open(entry.path()).unwrap().set_modified(old).unwrap();
        }
    }
    assert_eq!(sweep(&place.repository).unwrap(), 1);
    assert!(!left("old").exists() && left("young").exists());
    pass.finish(&[2; 32]).unwrap();
    assert!(place.open(&KEY).is_ok() && place.open(&[2; 32]).is_ok());
    assert_eq!(sweep(&Repository::at("/nonexistent")).unwrap(), 0);
}

/// How many unfinished stream files lie about.
fn drafts(place: &Place) -> usize {
    fs::read_dir(place.repository.root().join("archives"))
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with(DRAFT_PREFIX)
        })
        .count()
}
