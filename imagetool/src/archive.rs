//! Reading and writing archives: tar members, compression, and the layouts that engines exchange.

pub mod compression;
pub mod member;
mod number;
pub mod pax;
pub mod write;
