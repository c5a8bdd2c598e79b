//! ufs
pub mod layer;
