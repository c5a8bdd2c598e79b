//! Members written by another implementation (the `tar` crate, and by hand) read back; damage is an error.

use super::*;
use proptest::prelude::*;

fn header(path: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(3);
    header.set_gid(0o7_777_777_777);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut members = Members::new(bytes);
    let mut found = Vec::new();
    while let Some(member) = members.next()? {
        let mut content = Vec::new();
        members.read_to_end(&mut content).map_err(TarError::Read)?;
        found.push((member, content));
    }
    Ok(found)
}

/// An archive with a long name, pax attributes with newlines in them, a link and a file.
fn sample() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "d/".repeat(120) + "file";
    builder
        .append_data(&mut header("x", tar::EntryType::Regular, 5), &long, &b"hello"[..])
        .unwrap();
    let records: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.security.capability", b"\x01\n\0=\n9 a=b\n"),
        ("mtime", b"12.5"),
        ("uid", b"4000000"),
    ];
    builder.append_pax_extensions(records).unwrap();
    builder
        .append(&header("second", tar::EntryType::Regular, 3), &b"abc"[..])
        .unwrap();
    let mut link = header("link", tar::EntryType::Symlink, 9); // size must be ignored
    link.set_link_name("second").unwrap();
    link.set_cksum();
    builder.append(&link, io::empty()).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn reads_what_another_writer_wrote() {
    let members = read_all(&sample()).unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(
        (members[0].0.path.len(), members[0].1.as_slice()),
        (244, &b"hello"[..])
    );
    assert_eq!((members[0].0.uid, members[0].0.gid), (3, 0o7_777_777_777));
    let second = &members[1].0;
    assert_eq!((second.uid, second.mtime), (4_000_000, (12, 500_000_000)));
    assert_eq!(
        second.xattrs,
        [(b"security.capability".to_vec(), b"\x01\n\0=\n9 a=b\n".to_vec())]
    );
    assert_eq!(
        (members[2].0.kind, members[2].0.link.as_slice()),
        (Kind::Symlink, &b"second"[..])
    );
}

#[test]
fn every_truncation_is_an_error_or_lacks_the_end_marker() {
    let whole = sample();
    for length in (0..whole.len() - 1024).step_by(37).chain([whole.len() - 1024]) {
        let mut members = Members::new(&whole[..length]);
        let outcome = loop {
            match members.next() {
                Ok(Some(_)) => {}
                Ok(None) => break members.finish().map(|(marker, _)| marker),
                Err(error) => break Err(error),
            }
        };
        assert!(
            !matches!(outcome, Ok(true)),
            "{length} bytes passed for a whole archive"
        );
    }
}

