//! Reading a compressed stream at any place, chunk by chunk.
//!
//! ```text
//! checkpoint            wanted chunk
//!     ▼                     ▼
//! ────┼──▒▒▒┬──────┬──────┬██████┬────     ▒ thrown away   ─ offered to the cache   █ given to who asked
//!     └─────── decompressed ─────┘▲
//!                                 └ the decoder stays here: the next chunk costs no start
//! ```
//!
//! Decoders that came to the end of a chunk are parked, a few per stream, so that whoever reads in order never goes
//! back to a checkpoint. When two threads read the same file in turn (as the kernel's read-ahead does), the second
//! one waits for the decoder of the first if that will end near what it wants, or pass over it, instead of starting
//! from the checkpoint. Such waits go towards a decoder that runs, whose own waits are on the base's chunks: never in
//! a circle.
//!
//! Invariants: every chunk that leaves here matched its sum. No lock is held while bytes are read or decompressed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::ReadAt;
use super::file::{Part, usize_of};
use super::frames::{self, Frames};
use super::gzip::{self, Gunzip};
use super::input::Origin;
use super::table::{Chunks, HEADER_BYTES, Start, Window, sum_of};
use super::{StreamError, Work};
use crate::cache::{PageCache, StreamId};
use crate::sys::inflate::WINDOW_BYTES;

/// Decoders that are kept for readers in order.
const PARKED_MAX: usize = 4;
/// For how many decoders of others a thread waits, one after another, before it starts its own.
const PATIENCE: u32 = 8;

/// A compressed stream.
pub(crate) struct Compressed {
    pub(crate) chunks: Chunks,
    pub(crate) plain_bytes: u64,
    /// The compressed bytes.
    pub(crate) slice: Part,
    /// The stream file, for windows and stored frames.
    pub(crate) own: Part,
    pub(crate) origin: Origin,
    pub(crate) cache: Arc<PageCache>,
    pub(crate) id: StreamId,
    pub(crate) decoders: Decoders,
    /// Whether the log says already that it cannot be read.
    pub(crate) complained: AtomicBool,
}

enum Decoder {
    Gzip(Box<Gunzip<Part>>),
    Zstd(Box<Frames<Part>>),
}

/// A decoder and where it stands.
struct Live {
    decoder: Decoder,
    plain: u64,
    /// Where the bytes that it reads end, and others (the slice's, the stream file's) begin.
    run_end: u64,
}

/// The decoders of a stream.
#[derive(Default)]
pub(crate) struct Decoders {
    table: Mutex<DecoderTable>,
    changed: Condvar,
}

#[derive(Default)]
struct DecoderTable {
    /// Used longest ago first.
    parked: Vec<Live>,
    running: Vec<Running>,
    next_run: u64,
}

/// A decoder at work: which bytes it passes over.
struct Running {
    run: u64,
    from: u64,
    to: u64,
}

/// What a thread gets that wants a chunk.
enum Turn<'a> {
    /// Another one's decoder passed over it meanwhile.
    Page(Arc<[u8]>),
    /// A decoder at or before the chunk, or none: start at the checkpoint.
    Decode(Option<Live>, Run<'a>),
}

/// The announcement that a decoder is at work; taken back in every case.
struct Run<'a> {
    decoders: &'a Decoders,
    run: u64,
}

impl Run<'_> {
    /// Ends the work, the decoder parked for the next one.
    fn park(self, mut live: Live) {
        live.rest();
        let mut table = self.decoders.table.lock();
        if table.parked.len() == PARKED_MAX {
            table.parked.remove(0);
        }
        table.parked.push(live);
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.decoders
            .table
            .lock()
            .running
            .retain(|running| running.run != self.run);
        self.decoders.changed.notify_all();
    }
}

impl Compressed {
    fn chunk_bytes(&self) -> u64 {
        u64::from(self.chunks.chunk_bytes)
    }

    /// Bytes of a chunk: only the last one is shorter.
    fn length_of(&self, chunk: u64) -> usize {
        usize_of((self.plain_bytes - chunk * self.chunk_bytes()).min(self.chunk_bytes()))
    }

