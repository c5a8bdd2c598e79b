//! A run as it is kept: all samples, not only what was made of them.

use serde::Serialize;

use crate::data::Sizes;
use crate::host::Host;
use crate::stats::Summary;
use crate::workload::Workload;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine and the time.
    pub host: Host,
    /// Name and version of each system.
    pub systems: Vec<Version>,
    /// Systems that were asked for and are missing, with the reason.
    pub missing: Vec<String>,
    /// Measurements per system and workload.
    pub rounds: usize,
    /// How much was done.
    pub sizes: Sizes,
    /// One per workload.
    pub rows: Vec<Row>,
}

/// A system and its version.
#[derive(Debug, Serialize)]
pub struct Version {
    /// Short name.
    pub name: &'static str,
    /// What it says about itself.
    pub version: String,
}

/// A workload on all systems.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Short name.
    pub workload: &'static str,
    /// What was done.
    pub about: String,
    /// In the order of the systems; the first one is the base of the ratios.
    pub cells: Vec<Cell>,
}

/// A workload on one system.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// The system.
    pub system: &'static str,
    /// Every sample, in the order of the rounds.
    pub seconds: Vec<f64>,
    /// What they say.
    pub summary: Option<Summary>,
    /// Ratio of the median to that of the base.
    pub ratio: Option<f64>,
    /// Memory of the server after the last round; none for a system without a server.
    pub memory: Option<Memory>,
    /// The last failure, if any round failed.
    pub failure: Option<String>,
}

/// Memory of a server, files that it maps included.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// The most that it ever used (`VmHWM`).
    pub peak_kib: u64,
    /// What it used at the end (`VmRSS`).
    pub rss_kib: u64,
}

impl Cell {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(system: &'static str) -> Self {
        Self {
            system,
            seconds: Vec::new(),
            summary: None,
            ratio: None,
            memory: None,
            failure: None,
        }
    }
}

impl Row {
    /// Sums up the samples of all cells; the first cell is the base when it is that of overlayfs.
    #[must_use]
    pub fn new(workload: &dyn Workload, sizes: &Sizes, mut cells: Vec<Cell>) -> Self {
        for cell in &mut cells {
            cell.summary = Summary::of(&cell.seconds);
        }
        let base = cells
            .iter()
            .find(|cell| cell.system == BASE)
            .and_then(|cell| cell.summary);
        for cell in &mut cells {
            cell.ratio = base
                .zip(cell.summary)
                .and_then(|(base, summary)| summary.ratio_to(&base));
        }
        Self {
            workload: workload.name(),
            about: workload.about(sizes),
            cells,
        }
    }
}

/// The system that ratios are taken to.
pub const BASE: &str = "overlayfs";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::tiny;

    #[test]
    fn ratios_need_the_base_to_have_been_measured() {
        let workload = &crate::workload::all()[0];
        let cell = |system, seconds: &[f64]| Cell {
            seconds: seconds.to_vec(),
            ..Cell::new(system)
        };
        let row = Row::new(
            &**workload,
            &tiny(),
            vec![cell(BASE, &[2.0]), cell("x", &[3.0]), cell("y", &[])],
        );
        let ratios: Vec<_> = row.cells.iter().map(|cell| cell.ratio).collect();
        assert_eq!(ratios, [Some(1.0), Some(1.5), None]);
        let row = Row::new(&**workload, &tiny(), vec![cell(BASE, &[]), cell("x", &[3.0])]);
        assert_eq!(row.cells[1].ratio, None);
        assert!(row.cells[1].summary.is_some());
    }
}
