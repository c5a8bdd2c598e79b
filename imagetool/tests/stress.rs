//! Several commands at once on one store, some of them killed: afterwards the store is sound, and every image that is left
//! gives back exactly what it was made from.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Entry, Shale, dir, ended, entry, file, keep_container, tar};
use imagetool::archive::member::{Kind, Member};
use imagetool::store::{ContainerRecord, Store};

/// How long the commands run against each other.
const DURATION: Duration = Duration::from_secs(12);
const WORKERS: u64 = 4;

/// A small generator of numbers, the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn content(path: &str, seed: u64, size: usize) -> Entry {
    let (member, _) = entry(path, Kind::Regular);
    let content: Vec<u8> = (0..size)
        .map(|at| (seed.wrapping_mul(at as u64 + 7) >> 3) as u8)
        .collect();
    let member = Member {
        size_bytes: size as u64,
        ..member
    };
    (member, content)
}

/// Archives whose layers have objects in common, so that what one command deletes another may be about to use.
fn archives(shale: &Shale) -> Vec<PathBuf> {
    let folder = shale.path("archives");
    fs::create_dir(&folder).unwrap();
    let maker = Shale::new();
    (0..4u64)
        .map(|number| {
            let layer = tar(&[
                dir("d"),
                content("d/shared", 1, 60_000),
                content("d/pair", 2 + number / 2, 80_000),
                content("d/own", 10 + number, 200_000),
                file("d/small", &format!("small {number}")),
            ]);
            let name = format!("image:{number}");
            maker.import(&layer, &name);
            let path = folder.join(format!("{number}.tar"));
            maker.ok(["save", "-o", path.to_str().unwrap(), &name]);
            path
        })
        .collect()
}

/// A container without an image and with an upper of its own, to be committed over and over.
fn container(shale: &Shale, name: &str, seed: u64) {
    let store = Store::open(&shale.root()).unwrap();
    let rootfs = shale.path("rootfs");
    fs::create_dir_all(&rootfs).unwrap();
    let record = ContainerRecord {
        rootfs: Some(rootfs),
        ..ended(name, None)
    };
    let dir = keep_container(&store, &record);
    fs::write(dir.join("upper/shared"), content("", 1, 60_000).1).unwrap();
    fs::write(dir.join("upper/own"), content("", 100 + seed, 150_000).1).unwrap();
    fs::write(dir.join("upper/small"), format!("small {seed}")).unwrap();
}

/// One command of a worker.
fn words(random: &mut Random, archives: &[PathBuf], worker: u64) -> Vec<String> {
    let number = random.next(archives.len() as u64);
    let image = format!("image:{number}");
    let words: Vec<&str> = match random.next(12) {
        0..4 => vec!["load", "-q", "-i", archives[number as usize].to_str().unwrap()],
        4 | 5 => vec!["rmi", "-f", &image],
        6 => vec!["image", "prune", "-f"],
        7 => vec!["image", "prune", "-a", "-f"],
        8 => vec!["tag", &image, "other:1"],
        9 => vec!["system", "df"],
        _ => {
            return ["commit", "--full"]
                .into_iter()
                .map(str::to_owned)
                .chain([format!("c{worker}"), format!("made:{worker}")])
                .collect();
        }
    };
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn commands_that_meet_and_are_killed_leave_a_sound_store() {
    let shale = Shale::new();
    shale.ok(["images"]);
    let archives = archives(&shale);
    for worker in 0..WORKERS {
        container(&shale, &format!("c{worker}"), worker);
    }
    let (killed, ran) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (shale, archives, killed, ran, failed) = (&shale, &archives, &killed, &ran, &failed);
            scope.spawn(move || {
                let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (worker + 1));
                while begun.elapsed() < DURATION && !failed.load(Ordering::Relaxed) {
                    let words = words(&mut random, archives, worker);
                    let mut command = shale.command(&words);
                    command
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .stderr(Stdio::piped());
                    let mut child = command.spawn().unwrap();
                    if random.next(3) == 0 {
                        std::thread::sleep(Duration::from_micros(random.next(60_000)));
                        child.kill().unwrap();
                        child.wait().unwrap();
                        killed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let output = child.wait_with_output().unwrap();
                    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                    ran.fetch_add(1, Ordering::Relaxed);
                    let may_fail = errors.contains("No such image") || errors.contains("removed meanwhile");
                    if !output.status.success() && !may_fail {
                        failed.store(true, Ordering::Relaxed);
                        panic!("{words:?}: {errors}");
                    }
                }
            });
        }
    });
    let (killed, ran) = (killed.into_inner(), ran.into_inner());
    assert!(killed > 10 && ran > 10, "{killed} killed, {ran} ran");
    shale.ok(["images"]); // tidies up after those that were killed
    let told = shale.run(["system", "check"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
    let other = Shale::new();
    for id in shale.ok(["images", "-q", "--no-trunc"]).lines() {
        let path = shale.path("again.tar");
        shale.ok(["save", "-o", path.to_str().unwrap(), id]);
        other.ok(["load", "-q", "-i", path.to_str().unwrap()]);
        assert!(other.ok(["images", "-aq", "--no-trunc"]).contains(id));
    }
    other.ok(["system", "check"]);
    shale.ok(["image", "prune", "-a", "-f"]);
    shale.assert_empty();
}
