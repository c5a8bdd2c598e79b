//! `shale bench`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use imagetool::terminal;
use shale_benches::chart::Style;
use shale_benches::comparison::{self, Event, MODES, PEERS, Request};
use shale_benches::data::Sizes;
use shale_benches::report::Report;
use shale_benches::workload::{self, Workload};
use shale_benches::{interrupt, svg, table};

use super::output;
use crate::cli::Context;

/// The exit status of a run that a signal ended.
const INTERRUPTED_STATUS: u8 = 130;
/// Columns of a table that goes to a file.
const FILE_WIDTH: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Bars, medians, spreads and ratios
    Table,
    /// Everything, all samples included
    Json,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale bench --list
  shale bench walk small-files create        as a plain user as well: in a directory, without dropped caches
  sudo shale bench --json run.json --svg run.svg
  sudo shale bench --rootfs debian.tar package walk --against overlayfs
  sudo shale bench one-byte-10g --rounds 1 --dir /mnt/large-disk

Without a loop device nothing is mounted that other programs could see; as root, about 6 GiB of --dir are used and
given back, after Ctrl-C too.")]
pub(crate) struct Args {
    /// What to run, by name or by what names begin with; everything without any
    #[arg(value_name = "WORKLOAD")]
    workloads: Vec<String>,

    /// List the workloads and leave
    #[arg(long)]
    list: bool,

    /// Peers; the first one that is there is the base of the ratios
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', value_parser = PEERS, default_values = PEERS)]
    against: Vec<String>,

    /// Ways of shale to mount (passthrough: `-o passthrough`, image: `shale mount`, rw: with an upper)
    #[arg(long, value_name = "MODES", value_delimiter = ',', value_parser = MODES, default_values = MODES)]
    modes: Vec<String>,

    /// Measurements of each workload on each system
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Directory on a disk, for everything that is made
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,

    /// Use --dir as it is, where root would make a fresh ext4 on a loop device
    #[arg(long)]
    no_loop: bool,

    /// A root file system, as a directory or an archive, in the place of the tree of small files
    #[arg(long, value_name = "TAR|DIR")]
    rootfs: Option<PathBuf>,

    /// Make random reads and writes without fio where it is installed
    #[arg(long)]
    no_fio: bool,

    /// Option for shale-ufs, as `-o` takes it
    #[arg(long = "ufs-option", value_name = "OPTION")]
    ufs_options: Vec<String>,

    /// Path of fuse-overlayfs
    #[arg(long, value_name = "PATH", default_value = "fuse-overlayfs")]
    fuse_overlayfs: PathBuf,

    /// Output
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    format: Output,

    /// Write everything to a file, all samples included, and the table beside it as .txt
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the chart to a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Date to note; without it, that of the system's clock
    #[arg(long, value_name = "DATE")]
    date: Option<String>,

    #[command(flatten)]
    sizes: Sizes,
}

impl Args {
    /// Whether mounts will be made.
    pub(crate) fn needs_mounts(&self) -> bool {
        !self.list
    }

    pub(crate) fn execute(self, _context: &Context) -> anyhow::Result<u8> {
        let workloads = match workload::chosen(&self.workloads) {
            Ok(workloads) => workloads,
            Err(name) => bail!("there is no workload {name:?}; `shale bench --list` names all"),
        };
        if self.list {
            return list(&workload_names(&self.workloads, workloads), &self.sizes);
        }
        interrupt::watch().context("watch for signals")?;
        let full = |path: &Path| {
            path.canonicalize()
                .with_context(|| format!("find {}", path.display()))
        };
        let request = Request {
            workloads,
            against: self.against.clone(),
            modes: self.modes.clone(),
            dir: full(&self.dir)?,
            loop_device: !self.no_loop,
            rounds: self.rounds.into(),
            rootfs: self.rootfs.as_deref().map(full).transpose()?,
            fio: !self.no_fio,
            shale: std::env::current_exe().context("find this program")?,
            shale_ufs: imagetool::mounts::find_program("shale-ufs", "SHALE_UFS")?,
            fuse_overlayfs: self.fuse_overlayfs.clone(),
            ufs_options: self.ufs_options.clone(),
            sizes: self.sizes.clone(),
            date: self.date.clone(),
        };
        let progress = std::io::stderr().is_terminal();
        let report = comparison::run(&request, &mut |event| tell(event, progress));
        clear_line(progress);
        let report = report?;
        self.publish(&report)?;
        Ok(if report.interrupted { INTERRUPTED_STATUS } else { 0 })
    }

