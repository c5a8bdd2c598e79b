//! Layers (stub while the crate is being laid out).
pub mod whiteout;
