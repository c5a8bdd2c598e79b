//! The `shale` program and real containers: what is run, what is left behind, what a hostile root file system can
//! do. Every test drives the binary. Tests need root (for a plain user's rights too: they are given up), /dev/fuse,
//! and `shale-ufs` and `shale-runtime` beside the binary; what is missing is printed as a skip.

mod bench;
mod hostile;
mod life;
mod mounting;
mod outlive;
mod rootless;
mod running;
mod support;
