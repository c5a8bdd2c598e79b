//! One pass over a stream that records how to find any place in it again.
//!
//! ```text
//! slice ──► tee ──► decoder ──► blocks of 512 KiB ──► whoever reads
//!            │         │            │
//!            │         └─ points ───┴──► recorder ──► stream file, under a temporary name
//!            └──► SHA-256 of the slice   SHA-256 of the plain bytes
//! ```
//!
//! Decompression runs in the caller's thread, the rest beside it (`stream/recorder.rs`), so that a pass takes about as
//! long as decompression alone. Blocks are shared, not copied, and used again.
//!
//! Failure modes: damage is an error of `read` that names file and offset, and of every later call; so is a full disk.
//! An archive that changes during the pass is noticed at its end. Nothing is published before [`Indexer::finish`];
//! what is dropped earlier leaves nothing behind.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, absolute};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::beside::{PartReader, QUEUE_LENGTH, Source, Tee, TeeReader, hashing, joined, lost_thread, spawn};
use super::draft::Draft;
use super::file::{ArchiveFile, Part, failed, usize_of};
use super::frames::{self, Frames};
use super::gzip::{self, Gunzip};
use super::input::{InOrder, Origin};
use super::recorder::{Block, How, Mark, Recorded, Recorder, SPACING_BYTES};
use super::table::{HEADER_BYTES, Stamp, Table};
use super::{Base, Compression, ReadAt, Slice, StreamError, open, read_table, stamp_of};
use crate::cache::PageCache;
use crate::index::Sha256;
use crate::repository::{Repository, hex};
use parking_lot::Mutex;

/// Blocks that are kept to be used again: those on their way, the one being read, the one being filled.
const BLOCKS_KEPT: usize = QUEUE_LENGTH + 4;
/// Most memory an xz stream may ask for.
const XZ_MEMORY_KIB: u32 = 512 << 10;
/// A base that is itself decompressed is read from beginning to end: there is no use in keeping much of it.
const BASE_CACHE_BYTES: u64 = 4 << 20;

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the SHA-256 of the slice and of the plain bytes are computed, in threads of their own.
    pub digests: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { digests: true }
    }
}

/// What a pass found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// SHA-256 of the slice as it lies there, when asked for.
    pub slice_sha256: Option<Sha256>,
    /// SHA-256 of the plain bytes, when asked for.
    pub plain_sha256: Option<Sha256>,
    /// How many plain bytes there are.
    pub plain_bytes: u64,
}

enum Decoder {
    Gzip(Box<Gunzip<InOrder<Source>>>),
    Zstd(Box<Frames<InOrder<Source>>>),
    Other(Box<dyn Read + Send>),
}

/// Reads the plain bytes of a slice in order and records checkpoints and sums on the way.
///
/// [`BufRead`] shows the decompressed blocks themselves: who skips content copies nothing.
pub struct Indexer {
    repository: Repository,
    slice: Slice,
    origin: Origin,
    archive: Option<Arc<ArchiveFile>>,
    tee: Tee,
    decoder: Decoder,
    /// The block that is being read, and how far.
    block: Arc<Block>,
    at: usize,
    spare: VecDeque<Arc<Block>>,
    /// Plain bytes decompressed so far.
    plain: u64,
    last_point: u64,
    ended: bool,
    failed: bool,
    recorder: Option<RecorderThread>,
    plain_hash: Option<(SyncSender<Arc<Block>>, JoinHandle<Sha256>)>,
    completed: Option<(Finished, Option<Recorded>)>,
}

impl Indexer {
    /// Starts a pass over `slice`, whose base (when it is a stream) was indexed before.
    pub fn new(
        repository: &Repository,
        slice: Slice,
        compression: Compression,
        options: Options,
    ) -> Result<Self, StreamError> {
        let slice = slice.absolute()?;
        let archive = slice.archive()?;
        let base: Arc<dyn ReadAt> = match (&slice.base, &archive) {
            (Base::Stream(key), _) => open(repository, key, &Arc::new(PageCache::new(BASE_CACHE_BYTES)))?,
            (Base::File(path), None) => return Err(vanished(path)),
            (Base::File(_), Some(archive)) => Arc::clone(archive) as _,
        };
        slice.check(base.size_bytes())?;
        let part = Part {
            base,
            offset: slice.offset,
            length: slice.length,
        };
        let reader = Box::new(PartReader { part, at: 0 });
        Self::start(repository, slice, archive, compression, options, reader)
    }

