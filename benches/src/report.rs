//! A run as it is kept: all samples, not only what was made of them.

use serde::Serialize;

use crate::data::Sizes;
use crate::host::Host;
use crate::runner::caches;
use crate::stats::Summary;
use crate::workload::{Caches, Unit, Workload};

/// Everything about a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine and the time.
    pub host: Host,
    /// What the layers lie on.
    pub file_system: String,
    /// The system that ratios are taken to.
    pub base: Option<&'static str>,
    /// Name, version and mount options of each system.
    pub systems: Vec<Version>,
    /// Systems that were asked for and are missing, with the reason.
    pub missing: Vec<String>,
    /// Workloads that were asked for and could not be run, with the reason.
    pub left_out: Vec<String>,
    /// Whether cold means that the kernel's caches were emptied.
    pub caches_dropped: bool,
    /// Who made the random reads and writes.
    pub random_io: String,
    /// The root file system that took the place of the tree.
    pub rootfs: Option<String>,
    /// Measurements per system and workload.
    pub rounds: usize,
    /// Whether a signal ended the run before its end.
    pub interrupted: bool,
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
    /// The options that the kernel told of its first mount.
    pub options: Option<String>,
}

/// A workload on all systems.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Short name.
    pub workload: &'static str,
    /// What was done.
    pub about: String,
    /// What the samples are.
    pub unit: Unit,
    /// What was known to the kernel when the clock started.
    pub caches: &'static str,
    /// In the order of the systems.
    pub cells: Vec<Cell>,
}

/// A workload on one system.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// The system.
    pub system: &'static str,
    /// Every sample, in the order of the rounds.
    pub samples: Vec<f64>,
    /// What they say.
    pub summary: Option<Summary>,
    /// Ratio of the median to that of the base.
    pub ratio: Option<f64>,
    /// Memory of the server after the last round; none for a system without a server.
    pub memory: Option<Memory>,
    /// The last failure, if any round failed.
    pub failure: Option<String>,
    /// Why the workload says nothing about this system, if so.
    pub absent: Option<&'static str>,
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
            samples: Vec::new(),
            summary: None,
            ratio: None,
            memory: None,
            failure: None,
            absent: None,
        }
    }
}

impl Row {
    /// Sums up the samples of all cells, with ratios to the cell of the base.
    #[must_use]
    pub fn new(
        workload: &dyn Workload,
        sizes: &Sizes,
        mut cells: Vec<Cell>,
        base: Option<&'static str>,
    ) -> Self {
        for cell in &mut cells {
            cell.summary = Summary::of(&cell.samples);
        }
        let base = cells.iter().find(|cell| Some(cell.system) == base);
        let base = base.and_then(|cell| cell.summary);
        for cell in &mut cells {
            cell.ratio = base
                .zip(cell.summary)
                .and_then(|(base, summary)| summary.ratio_to(&base));
        }
        Self {
            workload: workload.name(),
            about: workload.about(sizes),
            unit: workload.unit(),
            caches: match (workload.caches(), caches(workload)) {
                (Caches::ColdCaches, Caches::WarmLayers) => {
                    "layers warm below a new mount: only root can make them cold"
                }
                (_, Caches::ColdCaches) => "cold: everything dropped",
                (_, Caches::WarmMount) => "warm: done once on the same mount",
                (_, Caches::ThirdPass) => "warm: done twice on the same mount",
                (_, Caches::WarmLayers) => "layers warm below a new mount",
            },
            cells,
        }
    }

    /// The cell of a system.
    #[must_use]
    pub fn cell(&self, system: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.system == system)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data::tests::tiny;

    /// A report with a base, a slow peer, a fast one, one that failed and one that was not asked.
    pub(crate) fn sample() -> Report {
        let workload = &crate::workload::all()[0];
        let cell = |system, samples: &[f64]| Cell {
            samples: samples.to_vec(),
            ..Cell::new(system)
        };
        let cells = vec![
            cell("overlayfs", &[0.010, 0.011, 0.0105]),
            cell("fuse-overlayfs", &[1.05, 1.05, 1.05]),
            cell("shale", &[0.0052, 0.0053, 0.0060]),
            Cell {
                failure: Some("no <such> luck & more".to_owned()),
                ..Cell::new("shale-passthrough")
            },
            Cell {
                absent: Some("read-only"),
                ..Cell::new("shale-image")
            },
        ];
        let version = |cell: &Cell| Version {
            name: cell.system,
            version: "1".to_owned(),
            options: Some("x: rw".to_owned()),
        };
        Report {
            host: Host::here(Some("2026-01-01".to_owned())),
            file_system: "ext4".to_owned(),
            base: Some("overlayfs"),
            systems: cells.iter().map(version).collect(),
            missing: vec!["native: not there".to_owned()],
            left_out: vec!["package: no root".to_owned()],
            caches_dropped: true,
            random_io: "built in".to_owned(),
            rootfs: None,
            rounds: 3,
            interrupted: false,
            sizes: tiny(),
            rows: vec![Row::new(&**workload, &tiny(), cells, Some("overlayfs"))],
        }
    }

    #[test]
    fn ratios_need_the_base_to_have_been_measured() {
        let workload = &crate::workload::all()[0];
        let cell = |system, samples: &[f64]| Cell {
            samples: samples.to_vec(),
            ..Cell::new(system)
        };
        let cells = vec![cell("o", &[2.0]), cell("x", &[3.0]), cell("y", &[])];
        let row = Row::new(&**workload, &tiny(), cells, Some("o"));
        let ratios: Vec<_> = row.cells.iter().map(|cell| cell.ratio).collect();
        assert_eq!(ratios, [Some(1.0), Some(1.5), None]);
        let cells = vec![cell("o", &[]), cell("x", &[3.0])];
        let row = Row::new(&**workload, &tiny(), cells, Some("o"));
        assert_eq!(row.cells[1].ratio, None);
        assert!(row.cells[1].summary.is_some());
    }
}
