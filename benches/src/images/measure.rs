//! Samples of several systems in one unit, and whether they are as they should be. Pure.

use serde::Serialize;

use crate::stats::Summary;
use crate::table::{digits, duration};

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Time.
    Seconds,
    /// Memory or disk.
    Bytes,
    /// Speed.
    BytesPerSecond,
}

impl Unit {
    /// A number in this unit for people.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Seconds => duration(value),
            Self::Bytes => size(value),
            Self::BytesPerSecond => format!("{}/s", size(value)),
        }
    }
}

/// Bytes with three digits, in powers of 1000.
fn size(bytes: f64) -> String {
    for (unit, name) in [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")] {
        if bytes >= unit {
            return format!("{} {name}", digits(bytes / unit));
        }
    }
    format!("{bytes:.0} B")
}

/// What the median of a system should be.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// Whose median.
    pub system: &'static str,
    /// Divided by the median of this one; none: as it is.
    pub to: Option<&'static str>,
    /// The limit.
    pub limit: f64,
    /// Whether more is better.
    pub at_least: bool,
    /// What was found; none when a system is missing.
    pub found: Option<f64>,
    /// Whether that is within the limit.
    pub met: Option<bool>,
}

/// A system's samples.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// The system.
    pub system: &'static str,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
    /// What they say.
    pub summary: Option<Summary>,
    /// The last failure.
    pub failure: Option<String>,
}

/// One row of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// Short name.
    pub name: String,
    /// What was done.
    pub about: String,
    /// What the numbers count.
    pub unit: Unit,
    /// In the order in which they were first heard of.
    pub cells: Vec<Cell>,
    /// What was asked for.
    pub targets: Vec<Target>,
}

impl Measure {
    /// A row without samples.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: Unit, about: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            unit,
            cells: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Asks that the median of `system` be no more than `limit` times that of `to`.
    #[must_use]
    pub fn ratio_at_most(self, system: &'static str, to: &'static str, limit: f64) -> Self {
        self.target(system, Some(to), limit, false)
    }

    /// Asks that the median of `system` be no more than this.
    #[must_use]
    pub fn at_most(self, system: &'static str, limit: f64) -> Self {
        self.target(system, None, limit, false)
    }

    /// Asks that the median of `system` be no less than this.
    #[must_use]
    pub fn at_least(self, system: &'static str, limit: f64) -> Self {
        self.target(system, None, limit, true)
    }

    fn target(mut self, system: &'static str, to: Option<&'static str>, limit: f64, at_least: bool) -> Self {
        self.targets.push(Target {
            system,
            to,
            limit,
            at_least,
            found: None,
            met: None,
        });
        self
    }

    fn cell(&mut self, system: &'static str) -> &mut Cell {
        let at = self.cells.iter().position(|cell| cell.system == system);
        let at = at.unwrap_or_else(|| {
            self.cells.push(Cell {
                system,
                samples: Vec::new(),
                summary: None,
                failure: None,
            });
            self.cells.len() - 1
        });
        &mut self.cells[at]
    }

    /// Takes a sample.
    pub fn add(&mut self, system: &'static str, value: f64) {
        self.cell(system).samples.push(value);
    }

    /// Notes that a sample could not be taken.
    pub fn fail(&mut self, system: &'static str, text: &str) {
        self.cell(system).failure = Some(text.to_owned());
    }

    /// Sums up the samples and judges the targets. Systems come in the order of their names, shale's first, whoever
    /// had the first turn.
    pub fn finish(&mut self) {
        self.cells
            .sort_by_key(|cell| (!cell.system.starts_with("shale"), cell.system));
        for cell in &mut self.cells {
            cell.summary = Summary::of(&cell.samples);
        }
        let median = |system: &str| {
            let cell = self.cells.iter().find(|cell| cell.system == system)?;
            Some(cell.summary?.median)
        };
        for target in &mut self.targets {
            target.found = match (median(target.system), target.to.map(median)) {
                (Some(own), Some(Some(base))) if base > 0.0 => Some(own / base),
                (own, None) => own,
                _ => None,
            };
            target.met = target.found.map(|found| match target.at_least {
                true => found >= target.limit,
                false => found <= target.limit,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_compare_medians_in_the_same_run() {
        let mut measure = Measure::new("m", Unit::Seconds, "")
            .ratio_at_most("shale", "peer", 0.25)
            .ratio_at_most("shale", "absent", 0.25)
            .at_most("shale", 0.5)
            .at_least("peer", 5.0);
        for value in [1.0, 9.0, 1.0] {
            measure.add("shale", value);
        }
        measure.add("peer", 4.0);
        measure.finish();
        let met: Vec<_> = measure.targets.iter().map(|target| target.met).collect();
        assert_eq!(met, [Some(true), None, Some(false), Some(false)]);
        assert_eq!(measure.cells[0].system, "shale");
        assert_eq!(measure.targets[0].found, Some(0.25));
    }

    #[test]
    fn a_failure_is_kept_beside_the_samples() {
        let mut measure = Measure::new("m", Unit::Bytes, "");
        measure.fail("x", "no luck");
        measure.add("x", 2.0);
        measure.finish();
        assert_eq!(measure.cells[0].failure.as_deref(), Some("no luck"));
        assert!(measure.cells[0].summary.is_some());
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(Unit::Bytes.show(1_234_567.0), "1.23 MB");
        assert_eq!(Unit::BytesPerSecond.show(1e9), "1.00 GB/s");
        assert_eq!(Unit::Bytes.show(12.0), "12 B");
    }
}
