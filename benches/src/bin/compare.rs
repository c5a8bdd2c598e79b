//! `compare`: measures shale-ufs beside the kernel's overlayfs and fuse-overlayfs on this machine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shale_benches::data::{Data, Sizes};
use shale_benches::host::{self, Host};
use shale_benches::report::{Report, Version};
use shale_benches::runner::Plan;
use shale_benches::scratch::Scratch;
use shale_benches::system::System;
use shale_benches::workload::{self, Workload};
use shale_benches::{interrupt, table};

const EXAMPLES: &str = "\
Examples:
  Everything, kept as a file:
    sudo compare --json benches/runs/2026-01-31.json
  Two workloads, more rounds:
    sudo compare --rounds 15 walk-cold create
  What there is:
    compare --list";

/// Measure shale-ufs beside the kernel's overlayfs and fuse-overlayfs.
#[derive(Debug, Parser)]
#[command(name = "compare", version, after_help = EXAMPLES)]
struct Arguments {
    /// Workloads to run; all without any
    workloads: Vec<String>,
    /// List the workloads and leave
    #[arg(long)]
    list: bool,
    /// Systems to compare (overlayfs, fuse-overlayfs, shale-ufs, shale-ufs-nopt: without passthrough)
    #[arg(long, value_delimiter = ',', value_parser = ["overlayfs", "fuse-overlayfs", "shale-ufs", "shale-ufs-nopt"],
          default_value = "overlayfs,fuse-overlayfs,shale-ufs,shale-ufs-nopt")]
    systems: Vec<String>,
    /// Measurements of each workload on each system
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Directory on a disk, for the image of the base
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Path of shale-ufs; without it, beside this program
    #[arg(long, value_name = "PATH")]
    shale_ufs: Option<PathBuf>,
    /// Path of fuse-overlayfs
    #[arg(long, value_name = "PATH", default_value = "fuse-overlayfs")]
    fuse_overlayfs: PathBuf,
    /// Write all samples to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Date to note; without it, that of the system's clock
    #[arg(long)]
    date: Option<String>,
    #[command(flatten)]
    sizes: Sizes,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let workloads = chosen(&arguments.workloads)?;
    if arguments.list {
        return list(&workloads, &arguments.sizes);
    }
    interrupt::watch().context("watch for signals")?;
    let mut host = Host::here(arguments.date.clone());
    let (systems, versions, missing) = find_systems(arguments)?;
    let scratch = Scratch::make(&arguments.dir, arguments.sizes.base_bytes())?;
    eprintln!("making the layers");
    let data = Data::make(&scratch.base().join("l"), &arguments.sizes)?;
    let plan = Plan {
        scratch: &scratch,
        data: &data,
        sizes: &arguments.sizes,
        systems: &systems,
        rounds: arguments.rounds.into(),
    };
    let mut rows = Vec::new();
    for workload in &workloads {
        eprintln!("{}: {}", workload.name(), workload.about(&arguments.sizes));
        rows.push(plan.measure(&**workload)?);
    }
    host.load_after = host::load();
    let report = Report {
        host,
        systems: versions,
        missing,
        rounds: plan.rounds,
        sizes: arguments.sizes.clone(),
        rows,
    };
    drop(scratch);
    publish(&report, arguments.json.as_deref())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Box<dyn Workload>>> {
    let mut workloads = workload::all();
    if let Some(name) = names
        .iter()
        .find(|name| !workloads.iter().any(|workload| workload.name() == **name))
    {
        anyhow::bail!("there is no workload `{name}`; --list shows all");
    }
    workloads.retain(|workload| names.is_empty() || names.iter().any(|name| name == workload.name()));
    Ok(workloads)
}

fn list(workloads: &[Box<dyn Workload>], sizes: &Sizes) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for workload in workloads {
        writeln!(out, "{:<20} {}", workload.name(), workload.about(sizes))?;
    }
    Ok(())
}

/// The systems that are there, their versions, and what is missing. fuse-overlayfs may be, shale-ufs must not.
fn find_systems(arguments: &Arguments) -> anyhow::Result<(Vec<System>, Vec<Version>, Vec<String>)> {
    let (mut systems, mut versions, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for name in &arguments.systems {
        let system = match name.as_str() {
            "overlayfs" => System::Overlayfs,
            "fuse-overlayfs" => System::FuseOverlayfs {
                program: arguments.fuse_overlayfs.clone(),
            },
            _ => System::Shale {
                program: shale_ufs(arguments)?,
                passthrough: name == "shale-ufs",
            },
        };
        match system.version() {
            Ok(version) => {
                versions.push(Version {
                    name: system.name(),
                    version,
                });
                systems.push(system);
            }
            Err(error) if name == "fuse-overlayfs" => missing.push(format!("{name}: {error}")),
            Err(error) => return Err(error).context("`cargo build --release -p shale-ufs` makes it"),
        }
    }
    Ok((systems, versions, missing))
}

fn shale_ufs(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    if let Some(path) = &arguments.shale_ufs {
        // A server does not start in our directory.
        return path
            .canonicalize()
            .with_context(|| format!("find {}", path.display()));
    }
    let own = std::env::current_exe().context("find this program")?;
    Ok(own.with_file_name("shale-ufs"))
}

fn publish(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    std::io::stdout()
        .lock()
        .write_all(table::render(report).as_bytes())
        .context("print the table")?;
    let Some(path) = json else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