    /// Starts a pass over `slice` whose bytes come from `reader` in order, so that a stream inside of another can be
    /// indexed in the same pass as that one. The base need not be indexed yet. `reader` must end where the slice ends.
    pub fn over(
        repository: &Repository,
        slice: Slice,
        compression: Compression,
        options: Options,
        reader: Box<dyn Read + Send>,
    ) -> Result<Self, StreamError> {
        let slice = slice.absolute()?;
        let archive = slice.archive()?;
        Self::start(repository, slice, archive, compression, options, reader)
    }

    fn start(
        repository: &Repository,
        slice: Slice,
        archive: Option<Arc<ArchiveFile>>,
        compression: Compression,
        options: Options,
        reader: Box<dyn Read + Send>,
    ) -> Result<Self, StreamError> {
        let origin = Origin {
            name: slice.base.name().into(),
            offset: slice.offset,
        };
        let digest = options.digests;
        let slice_hash = digest
            .then(|| hashing("slice-sha256", |bytes: &Vec<u8>| bytes))
            .transpose()?;
        let tee: Tee = Arc::new(Mutex::new(TeeReader {
            reader,
            left: slice.length,
            hash: slice_hash,
        }));
        let plain_hash = match compression {
            // the same bytes: one digest serves for both
            Compression::None => None,
            _ => digest
                .then(|| hashing("plain-sha256", |block: &Arc<Block>| block.filled()))
                .transpose()?,
        };
        let recorder = start_recorder(repository, compression)?;
        let decoder = decoder(compression, Source(Arc::clone(&tee)), &origin)?;
        Ok(Self {
            repository: repository.clone(),
            slice,
            origin,
            archive,
            tee,
            decoder,
            block: Arc::new(Block::new()),
            at: 0,
            spare: VecDeque::new(),
            plain: 0,
            last_point: 0,
            ended: false,
            failed: false,
            recorder,
            plain_hash,
            completed: None,
        })
    }

