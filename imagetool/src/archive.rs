//! Reading and writing archives: tar members, compression, and the layouts that engines exchange.

pub mod compression;
pub(crate) mod directory;
pub mod hashed;
pub mod member;
mod number;
pub mod pax;
pub mod write;