    fn page(&self, chunk: u64) -> io::Result<Arc<[u8]>> {
        let outcome = self.cache.get_or_fetch(self.id, chunk, || self.fetch(chunk));
        if let Err(error) = &outcome
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            // a changed archive has its own line
            let inner = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<StreamError>());
            if !matches!(inner, Some(StreamError::Changed { .. })) {
                tracing::error!("{}: reading fails: {error}", self.origin.name);
            }
        }
        outcome
    }

    /// Decompresses a chunk, and offers those on the way to the cache.
    fn fetch(&self, wanted: u64) -> io::Result<Arc<[u8]>> {
        let start = wanted * self.chunk_bytes();
        let (live, run) = match self.turn(wanted) {
            Turn::Page(page) => return Ok(page),
            Turn::Decode(live, run) => (live, run),
        };
        let work = &self.cache.opened.work;
        let mut live = match live {
            Some(live) => {
                Work::add(&work.continued, 1);
                live
            }
            None => {
                Work::add(&work.started, 1);
                self.begin(start)?
            }
        };
        let begun = live.plain;
        self.skip_to_chunk(&mut live)?;
        loop {
            let chunk = live.plain / self.chunk_bytes();
            let page = self.decompress(&mut live, chunk)?;
            if chunk < wanted {
                if !self.cache.contains(self.id, chunk) {
                    self.cache.offer(self.id, chunk, page);
                }
                continue;
            }
            Work::add(&work.plain_bytes, live.plain - begun);
            if live.plain < self.plain_bytes {
                run.park(live);
            }
            return Ok(page);
        }
    }

    /// Decompresses one chunk and compares it with its sum.
    fn decompress(&self, live: &mut Live, chunk: u64) -> io::Result<Arc<[u8]>> {
        let mut page: Arc<[u8]> = std::iter::repeat_n(0, self.length_of(chunk)).collect();
        let Some(bytes) = Arc::get_mut(&mut page) else {
            return Err(io::Error::other("a new page is shared unexpectedly"));
        };
        self.fill(live, bytes)?;
        if self.chunks.sums.get(usize_of(chunk)) != Some(&sum_of(bytes)) {
            let start = chunk * self.chunk_bytes();
            return Err(StreamError::Mismatch {
                name: self.origin.name.to_string(),
                from: start,
                to: start + bytes.len() as u64,
            }
            .into());
        }
        Ok(page)
    }

    /// A decoder for a chunk: parked, or about to be; or the right to start one. Nothing is decompressed twice as long as
    /// what was passed over stays in the cache, but for the beginning of the chunk that a checkpoint lies in.
    fn turn(&self, wanted: u64) -> Turn<'_> {
        let start = wanted * self.chunk_bytes();
        let end = start + self.length_of(wanted) as u64;
        let checkpoint = self.checkpoint_before(start);
        let mut table = self.decoders.table.lock();
        for _ in 0..PATIENCE {
            // Passed over since it was looked for: what passes over it is no longer to be seen here.
            if let Some(page) = self.cache.peek(self.id, wanted) {
                return Turn::Page(page);
            }
            let parked = table.nearest(checkpoint, start).map(|(_, plain)| plain);
            let best = parked.unwrap_or(checkpoint);
            let comes_nearer = |running: &&Running| {
                let will_stop_near = best < running.to && running.to <= start;
                let will_pass_over = best <= running.from && running.from <= start && start < running.to;
                will_stop_near || will_pass_over
            };
            let Some(run) = table.running.iter().find(comes_nearer).map(|running| running.run) else {
                break;
            };
            Work::add(&self.cache.opened.work.waited, 1);
            // Others end meanwhile, on a busy machine many.
            while table.running.iter().any(|running| running.run == run) {
                self.decoders.changed.wait(&mut table);
            }
        }
        let live = table.take_nearest(checkpoint, start);
        let from = live.as_ref().map_or(checkpoint, |live| live.plain);
        let run = self.announce(&mut table, from, end);
        Turn::Decode(live, run)
    }

    fn announce(&self, table: &mut DecoderTable, from: u64, to: u64) -> Run<'_> {
        let run = table.next_run;
        table.next_run += 1;
        table.running.push(Running { run, from, to });
        Run {
            decoders: &self.decoders,
            run,
        }
    }

    fn checkpoint_before(&self, plain: u64) -> u64 {
        let number = self.chunks.before(plain);
        self.chunks
            .checkpoints
            .get(number)
            .map_or(0, |checkpoint| checkpoint.plain)
    }

    /// A decoder at the last checkpoint before a place.
    fn begin(&self, plain: u64) -> io::Result<Live> {
        let number = self.chunks.before(plain);
        let checkpoints = &self.chunks.checkpoints;
        let Some(checkpoint) = checkpoints.get(number) else {
            return Err(self.origin.corrupt("its stream file has no checkpoints", 0));
        };
        let stored = checkpoint.start.is_stored();
        let run_end = checkpoints[number..]
            .iter()
            .find(|other| other.start.is_stored() != stored)
            .map_or(self.plain_bytes, |other| other.plain);
        let (slice, origin) = (self.slice.clone(), self.origin.clone());
        let decoder = match checkpoint.start {
            Start::Member => Decoder::Gzip(Box::new(Gunzip::at_member(slice, checkpoint.source, origin)?)),
            Start::Block { bits, window } => {
                let window = self.window(&window)?;
                let decoder = Gunzip::at_block(slice, checkpoint.source, bits, &window, origin)?;
                Decoder::Gzip(Box::new(decoder))
            }
            Start::Frame => Decoder::Zstd(Box::new(Frames::at_frame(slice, checkpoint.source, origin)?)),
            Start::Stored => {
                let own = self.own.clone();
                Decoder::Zstd(Box::new(Frames::at_frame(own, checkpoint.source, origin)?))
            }
        };
        Ok(Live {
            decoder,
            plain: checkpoint.plain,
            run_end,
        })
    }

    fn window(&self, window: &Window) -> io::Result<Vec<u8>> {
        let mut packed = vec![0; window.length as usize];
        let read = self.own.read_at(&mut packed, window.at)?;
        if read < packed.len() || sum_of(&packed) != window.sum {
            let what = "a window in its stream file is damaged; remove that and mount the archive again";
            return Err(self.origin.corrupt(what, 0));
        }
        zstd::bulk::decompress(&packed, WINDOW_BYTES)
    }

    /// Goes on to the beginning of a chunk: a checkpoint may lie in the middle of one.
    fn skip_to_chunk(&self, live: &mut Live) -> io::Result<()> {
        let into = live.plain % self.chunk_bytes();
        if into == 0 {
            return Ok(());
        }
        let mut rest = vec![0; usize_of(self.chunk_bytes() - into)];
        self.fill(live, &mut rest)
    }

    /// Fills `output` with the bytes that follow.
    fn fill(&self, live: &mut Live, output: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < output.len() {
            if live.plain == live.run_end {
                *live = self.begin(live.plain)?;
            }
            let room = usize_of(live.run_end - live.plain).min(output.len() - filled);
            let written = live.step(&mut output[filled..filled + room], &self.origin)?;
            filled += written;
            live.plain += written as u64;
        }
        Ok(())
    }
}

