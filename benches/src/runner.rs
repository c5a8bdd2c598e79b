//! Takes the systems in turn.
//!
//! Round 0 measures systems 0 1 2 3, round 1 measures 1 2 3 0, and so on: what drifts with time (a filling disk, a
//! warming processor, a neighbour's load) meets all of them alike. Every measurement has a new mount and an empty
//! upper. One that fails is kept as a failure, the others go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::data::{Data, Sizes, read_all};
use crate::error::{BenchError, Doing, Result, chain};
use crate::report::{Cell, Memory, Row};
use crate::scratch::{self, Scratch};
use crate::system::{Layout, Mounted, System};
use crate::workload::{Caches, Site, Workload};
use crate::{host, interrupt};

/// What to compare.
pub struct Plan<'a> {
    /// Where.
    pub scratch: &'a Scratch,
    /// The layers.
    pub data: &'a Data,
    /// How much.
    pub sizes: &'a Sizes,
    /// Whom.
    pub systems: &'a [System],
    /// How often.
    pub rounds: usize,
}

/// One measurement.
struct Sample {
    seconds: f64,
    memory: Option<(u64, u64)>,
}

impl Plan<'_> {
    /// Measures one workload on all systems, in all rounds.
    ///
    /// # Errors
    /// Only [`BenchError::Interrupted`], or when the machine itself fails us.
    pub fn measure(&self, workload: &dyn Workload) -> Result<Row> {
        let mut cells: Vec<Cell> = self
            .systems
            .iter()
            .map(|system| Cell::new(system.name()))
            .collect();
        for round in 0..self.rounds {
            for turn in 0..self.systems.len() {
                interrupt::check()?;
                let number = (round + turn) % self.systems.len();
                let cell = &mut cells[number];
                match self.sample(workload, &self.systems[number]) {
                    Ok(sample) => {
                        cell.seconds.push(sample.seconds);
                        cell.memory = sample
                            .memory
                            .map(|(peak_kib, rss_kib)| Memory { peak_kib, rss_kib });
                    }
                    Err(error) => {
                        // A signal that killed the server is the cause of whatever failed then.
                        interrupt::check()?;
                        cell.failure = Some(chain(&error));
                    }
                }
            }
        }
        Ok(Row::new(workload, self.sizes, cells))
    }

    fn sample(&self, workload: &dyn Workload, system: &System) -> Result<Sample> {
        let upper = Upper::make(&self.scratch.base())?;
        let lowers = self.data.lowers(workload.stack());
        if workload.caches() == Caches::WarmLayers {
            for lower in &lowers {
                read_all(lower)?;
            }
        }
        let layout = Layout {
            lowers,
            upper: upper.dir.join("upper"),
            work: upper.dir.join("work"),
        };
        let mounted = system.mount(&layout, &self.scratch.mountpoint())?;
        let sample = self.time(workload, &mounted);
        // A workload's failure is told before that of the unmount which may follow from it.
        let ended = mounted.end();
        let sample = sample?;
        ended?;
        upper.remove()?;
        Ok(sample)
    }

    fn time(&self, workload: &dyn Workload, mounted: &Mounted) -> Result<Sample> {
        let site = Site {
            root: mounted.root(),
            sizes: self.sizes,
        };
        workload.prepare(site)?;
        match workload.caches() {
            Caches::ColdCaches => scratch::drop_caches()?,
            Caches::WarmMount => {
                workload.run(site)?;
                scratch::settle();
            }
            Caches::WarmLayers => scratch::settle(),
        }
        let started = Instant::now();
        workload.run(site)?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Sample {
            seconds,
            memory: mounted.server().and_then(host::memory_of),
        })
    }
}

/// An empty upper and work directory, removed with all that a system put there.
struct Upper {
    dir: PathBuf,
}

impl Upper {
    fn make(base: &Path) -> Result<Self> {
        let dir = base.join("u");
        // Left by a measurement that failed.
        if dir.exists() {
            fs::remove_dir_all(&dir).doing("remove", &dir)?;
        }
        for part in ["upper", "work"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).doing("make", &part)?;
        }
        Ok(Self { dir })
    }

    fn remove(self) -> Result<(), BenchError> {
        fs::remove_dir_all(&self.dir).doing("remove", &self.dir)?;
        scratch::settle();
        Ok(())
    }
}
