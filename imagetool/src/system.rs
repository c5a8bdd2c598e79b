//! Looking after the store as a whole: what it holds, what can go, whether it is sound.
//!
//! ```text
//! df     every part of the store, once, with the images that need it ──► sizes that add up
//! prune  stopped containers, unused images, caches ──► freed bytes
//! check  every file against its digest, every row against its file ──► findings ──► repair
//! info   where the store is and what its machine offers
//! ```
//!
//! Nothing here knows the files' formats: it asks [`crate::store`] and the readers of each format.

pub mod check;
pub mod disk;
pub mod filter;
pub mod info;
pub mod prune;
pub mod usage;
