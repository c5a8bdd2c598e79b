//! Bars for a terminal: one for each system, from the line of the base to the left when it is faster. Pure.
//!
//! ```text
//! walk-cold: list and stat everything …
//!   overlayfs       143 ms  ±4%             │
//!   fuse-overlayfs  237 ms  ±5%   1.65      │███▌
//!   shale            90 ms  ±3%   0.63   ▐██│
//! ```
//!
//! The scale is logarithmic, from a sixteenth to sixteen: half and double are as long. What lies outside ends in an
//! arrow.

use std::fmt::Write;

use crate::report::{Cell, Row};
use crate::table::{digits, duration, memory};
use crate::workload::Unit;

/// Powers of two to either side.
pub(crate) const REACH: f64 = 4.0;
/// The words before the bars.
const WORDS_WIDTH: usize = 46;
const BARS_WIDTH_MIN: usize = 16;
const BARS_WIDTH_MAX: usize = 64;

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Block characters and arrows; else signs of ASCII.
    pub unicode: bool,
    /// Colours by escape sequences.
    pub colour: bool,
}

impl Style {
    /// Neither colours nor anything but ASCII in the bars.
    #[must_use]
    pub fn plain(width: usize) -> Self {
        Self {
            width,
            unicode: false,
            colour: false,
        }
    }

    /// In the place of a number.
    pub(crate) fn none(&self) -> &'static str {
        if self.unicode { "–" } else { "-" }
    }

    fn signs(&self) -> Signs {
        match self.unicode {
            true => Signs {
                line: '│',
                full: '█',
                left_half: '▌',
                right_half: '▐',
                to_left: '◀',
                to_right: '▶',
            },
            false => Signs {
                line: '|',
                full: '#',
                left_half: '#',
                right_half: '#',
                to_left: '<',
                to_right: '>',
            },
        }
    }

    /// Cells on either side of the line.
    fn half(&self) -> usize {
        let bars = self.width.saturating_sub(WORDS_WIDTH + 1);
        bars.clamp(BARS_WIDTH_MIN, BARS_WIDTH_MAX) / 2
    }
}

struct Signs {
    line: char,
    full: char,
    left_half: char,
    right_half: char,
    to_left: char,
    to_right: char,
}

