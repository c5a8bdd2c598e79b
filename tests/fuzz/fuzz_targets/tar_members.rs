//! Any bytes as a tar stream, plain or compressed: errors are fine, panics and endless loops are bugs.
#![no_main]

use std::io::Read;

use imagetool::archive::compression::{decompress, sniff};
use imagetool::archive::member::Members;
use libfuzzer_sys::fuzz_target;

/// A small archive may unfold into a large stream: enough is enough.
const STREAM_LIMIT: u64 = 16 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok((compression, stream)) = sniff(bytes) else {
        return;
    };
    let Ok(plain) = decompress(compression, stream) else {
        return;
    };
    let mut members = Members::new(plain.take(STREAM_LIMIT));
    while let Ok(Some(member)) = members.next() {
        let stored: u64 = match &member.segments {
            Some(segments) => segments.iter().map(|(_, length)| length).sum(),
            None => member.size_bytes,
        };
        assert_eq!(members.remaining(), stored);
        let _ = std::io::copy(&mut members, &mut std::io::sink());
    }
});
