//! Images from a registry and back to it, over loopback.

use std::process::Command;

use crate::error::{BenchError, Result};
use crate::images::data::LAYERS;
use crate::images::measure::{Measure, Unit};
use crate::images::podman::Podman;
use crate::images::registry::skopeo;
use crate::images::shale::Shale;
use crate::images::tools::{Ran, run};
use crate::images::{Bench, Contender, place, take_turns};
use crate::scratch;

const MIB: f64 = 1024.0 * 1024.0;

/// An image of several gzip layers into an empty store; with skopeo and umoci, into an unpacked tree.
pub(super) fn pull(bench: &Bench) -> Result<Vec<Measure>> {
    let (_, image) = bench.registry()?;
    let image = image.as_str();
    let mut measures = vec![
        Measure::new(
            "pull",
            Unit::Seconds,
            format!(
                "pull the root file system in {LAYERS} gzip layers into an empty store; skopeo-umoci: `skopeo copy` to a \
                 layout and `umoci unpack`"
            ),
        )
        .ratio_at_most("shale", "podman", 1.0 / 3.0)
        .ratio_at_most("shale", "skopeo-umoci", 1.0 / 3.0),
        Measure::new("pull-memory", Unit::Bytes, "the most memory used by that").at_most("shale", 100.0 * MIB),
        Measure::new(
            "pull-synced",
            Unit::Seconds,
            "the same with all of it written out to the disk",
        ),
        Measure::new(
            "pull-cpu",
            Unit::Seconds,
            "its time on processors, the registry's and the writing out not counted",
        ),
    ];
    let mut contenders = vec![
        Contender::new("shale", move |_| {
            let store = Shale::new(&bench.tools.shale, bench.place.fresh("pull")?)?;
            let sample = synced(|| Ok(vec![run(store.command().args(["pull", "-q", image]))?]));
            store.remove()?;
            sample
        }),
        Contender::new("podman", move |_| {
            let store = Podman::new(bench.tools.podman.as_ref(), bench.place.fresh("podman")?)?;
            synced(|| {
                let pull = ["pull", "-q", "--tls-verify=false", image];
                Ok(vec![run(store.command().args(pull))?])
            })
        }),
        Contender::new("skopeo-umoci", move |_| {
            let umoci = bench.tools.umoci.as_ref().ok_or_else(|| missing("umoci"))?;
            let dir = bench.place.fresh("umoci")?;
            let layout = format!("{}:latest", dir.join("layout").display());
            let sample = synced(|| {
                let copied = run(skopeo(bench)?
                    .arg("--src-tls-verify=false")
                    .arg(format!("docker://{image}"))
                    .arg(format!("oci:{layout}")))?;
                let mut unpack = Command::new(umoci);
                unpack
                    .args(["unpack", "--image", &layout])
                    .arg(dir.join("bundle"));
                Ok(vec![copied, run(&mut unpack)?])
            });
            place::remove(&dir)?;
            sample
        }),
    ];
    take_turns(bench.rounds, &mut measures, &mut contenders)?;
    drop(contenders);
    Ok(measures)
}

/// An image that was pulled and committed on with one small change, back to the same repository.
pub(super) fn push(bench: &Bench) -> Result<Vec<Measure>> {
    let (_, image) = bench.registry()?;
    let repository = image.rsplit_once(':').map_or(image.as_str(), |(name, _)| name);
    let mut measures = vec![
        Measure::new(
            "push",
            Unit::Seconds,
            "push an image with one small layer that the registry does not have",
        )
        .ratio_at_most("shale", "podman", 1.0 / 3.0),
        Measure::new("push-memory", Unit::Bytes, "the most memory used by that")
            .at_most("shale", 100.0 * MIB),
        Measure::new("push-cpu", Unit::Seconds, "its time on processors"),
    ];
    let store = Shale::new(&bench.tools.shale, bench.place.fresh("push")?)?;
    run(store.command().args(["pull", "-q", &image]))?;
    let podman = || -> Result<Podman> {
        let podman = Podman::new(bench.tools.podman.as_ref(), bench.place.fresh("podman")?)?;
        run(podman
            .command()
            .args(["pull", "-q", "--tls-verify=false", &image]))?;
        Ok(podman)
    };
    let podman = podman().map_err(|error| crate::error::chain(&error));
    let change = |system: &str, round: usize| format!("echo {system} {round} > /etc/greeting");
    let samples = |ran: &Ran| Ok(vec![ran.seconds, ran.peak_bytes, ran.cpu_seconds]);
    let mut contenders = vec![
        Contender::new("shale", |round| {
            let (name, pushed) = (format!("push-{round}"), format!("{repository}:shale-{round}"));
            let script = change("shale", round);
            run(store
                .command()
                .args(["run", "--name", &name, &image, "sh", "-c", &script]))?;
            run(store.command().args(["commit", &name, &pushed]))?;
            scratch::settle();
            samples(&run(store.command().args(["push", "-q", &pushed]))?)
        }),
        Contender::new("podman", |round| {
            let podman = podman.as_ref().map_err(|text| BenchError::Wrong(text.clone()))?;
            let (name, pushed) = (format!("push-{round}"), format!("{repository}:podman-{round}"));
            let script = change("podman", round);
            run(podman
                .run_command(&name)
                .args([image.as_str(), "sh", "-c", &script]))?;
            run(podman.command().args(["commit", "-q", &name, &pushed]))?;
            scratch::settle();
            samples(&run(podman.command().args([
                "push",
                "-q",
                "--tls-verify=false",
                &pushed,
            ]))?)
        }),
    ];
    take_turns(bench.rounds, &mut measures, &mut contenders)?;
    drop(contenders);
    store.remove()?;
    Ok(measures)
}

fn missing(program: &str) -> BenchError {
    BenchError::Program {
        program: program.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}

/// Of programs one after another: time, peak memory, time until all is on the disk, and time on processors.
fn synced(run: impl FnOnce() -> Result<Vec<Ran>>) -> Result<Vec<f64>> {
    scratch::settle();
    let all = run()?;
    let started = std::time::Instant::now();
    scratch::settle();
    let sum = |of: fn(&Ran) -> f64| all.iter().map(of).sum::<f64>();
    let seconds = sum(|ran| ran.seconds);
    Ok(vec![
        seconds,
        all.iter().map(|ran| ran.peak_bytes).fold(0.0, f64::max),
        seconds + started.elapsed().as_secs_f64(),
        sum(|ran| ran.cpu_seconds),
    ])
}
