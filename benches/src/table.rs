//! The report as plain text for a terminal and for a file beside the JSON. Pure.

use std::fmt::Write;

use crate::host::Host;
use crate::report::{BASE, Cell, Report, Row};

/// The whole text.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = heading(report);
    text.push_str(&grid(&times(report)));
    text.push_str(
        "\nEach cell: median, half the distance from the smallest to the largest sample, ratio to overlayfs.\n\n",
    );
    if let Some(memory) = memory(report) {
        text.push_str(&memory);
    }
    for row in &report.rows {
        let _ = writeln!(text, "{}: {}", row.workload, row.about);
    }
    for (row, cell) in report
        .rows
        .iter()
        .flat_map(|row| row.cells.iter().map(move |cell| (row, cell)))
    {
        if let Some(failure) = &cell.failure {
            let _ = writeln!(text, "failed: {} on {}: {failure}", row.workload, cell.system);
        }
    }
    text
}

/// What is said of the machine and the rounds at the top of every table.
pub(crate) fn host_lines(host: &Host, rounds: usize) -> String {
    format!(
        "{}  Linux {}, {} × {}, {} MiB\nload before {}, after {}; overlayfs {}; {} rounds\n",
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
    for system in &report.systems {
        let _ = writeln!(text, "{}: {}", system.name, system.version);
    }
    for missing in &report.missing {
        let _ = writeln!(text, "missing: {missing}");
    }
    text.push('\n');
    text
}

/// The averages of the load, without the counts of processes.
fn short_load(load: &str) -> String {
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn times(report: &Report) -> Vec<Vec<String>> {
    let mut lines = vec![vec![String::new()]];
    for system in &report.systems {
        lines[0].extend([system.name.to_owned(), String::new(), String::new()]);
    }
    lines.extend(report.rows.iter().map(|row| {
        let mut line = vec![row.workload.to_owned()];
        line.extend(row.cells.iter().flat_map(cell_words));
        line
    }));
    lines
}

fn cell_words(cell: &Cell) -> [String; 3] {
    let Some(summary) = cell.summary else {
        return ["failed".to_owned(), String::new(), String::new()];
    };
    let ratio = match cell.ratio {
        Some(ratio) if cell.system != BASE => format!("×{}", digits(ratio)),
        _ => String::new(),
    };
    [
        duration(summary.median),
        format!("±{:.0}%", summary.spread() * 50.0),
        ratio,
    ]
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

/// Three digits, or two below one.
pub(crate) fn digits(number: f64) -> String {
    let places = match number {
        number if number >= 99.95 => 0,
        number if number >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.places$}")
}

/// What the servers used for the walk.
fn memory(report: &Report) -> Option<String> {
    let row: &Row = report.rows.iter().find(|row| row.workload == "walk-cold")?;
    let mut text = String::new();
    for cell in &row.cells {
        if let Some(memory) = cell.memory {
            let _ = writeln!(
                text,
                "memory of {} after walk-cold: {} KiB at most, {} KiB at the end",
                cell.system, memory.peak_kib, memory.rss_kib
            );
        }
    }
    (!text.is_empty()).then(|| text + "\n")
}

/// Lines up columns: the first to the left, numbers to the right; a heading covers the columns of its system.
fn grid(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for line in &lines[1..] {
        for (width, word) in widths.iter_mut().zip(line) {
            *width = (*width).max(word.chars().count());
        }
    }
    // A system's columns together are at least as wide as its name.
    for (system, heading) in lines[0][1..].chunks(3).enumerate() {
        let columns = &mut widths[1 + system * 3..][..heading.len()];
        let total: usize = columns.iter().sum::<usize>() + heading.len() - 1;
        columns[0] += heading[0].chars().count().saturating_sub(total);
    }
    let mut text = " ".repeat(widths[0]);
    for (system, heading) in lines[0][1..].chunks(3).enumerate() {
        let total: usize =
            widths[1 + system * 3..][..heading.len()].iter().sum::<usize>() + heading.len() - 1;
        let _ = write!(text, "   {:>total$}", heading[0]);
    }
    text.push('\n');
    for line in &lines[1..] {
        let mut row = format!("{:<width$}", line[0], width = widths[0]);
        for (column, word) in line.iter().enumerate().skip(1) {
            let gap = if column % 3 == 1 { "   " } else { " " };
            let _ = write!(row, "{gap}{word:>width$}", width = widths[column]);
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::tiny;
    use crate::host::Host;
    use crate::report::{Memory, Version};

    fn report() -> Report {
        let workload = &crate::workload::all()[0];
        let base = Cell {
            seconds: vec![0.010, 0.011, 0.0105],
            ..Cell::new(BASE)
        };
        let peer = Cell {
            seconds: vec![1.05, 1.05, 1.05],
            memory: Some(Memory {
                peak_kib: 5120,
                rss_kib: 4096,
            }),
            ..Cell::new("a-name-that-is-wider-than-its-columns")
        };
        let failed = Cell {
            failure: Some("no such luck".to_owned()),
            ..Cell::new("z")
        };
        let version = |name| Version {
            name,
            version: "1".to_owned(),
        };
        Report {
            host: Host::here(Some("2026-01-01".to_owned())),
            systems: vec![
                version(BASE),
                version("a-name-that-is-wider-than-its-columns"),
                version("z"),
            ],
            missing: vec!["y: not installed".to_owned()],
            rounds: 3,
            sizes: tiny(),
            rows: vec![Row::new(&**workload, &tiny(), vec![base, peer, failed])],
        }
    }

    #[test]
    fn a_table_tells_times_ratios_failures_and_what_is_missing() {
        let text = render(&report());
        let line = text.lines().find(|line| line.starts_with("walk-cold ")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "walk-cold",
                "10.5",
                "ms",
                "±5%",
                "1.05",
                "s",
                "±0%",
                "×100",
                "failed"
            ]
        );
        assert!(text.contains("failed: walk-cold on z: no such luck\n"));
        assert!(text.contains("missing: y: not installed\n"));
        assert!(text.contains("after walk-cold: 5120 KiB at most, 4096 KiB at the end"));
        assert!(text.starts_with("2026-01-01  Linux "));
    }

    #[test]
    fn headings_end_where_their_columns_end() {
        let text = render(&report());
        let mut lines = text.lines().skip_while(|line| !line.starts_with(' '));
        let (heading, row) = (lines.next().unwrap(), lines.next().unwrap());
        let end =
            |line: &str, word: &str| line[..line.find(word).unwrap()].chars().count() + word.chars().count();
        assert_eq!(end(heading, "its-columns"), end(row, "×100"));
    }

    #[test]
    fn durations_have_three_digits() {
        for (seconds, text) in [
            (0.000_001_5, "1.50 µs"),
            (0.012_34, "12.3 ms"),
            (0.999_6, "1000 ms"),
            (9.996, "10.0 s"),
            (123.4, "123 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
