//! Workloads that are measured on several union file systems in turn, as a ratio to the kernel's overlayfs.
//!
//! ```text
//! scratch (ext4 on a loop device) ─► data (lower layers) ─► comparison: for each workload, for each round,
//!                                                            for each candidate, starting with another one each time:
//!                                                            mount ─ set the caches ─ clock ─ unmount    (runner)
//!                                                                          │
//!                      table, chart, JSON ◄─ report ◄─ statistics ◄─ samples
//! ```
//!
//! One folder, `workload`, holds what is timed; nothing else is. A new workload is one small file there and one line
//! in [`workload::all`]. `shale bench` is a thin command over [`comparison::run`]. [`images`] measures whole commands on
//! images instead, beside Podman and others.

pub mod candidate;
pub mod chart;
pub mod comparison;
pub mod data;
pub mod error;
pub mod host;
pub mod images;
pub mod interrupt;
pub mod random_io;
pub mod report;
pub mod scratch;
pub mod stats;
pub mod svg;
pub mod system;
pub mod table;
pub mod workload;

mod runner;
mod sys;
