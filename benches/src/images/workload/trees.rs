//! Work in mounted trees, beside other file systems over the same tree unpacked.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::mount::{fuse_overlayfs, peer};
use crate::data::expect;
use crate::error::Result;
use crate::images::data::{Image, LAYERS};
use crate::images::measure::{Measure, Unit};
use crate::images::tree::{self, SMALL_BYTES_MAX};
use crate::images::{Bench, Contender, take_turns};
use crate::scratch;
use crate::system::System;

/// Takes samples in a mounted tree: with empty caches first.
type InTree<'a> = &'a dyn Fn(&Path) -> Result<Vec<f64>>;

/// All systems over the root file system: images read-only and with an upper, and the tree in one layer and in five.
fn compare(bench: &Bench, measures: &mut [Measure], samples: InTree<'_>) -> Result<()> {
    let image = bench.image(Image::Rootfs(LAYERS))?;
    let (tree, layers) = (bench.unpacked_rootfs()?, bench.unpacked_layers()?);
    let store = bench.store()?;
    let mountpoint = bench.place.mountpoint("tree")?;
    let of_image = |words: &[&str]| -> Result<Vec<f64>> {
        let mounted = store.mount(words, &mountpoint)?;
        let samples = samples(mounted.root());
        mounted.end()?;
        samples
    };
    let of_tree = |system: System, lowers: &[PathBuf]| -> Result<Vec<f64>> {
        let mounted = peer(bench, &system, lowers.to_vec(), &mountpoint)?;
        let samples = samples(mounted.root());
        mounted.end()?;
        samples
    };
    let one = std::slice::from_ref(&tree);
    let mut contenders = vec![
        Contender::new("shale", |_| of_image(&[&image])),
        Contender::new("shale-rw", |_| of_image(&["--rw", &image])),
        Contender::new("overlayfs", |_| of_tree(System::Overlayfs, one)),
        Contender::new("overlayfs-5", |_| of_tree(System::Overlayfs, &layers)),
        Contender::new("fuse-overlayfs", |_| of_tree(fuse_overlayfs(bench)?, one)),
    ];
    take_turns(bench.rounds, measures, &mut contenders)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// The walk.
pub(super) fn walk(bench: &Bench) -> Result<Vec<Measure>> {
    let entries = tree::walk(&bench.unpacked_rootfs()?)?;
    let about = format!("list and stat {entries} entries; overlayfs-5: of five layers");
    let mut measures = vec![
        Measure::new("walk-cold", Unit::Seconds, format!("{about}, caches empty"))
            .ratio_at_most("shale", "overlayfs", 0.8)
            .ratio_at_most("shale-rw", "overlayfs", 0.8),
        Measure::new("walk-warm", Unit::Seconds, format!("{about}, once more")),
    ];
    compare(bench, &mut measures, &|root| {
        let walk = || timed(|| expect("entries walked", tree::walk(root)? as usize, entries as usize));
        scratch::drop_caches()?;
        Ok(vec![walk()?, walk()?])
    })?;
    Ok(measures)
}

/// The reading of all small files: as `grep -r` and `tar` do, who list a directory and then read it, and by name, as one
/// who has a list.
pub(super) fn small_files(bench: &Bench) -> Result<Vec<Measure>> {
    let files = tree::files(&bench.unpacked_rootfs()?, 1..=SMALL_BYTES_MAX)?;
    let mut mixed = files.clone();
    tree::shuffle(&mut mixed, 1);
    let about = format!("open, read and close {} files of at most 16 KiB", files.len());
    let measure = |name: &str, text: &str| Measure::new(name, Unit::Seconds, format!("{about} {text}"));
    let mut measures = vec![
        measure("small-files-cold", "and list the directories, caches empty")
            .ratio_at_most("shale", "overlayfs", 0.65)
            .ratio_at_most("shale-rw", "overlayfs", 0.65),
        measure("small-files-warm", "and list the directories, once more"),
        measure(
            "small-files-by-name-cold",
            "in the order of their paths, nothing listed, caches empty",
        ),
        measure(
            "small-files-by-name-warm",
            "in the order of their paths, once more",
        ),
        measure(
            "small-files-random-cold",
            "in random order, nothing listed, caches empty",
        ),
        measure("small-files-random-warm", "in random order, once more"),
    ];
    compare(bench, &mut measures, &|root| {
        let mut samples = Vec::new();
        scratch::drop_caches()?;
        for _ in 0..2 {
            let read = || tree::read_small(root);
            samples.push(timed(|| expect("files read", read()? as usize, files.len()))?);
        }
        for files in [&files, &mixed] {
            scratch::drop_caches()?;
            for _ in 0..2 {
                samples.push(timed(|| tree::read_files(root, files))?);
            }
        }
        Ok(samples)
    })?;
    Ok(measures)
}

/// Names of files and names beside them that are not there, in a new mount of layers that are in the kernel's caches:
/// of the root file system, whose directories are in most of the layers, and of the synthetic files.
pub(super) fn lookups(bench: &Bench) -> Result<Vec<Measure>> {
    let deep = bench.sizes.layers;
    let store = bench.store()?;
    let mountpoint = bench.place.mountpoint("lookups")?;
    let half = bench.sizes.lookups / 2;
    let mut rootfs: Vec<PathBuf> = tree::files(&bench.unpacked_rootfs()?, 0..=u64::MAX)?
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    tree::shuffle(&mut rootfs, 2);
    rootfs.truncate(half);
    let many = bench.many();
    let mut numbers: Vec<u64> = (0..many.dirs * many.files_per_dir).collect();
    tree::shuffle(&mut numbers, 3);
    let synthetic: Vec<PathBuf> = numbers[..half.min(numbers.len())]
        .iter()
        .map(|number| many.path(*number).into())
        .collect();
    drop(numbers);
    let mut all = Vec::new();
    let sets = [
        ("lookups-rootfs", rootfs, [Image::Rootfs(1), Image::Rootfs(deep)]),
        ("lookups-many", synthetic, [Image::Many(1), Image::Many(deep)]),
    ];
    for (name, paths, images) in sets {
        let about = format!(
            "stat {} existing and as many missing names in a new mount, of one layer and (shale-deep) of {deep}",
            paths.len()
        );
        let mut measures =
            vec![Measure::new(name, Unit::Seconds, about).ratio_at_most("shale-deep", "shale", 1.1)];
        let images = [bench.image(images[0])?, bench.image(images[1])?];
        let sample = |image: &str| -> Result<Vec<f64>> {
            // The first pass brings the index into the page cache, the second mount has seen no name.
            for pass in 0..2 {
                let mounted = store.mount(&[image], &mountpoint)?;
                scratch::settle();
                let seconds = timed(|| tree::look_up(mounted.root(), &paths))?;
                mounted.end()?;
                if pass == 1 {
                    return Ok(vec![seconds]);
                }
            }
            Ok(Vec::new())
        };
        let mut contenders = vec![
            Contender::new("shale", |_| sample(&images[0])),
            Contender::new("shale-deep", |_| sample(&images[1])),
        ];
        take_turns(bench.rounds, &mut measures, &mut contenders)?;
        drop(contenders);
        all.extend(measures);
    }
    Ok(all)
}
