//! `images`: measures what shale does with images beside Podman, umoci and other file systems on this machine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shale_benches::error::chain;
use shale_benches::host::{self, Host};
use shale_benches::images::data::Data;
use shale_benches::images::measure::{Measure, Unit};
use shale_benches::images::place::Place;
use shale_benches::images::report::Report;
use shale_benches::images::tools::Tools;
use shale_benches::images::workload::{self, Workload};
use shale_benches::images::{Bench, Sizes};
use shale_benches::interrupt;

const EXAMPLES: &str = "\
Examples:
  Everything, kept as a file and as a table beside it:
    sudo images --json benches/runs/2026-01-31-images.json
  Two workloads, with a root file system that is there already:
    sudo images --rootfs debian.tar import commit
  A look whether everything runs:
    sudo images --quick";

/// Room for two stores, Podman's store and two unpacked trees.
const BASE_BYTES: u64 = 20 << 30;
const QUICK_BASE_BYTES: u64 = 8 << 30;
/// Inodes beside those of the synthetic files: trees, stores.
const OTHER_FILES: u64 = 600_000;

/// Measure shale's images beside Podman's, umoci's, and other file systems over the same trees.
#[derive(Debug, Parser)]
#[command(name = "images", version, after_help = EXAMPLES)]
struct Arguments {
    /// Workloads to run; all without any
    workloads: Vec<String>,
    /// List the workloads and leave
    #[arg(long)]
    list: bool,
    /// Measurements of each workload on each system [default: 5; 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Small sizes and one round: to see that everything runs, not to quote
    #[arg(long)]
    quick: bool,
    /// Directory on a disk, for the ext4 (20 GiB) and the archives
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Archive of a root file system; without it, mmdebstrap makes one
    #[arg(long, value_name = "FILE")]
    rootfs: Option<PathBuf>,
    /// Path of shale; without it, beside this program
    #[arg(long, value_name = "PATH")]
    shale: Option<PathBuf>,
    /// Write all samples to a file, and the table beside it as .txt
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Date to note; without it, that of the system's clock
    #[arg(long)]
    date: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("images: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let workloads = chosen(&arguments.workloads)?;
    if arguments.list {
        let mut out = std::io::stdout().lock();
        for workload in &workloads {
            writeln!(out, "{:<15} {}", workload.name, workload.about)?;
        }
        return Ok(());
    }
    interrupt::watch().context("watch for signals")?;
    let host = Host::here(arguments.date.clone());
    let bench = bench(arguments)?;
    let mut report = Report {
        host,
        programs: bench.tools.versions(),
        missing: bench.tools.missing(),
        rounds: bench.rounds,
        sizes: bench.sizes.clone(),
        notes: Vec::new(),
        measures: Vec::new(),
    };
    let result = measure(&bench, &workloads, &mut report, arguments.json.as_deref());
    // What was measured before an interruption is kept.
    report.host.load_after = host::load();
    report.notes = bench.data.notes();
    drop(bench);
    std::io::stdout().lock().write_all(report.render().as_bytes())?;
    keep(&report, arguments.json.as_deref())?;
    result
}

fn bench(arguments: &Arguments) -> anyhow::Result<Bench> {
    let shale = match &arguments.shale {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("find {}", path.display()))?,
        None => std::env::current_exe()
            .context("find this program")?
            .with_file_name("shale"),
    };
    if !shale.exists() {
        anyhow::bail!(
            "{} is missing: `cargo build --release --workspace` makes it",
            shale.display()
        );
    }
    let (sizes, bytes) = match arguments.quick {
        true => (Sizes::quick(), QUICK_BASE_BYTES),
        false => (Sizes::full(), BASE_BYTES),
    };
    let dir = arguments
        .dir
        .canonicalize()
        .with_context(|| format!("find {}", arguments.dir.display()))?;
    Ok(Bench {
        tools: Tools::find(shale),
        place: Place::make(&dir, bytes, sizes.files() + OTHER_FILES)?,
        data: Data::new(arguments.rootfs.clone()),
        rounds: arguments
            .rounds
            .unwrap_or(if arguments.quick { 1 } else { 5 })
            .into(),
        sizes,
    })
}

/// Runs all; the report has what was measured so far at any time, and is kept after each workload.
fn measure(
    bench: &Bench,
    workloads: &[Workload],
    report: &mut Report,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    for workload in workloads {
        eprintln!("{}: {}", workload.name, workload.about);
        match (workload.run)(bench) {
            Ok(mut measures) => {
                measures.iter_mut().for_each(Measure::finish);
                report.measures.extend(measures);
            }
            Err(error) => {
                interrupt::check()?;
                eprintln!("  failed: {}", chain(&error));
                let mut measure = Measure::new(workload.name, Unit::Seconds, workload.about);
                measure.fail("shale", &chain(&error));
                report.measures.push(measure);
            }
        }
        report.notes = bench.data.notes();
        keep(report, json)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Workload>> {
    let mut workloads = workload::all();
    let known = |name: &str| workloads.iter().any(|workload| workload.name == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        anyhow::bail!("there is no workload `{name}`; --list shows all");
    }
    workloads.retain(|workload| names.is_empty() || names.iter().any(|name| name == workload.name));
    Ok(workloads)
}

fn keep(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = json else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    let table = path.with_extension("txt");
    fs::write(&table, report.render()).with_context(|| format!("write {}", table.display()))
}
