//! Archives mounted where they lie: indexing, mounting again, random reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data::split_mix;
use crate::error::{BenchError, Doing, Result};
use crate::images::measure::{Measure, Unit};
use crate::images::shale::Shale;
use crate::images::tools::run;
use crate::images::{Bench, Contender, archive, take_turns, tree};
use crate::scratch;
use crate::stats::Summary;

/// What random reads read.
const BLOCK: u64 = 4096;

/// The archive of the root file system on the ext4, as it is or compressed; none when the tool is missing.
fn made(bench: &Bench, form: &str) -> Result<PathBuf> {
    let path = bench.place.base().join(format!("rootfs{form}"));
    if path.exists() {
        return Ok(path);
    }
    let rootfs = bench.rootfs()?;
    match form {
        ".tar" => fs::copy(rootfs, &path).map(drop).doing("copy", rootfs)?,
        ".tar.gz" => archive::gzip_file(rootfs, &path)?,
        _ => {
            let zstd = bench.tools.zstd.as_ref().ok_or_else(|| missing("zstd"))?;
            run(Command::new(zstd).args(["-q", "-o"]).arg(&path).arg(rootfs))?;
        }
    }
    scratch::settle();
    Ok(path)
}

fn missing(program: &str) -> BenchError {
    BenchError::Program {
        program: program.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}

/// An empty store, gone when all is done.
fn empty(bench: &Bench) -> Result<Shale> {
    Shale::new(&bench.tools.shale, bench.place.fresh("archives")?)
}

fn word(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| BenchError::Wrong(format!("{} is not UTF-8", path.display())))
}

/// The first mount and the second of each form.
pub(super) fn mount(bench: &Bench) -> Result<Vec<Measure>> {
    let plain = made(bench, ".tar")?;
    let plain_bytes = fs::metadata(&plain).doing("stat", &plain)?.len() as f64;
    let mountpoint = bench.place.mountpoint("archive")?;
    let mut all = Vec::new();
    let gzip = bench.tools.gzip.clone().map(|program| ("gzip", program));
    let zstd = bench.tools.zstd.clone().map(|program| ("zstd", program));
    let forms = [(".tar", None), (".tar.gz", gzip), (".tar.zst", zstd)];
    for (form, peer) in &forms {
        let path = made(bench, form)?;
        let name = format!("archive{form}");
        let about = format!(
            "`shale mount rootfs{form}` of {:.0} MB unpacked, without an index",
            plain_bytes / 1e6
        );
        let mut first = Measure::new(&name, Unit::Seconds, about);
        if let Some((name, _)) = peer {
            first.about.push_str("; peer: `-dc` of it to nowhere");
            if *name == "gzip" {
                first = first.ratio_at_most("shale", name, 1.0);
            }
        }
        let speed = Measure::new(
            format!("{name}-speed"),
            Unit::BytesPerSecond,
            "plain bytes per second of that",
        );
        let second =
            Measure::new(format!("{name}-again"), Unit::Seconds, "mounted once more").at_most("shale", 0.05);
        let memory = Measure::new(
            format!("{name}-memory"),
            Unit::Bytes,
            "the most memory of `shale mount` the first time",
        );
        let speed = if peer.is_none() {
            speed.at_least("shale", 1e9)
        } else {
            speed
        };
        let mut measures = vec![first, speed, second, memory];
        let mut contenders = vec![Contender::new("shale", |_| {
            tree::read_through(&path)?;
            let store = empty(bench)?;
            scratch::settle();
            let mounted = run(store.command().arg("mount").arg(&path).arg(&mountpoint))?;
            run(store.command().arg("umount").arg(&mountpoint))?;
            let again = store.mount(&[word(&path)?], &mountpoint)?;
            let seconds = again.seconds;
            again.end()?;
            store.remove()?;
            Ok(vec![
                mounted.seconds,
                plain_bytes / mounted.seconds,
                seconds,
                mounted.peak_bytes,
            ])
        })];
        if let Some((name, program)) = peer {
            let path = &path;
            contenders.push(Contender::new(name, move |_| {
                tree::read_through(path)?;
                let mut command = Command::new(program);
                let ran = unread(command.arg("-dc").arg(path))?;
                Ok(vec![ran, plain_bytes / ran])
            }));
        }
        take_turns(bench.rounds, &mut measures, &mut contenders)?;
        drop(contenders);
        all.extend(measures);
    }
    Ok(all)
}

