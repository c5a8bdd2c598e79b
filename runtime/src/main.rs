//! shale-runtime
fn main() {}
