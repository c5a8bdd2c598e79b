//! Requests that no kernel would send, to a server of its own for each input: answers or errors, and nothing outside is
//! read or written.
//!
//! An input is read as a list of requests; see `ufs::fuse::fuzzing`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ufs::fuse::fuzzing::Stand;

/// The layers, and the directory that goes with them.
static STAND: LazyLock<(tempfile::TempDir, Stand)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let stand = Stand::new(folder.path()).expect("layers to serve");
    (folder, stand)
});

fuzz_target!(|input: &[u8]| {
    STAND.1.run(input).expect("directories to serve");
});