/// Runs a program whose output nobody reads; gives its time.
fn unread(command: &mut Command) -> Result<f64> {
    let started = std::time::Instant::now();
    scratch::run(command.stdout(std::process::Stdio::null()))?;
    Ok(started.elapsed().as_secs_f64())
}

/// Random reads of the gzip archive, beside the same from the unpacked tree.
pub(super) fn reads(bench: &Bench) -> Result<Vec<Measure>> {
    let path = made(bench, ".tar.gz")?;
    let tree = bench.unpacked_rootfs()?;
    let places = places(&tree, bench.sizes.random_reads)?;
    let mountpoint = bench.place.mountpoint("archive")?;
    let store = empty(bench)?;
    store.mount(&[word(&path)?], &mountpoint)?.end()?;
    let about = format!(
        "open a file and read 4 KiB at a random place, {} times; caches empty",
        places.len()
    );
    let mut measures = vec![
        Measure::new(
            "archive-read-median",
            Unit::Seconds,
            format!("{about}; the median"),
        )
        .at_most("shale", 0.005),
        Measure::new(
            "archive-read-p99",
            Unit::Seconds,
            "the slowest but one in a hundred",
        ),
        Measure::new(
            "archive-read-warm",
            Unit::Seconds,
            "the same places once more; the median",
        )
        .ratio_at_most("shale", "ext4", 10.0),
        Measure::new(
            "archive-read-open",
            Unit::Seconds,
            "the same places once more in files held open; the median",
        ),
    ];
    let samples = |root: &Path| -> Result<Vec<f64>> {
        scratch::drop_caches()?;
        let cold = tree::read_blocks(root, &places, BLOCK as usize)?;
        let warm = tree::read_blocks(root, &places, BLOCK as usize)?;
        let open = tree::reread_open(root, &places, BLOCK as usize)?;
        Ok(vec![
            median(&cold),
            percentile(&cold, 99),
            median(&warm),
            median(&open),
        ])
    };
    let mut contenders = vec![
        Contender::new("shale", |_| {
            let mounted = store.mount(&[word(&path)?], &mountpoint)?;
            let samples = samples(mounted.root());
            mounted.end()?;
            samples
        }),
        Contender::new("ext4", |_| samples(&tree)),
    ];
    take_turns(bench.rounds, &mut measures, &mut contenders)?;
    drop(contenders);
    store.remove()?;
    Ok(measures)
}

/// Blocks of the tree's files, each byte as likely as any other; always the same ones.
fn places(tree: &Path, count: usize) -> Result<Vec<(PathBuf, u64)>> {
    let files = tree::files(tree, BLOCK..=u64::MAX)?;
    // Where each file's blocks end among all blocks.
    let mut ends = Vec::with_capacity(files.len());
    let mut total = 0;
    for (_, length) in &files {
        total += length / BLOCK;
        ends.push(total);
    }
    if total == 0 {
        return Err(BenchError::Wrong(
            "the root file system has no large files".to_owned(),
        ));
    }
    let mut state = 4;
    let mut blocks = Vec::with_capacity(count);
    while blocks.len() < count {
        let block = split_mix(&mut state) % total;
        let file = ends.partition_point(|end| *end <= block);
        let first = file.checked_sub(1).map_or(0, |before| ends[before]);
        blocks.push((files[file].0.clone(), (block - first) * BLOCK));
    }
    Ok(blocks)
}

fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).map_or(f64::NAN, |summary| summary.median)
}

fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
