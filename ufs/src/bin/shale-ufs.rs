//! shale-ufs
fn main() {}
