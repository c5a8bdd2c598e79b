//! The chart as one SVG file that needs nothing else, in the colours of the reader's light or dark scheme. Pure.
//!
//! ```text
//! title, legend
//!              1/16    1/8    1/4    1/2     1      2      4      8     16
//! walk-cold                     ├──■■■■■■■■──┤                              0.50
//!                                            │■■■■■■■■├─┤                   1.65
//! …
//! the machine, what is missing
//! ```
//!
//! Bars are medians, whiskers reach from the smallest to the largest sample, both as ratios to the base's median; what
//! lies outside of the scale ends at its edge, with its number beside it. The base is its whisker alone.

use std::fmt::Write;

use crate::chart::REACH;
use crate::report::{Cell, Report, Row};
use crate::table::digits;

const WIDTH: f64 = 920.0;
/// Where the scale begins and ends.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 840.0;
const BAR_HEIGHT: f64 = 10.0;
const GROUP_GAP: f64 = 12.0;
const HEAD_HEIGHT: f64 = 84.0;
const LINE_HEIGHT: f64 = 16.0;

/// One colour for each system, readable on white and on black.
const COLOURS: [(&str, &str); 7] = [
    ("overlayfs", "#8b949e"),
    ("fuse-overlayfs", "#db8a2a"),
    ("native", "#a371c8"),
    ("shale", "#2f81f7"),
    ("shale-passthrough", "#79b0f5"),
    ("shale-image", "#2da44e"),
    ("shale-image-rw", "#7cc48d"),
];

const STYLE: &str = "\
text{font-family:system-ui,sans-serif;font-size:12px;fill:#1f2328}\
.b{fill:#ffffff}.h{font-size:16px;font-weight:600}.m{font-size:11px;fill:#59636e}.n{font-size:10px}\
.g{stroke:#d1d9e0;stroke-width:1}.o{stroke:#1f2328;stroke-width:1.5}.w{stroke:#1f2328;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#0d1117}.m{fill:#9198a1}.g{stroke:#30363d}\
.o{stroke:#e6edf3}.w{stroke:#e6edf3}}";

/// The whole file. Rows without a ratio (the memory of servers, when the base has none) are in the table alone.
#[must_use]
pub fn render(report: &Report) -> String {
    let rows: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| others(row, report.base).next().is_some())
        .collect();
    let notes = notes(report);
    let rows_height: f64 = rows.iter().map(|row| group_height(row, report.base)).sum();
    let height = HEAD_HEIGHT + rows_height + 20.0 + LINE_HEIGHT * notes.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Medians as a ratio to {base}\">\n\
         <style>{STYLE}</style>\n<rect class=\"b\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
        base = report.base.unwrap_or("nothing"),
    );
    head(&mut out, report, &rows, HEAD_HEIGHT + rows_height);
    let mut y = HEAD_HEIGHT;
    for row in rows {
        group(&mut out, row, report.base, y);
        y += group_height(row, report.base);
    }
    for note in notes {
        y += LINE_HEIGHT;
        text(&mut out, (12.0, y), "m", "start", &note);
    }
    out.push_str("</svg>\n");
    out
}

/// The cells that are drawn as bars.
fn others<'a>(row: &'a Row, base: Option<&'a str>) -> impl Iterator<Item = &'a Cell> {
    row.cells
        .iter()
        .filter(move |cell| cell.ratio.is_some() && Some(cell.system) != base)
}

fn group_height(row: &Row, base: Option<&str>) -> f64 {
    (others(row, base).count() as f64 * BAR_HEIGHT).max(BAR_HEIGHT) + GROUP_GAP
}

fn head(out: &mut String, report: &Report, rows: &[&Row], bottom: f64) {
    let base = report.base.unwrap_or("nothing");
    let title = format!("shale beside its peers: median as a ratio to {base}, left is better");
    text(out, (12.0, 24.0), "h", "start", &title);
    let mut x = 12.0;
    for system in &report.systems {
        let drawn = |row: &&&Row| others(row, report.base).any(|cell| cell.system == system.name);
        if !rows.iter().any(|row| drawn(&row)) {
            continue;
        }
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"38\" width=\"10\" height=\"10\" rx=\"2\" fill=\"{}\"/>",
            colour(system.name)
        );
        text(out, (x + 14.0, 47.0), "t", "start", system.name);
        x += 34.0 + 7.0 * system.name.len() as f64;
    }
    let reach = REACH as i32;
    for power in -reach..=reach {
        let x = place(f64::from(power).exp2());
        let class = if power == 0 { "o" } else { "g" };
        line(out, class, (x, HEAD_HEIGHT - 8.0), (x, bottom));
        let label = match power {
            0 => "1.0".to_owned(),
            power if power < 0 => format!("1/{}", 1 << -power),
            power => (1 << power).to_string(),
        };
        text(out, (x, HEAD_HEIGHT - 13.0), "n", "middle", &label);
    }
}

