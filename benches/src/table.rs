//! The report as plain text for a terminal and for a file beside the JSON. Pure.
//!
//! ```text
//! heading: machine, systems with their options, what is missing
//! a block for each workload: bars, ratios, medians, spreads (chart)
//! one grid of all ratios
//! failures, workloads that were left out
//! ```

use std::fmt::Write;

use crate::chart::{Style, block};
use crate::host::Host;
use crate::report::{Report, Row};

/// The whole text.
#[must_use]
pub fn render(report: &Report, style: &Style) -> String {
    let mut text = heading(report);
    for row in &report.rows {
        text.push_str(&block(row, report.base, style));
    }
    text.push_str(&grid(report, style));
    text.push_str(&notes(report));
    text
}

/// What is said of the machine and the rounds at the top of every table.
pub(crate) fn host_lines(host: &Host, rounds: usize) -> String {
    format!(
        "{}  Linux {}, {} × {}, {} MiB\nload before {}, after {}; overlayfs {}; rounds: {}\n",
        host.date,
        host.kernel,
        host.cpus,
        host.cpu,
        host.memory_mib,
        short_load(&host.load_before),
        short_load(&host.load_after),
        host.overlay_parameters,
        rounds,
    )
}

fn heading(report: &Report) -> String {
    let mut text = host_lines(&report.host, report.rounds);
    let _ = writeln!(
        text,
        "base: {}; random reads and writes: {}",
        report.file_system, report.random_io
    );
    if let Some(rootfs) = &report.rootfs {
        let _ = writeln!(text, "root file system: {rootfs}");
    }
    if !report.caches_dropped {
        text.push_str("cold is not cold: only root can empty the kernel's caches\n");
    }
    for system in &report.systems {
        let _ = write!(text, "{}: {}", system.name, system.version);
        let _ = match &system.options {
            Some(options) => writeln!(text, "; {options}"),
            None => writeln!(text),
        };
    }
    for missing in &report.missing {
        let _ = writeln!(text, "missing: {missing}");
    }
    if report.interrupted {
        text.push_str("interrupted: what was measured until then\n");
    }
    text.push('\n');
    text
}

/// The averages of the load, without the counts of processes.
fn short_load(load: &str) -> String {
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn notes(report: &Report) -> String {
    let mut text = String::new();
    let cells = |row: &'_ Row| {
        row.cells
            .iter()
            .map(|cell| cell.failure.clone().map(|why| (cell.system, why)))
            .collect::<Vec<_>>()
    };
    for row in &report.rows {
        for (system, why) in cells(row).into_iter().flatten() {
            let _ = writeln!(text, "failed: {} on {system}: {why}", row.workload);
        }
    }
    for left_out in &report.left_out {
        let _ = writeln!(text, "left out: {left_out}");
    }
    text
}

/// Ratios alone: a line for each workload, a column for each system.
fn grid(report: &Report, style: &Style) -> String {
    let Some(base) = report.base.filter(|_| !report.rows.is_empty()) else {
        return String::new();
    };
    let others: Vec<&str> = report
        .systems
        .iter()
        .map(|system| system.name)
        .filter(|name| *name != base)
        .collect();
    let first = report
        .rows
        .iter()
        .map(|row| row.workload.len())
        .max()
        .unwrap_or(0);
    let mut text = format!("Medians as a ratio to {base}:\n{:first$}", "");
    for name in &others {
        let _ = write!(text, "  {name:>8}");
    }
    text.push('\n');
    for row in &report.rows {
        let _ = write!(text, "{:first$}", row.workload);
        for name in &others {
            let width = name.len().max(8);
            let ratio = row.cell(name).and_then(|cell| cell.ratio);
            let word = ratio.map_or_else(|| style.none().to_owned(), digits);
            let _ = write!(text, "  {word:>width$}");
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Seconds with three digits and a unit.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{} s", digits(seconds))
    } else if seconds >= 1e-3 {
        format!("{} ms", digits(seconds * 1e3))
    } else {
        format!("{} µs", digits(seconds * 1e6))
    }
}

/// Bytes with three digits and a unit.
pub(crate) fn memory(bytes: f64) -> String {
    for (unit, name) in [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")] {
        if bytes >= unit {
            return format!("{} {name}", digits(bytes / unit));
        }
    }
    format!("{bytes:.0} B")
}

/// Three digits; below one, two, or the first one that is not zero.
pub(crate) fn digits(number: f64) -> String {
    let places = match number {
        number if number >= 99.95 => 0,
        number if number >= 9.995 => 1,
        number if number >= 0.01 || number <= 0.0 => 2,
        number if number >= 0.001 => 3,
        number if number >= 0.000_1 => 4,
        _ => 5,
    };
    format!("{number:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_table_tells_ratios_failures_and_what_is_missing() {
        let text = render(&sample(), &Style::plain(100));
        let grid = text.split("Medians as a ratio to overlayfs:\n").nth(1).unwrap();
        let line = grid.lines().find(|line| line.starts_with("walk-cold ")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["walk-cold", "100", "0.50", "-", "-"]);
        assert!(text.contains("failed: walk-cold on shale-passthrough: no <such> luck & more\n"));
        assert!(text.contains("missing: native: not there\n"));
        assert!(text.contains("left out: package: no root\n"));
        assert!(text.contains("\nshale: 1; x: rw\n"));
        assert!(text.starts_with("2026-01-01  Linux "));
    }

    #[test]
    fn headings_end_where_their_columns_end() {
        let text = render(&sample(), &Style::plain(100));
        let mut lines = text.lines().skip_while(|line| !line.starts_with("Medians"));
        let (heading, row) = (lines.nth(1).unwrap(), lines.next().unwrap());
        let end = |line: &str, word: &str| line.find(word).unwrap() + word.len();
        assert_eq!(end(heading, "fuse-overlayfs"), end(row, "100"));
        assert_eq!(end(heading, "shale"), end(row, "0.50"));
    }

    #[test]
    fn numbers_have_three_digits() {
        for (seconds, text) in [
            (0.000_001_5, "1.50 µs"),
            (0.012_34, "12.3 ms"),
            (0.999_6, "1000 ms"),
            (9.996, "10.0 s"),
            (123.4, "123 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(memory(1_234_567.0), "1.23 MB");
        assert_eq!(memory(12.0), "12 B");
        for (number, text) in [
            (0.0, "0.00"),
            (0.012, "0.01"),
            (0.002_3, "0.002"),
            (0.000_23, "0.0002"),
        ] {
            assert_eq!(digits(number), text);
        }
    }
}
