//! One large file read through several mounts: how often does the page cache hold it?
//!
//! A read-only mount of an image opens no files and so passes none through (docs/decisions/0010): it has pages of its
//! own. Those of containers, with an upper, are shared.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::mount::fuse_overlayfs;
use crate::data::expect;
use crate::error::{BenchError, Doing, Result};
use crate::images::measure::{Measure, Unit};
use crate::images::place;
use crate::images::shale::Shale;
use crate::images::{Bench, Contender, synthetic, take_turns, tree};
use crate::scratch;
use crate::system::{Layout, System};

/// How many mounts.
const MOUNTS: [usize; 2] = [1, 4];

/// Not on the loop device, below which the same pages lie a second time.
pub(super) fn page_cache(bench: &Bench) -> Result<Vec<Measure>> {
    let size = bench.sizes.shared_bytes;
    let dir = bench.place.data().join("shared");
    let tree = dir.join("tree");
    for dir in [&dir, &tree] {
        fs::create_dir_all(dir).doing("make", dir)?;
    }
    let archive = dir.join("one.tar");
    let out = File::create(&archive).doing("make", &archive)?;
    synthetic::write_one(BufWriter::with_capacity(1 << 16, out), "object", size).doing("write", &archive)?;
    let mut tar = std::process::Command::new("tar");
    scratch::run(tar.arg("-xf").arg(&archive).arg("-C").arg(&tree))?;
    let store = Shale::new(&bench.tools.shale, dir.join("store"))?;
    crate::images::tools::run(store.command().args(["import", "-q"]).arg(&archive).arg("one:1"))?;
    fs::remove_file(&archive).doing("remove", &archive)?;
    let mut all = Vec::new();
    for count in MOUNTS {
        let about = format!(
            "growth of the page cache when {count} mounts read one file of {} MiB; shale-rw: as containers do",
            size >> 20
        );
        let mut measures = vec![
            Measure::new(format!("page-cache-{count}"), Unit::Bytes, about)
                .at_most("shale-rw", size as f64 * 1.1),
        ];
        let places = (0..count)
            .map(|number| bench.place.mountpoint(&format!("shared-{number}")))
            .collect::<Result<Vec<_>>>()?;
        let (places, store, tree, dir) = (&places, &store, &tree, &dir);
        let mut contenders = vec![
            Contender::new("shale", move |_| of_image(store, &["one:1"], places, size)),
            Contender::new("shale-rw", move |_| {
                of_image(store, &["--rw", "one:1"], places, size)
            }),
            Contender::new("overlayfs", move |_| {
                of_tree(&System::Overlayfs, tree, dir, places, size)
            }),
            Contender::new("fuse-overlayfs", move |_| {
                of_tree(&fuse_overlayfs(bench)?, tree, dir, places, size)
            }),
        ];
        take_turns(bench.rounds.min(3), &mut measures, &mut contenders)?;
        all.extend(measures);
    }
    place::remove(&dir)?;
    Ok(all)
}

fn of_image(store: &Shale, words: &[&str], places: &[PathBuf], size: u64) -> Result<Vec<f64>> {
    let mut mounts = Vec::new();
    for place in places {
        mounts.push(store.mount(words, place)?);
    }
    let growth = growth(places, size);
    for mounted in mounts {
        mounted.end()?;
    }
    growth
}

fn of_tree(system: &System, tree: &Path, dir: &Path, places: &[PathBuf], size: u64) -> Result<Vec<f64>> {
    let mut mounts = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let (upper, work) = (dir.join(format!("u{number}")), dir.join(format!("w{number}")));
        for dir in [&upper, &work] {
            place::remove(dir)?;
            fs::create_dir(dir).doing("make", dir)?;
        }
        let lowers = vec![tree.to_path_buf()];
        mounts.push(system.mount(&Layout { lowers, upper, work }, place)?);
    }
    let growth = growth(places, size);
    for mounted in mounts {
        mounted.end()?;
    }
    growth
}

fn growth(places: &[PathBuf], size: u64) -> Result<Vec<f64>> {
    scratch::drop_caches()?;
    let before = cached()?;
    for place in places {
        expect(
            "bytes read",
            tree::read_through(&place.join("object"))? as usize,
            size as usize,
        )?;
    }
    Ok(vec![cached()? - before])
}

/// Bytes in the page cache.
fn cached() -> Result<f64> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).doing("read", path)?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("Cached:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<f64>()
                .ok()
        })
        .map(|kib| kib * 1024.0)
        .ok_or_else(|| BenchError::Wrong("/proc/meminfo has no line `Cached`".to_owned()))
}
