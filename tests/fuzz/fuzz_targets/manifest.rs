//! Any bytes as each of the documents of an image.
#![no_main]

use imagetool::manifest::{parse_config, parse_docker_archive, parse_index, parse_manifest, pick_platform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = parse_index("index", bytes) {
        let _ = pick_platform(&index, "amd64");
    }
    if let Ok(manifest) = parse_manifest("manifest", bytes) {
        assert!(manifest.layers.iter().all(|layer| layer.digest().is_ok()));
    }
    let _ = parse_docker_archive(bytes);
    let _ = parse_config("configuration", bytes);
});
