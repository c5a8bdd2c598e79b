//! Any bytes loaded as an archive of images: what is refused leaves nothing in the store.
#![no_main]

use imagetool::load::load_archive;
use imagetool::progress::Progress;
use imagetool::store::Store;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let Ok(store) = Store::open(folder.path()) else {
        return;
    };
    let _ = load_archive(&store, "input", bytes, &Progress::none());
    for id in store.image_ids().expect("the database answers") {
        let image = store.image(&id).expect("a loaded image can be read");
        store
            .layer_lowers(&image)
            .expect("a loaded image has all its layers");
    }
    let left = std::fs::read_dir(folder.path().join("tmp"))
        .expect("the folder is there")
        .count();
    assert_eq!(left, 0, "work in progress was left");
});
