//! A partial copy against a vector of bytes: every operation, opened again in between, sealed in between.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::layer::marks::MarkSpace;

/// Not a multiple of the block's size.
const BELOW_BYTES: usize = 50_123;

struct Bed {
    folder: tempfile::TempDir,
    below: Vec<u8>,
    block: u64,
}

impl Bed {
    /// `None` where there is nothing to keep marks in.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // Some blocks of zeros as well.
        let below: Vec<u8> = (0..BELOW_BYTES)
            .map(|at| {
                if at / 5000 % 3 == 1 {
                    0
                } else {
                    (at * 7 / 3 % 255) as u8 + 1
                }
            })
            .collect();
        std::fs::write(folder.path().join("below"), &below).unwrap();
        let copy = File::create_new(folder.path().join("copy")).unwrap();
        copy.set_len(BELOW_BYTES as u64).unwrap();
        let copy = OwnedFd::from(copy);
        let mark = Mark {
            limit: BELOW_BYTES as u64,
            ino: sys::stat_fd(&copy).unwrap().ino,
        };
        let name = MarkSpace::User.name(mark::NAME);
        if let Err(error) = sys::set_xattr(&copy, &name, &mark.value(), XattrFlags::empty()) {
            eprintln!("SKIP: no attributes in {}: {error}", folder.path().display());
            return None;
        }
        let block = sys::space(&copy).unwrap().block_bytes;
        Some(Self { folder, below, block })
    }

    fn copy(&self) -> OwnedFd {
        let path = self.folder.path().join("copy");
        File::options().read(true).write(true).open(path).unwrap().into()
    }

    fn lower(&self) -> Content {
        Content::File(File::open(self.folder.path().join("below")).unwrap().into())
    }

    /// As the next server finds it.
    fn open(&self) -> Partial {
        use std::os::fd::AsFd;
        let file = self.copy();
        let name = MarkSpace::User.name(mark::NAME);
        let value = sys::xattr(sys::XattrOf::Fd(file.as_fd()), &name)
            .unwrap()
            .unwrap();
        let ino = sys::stat_fd(&file).unwrap().ino;
        Partial::open(Found {
            file,
            below: self.lower(),
            mark: Mark::parse(&value, ino).unwrap(),
            mark_name: name,
            block_bytes: self.block,
        })
        .unwrap()
    }

    /// As somebody else reads it.
    fn merged(&self) -> Vec<u8> {
        let merged = Merged::new(self.copy(), self.lower(), MarkSpace::User).unwrap();
        let mut bytes = vec![0xee; 4 * BELOW_BYTES];
        let read = merged.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(read);
        let mut at = 0;
        while let Some(data) = merged.data_from(at, u64::MAX).unwrap() {
            assert!(bytes[index(at)..index(data.start)].iter().all(|byte| *byte == 0));
            at = data.end;
        }
        assert!(bytes[index(at)..].iter().all(|byte| *byte == 0), "a hole is data");
        bytes
    }
}

fn content(partial: &Partial) -> Vec<u8> {
    let mut bytes = vec![0xee; 4 * BELOW_BYTES];
    let read = partial.read(&mut bytes, 0).unwrap();
    bytes.truncate(read);
    bytes
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, usize),
    SetSize(usize),
    Punch(usize, usize),
    Zero(usize, usize, bool),
    Reserve(usize, usize, bool),
    Fill,
    FillSome(u64),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..BELOW_BYTES + 20_000;
    let length = prop_oneof![1..300_usize, Just(4096), 1..20_000_usize];
    let near = prop_oneof![
        0..BELOW_BYTES + 20_000,
        BELOW_BYTES - 5000..BELOW_BYTES + 5000,
        (0..14_usize).prop_map(|block| block * 4096),
    ];
    prop_oneof![
        6 => (prop_oneof![at, (0..16_usize).prop_map(|block| block * 4096)], length.clone())
            .prop_map(|(at, length)| Op::Write(at, length)),
        3 => near.clone().prop_map(Op::SetSize),
        1 => (near.clone(), length.clone()).prop_map(|(at, length)| Op::Punch(at, length)),
        1 => (near.clone(), length.clone(), any::<bool>()).prop_map(|(at, length, keep)| Op::Zero(at, length, keep)),
        1 => (near, length, any::<bool>()).prop_map(|(at, length, keep)| Op::Reserve(at, length, keep)),
        1 => Just(Op::Fill),
        1 => (0..60_000_u64).prop_map(Op::FillSome),
        3 => Just(Op::Reopen),
    ]
}