/// One workload: its name, the whisker of the base and the bars of the others.
fn group(out: &mut String, row: &Row, base: Option<&str>, y: f64) {
    let count = others(row, base).count() as f64;
    let middle = y + count.max(1.0) * BAR_HEIGHT / 2.0;
    text(out, (LEFT - 12.0, middle + 4.0), "t", "end", row.workload);
    let base_cell = base.and_then(|base| row.cell(base));
    let Some(unit) = base_cell
        .and_then(|cell| cell.summary)
        .map(|summary| summary.median)
    else {
        return;
    };
    if let Some(summary) = base_cell.and_then(|cell| cell.summary) {
        whisker(out, summary.min / unit, summary.max / unit, y - 2.0);
    }
    for (number, cell) in others(row, base).enumerate() {
        let (Some(ratio), Some(summary)) = (cell.ratio, cell.summary) else {
            continue;
        };
        let top = y + number as f64 * BAR_HEIGHT;
        let (from, to) = (place(1.0).min(place(ratio)), place(1.0).max(place(ratio)));
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}: {} on {}</title></rect>",
            top + 1.0,
            (to - from).max(1.0),
            BAR_HEIGHT - 2.0,
            colour(cell.system),
            digits(ratio),
            escape(row.workload),
            escape(cell.system),
        );
        whisker(
            out,
            summary.min / unit,
            summary.max / unit,
            top + BAR_HEIGHT / 2.0,
        );
        text(
            out,
            (RIGHT + 12.0, top + 8.5),
            "n",
            "start",
            &format!("×{}", digits(ratio)),
        );
    }
}

fn whisker(out: &mut String, from: f64, to: f64, y: f64) {
    let (from, to) = (place(from), place(to));
    line(out, "w", (from, y), (to, y));
    for x in [from, to] {
        line(out, "w", (x, y - 2.5), (x, y + 2.5));
    }
}

/// Where a ratio lies on the scale; what is outside lies on its edge.
fn place(ratio: f64) -> f64 {
    let power = match ratio > 0.0 {
        true => ratio.log2().clamp(-REACH, REACH),
        false => -REACH,
    };
    LEFT + (power + REACH) / (2.0 * REACH) * (RIGHT - LEFT)
}

fn colour(system: &str) -> &'static str {
    let found = COLOURS.iter().find(|(name, _)| *name == system);
    found.map_or("#8b949e", |(_, colour)| colour)
}

fn notes(report: &Report) -> Vec<String> {
    let host = &report.host;
    let mut notes = vec![
        format!(
            "{}, Linux {}, {} × {}, {} MiB, load {} to {}",
            host.date,
            host.kernel,
            host.cpus,
            host.cpu,
            host.memory_mib,
            host.load_before.split(' ').next().unwrap_or_default(),
            host.load_after.split(' ').next().unwrap_or_default(),
        ),
        format!(
            "base: {}; rounds: {}; bars are medians, whiskers the smallest and the largest sample, the scale is logarithmic",
            report.file_system, report.rounds
        ),
    ];
    if !report.caches_dropped {
        notes.push("cold is not cold: only root can empty the kernel's caches".to_owned());
    }
    notes.extend(report.missing.iter().map(|missing| format!("missing: {missing}")));
    notes.extend(report.interrupted.then(|| "interrupted".to_owned()));
    notes
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, at: (f64, f64), class: &str, anchor: &str, words: &str) {
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        at.0,
        at.1,
        escape(words)
    );
}

/// What XML 1.0 does not take as it is; control characters, which it does not take at all, become spaces.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            sign if sign.is_control() => out.push(' '),
            sign => out.push(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_chart_is_xml_with_a_bar_for_each_ratio() {
        let mut report = sample();
        report.missing.push("x: <&\"\u{1}".to_owned());
        let text = render(&report);
        let document = roxmltree::Document::parse(&text).unwrap();
        let bars = document.descendants().filter(|node| node.has_tag_name("title"));
        let bars: Vec<_> = bars.filter_map(|node| node.text()).collect();
        assert_eq!(
            bars,
            ["100: walk-cold on fuse-overlayfs", "0.50: walk-cold on shale"]
        );
        assert!(text.contains("prefers-color-scheme:dark"));
        let words: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
        assert!(
            words.iter().any(|word| word.contains("missing: x: <&\" ")),
            "{words:?}"
        );
        assert!(words.contains(&"1.0") && words.contains(&"1/16"));
    }

    #[test]
    fn places_stay_within_the_scale() {
        assert!((place(1.0) - (LEFT + RIGHT) / 2.0).abs() < 1e-9);
        assert!((place(1e9) - RIGHT).abs() < 1e-9);
        assert!((place(0.0) - LEFT).abs() < 1e-9);
        assert!(place(0.5) < place(2.0));
    }

    #[test]
    fn a_run_without_rows_is_still_a_file() {
        let mut report = sample();
        report.rows.clear();
        roxmltree::Document::parse(&render(&report)).unwrap();
    }
}