#[test]
fn something_else_is_named_as_such() {
    let error = read_all(&[b'x'; 2048]).unwrap_err().to_string();
    assert_eq!(error, "archive is malformed at byte 0: this is no tar archive");
    let mut bent = sample();
    let second = bent.windows(6).position(|window| window == b"second").unwrap();
    bent[second] = b'S';
    assert!(read_all(&bent).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn sparse_files_in_every_form() {
    let content = || [vec![b'a'; 512], b"de".to_vec()].concat();
    let expect = |bytes: Vec<u8>, form: &str| {
        let members = read_all(&bytes).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(members[0].0.size_bytes, 10_000, "{form}");
        assert_eq!(
            members[0].0.segments,
            Some(vec![(1000, 512), (9000, 2)]),
            "{form}"
        );
        assert_eq!(members[0].1, content(), "{form}");
        assert_eq!(members[1].0.path, b"after", "{form}");
    };
    let build = |records: &[(&str, &[u8])], mut first: tar::Header, content: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        if !records.is_empty() {
            builder.append_pax_extensions(records.iter().copied()).unwrap();
        }
        first.set_cksum();
        builder.append(&first, content).unwrap();
        builder
            .append(&header("after", tar::EntryType::Regular, 0), io::empty())
            .unwrap();
        builder.into_inner().unwrap()
    };
    let mut old = header("s", tar::EntryType::GNUSparse, 514);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.set_real_size(10_000);
    for (slot, (offset, length)) in gnu
        .sparse
        .iter_mut()
        .zip([(1000u64, 512u64), (9000, 2), (10_000, 0)])
    {
        slot.offset[..11].copy_from_slice(format!("{offset:011o}").as_bytes());
        slot.numbytes[..11].copy_from_slice(format!("{length:011o}").as_bytes());
    }
    expect(build(&[], old, &content()), "old GNU");
    let plain = || header("s", tar::EntryType::Regular, 514);
    let records: [(&str, &[u8]); 5] = [
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.offset", b"1000"),
        ("GNU.sparse.numbytes", b"512"),
        ("GNU.sparse.offset", b"9000"),
        ("GNU.sparse.numbytes", b"2"),
    ];
    expect(build(&records, plain(), &content()), "pax 0.0");
    let records: [(&str, &[u8]); 2] = [
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.map", b"1000,512,9000,2"),
    ];
    expect(build(&records, plain(), &content()), "pax 0.1");
    let mut with_map = b"2\n1000\n512\n9000\n2\n".to_vec();
    with_map.resize(512, 0);
    with_map.extend(content());
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"10000"),
    ];
    expect(
        build(&records, header("s", tar::EntryType::Regular, 1026), &with_map),
        "pax 1.0",
    );
}

#[test]
fn a_lying_sparse_map_is_refused() {
    for map in [
        "1000,3,500,2",
        "1000,3,9000,3",
        "9999,3,10003,2",
        "1,18446744073709551615",
        "1,2,3",
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"10000"), ("GNU.sparse.map", map.as_bytes())];
        builder.append_pax_extensions(records).unwrap();
        builder
            .append(&header("s", tar::EntryType::Regular, 5), &b"abcde"[..])
            .unwrap();
        assert!(read_all(&builder.into_inner().unwrap()).is_err(), "{map}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), fix in any::<bool>()) {
        if fix && bytes.len() >= 512 {
            let mut block: [u8; 512] = bytes[..512].try_into().unwrap();
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = read_all(&bytes);
    }

    #[test]
    fn a_bent_archive_never_panics(at in 0usize..4096, value in any::<u8>()) {
        let mut bytes = sample();
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = read_all(&bytes);
    }
}

#[test]
fn contents_that_are_seeked_over_need_no_reading_and_a_cut_is_noticed() {
    let whole = sample();
    let over = |bytes: &[u8]| -> Result<Vec<(Vec<u8>, u64)>, TarError> {
        let mut members = Members::new(io::Cursor::new(bytes));
        let mut found = Vec::new();
        while let Some(member) = members.next()? {
            found.push((member.path, members.offset()));
            members.seek_over()?;
        }
        Ok(found)
    };
    let mut members = Members::new(whole.as_slice());
    let mut expected = Vec::new();
    while let Some(member) = members.next().unwrap() {
        expected.push((member.path, members.offset()));
    }
    assert_eq!(over(&whole).unwrap(), expected);
    let content = usize::try_from(expected[0].1).unwrap();
    for cut in [content, content + 1, content + 4, content + 511] {
        assert!(
            matches!(over(&whole[..cut]), Err(TarError::Truncated(_))),
            "{cut}"
        );
    }
}

#[test]
fn extended_headers_of_one_member_have_a_limit_together() {
    let mut archive = Vec::new();
    let record = |key: &str, value: &str| {
        let length = (1..).find(|n: &usize| n.to_string().len() + key.len() + value.len() + 3 == *n);
        format!("{} {key}={value}\n", length.unwrap())
    };
    for number in 0..40 {
        let records = record(&format!("SCHILY.xattr.user.{number}"), &"x".repeat(30_000));
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(records.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    let mut members = Members::new(archive.as_slice());
    let error = members.next().unwrap_err().to_string();
    assert!(error.contains("extended headers of one member"), "{error}");
}