fn run(bed: &Bed, ops: &[Op]) {
    let mut partial = bed.open();
    let mut model = bed.below.clone();
    for (step, op) in ops.iter().enumerate() {
        match *op {
            Op::Write(at, length) => {
                let data: Vec<u8> = (0..length).map(|byte| (byte * 3 + step * 11) as u8).collect();
                assert_eq!(partial.write(&data, at as u64).unwrap(), length);
                if model.len() < at + length {
                    model.resize(at + length, 0);
                }
                model[at..at + length].copy_from_slice(&data);
            }
            Op::SetSize(size) => {
                partial.set_size(size as u64).unwrap();
                model.resize(size, 0);
            }
            Op::Punch(at, length) => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                partial.allocate(mode, at as u64, length as u64).unwrap();
                let end = model.len().min(at + length);
                model.get_mut(at..end).unwrap_or_default().fill(0);
            }
            Op::Zero(at, length, keep) => {
                let keep_flag = if keep {
                    FallocateFlags::KEEP_SIZE
                } else {
                    FallocateFlags::empty()
                };
                let mode = FallocateFlags::ZERO_RANGE | keep_flag;
                match partial.allocate(mode, at as u64, length as u64) {
                    // Not every file system has it.
                    Err(error) if error.errno() == Errno::OPNOTSUPP => continue,
                    result => result.unwrap(),
                }
                if !keep && model.len() < at + length {
                    model.resize(at + length, 0);
                }
                let end = model.len().min(at + length);
                model.get_mut(at..end).unwrap_or_default().fill(0);
            }
            Op::Reserve(at, length, keep) => {
                let mode = if keep {
                    FallocateFlags::KEEP_SIZE
                } else {
                    FallocateFlags::empty()
                };
                partial.allocate(mode, at as u64, length as u64).unwrap();
                if !keep && model.len() < at + length {
                    model.resize(at + length, 0);
                }
            }
            Op::Fill => {
                partial.fill_at_once(true).unwrap();
                assert_eq!(partial.absent_bytes(), 0);
            }
            Op::FillSome(from) => {
                partial.fill_some(from, &mut Vec::new()).unwrap();
            }
            Op::Reopen => partial = bed.open(),
        }
        assert_eq!(partial.size_bytes(), model.len() as u64, "length after {op:?}");
        let found = content(&partial);
        let wrong = found
            .iter()
            .zip(&model)
            .position(|(found, expected)| found != expected);
        assert_eq!((found.len(), wrong), (model.len(), None), "content after {op:?}");
        check_seek(&partial, &model);
    }
    assert!(bed.merged() == model, "as others read it");
    assert!(content(&bed.open()) == model, "as the next server finds it");
    let below = std::fs::read(bed.folder.path().join("below")).unwrap();
    assert!(below == bed.below, "the content below changed");
}

/// Holes hold zeros, and data and holes follow each other to the end.
fn check_seek(partial: &Partial, model: &[u8]) {
    let mut at = 0;
    while let Ok(data) = partial.seek(at, libc::SEEK_DATA) {
        assert!(
            model[index(at)..index(data)].iter().all(|byte| *byte == 0),
            "hole at {at}"
        );
        at = partial.seek(data, libc::SEEK_HOLE).unwrap();
        assert!(at > data && at <= model.len() as u64);
        if at == model.len() as u64 {
            return;
        }
    }
    assert!(
        model[index(at)..].iter().all(|byte| *byte == 0),
        "hole at the end"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_partial_copy_is_a_file_like_any_other(ops in proptest::collection::vec(op(), 1..25)) {
        if let Some(bed) = Bed::new() {
            run(&bed, &ops);
        }
    }
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let Some(bed) = Bed::new() else { return };
    run(
        &bed,
        &[
            Op::SetSize(10_000),
            Op::Reopen,
            Op::SetSize(40_000),
            Op::Reopen,
            Op::Write(12_000, 1),
            Op::SetSize(9_000),
            Op::Write(30_000, 10),
            Op::Reopen,
            Op::Fill,
        ],
    );
}

#[test]
fn only_whole_blocks_are_written() {
    let Some(bed) = Bed::new() else { return };
    let partial = bed.open();
    partial.write(b"x", 10_000).unwrap();
    let start = 10_000 / bed.block * bed.block;
    let data = sys::data_from(&partial.file, 0, u64::MAX >> 1).unwrap();
    assert_eq!(data, Some(start..start + bed.block));
    assert_eq!(
        partial.absent_bytes(),
        (BELOW_BYTES as u64).next_multiple_of(bed.block) - bed.block
    );
}

/// Each byte is as it was written, whatever was filled in meanwhile.
#[test]
fn filling_in_does_not_disturb_writers() {
    let Some(bed) = Bed::new() else { return };
    let partial = bed.open();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..300_u64 {
                let at = round * 613 % 40_000;
                partial.write(&[round as u8; 97], at).unwrap();
            }
        });
        let mut buffer = Vec::new();
        while !writer.is_finished() {
            partial.fill_some(0, &mut buffer).unwrap();
        }
        partial.fill_at_once(true).unwrap();
    });
    let mut model = bed.below.clone();
    for round in 0..300_usize {
        let at = round * 613 % 40_000;
        model[at..at + 97].fill(round as u8);
    }
    assert!(content(&partial) == model);
    let copy = File::from(bed.copy());
    let mut bytes = vec![0; BELOW_BYTES];
    copy.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == model, "the copy alone");
}

#[test]
fn filling_in_keeps_the_time() {
    let Some(bed) = Bed::new() else { return };
    let partial = bed.open();
    partial.write(b"x", 0).unwrap();
    let before = sys::stat_fd(&partial.file).unwrap().mtime;
    partial.fill_at_once(true).unwrap();
    assert_eq!(sys::stat_fd(&partial.file).unwrap().mtime, before);
}

#[test]
fn a_copy_of_a_copy_is_refused() {
    let Some(bed) = Bed::new() else { return };
    let (from, to) = (bed.folder.path().join("copy"), bed.folder.path().join("other"));
    std::fs::copy(&from, &to).unwrap();
    let name = MarkSpace::User.name(mark::NAME);
    let other: OwnedFd = File::open(&to).unwrap().into();
    let value = Mark {
        limit: 1,
        ino: sys::stat_fd(bed.copy()).unwrap().ino,
    };
    sys::set_xattr(&other, &name, &value.value(), XattrFlags::empty()).unwrap();
    assert!(Merged::new(other, bed.lower(), MarkSpace::User).is_err());
}
