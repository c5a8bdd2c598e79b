//! Takes the systems in turn.
//!
//! Round 0 measures systems 0 1 2 3, round 1 measures 1 2 3 0, and so on: what drifts with time (a filling disk, a
//! warming processor, a neighbour's load) meets all of them alike. Every measurement has a new mount and an empty
//! upper. One that fails is kept as a failure, the others go on.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::candidate::{Candidate, Images, Stand, Standing};
use crate::data::{Data, Sizes, Stack};
use crate::error::{Doing, Result, chain};
use crate::random_io::RandomIo;
use crate::report::{Cell, Memory, Row};
use crate::scratch::{self, Scratch};
use crate::workload::{Caches, Change, Outcome, Site, Workload};
use crate::{host, interrupt};

/// A comparison that is under way.
pub(crate) struct Runner<'a> {
    /// Where.
    pub(crate) scratch: &'a Scratch,
    /// The layers.
    pub(crate) data: Data,
    /// How much.
    pub(crate) sizes: &'a Sizes,
    /// Whom.
    pub(crate) candidates: &'a [Candidate],
    /// The one that ratios are taken to.
    pub(crate) base: Option<&'static str>,
    /// How often.
    pub(crate) rounds: usize,
    /// How random reads and writes are made.
    pub(crate) random_io: RandomIo,
    /// The images of the run.
    pub(crate) images: Images,
    /// The options of each candidate's mounts, from its first one.
    pub(crate) options: Vec<Option<String>>,
}

/// One measurement.
struct Sample {
    value: f64,
    memory: Option<(u64, u64)>,
    options: Option<String>,
}

impl Runner<'_> {
    /// Measures one workload on all systems, in all rounds; `turn` is told of each.
    ///
    /// # Errors
    /// When interrupted, or when the layers cannot be made.
    pub(crate) fn measure(
        &mut self,
        workload: &dyn Workload,
        turn: &mut dyn FnMut(usize, &'static str),
    ) -> Result<Row> {
        self.data.make(workload.stack())?;
        self.data.look_at(workload.stack())?;
        let mut cells: Vec<Cell> = self.candidates.iter().map(|one| Cell::new(one.name())).collect();
        for (cell, candidate) in cells.iter_mut().zip(self.candidates) {
            cell.absent = self.unfit(workload, candidate);
        }
        for round in 0..self.rounds {
            for step in 0..cells.len() {
                let number = (round + step) % cells.len();
                let cell = &mut cells[number];
                if cell.absent.is_some() {
                    continue;
                }
                interrupt::check()?;
                turn(round, cell.system);
                match self.sample(workload, &self.candidates[number]) {
                    Ok(sample) => {
                        cell.samples.push(sample.value);
                        cell.memory = sample
                            .memory
                            .map(|(peak_kib, rss_kib)| Memory { peak_kib, rss_kib });
                        let options = &mut self.options[number];
                        *options = options.take().or(sample.options);
                    }
                    Err(error) => {
                        // A signal that killed the server is the cause of whatever failed then.
                        interrupt::check()?;
                        cell.failure = Some(chain(&error));
                    }
                }
            }
        }
        let mut row = Row::new(workload, self.sizes, cells, self.base);
        if workload.stack() == Stack::Real {
            let tree = self.data.tree();
            let _ = write!(
                row.about,
                ": {} entries, {} small files",
                tree.entries,
                tree.small.len()
            );
        }
        Ok(row)
    }

    fn unfit(&self, workload: &dyn Workload, candidate: &Candidate) -> Option<&'static str> {
        let kind = candidate.kind();
        if workload.change() != Change::Nothing && !kind.writable {
            return Some("read-only");
        }
        workload.unfit(kind)
    }

    fn sample(&mut self, workload: &dyn Workload, candidate: &Candidate) -> Result<Sample> {
        let uppers = Uppers::make(self.scratch, workload.mounts())?;
        let standing = |number: usize| Standing {
            data: &self.data,
            stack: workload.stack(),
            change: workload.change(),
            upper: &uppers.places[number].0,
            mountpoint: &uppers.places[number].1,
        };
        if caches(workload) == Caches::WarmLayers {
            candidate.warm(&standing(0), &mut self.images)?;
        }
        let mut stands = Vec::new();
        for number in 0..workload.mounts() {
            stands.push(candidate.stand(&standing(number), &mut self.images)?);
        }
        let sample = self.time(workload, &stands);
        // A workload's failure is told before that of the unmount which may follow from it.
        let ended: Vec<Result<()>> = stands.into_iter().map(Stand::end).collect();
        let sample = sample?;
        ended.into_iter().collect::<Result<()>>()?;
        uppers.remove()?;
        Ok(sample)
    }

    fn time(&self, workload: &dyn Workload, stands: &[Stand]) -> Result<Sample> {
        let roots: Vec<PathBuf> = stands.iter().map(|stand| stand.root().to_path_buf()).collect();
        let server = stands[0].server();
        let site = Site {
            root: &roots[0],
            roots: &roots,
            sizes: self.sizes,
            data: &self.data,
            server,
            random_io: &self.random_io,
        };
        workload.prepare(site)?;
        let passes = match caches(workload) {
            Caches::ColdCaches | Caches::WarmLayers => 0,
            Caches::WarmMount => 1,
            Caches::ThirdPass => 2,
        };
        for _ in 0..passes {
            workload.run(site)?;
        }
        match caches(workload) {
            Caches::ColdCaches => scratch::drop_caches()?,
            _ => scratch::settle(),
        }
        let started = Instant::now();
        let outcome = workload.run(site)?;
        let passed = started.elapsed().as_secs_f64();
        Ok(Sample {
            value: match outcome {
                Outcome::Done => passed,
                Outcome::Value(value) => value,
            },
            memory: server.and_then(host::memory_of),
            options: stands[0].options(),
        })
    }
}

/// The state that a workload starts in here: only root can empty the caches.
pub(crate) fn caches(workload: &dyn Workload) -> Caches {
    match workload.caches() {
        Caches::ColdCaches if !scratch::is_root() => Caches::WarmLayers,
        caches => caches,
    }
}

/// Empty upper and work directories and mount points, removed with all that a system put there.
struct Uppers {
    dir: PathBuf,
    places: Vec<(PathBuf, PathBuf)>,
}

impl Uppers {
    fn make(scratch: &Scratch, count: usize) -> Result<Self> {
        let dir = scratch.base().join("u");
        let mut uppers = Self {
            places: vec![(dir.join("0"), scratch.mountpoint())],
            dir,
        };
        // Left by a measurement that failed.
        if uppers.dir.exists() {
            remove(&uppers.dir)?;
        }
        for number in 1..count {
            let place = uppers.dir.join(number.to_string());
            let mountpoint = place.join("mnt");
            fs::create_dir_all(&mountpoint).doing("make", &mountpoint)?;
            uppers.places.push((place, mountpoint));
        }
        for (place, _) in &uppers.places {
            for part in ["upper", "work"] {
                let part = place.join(part);
                fs::create_dir_all(&part).doing("make", &part)?;
            }
        }
        Ok(uppers)
    }

    fn remove(self) -> Result<()> {
        remove(&self.dir)?;
        scratch::settle();
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).doing("remove", dir)
}