/// The block of one workload, with an empty line after it.
pub(crate) fn block(row: &Row, base: Option<&str>, style: &Style) -> String {
    let mut text = format!("{}: {} ({})\n", row.workload, row.about, row.caches);
    for cell in &row.cells {
        let words = words(row, cell, base, style);
        let bar = match cell.ratio {
            Some(ratio) => bar(ratio, style, Some(cell.system) == base),
            None => String::new(),
        };
        let coloured = match cell.ratio {
            Some(ratio) if style.colour && Some(cell.system) != base => paint(cell.system, ratio, &bar),
            _ => bar,
        };
        text.push_str(format!("{words}{coloured}").trim_end());
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Name, median, spread and ratio, in columns.
fn words(row: &Row, cell: &Cell, base: Option<&str>, style: &Style) -> String {
    let Some(summary) = cell.summary else {
        let why = match (&cell.failure, cell.absent) {
            (Some(_), _) => "failed",
            (None, Some(why)) => why,
            (None, None) => "not measured",
        };
        return format!("  {:<17} {} {why}", cell.system, style.none());
    };
    let median = match row.unit {
        Unit::Seconds => duration(summary.median),
        Unit::Bytes => memory(summary.median),
    };
    let ratio = match cell.ratio {
        Some(ratio) if Some(cell.system) != base => digits(ratio),
        _ => String::new(),
    };
    let spread = format!("±{:.0}%", summary.spread() * 50.0);
    format!("  {:<17} {median:>9} {spread:>6} {ratio:>7}  ", cell.system)
}

/// The bar with the line of the base in its middle.
fn bar(ratio: f64, style: &Style, is_base: bool) -> String {
    let (signs, half) = (style.signs(), style.half());
    let place = ratio.log2();
    if is_base || !place.is_finite() {
        return format!("{}{}", " ".repeat(half), signs.line);
    }
    let halves = (place.abs().min(REACH) / REACH * (2 * half) as f64).round() as usize;
    let (full, odd) = (halves / 2, halves % 2 == 1);
    let outside = place.abs() > REACH;
    let mut cells: Vec<char> = vec![signs.full; full];
    if odd {
        cells.push(if place < 0.0 {
            signs.right_half
        } else {
            signs.left_half
        });
    }
    if outside && let Some(last) = cells.last_mut() {
        *last = if place < 0.0 {
            signs.to_left
        } else {
            signs.to_right
        };
    }
    let mut text = String::new();
    if place < 0.0 {
        let _ = write!(text, "{}", " ".repeat(half - cells.len()));
        text.extend(cells.into_iter().rev());
        text.push(signs.line);
    } else {
        let _ = write!(text, "{}{}", " ".repeat(half), signs.line);
        text.extend(cells);
    }
    text
}

/// Green for what is of shale and no slower than the base, yellow for what is slower, and dim for peers.
fn paint(system: &str, ratio: f64, bar: &str) -> String {
    let colour = match (system.starts_with("shale"), ratio <= 1.0) {
        (true, true) => "32",
        (true, false) => "33",
        (false, _) => "2",
    };
    format!("\x1b[{colour}m{bar}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn shown(style: &Style) -> String {
        let report = sample();
        block(&report.rows[0], report.base, style)
    }

    #[test]
    fn bars_begin_at_the_line_and_end_in_an_arrow_when_they_are_too_long() {
        let style = Style {
            unicode: true,
            ..Style::plain(WORDS_WIDTH + 1 + 32)
        };
        let text = shown(&style);
        let bars: Vec<_> = text.lines().skip(1).map(|line| line.split_once('│')).collect();
        assert_eq!(bars[0].unwrap().1, "");
        assert_eq!(bars[1].unwrap().1, format!("{}▶", "█".repeat(15)));
        // a quarter of the reach of sixteen cells
        assert!(bars[2].unwrap().0.ends_with(" ████"), "{text}");
        let column = |line: &str| line.chars().position(|sign| sign == '│').unwrap();
        let columns: Vec<_> = text
            .lines()
            .filter(|line| line.contains('│'))
            .map(column)
            .collect();
        assert_eq!(columns, [WORDS_WIDTH + 16; 3], "{text}");
        assert!(!text.contains('\x1b'));
        assert!(text.contains("shale-passthrough – failed\n"));
        assert!(text.contains("shale-image       – read-only\n"));
    }

    #[test]
    fn the_bars_of_plain_text_are_ascii() {
        let text = shown(&Style::plain(80));
        let bars = text.lines().skip(1).filter_map(|line| line.split_once('|'));
        for (words, bar) in bars {
            assert!(bar.is_ascii() && words.replace('±', "").is_ascii(), "{text}");
        }
        assert!(text.contains("|###") && text.contains("##|"), "{text}");
        assert!(
            text.lines().skip(1).all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn halves_of_a_cell_show() {
        let style = Style {
            unicode: true,
            ..Style::plain(0)
        };
        // eight cells for four powers: one half cell for a quarter of a power
        assert_eq!(bar(2.0_f64.powf(0.25), &style, false), "        │▌");
        assert_eq!(bar(2.0_f64.powf(-0.75), &style, false), "      ▐█│");
        assert_eq!(bar(1.0, &style, false), "        │");
        assert_eq!(bar(0.0, &style, false), "        │");
        assert_eq!(bar(0.001, &style, false), "◀███████│");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let style = Style {
            colour: true,
            ..Style::plain(80)
        };
        let text = shown(&style);
        assert!(text.contains("\x1b[32m") && text.contains("\x1b[2m"), "{text:?}");
        let plain = text
            .replace("\x1b[32m", "")
            .replace("\x1b[2m", "")
            .replace("\x1b[0m", "");
        let stripped: Vec<_> = plain.lines().map(str::trim_end).collect();
        assert_eq!(stripped, shown(&Style::plain(80)).lines().collect::<Vec<_>>());
    }
}
