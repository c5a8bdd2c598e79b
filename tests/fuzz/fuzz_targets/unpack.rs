//! Any bytes unpacked as a layer: nothing may appear or change beside the layer's directory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (diff, outside) = (folder.path().join("diff"), folder.path().join("outside"));
    if std::fs::create_dir(&diff).is_err() || std::fs::write(&outside, "untouched").is_err() {
        return;
    }
    let _ = imagetool::unpack::unpack(bytes, &diff);
    assert_eq!(
        std::fs::read(&outside).expect("the file beside the layer is there"),
        b"untouched"
    );
    assert_eq!(
        std::fs::read_dir(folder.path())
            .expect("the folder is there")
            .count(),
        2
    );
});
