//! Harness of the suites that drive the three binaries and compare them with their peers.
//!
//! ```text
//! suites/*.rs ──► Fixture ──► Scratch (fresh ext4)   layers on disk, digests before and after
//!      │             └──────► MountGuard             kernel overlayfs | fuse-overlayfs | shale-ufs
//!      ├──► steps ───► Tracer                    the server killed at every change it makes
//!      ├──► power ───► Disks                     the power cut at every flush of the disk below
//!      ├──► SlowLayer                            a layer of which reads wait at a gate
//!      └──► runner ──► Model (pure)  ⇄  RealTree (system calls)   step by step, then whole trees
//! ```
//!
//! Invariants: every test runs in a mount namespace of its own, so that nothing it mounts outlives it;
//! no lower layer may change in name, content or metadata (access times excepted) during any test; a
//! precondition that is not met is a visible skip (see [`skip`]).
//!
//! Environment: `SHALE_TESTS_CASES` and `SHALE_TESTS_SEED` (number and seed of the random cases),
//! `SHALE_TESTS_NO_SKIP` (skips that are failures), `SHALE_TESTS_SHALE_UFS` (another mount program to test).

pub mod crowd;
pub mod disks;
pub mod faults;
pub mod fixture;
pub mod image;
pub mod layers;
pub mod model;
pub mod mount;
pub mod ops;
pub mod posix;
pub mod power;
pub mod programs;
pub mod real;
pub mod runner;
pub mod scratch;
pub mod skip;
pub mod slow;
pub mod snapshot;
pub mod steps;
pub mod strategies;
pub mod sys;
pub mod tracer;
pub mod users;
