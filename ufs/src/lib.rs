//! A union file system: one tree out of read-only layers and at most one writable one.
//!
//! The parts, from the outside in:
//!
//! ```text
//! fuse        the kernel's requests, decoded and answered       (the only part that knows the FUSE library)
//! fs          what programs do: look up, read, write, rename …  (kernel-free, usable as a library)
//! diff        what an upper changes
//! union       names resolved across layers, identity
//! upper       the writable layer, copy-up
//! layer       read-only layers, deletion markers, marks
//! index       what a layer or several merged ones hold, mapped: names, attributes, where contents lie
//! stream      random access to plain and compressed archives where they lie
//! counters    how often the kernel asked, and how long the answers took
//! cache       what they were decompressed to, bounded, read once for many
//! sha256      the hash of a stream and of a stretch of it at once
//! journal     what a server that was killed and started again must still know
//! sys         system calls
//! ```

pub mod acl;
pub mod attr;
pub mod cache;
pub mod counters;
pub mod diff;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod idmap;
pub mod index;
pub mod io_mode;
mod journal;
pub mod layer;
pub mod repository;
pub mod sha256;
pub mod stream;
mod sync;
mod sys;
mod union;
mod upper;

pub use error::SetupError;
pub use sys::process as background;
pub use union::{Layout, Lower};
pub use upper::UpperOptions;
