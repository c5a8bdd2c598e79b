//! From the command to the first listing, and what a walk of a large image costs the server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::data::expect;
use crate::error::{BenchError, Result};
use crate::images::data::Image;
use crate::images::measure::{Measure, Unit};
use crate::images::podman::Podman;
use crate::images::shale::memory_of;
use crate::images::tools::run;
use crate::images::{Bench, Contender, take_turns, tree};
use crate::scratch;
use crate::system::{Layout, Mounted, System};

const MB: f64 = 1e6;

/// `shale mount` and `ls`, of images with few and many layers and files.
pub(super) fn mount(bench: &Bench) -> Result<Vec<Measure>> {
    let deep = bench.sizes.layers;
    let images = [
        Image::Rootfs(1),
        Image::Rootfs(deep),
        Image::Many(1),
        Image::Many(deep),
    ];
    let mut all = Vec::new();
    for image in images {
        let (name, layers) = match image {
            Image::Rootfs(layers) => ("rootfs", layers),
            Image::Many(layers) => ("many", layers),
            Image::ManyWithPrograms => continue,
        };
        let name = format!("mount-{name}-{layers}");
        let about = |cold: &str| {
            format!(
                "from the start of `shale mount {}` to the end of `ls` at it{cold}",
                image.name()
            )
        };
        let mut measures = vec![
            Measure::new(&name, Unit::Seconds, about("; podman: `image mount` and `ls`"))
                .at_most("shale", 0.03),
            Measure::new(format!("{name}-cold"), Unit::Seconds, about(", all caches empty")),
        ];
        if let Err(error) = mount_one(bench, image, &mut measures) {
            crate::interrupt::check()?;
            let text = crate::error::chain(&error);
            eprintln!("  failed: {text}");
            measures
                .iter_mut()
                .for_each(|measure| measure.fail("shale", &text));
        }
        all.extend(measures);
    }
    Ok(all)
}

fn mount_one(bench: &Bench, image: Image, measures: &mut [Measure]) -> Result<()> {
    let store = bench.store()?;
    let name = bench.image(image)?;
    let mountpoint = bench.place.mountpoint("image")?;
    // Not measured: the server's program is in the page cache afterwards.
    store.mount(&[&name], &mountpoint)?.end()?;
    let timed = || -> Result<f64> {
        let started = Instant::now();
        let mounted = store.mount(&[&name], &mountpoint)?;
        run(Command::new("ls").arg(&mountpoint))?;
        let seconds = started.elapsed().as_secs_f64();
        mounted.end()?;
        Ok(seconds)
    };
    let podman = match image {
        Image::Rootfs(layers) => Some(podman_with(bench, layers)?),
        _ => None,
    };
    let mut contenders = vec![Contender::new("shale", |_| {
        scratch::settle();
        let warm = timed()?;
        scratch::drop_caches()?;
        Ok(vec![warm, timed()?])
    })];
    if let Some(podman) = &podman {
        contenders.push(Contender::new("podman", |_| {
            scratch::settle();
            let warm = podman_mount(podman, &name)?;
            scratch::drop_caches()?;
            Ok(vec![warm, podman_mount(podman, &name)?])
        }));
    }
    take_turns(bench.rounds, measures, &mut contenders)
}

fn podman_with(bench: &Bench, layers: usize) -> Result<Podman> {
    let podman = Podman::new(bench.tools.podman.as_ref(), bench.place.fresh("podman")?)?;
    podman.load(&bench.docker_archive(layers)?)?;
    Ok(podman)
}

fn podman_mount(podman: &Podman, image: &str) -> Result<f64> {
    let started = Instant::now();
    let ran = run(podman.command().args(["image", "mount", image]))?;
    run(Command::new("ls").arg(ran.stdout.trim()))?;
    let seconds = started.elapsed().as_secs_f64();
    run(podman.command().args(["image", "umount", image]))?;
    Ok(seconds)
}

/// A peer's mount over unpacked trees, with an empty upper.
pub(super) fn peer(
    bench: &Bench,
    system: &System,
    lowers: Vec<PathBuf>,
    mountpoint: &Path,
) -> Result<Mounted> {
    let dir = bench.place.fresh("upper")?;
    let (upper, work) = (dir.join("u"), dir.join("w"));
    for dir in [&upper, &work] {
        crate::error::Doing::doing(std::fs::create_dir(dir), "make", dir)?;
    }
    system.mount(&Layout { lowers, upper, work }, mountpoint)
}

/// fuse-overlayfs, when it is there.
pub(super) fn fuse_overlayfs(bench: &Bench) -> Result<System> {
    let program = bench
        .tools
        .fuse_overlayfs
        .clone()
        .ok_or_else(|| BenchError::Program {
            program: "fuse-overlayfs".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
    Ok(System::FuseOverlayfs { program })
}

/// A full walk of the large image after the caches were dropped, and the server's memory after it.
pub(super) fn walk_many(bench: &Bench) -> Result<Vec<Measure>> {
    let many = bench.many();
    let image = bench.image(Image::Many(1))?;
    let tree = bench.unpacked_many()?;
    let store = bench.store()?;
    let mountpoint = bench.place.mountpoint("many")?;
    let about = format!("list and stat all {} entries of a new mount", many.entries());
    let mut measures = vec![
        Measure::new("walk-many-cold", Unit::Seconds, format!("{about}, caches empty")).ratio_at_most(
            "shale",
            "overlayfs",
            0.8,
        ),
        Measure::new("walk-many-warm", Unit::Seconds, format!("{about}, once more")),
        Measure::new(
            "walk-many-rss",
            Unit::Bytes,
            "resident memory of the server after that",
        )
        .at_most("shale", 200.0 * MB),
        Measure::new(
            "walk-many-anonymous",
            Unit::Bytes,
            "of which its own, not of files that it maps",
        ),
    ];
    let walked = |root: &Path| -> Result<f64> {
        let started = Instant::now();
        let count = tree::walk(root)?;
        let seconds = started.elapsed().as_secs_f64();
        expect("entries walked", count as usize, many.entries() as usize)?;
        Ok(seconds)
    };
    let over_tree = |system: &System| -> Result<Vec<f64>> {
        let mounted = peer(bench, system, vec![tree.clone()], &mountpoint)?;
        scratch::drop_caches()?;
        let mut samples = vec![walked(mounted.root())?, walked(mounted.root())?];
        if let Some(pid) = mounted.server() {
            let memory = memory_of(Some(pid))?;
            samples.extend([memory.resident, memory.anonymous]);
        }
        mounted.end()?;
        Ok(samples)
    };
    let mut contenders = vec![
        Contender::new("shale", |_| {
            let mounted = store.mount(&[&image], &mountpoint)?;
            scratch::drop_caches()?;
            let times = [walked(mounted.root())?, walked(mounted.root())?];
            let memory = memory_of(mounted.server())?;
            mounted.end()?;
            Ok(vec![times[0], times[1], memory.resident, memory.anonymous])
        }),
        Contender::new("overlayfs", |_| over_tree(&System::Overlayfs)),
        Contender::new("fuse-overlayfs", |_| over_tree(&fuse_overlayfs(bench)?)),
    ];
    // Long, and steady enough.
    take_turns(bench.rounds.min(3), &mut measures, &mut contenders)?;
    drop(contenders);
    Ok(measures)
}
