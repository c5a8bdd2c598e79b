//! Writing tar streams that are the same for the same content.
//!
//! ustar headers; a pax header stands before a member only where its values do not fit: names over 100 bytes, large
//! sizes and ids, parts of a second, extended attributes. Names are written as raw bytes. Members carry no user or
//! group names.

use std::io::{self, Read, Write};

use super::member::{Kind, Member};
use super::pax;

const BLOCK: usize = 512;
/// Largest number of eleven octal digits.
const OCTAL_11: u64 = 0o77_777_777_777;
/// Largest number of seven octal digits.
const OCTAL_7: u64 = 0o7_777_777;

/// A tar stream being written.
pub struct Writer<W> {
    out: W,
}

/// A regular file with root as its owner and no time.
pub fn file_entry(path: &str, size_bytes: u64) -> Member {
    Member {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind: Kind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        size_bytes,
        device: (0, 0),
        xattrs: Vec::new(),
        segments: None,
    }
}

impl<W: Write> Writer<W> {
    /// Starts a stream.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a directory with root as its owner and no time.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let entry = Member {
            kind: Kind::Directory,
            mode: 0o755,
            ..file_entry(path, 0)
        };
        self.member(&entry, &mut io::empty())
    }

    /// Writes a member. `content` must give exactly the bytes of a regular file, or of the pieces of a sparse one.
    pub fn member(&mut self, member: &Member, content: &mut dyn Read) -> io::Result<()> {
        let data_bytes = self.begin(member)?;
        let copied = io::copy(&mut content.take(data_bytes), &mut self.out)?;
        if copied < data_bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.end(data_bytes)
    }

    /// Writes what stands before a member's content; tells how many bytes of content belong after it. They are written
    /// to [`Writer::out`], then [`Writer::end`] is called with the same number.
    pub fn begin(&mut self, member: &Member) -> io::Result<u64> {
        let is_file = member.kind == Kind::Regular;
        let map = member
            .segments
            .as_ref()
            .map(|segments| sparse_map(segments, member.size_bytes))
            .filter(|_| is_file);
        let data_bytes = match &member.segments {
            _ if !is_file => 0,
            Some(segments) => segments.iter().map(|(_, length)| length).sum(),
            None => member.size_bytes,
        };
        let stored = map.as_ref().map_or(0, |map| map.len() as u64) + data_bytes;
        let records = pax_records(member, stored);
        if !records.is_empty() {
            let mut header = header(b"././@PaxHeader", b'x', 0o644, records.len() as u64);
            self.block(&mut header)?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut path = member.path.clone();
        if member.kind == Kind::Directory && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let mut block = header(&path, type_byte(member.kind), member.mode, stored);
        fill(&mut block, member);
        self.block(&mut block)?;
        if let Some(map) = map {
            self.out.write_all(&map)?;
        }
        Ok(data_bytes)
    }

    /// Where contents are written to.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes what stands after so many bytes of content. A sparse file's map is whole blocks.
    pub fn end(&mut self, data_bytes: u64) -> io::Result<()> {
        self.pad(data_bytes)
    }

    /// Writes the end marker.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    /// Sums a header up and writes it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<()> {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.write_all(block)
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let missing = usize::try_from(length.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..missing])
    }
}

fn type_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn cut(bytes: &[u8], length: usize) -> &[u8] {
    &bytes[..bytes.len().min(length)]
}

/// A header block with the fields that every member has.
fn header(path: &[u8], kind: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let path = cut(path, 100);
    block[..path.len()].copy_from_slice(path);
    octal(&mut block[100..108], u64::from(mode & 0o7777));
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], if size <= OCTAL_11 { size } else { 0 });
    octal(&mut block[136..148], 0);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    block
}

/// The fields of this member; what does not fit stands in the pax header and is zero here.
fn fill(block: &mut [u8; BLOCK], member: &Member) {
    let fitting = |value: u64, limit: u64| if value <= limit { value } else { 0 };
    octal(&mut block[108..116], fitting(member.uid, OCTAL_7));
    octal(&mut block[116..124], fitting(member.gid, OCTAL_7));
    octal(
        &mut block[136..148],
        fitting(u64::try_from(member.mtime.0).unwrap_or(u64::MAX), OCTAL_11),
    );
    let link = cut(&member.link, 100);
    block[157..157 + link.len()].copy_from_slice(link);
    octal(&mut block[329..337], fitting(u64::from(member.device.0), OCTAL_7));
    octal(&mut block[337..345], fitting(u64::from(member.device.1), OCTAL_7));
}

/// A number in octal digits with leading zeros and a zero byte at the end.
fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    field[..digits.len()].copy_from_slice(digits.as_bytes());
    if let Some(last) = field.last_mut() {
        *last = 0;
    }
}

