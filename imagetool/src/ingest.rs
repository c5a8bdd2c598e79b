//! A layer's stream on its way into the store.
//!
//! ```text
//! thread     raw bytes ──► [hash + blob file] ──► decompress ──► chunks ──┐
//! caller     chunks ──► hash (diff id, contents) ──► members ──► contents, tree, recipe
//! ```
//!
//! One pass. The chunks come from a pool of fixed size, so that memory is bounded however large the layer is and
//! whoever is slowest slows the others down. Only compressed streams that OCI layers may have (gzip, zstd) keep their
//! bytes as a blob; of everything else the blob is the plain tar, which the layer's recipe gives back.

mod chunks;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;

use self::chunks::{ChunkReader, Feed};
use crate::archive::compression::{Compression, decompress, sniff};
use crate::archive::member::{Members, TarError};
use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, StoreError};
use crate::layer::recipe::RecipeWriter;
use crate::layer::writer::LayerWriter;
use crate::layer::{LayerError, members};
use crate::manifest::OCI_LAYER;
use crate::store::{BlobWriter, StagedBlob, StagedLayer, Staging};

/// What a pipe may hold that an archive comes through: the default limit for users without rights.
const PIPE_BYTES: i32 = 1 << 20;

/// A layer that was taken in.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// The layer, staged.
    pub layer: StagedLayer,
    /// Its bytes as they came.
    pub blob: TakenBlob,
    /// Whether the archive had its end marker.
    pub end_marker: bool,
    /// Things that were left out, each once with its number.
    pub warnings: Vec<String>,
}

/// The blob of a layer.
#[derive(Debug, Clone)]
pub struct TakenBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes; `None` for a plain tar, which the layer's recipe gives back.
    pub staged: Option<StagedBlob>,
}

/// Gives what it reads to a blob as well.
struct Tee<'a, R> {
    reader: R,
    writer: &'a mut BlobWriter,
}

/// What was read could not be kept: told apart from a failure to read, since it comes to light as one.
#[derive(Debug, thiserror::Error)]
#[error("write {}", path.display())]
struct NotKept {
    path: PathBuf,
    source: io::Error,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let kept = self.writer.write_all(&buffer[..count]);
        kept.map_err(|source| {
            let path = self.writer.path().to_owned();
            io::Error::new(source.kind(), NotKept { path, source })
        })?;
        Ok(count)
    }
}

/// A failure to read `what`, or to keep what was read of it.
fn read_error(what: &str) -> impl FnOnce(io::Error) -> ImageError {
    let what = what.to_owned();
    move |source| match source.downcast::<NotKept>() {
        Ok(NotKept { path, source }) => StoreError::io("write", &path)(source).into(),
        Err(source) => ImageError::Io {
            action: "read",
            what,
            source,
        },
    }
}

/// Gives a pipe more room, so that whoever fills it and we wait for each other less often. Of anything else it has no
/// effect, nor where the system's limit is lower.
pub fn widen_pipe(pipe: &impl AsFd) {
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
}

/// Takes in a stream, plain or compressed. `what` names it in errors.
pub fn ingest(staging: &Staging, what: &str, reader: impl Read + Send) -> Result<Ingested, ImageError> {
    let (compression, reader) = sniff(reader).map_err(ImageError::io("read", what))?;
    let blob = match compression {
        Compression::Gzip | Compression::Zstd => Some(staging.new_blob()?),
        Compression::None | Compression::Bzip2 | Compression::Xz => None,
    };
    pass(staging, what, compression, reader, blob)
}

/// Takes in a stream whose bytes are kept by its reader, if they are kept at all. The blob it gives is the plain tar.
/// What follows the end of compressed data is not read.
pub fn ingest_unkept(
    staging: &Staging,
    what: &str,
    reader: impl Read + Send,
) -> Result<Ingested, ImageError> {
    let (compression, reader) = sniff(reader).map_err(read_error(what))?;
    pass(staging, what, compression, reader, None)
}

/// Takes in a layer whose blob is staged already.
pub fn ingest_staged(staging: &Staging, what: &str, blob: &StagedBlob) -> Result<Ingested, ImageError> {
    let file = std::fs::File::open(&blob.path).map_err(ImageError::io("open", what))?;
    let (compression, reader) = sniff(file).map_err(ImageError::io("read", what))?;
    let mut ingested = pass(staging, what, compression, reader, None)?;
    if let (Some(media_type), false) = (compression.layer_media_type(), compression == Compression::None) {
        ingested.blob = TakenBlob {
            digest: blob.digest,
            size_bytes: blob.size_bytes,
            media_type,
            staged: Some(blob.clone()),
        };
    }
    Ok(ingested)
}