    /// Reads what is left, waits for sums and digests, and gives them; nothing is written yet, so that the key may be
    /// one of the digests.
    pub fn complete(&mut self) -> Result<Finished, StreamError> {
        if let Some((finished, _)) = &self.completed {
            return Ok(*finished);
        }
        loop {
            let length = match self.fill_buf() {
                Ok(shown) => shown.len(),
                Err(error) => return Err(self.as_stream_error(error)),
            };
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        // what follows the compressed data belongs to the slice's digest
        io::copy(&mut Source(Arc::clone(&self.tee)), &mut io::sink())
            .map_err(|error| self.as_stream_error(error))?;
        if self.tee.lock().left != 0 {
            let error = self
                .origin
                .corrupt("it ends before the slice does", self.slice.length);
            return Err(self.as_stream_error(error));
        }
        if let Some(archive) = &self.archive {
            archive.verify()?;
        }
        let recorded = match self.recorder.take() {
            Some((blocks, thread)) => {
                drop(blocks);
                Some(thread.join().map_err(|_| lost_thread())??)
            }
            None => None,
        };
        let slice_sha256 = self.tee.lock().hash.take().map(joined).transpose()?;
        let plain_sha256 = match self.plain_hash.take() {
            Some(hash) => Some(joined(hash)?),
            None => slice_sha256,
        };
        let finished = Finished {
            slice_sha256,
            plain_sha256,
            plain_bytes: self.plain,
        };
        self.completed = Some((finished, recorded));
        Ok(finished)
    }

    /// Completes the pass and publishes the stream file under `key`.
    pub fn finish(mut self, key: &Sha256) -> Result<Finished, StreamError> {
        let finished = self.complete()?;
        let recorded = self.completed.take().and_then(|(_, recorded)| recorded);
        let (chunks, draft) = match recorded {
            Some(recorded) => (Some(recorded.chunks), recorded.draft),
            None => (None, Draft::new(&self.repository)?),
        };
        let stamp = match (&self.slice.base, &self.archive) {
            (Base::File(_), Some(archive)) => Stamp::File(*archive.recorded()),
            (Base::File(path), None) => return Err(vanished(path)),
            (Base::Stream(base), _) => Stamp::Stream(stamp_of(&self.repository, base)?),
        };
        let table = Table {
            slice: self.slice.clone(),
            stamp,
            plain_bytes: finished.plain_bytes,
            chunks,
            slice_sha256: finished.slice_sha256,
            plain_sha256: finished.plain_sha256,
            data_end: draft.data_end(),
        };
        draft.publish(key, &table)?;
        Ok(finished)
    }

    /// Decompresses the next block and hands it to the threads beside.
    fn advance(&mut self) -> io::Result<()> {
        let mut shared = self.empty_block();
        let Some(block) = Arc::get_mut(&mut shared) else {
            return Err(io::Error::other("a block is shared unexpectedly"));
        };
        block.length = 0;
        block.plain = self.plain;
        block.marks.clear();
        while block.length < block.bytes.len() && !self.ended {
            self.step(block)?;
        }
        let old = std::mem::replace(&mut self.block, shared);
        self.spare.push_back(old);
        self.at = 0;
        if self.block.length == 0 && self.block.marks.is_empty() {
            return Ok(());
        }
        if let Some((hash, _)) = &self.plain_hash {
            hash.send(Arc::clone(&self.block)).map_err(|_| lost_thread())?;
        }
        self.record()
    }

    fn step(&mut self, block: &mut Block) -> io::Result<()> {
        let room = &mut block.bytes[block.length..];
        let written = match &mut self.decoder {
            Decoder::Gzip(decoder) => {
                // up to where a point is wanted at full speed, from there on block by block
                let until = (self.last_point + SPACING_BYTES).saturating_sub(self.plain);
                let due = until == 0;
                let length = if due {
                    room.len()
                } else {
                    room.len().min(usize_of(until))
                };
                let (written, mark) = decoder.step(&mut room[..length], due)?;
                self.plain += written as u64;
                block.length += written;
                self.ended = mark == gzip::Mark::End;
                if let Some((source, how)) = point(decoder, mark).filter(|_| due) {
                    self.last_point = self.plain;
                    block.marks.push(Mark {
                        plain: self.plain,
                        source,
                        how,
                    });
                }
                return Ok(());
            }
            Decoder::Zstd(decoder) => {
                let (written, mark) = decoder.step(room)?;
                if mark == frames::Mark::Frame {
                    let plain = self.plain + written as u64;
                    // Frames without content leave no marks of their own: there may be millions.
                    block.marks.pop_if(|last| last.plain == plain);
                    block.marks.push(Mark {
                        plain,
                        source: decoder.position(),
                        how: How::Frame,
                    });
                }
                self.ended = mark == frames::Mark::End;
                written
            }
            Decoder::Other(reader) => match reader.read(room) {
                Ok(written) => {
                    self.ended = written == 0;
                    written
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.get_ref().is_some_and(|inner| inner.is::<StreamError>()) => {
                    return Err(error);
                }
                Err(error) => {
                    let position = self.slice.length - self.tee.lock().left;
                    return Err(self
                        .origin
                        .corrupt(format!("damaged or cut data ({error})"), position));
                }
            },
        };
        self.plain += written as u64;
        block.length += written;
        Ok(())
    }

    /// A block that nobody else holds.
    fn empty_block(&mut self) -> Arc<Block> {
        let free = self
            .spare
            .iter_mut()
            .position(|block| Arc::get_mut(block).is_some());
        if let Some(block) = free.and_then(|free| self.spare.remove(free)) {
            return block;
        }
        self.spare.truncate(BLOCKS_KEPT);
        Arc::new(Block::new())
    }

    /// Hands the block to the recorder.
    fn record(&mut self) -> io::Result<()> {
        let Some((blocks, _)) = &self.recorder else {
            return Ok(());
        };
        if blocks.send(Arc::clone(&self.block)).is_ok() {
            return Ok(());
        }
        // it ended early: with an error
        let Some((_, thread)) = self.recorder.take() else {
            return Ok(());
        };
        match thread.join() {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) | Err(_) => Err(lost_thread().into()),
        }
    }

    fn as_stream_error(&self, error: io::Error) -> StreamError {
        StreamError::from_io(error, || self.origin.name.to_string())
    }
}

/// What to record for a mark of the decoder: where the compressed bytes begin, and how.
fn point(decoder: &Gunzip<InOrder<Source>>, mark: gzip::Mark) -> Option<(u64, How)> {
    match mark {
        gzip::Mark::Boundary { bits, source } => {
            let window = decoder.window().into();
            Some((source, How::Boundary { bits, window }))
        }
        gzip::Mark::Member => Some((decoder.position(), How::Member)),
        gzip::Mark::None | gzip::Mark::End => None,
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        if let Some((blocks, thread)) = self.recorder.take() {
            drop(blocks);
            // it holds the unfinished stream file: that is gone when this pass is
            let _ = thread.join();
        }
    }
}

impl Read for Indexer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut shown = self.fill_buf()?;
        let read = shown.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Indexer {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.failed {
            return Err(io::Error::other("the pass over the archive failed before"));
        }
        while self.at == self.block.length && !self.ended {
            if let Err(error) = self.advance() {
                self.failed = true;
                return Err(error);
            }
        }
        Ok(&self.block.filled()[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.block.length);
    }
}

impl std::fmt::Debug for Indexer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Indexer")
            .field("slice", &self.slice)
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

/// Writes the stream file of an uncompressed slice, which needs no pass over its bytes. When the slice lies in another
/// stream, that one must have been indexed.
pub fn write_plain(repository: &Repository, key: &Sha256, slice: &Slice) -> Result<(), StreamError> {
    let slice = slice.clone().absolute()?;
    let (stamp, size_bytes) = match (&slice.base, slice.archive()?) {
        (Base::Stream(base), _) => {
            let table = read_table(repository, base)?;
            (Stamp::Stream(Some(table.stamp())), table.plain_bytes)
        }
        (Base::File(path), None) => return Err(vanished(path)),
        (Base::File(_), Some(archive)) => (Stamp::File(*archive.recorded()), archive.size_bytes()),
    };
    slice.check(size_bytes)?;
    let table = Table {
        plain_bytes: slice.length,
        slice,
        stamp,
        chunks: None,
        slice_sha256: None,
        plain_sha256: None,
        data_end: HEADER_BYTES,
    };
    Draft::new(repository)?.publish(key, &table)
}

fn decoder(compression: Compression, source: Source, origin: &Origin) -> Result<Decoder, StreamError> {
    let as_error = |error| StreamError::from_io(error, || origin.name.to_string());
    Ok(match compression {
        Compression::None => Decoder::Other(Box::new(source)),
        Compression::Gzip => {
            let decoder = Gunzip::at_member(InOrder(source), 0, origin.clone()).map_err(as_error)?;
            Decoder::Gzip(Box::new(decoder))
        }
        Compression::Zstd => {
            let decoder = Frames::at_frame(InOrder(source), 0, origin.clone()).map_err(as_error)?;
            Decoder::Zstd(Box::new(decoder))
        }
        Compression::Bzip2 => {
            let reader = BufReader::with_capacity(256 << 10, source);
            Decoder::Other(Box::new(bzip2::bufread::MultiBzDecoder::new(reader)))
        }
        Compression::Xz => {
            let reader = BufReader::with_capacity(256 << 10, source);
            let reader = lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB);
            Decoder::Other(Box::new(reader))
        }
    })
}

