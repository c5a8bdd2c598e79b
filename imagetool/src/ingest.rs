//! A layer's stream on its way into the store.
//!
//! ```text
//! raw bytes ──► hash + blob file ──► decompress ──► hash (diff id) ──► unpack
//! ```
//!
//! One pass, memory bounded by the buffers. Compressions that OCI layers may not have (bzip2, xz) are undone for the
//! blob as well.

use std::io::{self, Read, Write};

use crate::archive::compression::{Compression, decompress, sniff};
use crate::archive::member::TarError;
use crate::digest::{Digest, Hashing};
use crate::error::ImageError;
use crate::store::{BlobWriter, StagedBlob, StagedLayer, Staging};
use crate::unpack::{UnpackError, Unpacked, unpack};

/// A layer that was taken in.
#[derive(Debug)]
pub struct Ingested {
    /// The unpacked layer.
    pub layer: StagedLayer,
    /// Its bytes as they came.
    pub blob: StagedBlob,
    /// The media type of the blob.
    pub media_type: &'static str,
    /// What unpacking told.
    pub unpacked: Unpacked,
}

/// Gives what it reads to a writer as well.
struct Tee<R, W> {
    reader: R,
    writer: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.writer.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// Takes in a stream whose blob is not in the store or staging yet. `what` names it in errors.
pub fn ingest(staging: &Staging, what: &str, reader: impl Read + Send) -> Result<Ingested, ImageError> {
    let (compression, reader) = sniff(reader).map_err(ImageError::io("read", what))?;
    let mut tee = Tee {
        reader,
        writer: staging.new_blob()?,
    };
    let (layer, unpacked, media_type, blob) = match compression.layer_media_type() {
        Some(media_type) => {
            let plain = decompress(compression, &mut tee).map_err(ImageError::io("decompress", what))?;
            let (layer, unpacked) = unpack_stream(staging, what, plain)?;
            // bytes after the end of the compressed data belong to the blob too
            io::copy(&mut tee, &mut io::sink()).map_err(ImageError::io("read", what))?;
            (layer, unpacked, media_type, tee.writer.finish()?)
        }
        None => {
            let plain = decompress(compression, tee.reader).map_err(ImageError::io("decompress", what))?;
            let mut tee: Tee<_, BlobWriter> = Tee {
                reader: plain,
                writer: tee.writer,
            };
            let (layer, unpacked) = unpack_stream(staging, what, &mut tee)?;
            (layer, unpacked, crate::manifest::OCI_LAYER, tee.writer.finish()?)
        }
    };
    Ok(Ingested {
        layer,
        blob,
        media_type,
        unpacked,
    })
}

/// Takes in a layer whose blob is staged already.
pub fn ingest_staged(staging: &Staging, what: &str, blob: &StagedBlob) -> Result<Ingested, ImageError> {
    let open = || std::fs::File::open(&blob.path).map_err(ImageError::io("open", what));
    let (compression, reader) = sniff(open()?).map_err(ImageError::io("read", what))?;
    let Some(media_type) = compression.layer_media_type() else {
        return ingest(staging, what, open()?);
    };
    let plain = decompress(compression, reader).map_err(ImageError::io("decompress", what))?;
    let (layer, unpacked) = unpack_stream(staging, what, plain)?;
    Ok(Ingested {
        layer,
        blob: blob.clone(),
        media_type,
        unpacked,
    })
}

/// The diff id of a staged blob and its media type, without unpacking it.
pub fn diff_id_of(what: &str, blob: &StagedBlob) -> Result<(Digest, Option<&'static str>), ImageError> {
    let file = std::fs::File::open(&blob.path).map_err(ImageError::io("open", what))?;
    let (compression, reader) = sniff(file).map_err(ImageError::io("read", what))?;
    if compression == Compression::None {
        return Ok((blob.digest, compression.layer_media_type()));
    }
    let mut plain =
        Hashing::new(decompress(compression, reader).map_err(ImageError::io("decompress", what))?);
    io::copy(&mut plain, &mut io::sink()).map_err(ImageError::io("decompress", what))?;
    Ok((plain.finish().0, compression.layer_media_type()))
}

/// Unpacks a plain tar stream into a new staged layer, and hashes it.
pub fn unpack_stream(
    staging: &Staging,
    what: &str,
    plain: impl Read,
) -> Result<(StagedLayer, Unpacked), ImageError> {
    let path = staging.new_layer()?;
    let diff = path.join("diff");
    std::fs::create_dir(&diff).map_err(ImageError::io("create", what))?;
    let mut hashing = Hashing::new(plain);
    let unpacked = unpack(&mut hashing, &path.join("diff")).map_err(|source| match source {
        UnpackError::Tar(TarError::Read(source)) => ImageError::Io {
            action: "read",
            what: what.to_owned(),
            source,
        },
        source => ImageError::Unpack {
            what: what.to_owned(),
            source,
        },
    })?;
    let (diff_id, _, _) = hashing.finish();
    Ok((
        StagedLayer {
            diff_id,
            size_bytes: unpacked.size_bytes,
            path,
        },
        unpacked,
    ))
}