impl DecoderTable {
    /// The parked decoder nearest before a place, if that is nearer than the checkpoint: which, and where it stands.
    fn nearest(&self, checkpoint: u64, place: u64) -> Option<(usize, u64)> {
        let places = self.parked.iter().map(|live| live.plain).enumerate();
        places
            .filter(|(_, plain)| (checkpoint..=place).contains(plain))
            .max_by_key(|(_, plain)| *plain)
    }

    fn take_nearest(&mut self, checkpoint: u64, place: u64) -> Option<Live> {
        let (number, _) = self.nearest(checkpoint, place)?;
        Some(self.parked.remove(number))
    }
}

impl Live {
    fn step(&mut self, output: &mut [u8], origin: &Origin) -> io::Result<usize> {
        let (written, ended) = match &mut self.decoder {
            Decoder::Gzip(decoder) => {
                let (written, mark) = decoder.step(output, false)?;
                (written, mark == gzip::Mark::End)
            }
            Decoder::Zstd(decoder) => {
                let (written, mark) = decoder.step(output)?;
                (written, mark == frames::Mark::End)
            }
        };
        if ended && written == 0 {
            return Err(origin.corrupt("it ends earlier than when it was indexed", 0));
        }
        Ok(written)
    }

    fn rest(&mut self) {
        match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.rest(),
            Decoder::Zstd(decoder) => decoder.rest(),
        }
    }
}

impl ReadAt for Compressed {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize_of(self.plain_bytes.saturating_sub(offset)));
        let mut read = 0;
        while read < wanted {
            let place = offset + read as u64;
            let page = self.page(place / self.chunk_bytes())?;
            let into = usize_of(place % self.chunk_bytes());
            // a page is never shorter than its chunk; if it were, this is no place to loop or to panic
            let Some(bytes) = page.get(into..).filter(|bytes| !bytes.is_empty()) else {
                return Err(io::Error::other("a page is too short"));
            };
            let count = bytes.len().min(wanted - read);
            buffer[read..read + count].copy_from_slice(&bytes[..count]);
            read += count;
        }
        Ok(read)
    }

    fn size_bytes(&self) -> u64 {
        self.plain_bytes
    }
}

/// What bytes of the stream file may be read as frames.
pub(crate) fn stored_part(base: Arc<dyn ReadAt>, data_end: u64) -> Part {
    debug_assert!(data_end >= HEADER_BYTES);
    Part {
        base,
        offset: 0,
        length: data_end,
    }
}

#[cfg(test)]
mod tests;