    fn publish(&self, report: &Report) -> anyhow::Result<()> {
        let mut json = serde_json::to_string_pretty(report).context("write the report as JSON")?;
        json.push('\n');
        match self.format {
            Output::Json => output::print(&json)?,
            Output::Table => output::print(&table::render(report, &style()))?,
        }
        if let Some(path) = &self.json {
            keep(path, &json)?;
            let unicode = Style {
                unicode: true,
                ..Style::plain(FILE_WIDTH)
            };
            keep(&path.with_extension("txt"), &table::render(report, &unicode))?;
        }
        if let Some(path) = &self.svg {
            keep(path, &svg::render(report))?;
        }
        Ok(())
    }
}

/// All of them when nobody named any: the list also has those that must be named.
fn workload_names(names: &[String], chosen: Vec<Box<dyn Workload>>) -> Vec<Box<dyn Workload>> {
    if names.is_empty() { workload::all() } else { chosen }
}

fn list(workloads: &[Box<dyn Workload>], sizes: &Sizes) -> anyhow::Result<u8> {
    for workload in workloads {
        let asked = if workload.only_by_name() {
            " (only when named)"
        } else {
            ""
        };
        output::line(format!(
            "{:<24} {}{asked}",
            workload.name(),
            workload.about(sizes)
        ))?;
    }
    Ok(0)
}

fn keep(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Progress on standard error: one line that changes on a terminal, else a line for each workload.
fn tell(event: &Event<'_>, terminal: bool) {
    let mut err = std::io::stderr().lock();
    let _ = match (event, terminal) {
        (Event::Base { file_system }, _) => writeln!(err, "base: {file_system}"),
        (
            Event::Workload {
                number,
                of,
                name,
                about,
            },
            _,
        ) => {
            if terminal {
                let _ = write!(err, "\r\x1b[K");
            }
            writeln!(err, "[{number}/{of}] {name}: {about}")
        }
        (Event::Turn { round, of, system }, true) => {
            let shown = write!(err, "\r\x1b[K  round {round} of {of}: {system}");
            shown.and_then(|()| err.flush())
        }
        (Event::Turn { .. }, false) => Ok(()),
    };
}

fn clear_line(terminal: bool) {
    if terminal {
        eprint!("\r\x1b[K");
    }
}

/// What standard output can show. Without a terminal there are no colours, and the width is that of files.
fn style() -> Style {
    let stdout = std::io::stdout();
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let terminal = stdout.is_terminal();
    let dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
    Style {
        width: match terminal {
            true => terminal::columns().unwrap_or(FILE_WIDTH),
            false => FILE_WIDTH,
        },
        unicode: speaks_utf8(|name| std::env::var(name).ok()),
        colour: terminal && !dumb && !is_set("NO_COLOR"),
    }
}

/// Whether the locale is one of UTF-8: of the three variables, the first that is set counts (POSIX, 8.2).
fn speaks_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_tells_the_locale() {
        let told = |values: [&str; 3]| {
            speaks_utf8(|name| {
                let at = ["LC_ALL", "LC_CTYPE", "LANG"]
                    .iter()
                    .position(|one| *one == name)?;
                Some(values[at].to_owned())
            })
        };
        assert!(told(["", "", "de_DE.UTF-8"]));
        assert!(told(["C.utf8", "C", "C"]));
        assert!(!told(["C", "", "de_DE.UTF-8"]));
        assert!(!told(["", "", ""]));
    }
}
