//! What containers changed, into images.

use crate::error::Result;
use crate::images::data::{Image, LAYERS};
use crate::images::measure::{Measure, Unit};
use crate::images::podman::Podman;
use crate::images::shale::Shale;
use crate::images::tools::{Ran, run};
use crate::images::{Bench, Contender, take_turns};
use crate::scratch;

/// Writes 2,000 files of 100 MB: 1,500 new ones and 500 of the image's own, most of them small, most bytes in large
/// ones, all without a pattern.
const CHANGE: &str = r"
import os, random
source = random.Random(1)
own = []
for folder, folders, names in os.walk('/usr/share'):
    folders.sort()
    own += [os.path.join(folder, name) for name in sorted(names)]
own = [path for path in own if os.path.isfile(path) and not os.path.islink(path)][:500]
assert len(own) == 500
for number in range(2000):
    if number % 4 == 0:
        path = own[number // 4]
    else:
        path = '/srv/%02d/%04d' % (number % 50, number)
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(source.randbytes(210000 if number % 5 == 0 else 10000))
";

pub(super) fn commit(bench: &Bench) -> Result<Vec<Measure>> {
    let store = bench.store()?;
    let image = bench.image(Image::Rootfs(LAYERS))?;
    run(store
        .command()
        .args(["run", "--name", "changed", &image, "python3", "-c", CHANGE]))?;
    let podman = changed_in_podman(bench);
    scratch::settle();
    let mut measures = vec![
        Measure::new(
            "commit",
            Unit::Seconds,
            "commit a container that changed 100 MB in 2,000 files",
        )
        .ratio_at_most("shale", "podman", 1.0 / 15.0),
        Measure::new("commit-memory", Unit::Bytes, "the most memory used by that"),
        Measure::new("commit-cpu", Unit::Seconds, "its time on processors"),
        Measure::new(
            "commit-synced",
            Unit::Seconds,
            "the same with all of it written out to the disk",
        ),
    ];
    let mut contenders = vec![
        Contender::new("shale", |_| commit_shale(store, "changed")),
        Contender::new("podman", |_| {
            let podman = podman
                .as_ref()
                .map_err(|text| crate::error::BenchError::Wrong(text.clone()))?;
            scratch::settle();
            let ran = run(podman.command().args(["commit", "-q", "changed", "committed:1"]))?;
            let samples = samples(&ran);
            run(podman.command().args(["rmi", "committed:1"]))?;
            Ok(samples)
        }),
    ];
    take_turns(bench.rounds, &mut measures, &mut contenders)?;
    drop(contenders);
    run(store.command().args(["rm", "changed"]))?;
    Ok(measures)
}

/// The same container in a store of Podman's, or why there is none.
fn changed_in_podman(bench: &Bench) -> Result<Podman, String> {
    let make = || {
        let podman = Podman::new(bench.tools.podman.as_ref(), bench.place.fresh("podman")?)?;
        podman.load(&bench.docker_archive(LAYERS)?)?;
        let image = Image::Rootfs(LAYERS).name();
        run(podman
            .run_command("changed")
            .args([&image, "python3", "-c", CHANGE]))?;
        Ok(podman)
    };
    make().map_err(|error: crate::error::BenchError| crate::error::chain(&error))
}

/// Commits, and removes the image again, so that the next time all work is to be done as well.
fn commit_shale(store: &Shale, container: &str) -> Result<Vec<f64>> {
    scratch::settle();
    let ran = run(store.command().args(["commit", container, "committed:1"]))?;
    let samples = samples(&ran);
    run(store.command().args(["rmi", "committed:1"]))?;
    Ok(samples)
}

/// Time, peak memory, time on processors, and time until all is on the disk.
fn samples(ran: &Ran) -> Vec<f64> {
    let started = std::time::Instant::now();
    scratch::settle();
    let synced = ran.seconds + started.elapsed().as_secs_f64();
    vec![ran.seconds, ran.peak_bytes, ran.cpu_seconds, synced]
}

/// One changed file in a large image and in a small one.
pub(super) fn commit_one(bench: &Bench) -> Result<Vec<Measure>> {
    let store = bench.store()?;
    let about = format!(
        "commit a container that changed one file, of an image with {} files more than the root file system, and \
         with the root file system alone (shale-small)",
        bench.sizes.files()
    );
    let mut measures = vec![
        Measure::new("commit-one", Unit::Seconds, about)
            .at_most("shale", 0.05)
            .ratio_at_most("shale", "shale-small", 2.0),
    ];
    for (image, name) in [
        (Image::ManyWithPrograms, "one-large"),
        (Image::Rootfs(1), "one-small"),
    ] {
        let image = bench.image(image)?;
        let script = "echo changed > /etc/motd";
        run(store
            .command()
            .args(["run", "--name", name, &image, "sh", "-c", script]))?;
    }
    let mut contenders = vec![
        Contender::new("shale", |_| commit_shale(store, "one-large")),
        Contender::new("shale-small", |_| commit_shale(store, "one-small")),
    ];
    take_turns(bench.rounds, &mut measures, &mut contenders)?;
    drop(contenders);
    run(store.command().args(["rm", "one-large", "one-small"]))?;
    Ok(measures)
}
