//! What related images take on the disk: five with a common base, and two made anew whose files mostly agree.

use std::path::PathBuf;

use tar::Header;

use crate::data::{content, split_mix};
use crate::error::Result;
use crate::images::archive::{self, Layer};
use crate::images::data::LAYERS;
use crate::images::measure::{Measure, Unit};
use crate::images::place::{self, disk_usage};
use crate::images::podman::Podman;
use crate::images::shale::Shale;
use crate::images::tools::run;
use crate::images::{Bench, synthetic};
use crate::scratch;

/// Images on the common base.
const SIBLINGS: u64 = 5;
/// Bytes that each of these adds.
const ADDED_BYTES: u64 = 20 << 20;
/// One file in so many differs in an image that was made anew.
const CHANGED_ONE_IN: u64 = 20;

pub(super) fn disk(bench: &Bench) -> Result<Vec<Measure>> {
    let layouts = images(bench)?;
    let about = format!(
        "{SIBLINGS} images of the root file system in {LAYERS} gzip layers and one of {} MiB each, and two of the same \
         files with other times, of which one in {CHANGED_ONE_IN} differs, in one layer each",
        ADDED_BYTES >> 20
    );
    let mut kept = Measure::new("disk", Unit::Bytes, about).ratio_at_most("shale", "podman", 0.8);
    let mut dropped = Measure::new(
        "disk-without-blobs",
        Unit::Bytes,
        "the same after `shale system prune --blobs`; Podman keeps no blobs",
    )
    .ratio_at_most("shale", "podman", 0.6);
    match in_shale(bench, &layouts) {
        Ok((with, without)) => {
            kept.add("shale", with);
            match without {
                Ok(without) => dropped.add("shale", without),
                Err(error) => dropped.fail("shale", &crate::error::chain(&error)),
            }
        }
        Err(error) => kept.fail("shale", &crate::error::chain(&error)),
    }
    match in_podman(bench, &layouts) {
        Ok(bytes) => {
            kept.add("podman", bytes);
            dropped.add("podman", bytes);
        }
        Err(error) => kept.fail("podman", &crate::error::chain(&error)),
    }
    for layout in layouts {
        place::remove(&layout)?;
    }
    Ok(vec![kept, dropped])
}

fn in_shale(bench: &Bench, layouts: &[PathBuf]) -> Result<(f64, Result<f64>)> {
    let store = Shale::new(&bench.tools.shale, bench.place.fresh("disk")?)?;
    for layout in layouts {
        store.load(layout)?;
    }
    scratch::settle();
    let with = disk_usage(store.root())? as f64;
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(store.root()).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            let bytes = disk_usage(&entry.path())? as f64;
            parts.push(format!(
                "{} {}",
                entry.file_name().to_string_lossy(),
                Unit::Bytes.show(bytes)
            ));
        }
    }
    parts.sort();
    bench
        .data
        .note(format!("disk: shale's store holds {}", parts.join(", ")));
    let without = run(store.command().args(["system", "prune", "--blobs", "-f"])).and_then(|_| {
        scratch::settle();
        Ok(disk_usage(store.root())? as f64)
    });
    store.remove()?;
    Ok((with, without))
}

fn in_podman(bench: &Bench, layouts: &[PathBuf]) -> Result<f64> {
    let podman = Podman::new(bench.tools.podman.as_ref(), bench.place.fresh("podman")?)?;
    for layout in layouts {
        // By a relative path: Podman makes the image's name of it, and takes no capitals.
        let (dir, name) = (layout.parent(), layout.file_name());
        let (dir, name) = (dir.unwrap_or(layout), name.unwrap_or_default().to_string_lossy());
        let mut command = podman.command();
        run(command
            .current_dir(dir)
            .args(["pull", "-q", &format!("oci:{name}:{name}:1")]))?;
    }
    scratch::settle();
    Ok(disk_usage(&podman.root())? as f64)
}

/// All images as layouts of gzip layers.
fn images(bench: &Bench) -> Result<Vec<PathBuf>> {
    let dir = bench.place.data().join("disk");
    let base = bench.layers(LAYERS)?;
    let mut layouts = Vec::new();
    let mut add = |name: String, layers: &[Layer]| -> Result<()> {
        let layout = dir.join(&name);
        // A whole name: an image without one would be pruned.
        archive::write_layout(&layout, &format!("{name}:1"), layers, true)?;
        layouts.push(layout);
        Ok(())
    };
    for number in 0..SIBLINGS {
        let path = bench.place.data().join(format!("added-{number}.tar"));
        let mut layers = base.clone();
        layers.push(synthetic::added(&path, number, ADDED_BYTES)?);
        add(format!("sibling-{number}"), &layers)?;
    }
    for number in 0..2 {
        let layers = made_anew(bench, number)?;
        add(format!("anew-{number}"), &layers)?;
    }
    Ok(layouts)
}

/// The root file system with other times, and another content in some files.
fn made_anew(bench: &Bench, seed: u64) -> Result<Vec<Layer>> {
    let dir = bench.place.data().join(format!("anew-{seed}"));
    let mut number = seed << 32;
    archive::split(
        bench.rootfs()?,
        &dir,
        1,
        &|_| 0,
        &mut |header: &mut Header, bytes: &mut Vec<u8>| {
            number += 1;
            let mut state = number;
            header.set_mtime(1_750_000_000 + seed);
            header.set_cksum();
            if !bytes.is_empty() && split_mix(&mut state).is_multiple_of(CHANGED_ONE_IN) {
                let part = bytes.len().min(64);
                bytes[..part].copy_from_slice(&content(state, part));
            }
        },
    )
}
