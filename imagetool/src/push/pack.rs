//! A layer compressed for a registry: the same layer always gives the same bytes.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};

use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::store::{StagedBlob, Staging, Store};
use crate::transfer::Row;

/// The level that everybody uses. Another one gives other bytes, and so makes registries keep layers twice.
const LEVEL: u32 = 6;
/// What the header of RFC 1952 calls an unknown operating system.
const UNKNOWN_SYSTEM: u8 = 255;

/// Compresses a layer's plain tar into a staging directory, and verifies it on the way.
pub(super) fn pack(
    store: &Store,
    staging: &Staging,
    diff_id: &Digest,
    row: &Row<'_>,
) -> Result<StagedBlob, ImageError> {
    let what = format!("layer {}", diff_id.short());
    let plain = store.open_blob(diff_id)?;
    row.note("Compressing");
    row.begin("Compressing", plain.size_bytes());
    let mut plain = row.counter().wrap(plain);
    let mut blob = staging.new_blob()?;
    let path = blob.path().to_owned();
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .operating_system(UNKNOWN_SYSTEM)
        .write(&mut blob, Compression::new(LEVEL));
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImageError::io("read", what)(error)),
        };
        encoder
            .write_all(&buffer[..count])
            .map_err(StoreError::io("write", &path))?;
    }
    encoder.finish().map_err(StoreError::io("write", &path))?;
    Ok(blob.finish()?)
}
