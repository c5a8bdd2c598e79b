//! `shale-runtime`: a small OCI runtime.
//!
//! ```text
//!   config.json ─spec─▶ Spec ─plan─▶ Plan: ordered steps (pure)
//!                                      │
//!   commands ─▶ process::parent ─▶ stage (namespaces) ─▶ init: takes the steps ─▶ exec
//!       │             │                                    rootfs capability seccomp hooks
//!       └─ state ─────┴─ cgroup
//! ```
//!
//! `unsafe` is in [`sys`] alone. The program has one thread, always: it forks.

pub mod capability;
pub mod cgroup;
pub mod commands;
pub mod error;
pub mod hooks;
pub mod life;
pub mod log;
pub mod namespace;
pub mod plan;
pub mod process;
pub mod protect;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod sys;
