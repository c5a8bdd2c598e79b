//! Images into a store: the root file system from archives, and one very large layer from a pipe.

use std::io::BufWriter;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;

use crate::error::{BenchError, Doing, Result};
use crate::images::data::LAYERS;
use crate::images::measure::{Measure, Unit};
use crate::images::podman::Podman;
use crate::images::shale::Shale;
use crate::images::tools::{self, Ran};
use crate::images::{Bench, Contender, place, synthetic, take_turns, tree};
use crate::scratch::{self, Scratch};

const MIB: f64 = 1024.0 * 1024.0;
/// Half of that stays free beside a large layer.
const ROOM_BYTES: u64 = 8 << 30;
/// What is imported when the disk is short.
const SHORT_BYTES: u64 = 2 << 30;

/// Plain layers in a Docker archive, gzip ones in an OCI archive; for umoci, which reads no archives, in a layout.
pub(super) fn import(bench: &Bench) -> Result<Vec<Measure>> {
    let mut all = Vec::new();
    for (name, gzip) in [("import-plain", false), ("import-gzip", true)] {
        let archive = match gzip {
            false => bench.docker_archive(LAYERS)?,
            true => bench.gzip_archive()?,
        };
        let layout = bench.layout(gzip)?;
        let about = format!(
            "load the root file system in {LAYERS} {} layers into an empty store; umoci: unpack it from a layout",
            if gzip { "gzip" } else { "plain" }
        );
        let mut measures = vec![
            Measure::new(name, Unit::Seconds, about)
                .ratio_at_most("shale", "podman", 0.25)
                .ratio_at_most("shale", "umoci", 0.2),
            Measure::new(
                format!("{name}-memory"),
                Unit::Bytes,
                "the most memory used by that",
            )
            .at_most("shale", 100.0 * MIB),
            Measure::new(
                format!("{name}-synced"),
                Unit::Seconds,
                "the same with all of it written out to the disk",
            ),
            Measure::new(
                format!("{name}-cpu"),
                Unit::Seconds,
                "its time on processors, the writing out not counted",
            ),
        ];
        let archive = archive.as_path();
        tree::read_through(archive)?;
        let mut contenders = vec![
            Contender::new("shale", move |_| {
                let store = Shale::new(&bench.tools.shale, bench.place.fresh("import")?)?;
                let sample = synced(|| store.load(archive));
                store.remove()?;
                sample
            }),
            Contender::new("podman", move |_| {
                let store = Podman::new(bench.tools.podman.as_ref(), bench.place.fresh("podman")?)?;
                synced(|| store.load(archive))
            }),
            Contender::new("umoci", move |_| {
                let program = bench.tools.umoci.as_ref().ok_or_else(|| missing("umoci"))?;
                let dir = bench.place.fresh("umoci")?;
                let mut image = layout.clone().into_os_string();
                image.push(":latest");
                let mut command = Command::new(program);
                command
                    .arg("unpack")
                    .arg("--image")
                    .arg(image)
                    .arg(dir.join("bundle"));
                let sample = synced(|| tools::run(&mut command));
                place::remove(&dir)?;
                sample
            }),
        ];
        take_turns(bench.rounds, &mut measures, &mut contenders)?;
        all.extend(measures);
    }
    Ok(all)
}

fn missing(program: &str) -> BenchError {
    BenchError::Program {
        program: program.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}

/// Time, peak memory, time until all is on the disk, and time on processors.
fn synced(run: impl FnOnce() -> Result<Ran>) -> Result<Vec<f64>> {
    scratch::settle();
    let ran = run()?;
    let started = std::time::Instant::now();
    scratch::settle();
    Ok(vec![
        ran.seconds,
        ran.peak_bytes,
        ran.seconds + started.elapsed().as_secs_f64(),
        ran.cpu_seconds,
    ])
}

/// One layer of many gibibytes, on an ext4 of its own.
pub(super) fn large_layer(bench: &Bench) -> Result<Vec<Measure>> {
    let parent = bench.place.data();
    let free = statvfs(parent).doing("look at the disk of", parent)?;
    let free = free.blocks_available() * free.fragment_size();
    let mut size = bench.sizes.large_layer_bytes;
    if free < size + ROOM_BYTES && size > SHORT_BYTES {
        bench.data.note(format!(
            "large-layer: {} GiB instead of {}, because the disk has only {} GiB free",
            SHORT_BYTES >> 30,
            size >> 30,
            free >> 30
        ));
        size = SHORT_BYTES;
    }
    let about = format!("import one layer of {} MiB from a pipe", size >> 20);
    let mut measures = vec![
        Measure::new("large-layer", Unit::BytesPerSecond, about),
        Measure::new("large-layer-memory", Unit::Bytes, "the most memory used by that")
            .at_most("shale", 100.0 * MIB),
    ];
    let disk = Scratch::make(parent, size + size / 8 + (1 << 30))?;
    let base = disk.base();
    let mut contenders = vec![Contender::new("shale", move |_| {
        let root = base.join("large");
        std::fs::create_dir_all(&root).doing("make", &root)?;
        let store = Shale::new(&bench.tools.shale, root)?;
        let ran = store.read_pipe(Some("large:1"), |out| {
            synthetic::write_large(BufWriter::with_capacity(1 << 16, out), size)
                .doing("write", Path::new("a pipe"))
        });
        store.remove()?;
        let ran = ran?;
        Ok(vec![size as f64 / ran.seconds, ran.peak_bytes])
    })];
    // Once: nothing is compared, and the memory does not depend on luck.
    take_turns(1, &mut measures, &mut contenders)?;
    drop(contenders);
    drop(disk);
    Ok(measures)
}
