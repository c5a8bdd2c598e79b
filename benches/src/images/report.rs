//! A run as it is kept, and as text. Pure.

use std::fmt::Write;

use serde::Serialize;

use super::Sizes;
use super::measure::{Cell, Measure, Target};
use crate::host::Host;
use crate::table::{digits, host_lines};

/// Everything about a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine and the time.
    pub host: Host,
    /// Program and version, one per line.
    pub programs: Vec<String>,
    /// Peers that are not there.
    pub missing: Vec<String>,
    /// Measurements per system and workload.
    pub rounds: usize,
    /// How much was done.
    pub sizes: Sizes,
    /// What should be known to who reads it.
    pub notes: Vec<String>,
    /// The rows.
    pub measures: Vec<Measure>,
}

impl Report {
    /// The text for a terminal and the file beside the JSON.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.heading();
        let name_width = self.measures.iter().map(|m| m.name.len()).max().unwrap_or(0);
        let system_width = self.cells().map(|cell| cell.system.len()).max().unwrap_or(0);
        for measure in &self.measures {
            for (number, cell) in measure.cells.iter().enumerate() {
                let name = if number == 0 { measure.name.as_str() } else { "" };
                let line = format!(
                    "{name:<name_width$}  {:<system_width$}  {}",
                    cell.system,
                    words(measure, cell)
                );
                text.push_str(line.trim_end());
                text.push('\n');
            }
            for target in &measure.targets {
                let _ = writeln!(text, "{:name_width$}  {}", "", verdict(measure, target));
            }
        }
        text.push_str(
            "\nEach line: median, half the distance from the smallest to the largest sample, number of samples,\n\
             ratio to shale's median in the same row. A ratio in a target is the first system's to the second's.\n\n",
        );
        for measure in &self.measures {
            let _ = writeln!(text, "{}: {}", measure.name, measure.about);
        }
        text
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.measures.iter().flat_map(|measure| &measure.cells)
    }

    fn heading(&self) -> String {
        let mut text = host_lines(&self.host, self.rounds);
        for line in &self.programs {
            let _ = writeln!(text, "{line}");
        }
        for line in &self.missing {
            let _ = writeln!(text, "missing: {line}");
        }
        for line in &self.notes {
            let _ = writeln!(text, "note: {line}");
        }
        text.push('\n');
        text
    }
}

fn words(measure: &Measure, cell: &Cell) -> String {
    let failure = cell.failure.as_ref().map(|text| format!("  failed: {text}"));
    let Some(summary) = cell.summary else {
        return failure.unwrap_or_default();
    };
    let own = measure.cells.first().and_then(|first| first.summary);
    let ratio = match own.and_then(|own| summary.ratio_to(&own)) {
        Some(ratio) if cell.system != measure.cells[0].system => format!("×{}", digits(ratio)),
        _ => String::new(),
    };
    format!(
        "{:>10} ±{:<4} n={:<3} {ratio}{}",
        measure.unit.show(summary.median),
        format!("{:.0}%", summary.spread() * 50.0),
        cell.samples.len(),
        failure.unwrap_or_default()
    )
}

fn verdict(measure: &Measure, target: &Target) -> String {
    let sign = if target.at_least { "≥" } else { "≤" };
    let show = |value: f64| match target.to {
        Some(_) => format!("{value:.3}"),
        None => measure.unit.show(value),
    };
    let what = match target.to {
        Some(to) => format!("{}/{to}", target.system),
        None => target.system.to_owned(),
    };
    let found = target.found.map_or_else(
        || "not measured".to_owned(),
        |found| format!("is {}", show(found)),
    );
    let mark = match target.met {
        Some(true) => "met   ",
        Some(false) => "MISSED",
        None => "?     ",
    };
    format!("{mark} {what} {sign} {}: {found}", show(target.limit))
}

#[cfg(test)]
mod tests {
    use super::super::measure::Unit;
    use super::*;

    #[test]
    fn the_text_tells_samples_ratios_targets_and_failures() {
        let mut measure =
            Measure::new("load", Unit::Seconds, "what it is").ratio_at_most("shale", "peer", 0.25);
        measure.add("shale", 1.0);
        measure.add("peer", 3.0);
        measure.fail("other", "no such luck");
        measure.finish();
        let report = Report {
            host: Host::here(Some("today".to_owned())),
            programs: vec!["peer 1".to_owned()],
            missing: vec!["umoci".to_owned()],
            rounds: 1,
            sizes: Sizes::quick(),
            notes: vec!["small".to_owned()],
            measures: vec![measure],
        };
        let text = report.render();
        for part in [
            "today  Linux",
            "missing: umoci\n",
            "note: small\n",
            "×3.00",
            "MISSED shale/peer ≤ 0.250: is 0.333\n",
            "failed: no such luck",
            "load: what it is\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
