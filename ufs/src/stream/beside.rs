//! What a pass does beside decompression: bytes in order, hashed on their way by threads of their own.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use sha2::{Digest, Sha256 as Hasher};

use super::file::{Part, failed, usize_of};
use super::{ReadAt, StreamError};
use crate::index::Sha256;

/// Blocks on their way to one of the threads beside.
pub(crate) const QUEUE_LENGTH: usize = 4;

/// A thread that hashes what it is sent.
pub(crate) fn hashing<T: Send + 'static>(
    name: &str,
    bytes: fn(&T) -> &[u8],
) -> Result<(SyncSender<T>, JoinHandle<Sha256>), StreamError> {
    let (sender, receiver): (_, Receiver<T>) = sync_channel(QUEUE_LENGTH);
    let thread = spawn(name, move || {
        let mut hasher = Hasher::new();
        for item in receiver {
            hasher.update(bytes(&item));
        }
        hasher.finalize().into()
    })?;
    Ok((sender, thread))
}

pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StreamError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| failed(name.as_ref(), "starting a thread", error))
}

pub(crate) fn joined<T>(
    (sender, thread): (SyncSender<T>, JoinHandle<Sha256>),
) -> Result<Sha256, StreamError> {
    drop(sender);
    thread.join().map_err(|_| lost_thread())
}

pub(crate) fn lost_thread() -> StreamError {
    failed(
        "indexing".as_ref(),
        "waiting for a thread",
        io::Error::other("it ended unexpectedly"),
    )
}

/// The compressed bytes in order; shared, since decoders own their reader and what follows them has to be hashed too.
pub(crate) type Tee = Arc<Mutex<TeeReader>>;

/// A part of something, read in order.
pub(crate) struct PartReader {
    pub(crate) part: Part,
    pub(crate) at: u64,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.part.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The compressed bytes, at most as many as the slice has, hashed on their way.
pub(crate) struct TeeReader {
    pub(crate) reader: Box<dyn Read + Send>,
    /// Bytes of the slice that were not read yet.
    pub(crate) left: u64,
    pub(crate) hash: Option<(SyncSender<Vec<u8>>, JoinHandle<Sha256>)>,
}

impl Read for TeeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize_of(self.left));
        let read = self.reader.read(&mut buffer[..wanted])?;
        self.left -= read as u64;
        if let Some((hash, _)) = &self.hash
            && read != 0
        {
            hash.send(buffer[..read].to_vec()).map_err(|_| lost_thread())?;
        }
        Ok(read)
    }
}

/// A handle of the compressed bytes.
pub(crate) struct Source(pub(crate) Tee);

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().read(buffer)
    }
}
