//! The processes of a container's beginning.
//!
//! ```text
//!  runtime (parent)            stage                         init (sibling of stage)
//!  ────────────────            ─────                         ───────────────────────
//!  clone ────────────────────▶ waits
//!  put it in the cgroup, Go ─▶ enters namespaces
//!                  ◀── MapIds  makes the user namespace
//!  write the mapping, Go ────▶ makes the others, clones ───▶ waits
//!                  ◀── Init    exits
//!  state, outer hooks, Go ─────────────────────────────────▶ prepare steps: mounts … find the command
//!                  ◀────────────────────────────────── Ready
//!  run: Go ────────────────────────────────────────────────▶ launch steps: hooks, seccomp, exec
//!  create: exits; `start` connects to init's socket ───────▶ the same
//! ```
//!
//! All have one thread and share what the runtime had in memory, so that nothing needs to be passed but the
//! messages above ([`handshake`]). Each may fail at any point: it then says so with the whole context and exits.
//! From the moment stage enters namespaces nobody in them may look into it (it is not dumpable), and its program
//! file cannot be written to (see [`crate::protect`]).

pub mod exec;
pub mod foreground;
pub mod handshake;
pub mod init;
pub mod parent;
mod relay;
pub mod stage;