/// The one pass; the raw bytes go to `blob` when there is one.
fn pass(
    staging: &Staging,
    what: &str,
    compression: Compression,
    reader: impl Read + Send,
    mut blob: Option<BlobWriter>,
) -> Result<Ingested, ImageError> {
    let (writer, recipe) = LayerWriter::new(staging)?;
    let feed = Feed::new();
    let (to_members, receiver) = sync_channel(chunks::COUNT);
    let kept = blob.as_mut();
    let taken = thread::scope(|scope| {
        scope.spawn(move || {
            let outcome = send(&feed, compression, reader, kept, |chunk| {
                staging.written(chunk.len() as u64);
                to_members.send(Ok(chunk)).is_ok()
            });
            if let Err(error) = outcome {
                // nobody listens any more where the members were refused already
                let _ = to_members.send(Err(error));
            }
        });
        let mut members = Members::recording(ChunkReader::new(receiver), recipe);
        let writer = read_members(writer, &mut members)?;
        let (end_marker, reader, recipe) = members.finish_recording()?;
        Ok((writer, end_marker, recipe, Digest::from(reader.finish())))
    });
    let (mut writer, end_marker, recipe, diff_id) = taken.map_err(|error| named(what, error))?;
    let dropped = writer.tree().dropped_xattrs();
    let size_bytes = recipe.length_bytes();
    let layer = writer
        .finish(recipe, &diff_id)
        .map_err(|error| named(what, error))?;
    let staged = blob.map(BlobWriter::finish).transpose()?;
    let warnings = match dropped {
        0 => Vec::new(),
        count => vec![format!("reserved extended attribute dropped ({count} times)")],
    };
    Ok(Ingested {
        layer,
        blob: TakenBlob {
            digest: staged.as_ref().map_or(diff_id, |blob| blob.digest),
            size_bytes: staged.as_ref().map_or(size_bytes, |blob| blob.size_bytes),
            media_type: match &staged {
                Some(_) => compression.layer_media_type().unwrap_or(OCI_LAYER),
                None => OCI_LAYER,
            },
            staged,
        },
        end_marker,
        warnings,
    })
}

/// Reads, keeps and decompresses the raw bytes, and hands the plain ones on for as long as they are wanted.
fn send(
    feed: &Feed,
    compression: Compression,
    mut reader: impl Read + Send,
    blob: Option<&mut BlobWriter>,
    wanted: impl FnMut(chunks::Chunk) -> bool,
) -> io::Result<()> {
    let Some(blob) = blob else {
        return match compression {
            Compression::None => feed.fill(&mut reader, wanted).map(drop),
            _ => feed
                .fill(&mut decompress(compression, &mut reader)?, wanted)
                .map(drop),
        };
    };
    let mut tee = Tee { reader, writer: blob };
    if feed.fill(&mut decompress(compression, &mut tee)?, wanted)? {
        // bytes after the end of the compressed data belong to the blob too
        io::copy(&mut tee, &mut io::sink())?;
    }
    Ok(())
}

type Stream = Members<ChunkReader, RecipeWriter>;

/// Takes in all members.
fn read_members(mut writer: LayerWriter, stream: &mut Stream) -> Result<LayerWriter, LayerError> {
    while let Some(mut member) = stream.next()? {
        let mut content = None;
        if members::has_content(&member) {
            let segments = member.segments.take();
            content = writer.content(stream, member.size_bytes, segments.as_deref())?;
            if let Some(content) = content {
                let recipe = stream.literals();
                let written = match &segments {
                    None => recipe.content(content, member.size_bytes),
                    Some(segments) => recipe.pieces(content, segments),
                };
                written.map_err(|error| LayerError::Tar(TarError::Record(error)))?;
            }
        }
        members::add(writer.tree(), member, content)?;
    }
    Ok(writer)
}

/// The error with the name of what was read.
fn named(what: &str, error: LayerError) -> ImageError {
    match error {
        LayerError::Tar(TarError::Read(source)) | LayerError::Read(source) => read_error(what)(source),
        LayerError::Store(error) => error.into(),
        source => ImageError::Layer {
            what: what.to_owned(),
            source,
        },
    }
}

/// The diff id of a compressed or plain stream and its length, without taking it in.
pub fn diff_id_of(what: &str, reader: impl Read + Send) -> Result<(Digest, u64), ImageError> {
    let (compression, reader) = sniff(reader).map_err(ImageError::io("read", what))?;
    let mut plain =
        Hashing::new(decompress(compression, reader).map_err(ImageError::io("decompress", what))?);
    io::copy(&mut plain, &mut io::sink()).map_err(read_error(what))?;
    let (digest, size_bytes, _) = plain.finish();
    Ok((digest, size_bytes))
}

/// Keeps the bytes of a compressed layer that the store has already, and verifies them.
pub fn keep_blob(
    staging: &Staging,
    what: &str,
    reader: impl Read + Send,
) -> Result<(Digest, TakenBlob), ImageError> {
    let (compression, reader) = sniff(reader).map_err(ImageError::io("read", what))?;
    let Some(media_type) = compression
        .layer_media_type()
        .filter(|_| compression != Compression::None)
    else {
        let (digest, size_bytes) = diff_id_of(what, reader)?;
        let blob = TakenBlob {
            digest,
            size_bytes,
            media_type: OCI_LAYER,
            staged: None,
        };
        return Ok((digest, blob));
    };
    let mut blob = staging.new_blob()?;
    let mut tee = Tee {
        reader,
        writer: &mut blob,
    };
    let (diff_id, _) = diff_id_of(what, &mut tee)?;
    io::copy(&mut tee, &mut io::sink()).map_err(read_error(what))?;
    let staged = blob.finish()?;
    let blob = TakenBlob {
        digest: staged.digest,
        size_bytes: staged.size_bytes,
        media_type,
        staged: Some(staged),
    };
    Ok((diff_id, blob))
}