/// The records that a member needs, in a fixed order.
fn pax_records(member: &Member, stored: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let directory = usize::from(member.kind == Kind::Directory && member.path.last() != Some(&b'/'));
    if member.segments.is_some() {
        pax::append(&mut records, b"GNU.sparse.major", b"1");
        pax::append(&mut records, b"GNU.sparse.minor", b"0");
        pax::append(&mut records, b"GNU.sparse.name", &member.path);
        pax::append(
            &mut records,
            b"GNU.sparse.realsize",
            member.size_bytes.to_string().as_bytes(),
        );
    }
    if member.path.len() + directory > 100 {
        let slash: &[u8] = if directory > 0 { b"/" } else { b"" };
        pax::append(&mut records, b"path", &[&member.path, slash].concat());
    }
    if member.link.len() > 100 {
        pax::append(&mut records, b"linkpath", &member.link);
    }
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if id > OCTAL_7 {
            pax::append(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    if stored > OCTAL_11 {
        pax::append(&mut records, b"size", stored.to_string().as_bytes());
    }
    let (seconds, nanos) = member.mtime;
    if nanos != 0 || u64::try_from(seconds).is_ok_and(|s| s > OCTAL_11) || seconds < 0 {
        pax::append(
            &mut records,
            b"mtime",
            pax::format_time(seconds, nanos).as_bytes(),
        );
    }
    let mut xattrs: Vec<_> = member.xattrs.iter().collect();
    xattrs.sort();
    for (name, value) in xattrs {
        pax::append(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// The map of a sparse file in pax form 1.0, padded to a block. An empty piece at the end tells GNU tar where a file
/// that ends in a hole ends.
fn sparse_map(segments: &[(u64, u64)], size: u64) -> Vec<u8> {
    let end = segments.last().map_or(0, |(offset, length)| offset + length);
    let last = (end < size).then_some((size, 0));
    let mut map = format!("{}\n", segments.len() + usize::from(last.is_some()));
    for (offset, length) in segments.iter().chain(&last) {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::super::member::Members;
    use super::*;
    use proptest::prelude::*;

    fn any_member() -> impl Strategy<Value = Member> {
        let name = || {
            proptest::collection::vec(1u8..=255, 1..300)
                .prop_filter("a directory's slash", |n| n.last() != Some(&b'/'))
        };
        let kinds = proptest::sample::select(vec![
            Kind::Regular,
            Kind::HardLink,
            Kind::Symlink,
            Kind::CharDevice,
            Kind::BlockDevice,
            Kind::Directory,
            Kind::Fifo,
        ]);
        let xattrs = proptest::collection::btree_map(
            "[a-z]{1,9}",
            proptest::collection::vec(any::<u8>(), 0..50),
            0..3,
        );
        let ids = (0u32..=u32::MAX, 0u32..=u32::MAX, 0u32..0o7777);
        let time = (-10_000_000_000i64..100_000_000_000, 0u32..1_000_000_000);
        (name(), name(), kinds, ids, time, xattrs, 0u64..2000, 0u32..1000).prop_map(
            |(path, link, kind, (uid, gid, mode), mtime, xattrs, size, device)| Member {
                path,
                link: if matches!(kind, Kind::HardLink | Kind::Symlink) {
                    link
                } else {
                    Vec::new()
                },
                kind,
                mode,
                uid: u64::from(uid),
                gid: u64::from(gid),
                mtime,
                size_bytes: if kind == Kind::Regular { size } else { 0 },
                device: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                    (device, size as u32)
                } else {
                    (0, 0)
                },
                xattrs: xattrs
                    .into_iter()
                    .map(|(name, value)| (name.into_bytes(), value))
                    .collect(),
                segments: None,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(members in proptest::collection::vec(any_member(), 0..5)) {
            let mut writer = Writer::new(Vec::new());
            for member in &members {
                writer.member(member, &mut io::repeat(b'x')).unwrap();
            }
            let bytes = writer.finish().unwrap();
            let mut reader = Members::new(bytes.as_slice());
            for member in members {
                let mut read = reader.next().unwrap().unwrap();
                if read.kind == Kind::Directory {
                    prop_assert_eq!(read.path.pop(), Some(b'/'));
                }
                let mut content = Vec::new();
                reader.read_to_end(&mut content).unwrap();
                prop_assert_eq!(content, vec![b'x'; member.size_bytes as usize]);
                prop_assert_eq!(read, member);
            }
            prop_assert!(reader.next().unwrap().is_none());
            prop_assert!(reader.finish().unwrap().0);
        }
    }

    #[test]
    fn a_sparse_file_reads_back_here_and_in_gnu_tar() {
        let entry = Member {
            segments: Some(vec![(4096, 512), (1 << 20, 2)]),
            ..file_entry("s", 2 << 20)
        };
        let mut writer = Writer::new(Vec::new());
        writer
            .member(&entry, &mut [[b'a'; 512].as_slice(), b"de"].concat().as_slice())
            .unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = Members::new(bytes.as_slice());
        assert_eq!(reader.next().unwrap().unwrap(), entry);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar"), &bytes).unwrap();
        let status = std::process::Command::new("tar")
            .arg("-C")
            .arg(folder.path())
            .args(["-xf", "a.tar"])
            .current_dir(folder.path())
            .status();
        match status {
            Ok(status) => {
                assert!(status.success());
                let content = std::fs::read(folder.path().join("s")).unwrap();
                assert_eq!(
                    (
                        content.len(),
                        &content[4096..4608],
                        &content[1 << 20..(1 << 20) + 2]
                    ),
                    (2 << 20, &[b'a'; 512][..], &b"de"[..])
                );
            }
            Err(error) => eprintln!("SKIP: GNU tar cannot be run: {error}"),
        }
    }
}
