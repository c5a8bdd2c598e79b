//! What an index of a million files costs. Numbers, no verdicts: run it in release, on its own, and read.
//!
//! `cargo test --release -p shale-ufs --test index_speed -- --ignored --nocapture`

use std::time::{Duration, Instant};

use ufs::attr::FileType;
use ufs::index::build::{Finished, Meta, Stored, Tree};
use ufs::index::merge::merge;
use ufs::index::{Index, InodeId, Kind};

const DIRECTORIES: u32 = 10_000;
const FILES_EACH: u32 = 100;

fn path(number: u32) -> String {
    let dir = number / FILES_EACH;
    format!(
        "dir{:02}/sub{:03}/file{:02}.txt",
        dir % 100,
        dir / 100,
        number % FILES_EACH
    )
}

/// Bytes of this process that are in memory, now and at most so far.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (of("RssAnon"), of("VmHWM"))
}

fn tree(of: impl Iterator<Item = u32>, packed: bool) -> Tree {
    let mut tree = Tree::new();
    for number in of {
        let content = packed.then(|| {
            let mut digest = [0; 32];
            // spread like a real digest
            let spread = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            digest[..8].copy_from_slice(&spread.to_le_bytes());
            let (offset, sum) = (u64::from(number) * 100, spread);
            tree.add_content(Stored::Pack { offset, sum, digest }, 100)
        });
        let meta = Meta {
            mode: 0o644,
            mtime: ufs::attr::Time {
                secs: 1_700_000_000 + i64::from(number),
                nanos: number,
            },
            ..Meta::default()
        };
        let size = if packed { 100 } else { 0 };
        tree.file(path(number).as_bytes(), meta, size, content).unwrap();
    }
    tree
}

fn write(finished: &Finished, layer: u8, path: &std::path::Path) {
    let mut file = std::fs::File::create(path).unwrap();
    finished.write(&[layer; 32], &mut file).unwrap();
}

fn walk(index: &Index) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    let mut waiting = vec![InodeId::ROOT];
    while let Some(dir) = waiting.pop() {
        for entry in index.entries(dir).unwrap() {
            let (name, found) = entry.unwrap();
            let id = found.inode.unwrap();
            let inode = index.inode(id).unwrap();
            bytes += inode.size_bytes + name.len() as u64;
            files += 1;
            if found.file_type == FileType::Directory {
                waiting.push(id);
            }
        }
    }
    (files, bytes)
}

/// Time this thread has spent on a CPU: other work on the machine has no part in it.
fn spent() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> (T, Duration) {
    let (start, spent_before) = (Instant::now(), spent());
    let value = run();
    let (elapsed, taken) = (start.elapsed(), spent() - spent_before);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:40} {:>10.3} ms of CPU, {:>10.3} ms passed",
        ms(taken),
        ms(elapsed)
    );
    (value, taken)
}

#[test]
#[ignore = "a measurement: run it in release"]
fn a_million_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let count = DIRECTORIES * FILES_EACH;
    let files = f64::from(count);

    let (before, _) = memory();
    let (built, _) = timed("build, distinct packed contents", || tree(0..count, true));
    println!(
        "  memory of the tree per file            {:>10.1} B",
        (memory().0 - before) as f64 / files
    );
    let (finished, _) = timed("finish", || built.finish().unwrap());
    println!(
        "  memory when finished per file          {:>10.1} B",
        (memory().0 - before) as f64 / files
    );
    timed("write", || write(&finished, 1, &file("all")));
    println!(
        "  peak of the process per file           {:>10.1} B",
        memory().1 as f64 / files
    );
    println!(
        "  size of the index per file             {:>10.1} B",
        std::fs::metadata(file("all")).unwrap().len() as f64 / files
    );
    drop(finished);

    let (index, _) = timed("open", || Index::open(&file("all")).unwrap());
    timed("walk with attributes, first touch", || walk(&index));
    timed("walk with attributes, again", || walk(&index));
    let names: Vec<String> = (0..200_000u32)
        .map(|number| path(number.wrapping_mul(2_654_435_761) % count))
        .collect();
    let (_, taken) = timed("find 200,000 random paths of 3 names", || {
        for name in &names {
            assert!(index.find(name.as_bytes()).unwrap().is_some());
        }
    });
    println!(
        "  one lookup                             {:>10.1} ns",
        taken.as_nanos() as f64 / 600_000.0
    );
    timed("check", || index.check().unwrap());

    // ten layers of a hundred thousand files, then 127 of a few thousand
    for layers in [1u32, 10, 127] {
        let indexes: Vec<Index> = (0..layers)
            .map(|layer| {
                let of = (0..count).filter(move |number| number % layers == layer);
                let path = file(&format!("{layers}-{layer}"));
                write(
                    &tree(of, true).finish().unwrap(),
                    u8::try_from(layer).unwrap(),
                    &path,
                );
                Index::open(&path).unwrap()
            })
            .collect();
        let sources: Vec<&Index> = indexes.iter().collect();
        let (before, _) = memory();
        let (merged, _) = timed(&format!("merge of {layers} layers"), || {
            merge(&sources, Kind::Chain).unwrap()
        });
        println!(
            "  memory per file                        {:>10.1} B",
            (memory().0 - before) as f64 / files
        );
        timed("  write", || {
            let mut out = std::fs::File::create(file("chain")).unwrap();
            merged.write(&mut out).unwrap();
        });
        let (chain, _) = timed("  open", || Index::open(&file("chain")).unwrap());
        assert_eq!(chain.inode_count(), count + DIRECTORIES + 100 + 1);
        timed("  walk of the chain, first touch", || walk(&chain));
        timed("  walk of the chain, again", || walk(&chain));
        let origin = (0..1000u32).map(|number| number * 997 % chain.inode_count());
        timed("  1,000 by origin", || {
            for id in origin {
                let inode = chain.inode(InodeId(id)).unwrap();
                assert_eq!(
                    chain.by_origin(inode.layer, inode.origin).unwrap(),
                    Some(InodeId(id))
                );
            }
        });
    }
}
