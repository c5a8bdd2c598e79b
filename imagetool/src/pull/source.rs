//! The bytes of one layer: what an earlier try left, then what the registry sends; hashed and kept on the way.
//!
//! ```text
//! ROOT/downloads/HEX ──► read again ─┐
//!                                    ├──► hash, count ──► whoever takes the layer in
//! registry, from there on ──► kept ──┘
//! ```

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::registry::RegistryError;
use crate::store::Download;
use crate::transfer::{Row, TransferError};

/// Opens the layer at the registry from an offset on.
pub(super) type Open<'a> = dyn Fn(u64) -> Result<Box<dyn Read + Send>, TransferError> + Sync + 'a;

/// A layer that is read once, from its beginning to its end.
pub(super) struct Source<'a> {
    what: &'a str,
    download: &'a mut Download,
    /// So much of the download is still to be read.
    kept_bytes: u64,
    network: Option<Box<dyn Read + Send>>,
    open: &'a Open<'a>,
    hasher: Sha256,
    at_bytes: u64,
    size_bytes: u64,
    row: &'a Row<'a>,
    /// Another layer failed: there is no use in going on.
    stopped: &'a AtomicBool,
    error: Option<TransferError>,
}

impl<'a> Source<'a> {
    /// Begins with what the download has, which is at most `size_bytes`.
    pub(super) fn new(
        what: &'a str,
        download: &'a mut Download,
        size_bytes: u64,
        open: &'a Open<'a>,
        row: &'a Row<'a>,
        stopped: &'a AtomicBool,
    ) -> Result<Self, StoreError> {
        if download.length_bytes() > size_bytes {
            download.restart()?;
        }
        download.rewind()?;
        row.begin("Downloading", size_bytes);
        row.skip(download.length_bytes());
        Ok(Self {
            what,
            kept_bytes: download.length_bytes(),
            download,
            network: None,
            open,
            hasher: Sha256::new(),
            at_bytes: 0,
            size_bytes,
            row,
            stopped,
            error: None,
        })
    }

    /// What kept it from going on.
    pub(super) fn take_error(&mut self) -> Option<TransferError> {
        self.error.take()
    }

    /// Reads what nobody wanted; gives the digest of everything.
    pub(super) fn finish(mut self) -> Result<Digest, TransferError> {
        if let Err(error) = io::copy(&mut self, &mut io::sink()) {
            let text = || TransferError::Invalid(format!("{}: {error}", self.what));
            return Err(self.error.take().unwrap_or_else(text));
        }
        Ok(Digest::from(<[u8; 32]>::from(self.hasher.finalize())))
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, TransferError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(TransferError::Invalid(format!("{}: stopped", self.what)));
        }
        if self.kept_bytes > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(self.kept_bytes).unwrap_or(usize::MAX));
            let count = self
                .download
                .read(&mut buffer[..wanted])
                .map_err(StoreError::io("read", self.download.path()))?;
            if count > 0 {
                self.kept_bytes -= count as u64;
                return Ok(count);
            }
            return Err(TransferError::Invalid(format!(
                "{}: {} became shorter while it was read",
                self.what,
                self.download.path().display()
            )));
        }
        if self.network.is_none() {
            if self.at_bytes == self.size_bytes {
                return Ok(0); // all of it was there
            }
            self.network = Some((self.open)(self.at_bytes)?);
        }
        let Some(network) = &mut self.network else {
            return Ok(0);
        };
        let count = loop {
            match network.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(transfer_error(self.what, error)),
                Ok(count) => break count,
            }
        };
        if count == 0 && self.at_bytes < self.size_bytes {
            return Err(TransferError::Invalid(format!(
                "{}: the registry sent {} of {} bytes",
                self.what, self.at_bytes, self.size_bytes
            )));
        }
        if count as u64 > self.size_bytes - self.at_bytes {
            return Err(TransferError::Invalid(format!(
                "{}: the registry sends more than the {} bytes that the manifest says",
                self.what, self.size_bytes
            )));
        }
        self.download
            .write_all(&buffer[..count])
            .map_err(StoreError::io("write", self.download.path()))?;
        self.row.add(count as u64);
        Ok(count)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.error.is_some() {
            return Err(io::Error::other("failed before"));
        }
        match self.next(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                self.at_bytes += count as u64;
                if count > 0 && self.at_bytes == self.size_bytes {
                    self.row.note("Download complete");
                    self.row.label("Extracting");
                }
                Ok(count)
            }
            Err(error) => {
                let text = error.to_string();
                self.error = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}

/// The registry's error that a failed read carries.
pub(super) fn transfer_error(what: &str, error: io::Error) -> TransferError {
    match error.downcast::<RegistryError>() {
        Ok(error) => error.into(),
        Err(error) => TransferError::Invalid(format!("{what}: {error}")),
    }
}