type RecorderThread = (SyncSender<Arc<Block>>, JoinHandle<Result<Recorded, StreamError>>);

fn start_recorder(
    repository: &Repository,
    compression: Compression,
) -> Result<Option<RecorderThread>, StreamError> {
    let how = match compression {
        Compression::None => return Ok(None),
        Compression::Gzip => How::Member,
        Compression::Zstd => How::Frame,
        Compression::Bzip2 | Compression::Xz => How::Nowhere,
    };
    let mut recorder = Recorder::new(Draft::new(repository)?, how)?;
    let (sender, blocks): (_, Receiver<Arc<Block>>) = sync_channel(QUEUE_LENGTH);
    let thread = spawn("recorder", move || {
        for block in blocks {
            recorder.take(&block)?;
        }
        recorder.finish()
    })?;
    Ok(Some((sender, thread)))
}

fn vanished(path: &Path) -> StreamError {
    failed(path, "opening the archive", io::ErrorKind::NotFound.into())
}

impl Base {
    /// For errors.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stream(key) => format!("stream {}", hex(key)),
        }
    }
}

impl Slice {
    /// With a path that means the same from everywhere.
    fn absolute(mut self) -> Result<Self, StreamError> {
        if let Base::File(path) = &mut self.base {
            *path = absolute(&path).map_err(|error| failed(path, "finding the archive", error))?;
        }
        Ok(self)
    }

    /// The file it lies in, to be indexed; none when that is another stream's business.
    fn archive(&self) -> Result<Option<Arc<ArchiveFile>>, StreamError> {
        match &self.base {
            Base::File(path) => ArchiveFile::open_new(path).map(|archive| Some(Arc::new(archive))),
            Base::Stream(_) => Ok(None),
        }
    }

    /// Whether it lies in its base.
    pub(crate) fn check(&self, size_bytes: u64) -> Result<(), StreamError> {
        match self.offset.checked_add(self.length) {
            Some(end) if end <= size_bytes => Ok(()),
            end => Err(StreamError::Outside {
                name: self.base.name(),
                offset: self.offset,
                end: end.unwrap_or(u64::MAX),
                size_bytes,
            }),
        }
    }
}
