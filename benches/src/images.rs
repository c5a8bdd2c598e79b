//! Images measured as whole commands beside Podman, umoci, fuse-overlayfs and the kernel's overlayfs.
//!
//! ```text
//! archive, synthetic ─► Data (made once) ─┐
//! place (ext4 on a loop device) ──────────┼─► workload: rounds, the systems in turn ─► Measure ─► table, JSON
//! tools, shale, podman (programs) ────────┘
//! ```
//!
//! A workload is one file below `workload/` and one line in [`workload::all`]. It gives measures: samples of several
//! systems in one unit, with the targets that the medians, or their ratio in this run, should meet. A system that is
//! missing or fails is named and does not stop the others.

pub mod archive;
pub mod data;
pub mod measure;
pub mod place;
pub mod podman;
pub mod registry;
pub mod report;
pub mod shale;
pub mod synthetic;
pub mod tools;
pub mod tree;
pub mod workload;

use crate::error::{Result, chain};
use crate::interrupt;
use data::Data;
use measure::Measure;
use place::Place;
use tools::Tools;

/// What workloads work with.
pub struct Bench {
    /// The programs.
    pub tools: Tools,
    /// Where everything lies.
    pub place: Place,
    /// Archives and images, made when they are first asked for.
    pub data: Data,
    /// How much.
    pub sizes: Sizes,
    /// How often.
    pub rounds: usize,
}

/// How much is measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Sizes {
    /// Directories of the synthetic image.
    pub dirs: u64,
    /// Files in each of them.
    pub files_per_dir: u64,
    /// Bytes of the one large layer.
    pub large_layer_bytes: u64,
    /// Bytes of the file that many mounts read.
    pub shared_bytes: u64,
    /// Names that are looked up, half of them missing.
    pub lookups: usize,
    /// Random reads of a compressed archive.
    pub random_reads: usize,
    /// Layers of the deep images.
    pub layers: usize,
}

impl Sizes {
    /// What is quoted.
    #[must_use]
    pub fn full() -> Self {
        Self {
            dirs: 1000,
            files_per_dir: 1000,
            large_layer_bytes: 10 << 30,
            shared_bytes: 256 << 20,
            lookups: 20_000,
            random_reads: 400,
            layers: 127,
        }
    }

    /// Enough to see that everything runs.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            dirs: 100,
            files_per_dir: 200,
            large_layer_bytes: 256 << 20,
            shared_bytes: 64 << 20,
            lookups: 2000,
            random_reads: 100,
            ..Self::full()
        }
    }

    /// Files of the synthetic image.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.dirs * self.files_per_dir
    }
}

/// One system of a workload: its name, and what takes one sample for each measure in the given round.
pub struct Contender<'a> {
    /// As in the table.
    pub name: &'static str,
    /// Takes the samples.
    pub sample: Box<dyn FnMut(usize) -> Result<Vec<f64>> + 'a>,
}

impl<'a> Contender<'a> {
    /// A system and how it is measured.
    pub fn new(name: &'static str, sample: impl FnMut(usize) -> Result<Vec<f64>> + 'a) -> Self {
        Self {
            name,
            sample: Box::new(sample),
        }
    }
}

/// Takes the systems in turn, each round beginning with another one; what fails is noted and does not stop the rest.
///
/// # Errors
/// Only when interrupted.
pub fn take_turns(rounds: usize, measures: &mut [Measure], contenders: &mut [Contender<'_>]) -> Result<()> {
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            interrupt::check()?;
            let at = (round + turn) % contenders.len();
            let contender = &mut contenders[at];
            match (contender.sample)(round) {
                Ok(values) => {
                    for (measure, value) in measures.iter_mut().zip(values) {
                        measure.add(contender.name, value);
                    }
                }
                Err(error) => {
                    interrupt::check()?;
                    let text = chain(&error);
                    eprintln!("  {} failed: {text}", contender.name);
                    for measure in measures.iter_mut() {
                        measure.fail(contender.name, &text);
                    }
                }
            }
        }
    }
    Ok(())
}
