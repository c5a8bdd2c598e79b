//! Blobs as streams that survive broken connections (distribution-spec, "Pulling blobs").
//!
//! ```text
//! open at offset ─► read … read ─► broken ─► wait ─► open at the new offset (Range; skipped where it is ignored) …
//! ```
//!
//! What arrives is counted, not verified: the caller hashes it anyway.

use std::io::{self, Read};

use ureq::BodyReader;

use super::Repository;
use crate::digest::Digest;
use crate::registry::RegistryError;
use crate::registry::error::Asked;
use crate::registry::retry::Patience;
use crate::registry::transport::{Answer, Call, broken};
use crate::registry::url::{Origin, Url};

/// The content of a blob; see [`Repository::blob`].
pub struct Blob {
    repository: Repository,
    asked: Asked,
    digest: Digest,
    /// Where it is, when that is not the repository.
    elsewhere: Option<Url>,
    /// Of the next byte, in the blob.
    position_bytes: u64,
    total_bytes: Option<u64>,
    body: Option<(BodyReader<'static>, Origin)>,
    patience: Patience,
    ended: bool,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} at {})", self.digest, self.position_bytes)
    }
}

impl Repository {
    /// A blob from an offset on. Reading goes on by itself after a broken connection. The digest is not verified.
    ///
    /// # Errors
    ///
    /// `read` gives a [`RegistryError`] inside its [`io::Error`].
    pub fn blob(&self, digest: &Digest, offset_bytes: u64) -> Result<Blob, RegistryError> {
        let asked = self.asked(&format!("get blob {digest} of"));
        self.open_blob(asked, digest, None, offset_bytes)
    }

    /// As [`Repository::blob`], of a foreign layer: from another place that its manifest names. Credentials go there only
    /// when it is the registry's own.
    pub fn blob_at(&self, address: &str, digest: &Digest, offset_bytes: u64) -> Result<Blob, RegistryError> {
        let asked = self.asked(&format!("get the foreign blob {digest} of"));
        let url = Url::parse(address).map_err(|problem| asked.wrong(problem))?;
        self.open_blob(asked, digest, Some(url), offset_bytes)
    }

    fn open_blob(
        &self,
        asked: Asked,
        digest: &Digest,
        elsewhere: Option<Url>,
        offset_bytes: u64,
    ) -> Result<Blob, RegistryError> {
        let mut blob = Blob {
            repository: self.clone(),
            asked,
            digest: *digest,
            elsewhere,
            position_bytes: offset_bytes,
            total_bytes: None,
            body: None,
            patience: self.patience(),
            ended: false,
        };
        while let Err(error) = blob.open() {
            blob.patience.after(error)?;
        }
        Ok(blob)
    }

    /// The size of a blob. None: the repository has no such blob.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let asked = self.asked(&format!("look for blob {digest} of"));
        let url = self.url(&format!("blobs/{digest}"), &asked)?;
        let Some(answer) = self.head(&url, &asked, None)? else {
            return Ok(None);
        };
        let length = answer.header("content-length").and_then(|text| text.parse().ok());
        let wrong = || asked.wrong("the registry has the blob but does not tell its size");
        length.map(Some).ok_or_else(wrong)
    }
}

impl Blob {
    /// The size of the whole blob, as the registry tells it.
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// Asks for the rest.
    fn open(&mut self) -> Result<(), RegistryError> {
        let from = self.position_bytes;
        let asked = &self.asked;
        let url = match &self.elsewhere {
            Some(url) => url.clone(),
            None => self.repository.url(&format!("blobs/{}", self.digest), asked)?,
        };
        let mut call = Call::get(url, asked);
        if from > 0 {
            call = call.header("range", format!("bytes={from}-"));
        }
        let answer = self.repository.ask(&call, &[200, 206, 416])?;
        let total = match answer.status {
            206 if from == 0 => {
                return Err(asked.wrong("the registry gives a part and was asked for the whole"));
            }
            206 => Some(part_total(&answer, from, asked)?),
            416 => return self.beyond(&answer),
            _ => answer.body.content_length(),
        };
        if let (Some(before), Some(total)) = (self.total_bytes, total)
            && before != total
        {
            let problem = format!("the blob had {before} bytes and now has {total}");
            return Err(asked.wrong(problem));
        }
        let is_whole = answer.status == 200;
        let origin = answer.url.origin.clone();
        let mut body = answer.body.into_reader();
        self.total_bytes = self.total_bytes.or(total);
        if is_whole && from > 0 {
            skip(&mut body, from).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof if total.is_some_and(|total| total < from) => {
                    asked.wrong(format!("the blob has fewer than {from} bytes"))
                }
                _ => broken(asked, &origin, error),
            })?;
        }
        self.body = Some((body, origin));
        Ok(())
    }

    /// The registry says that there is nothing from the position on: right, when that is the end.
    fn beyond(&mut self, answer: &Answer) -> Result<(), RegistryError> {
        let total = answer
            .header("content-range")
            .and_then(|range| range.trim().strip_prefix("bytes */")?.parse::<u64>().ok());
        if let (Some(before), Some(total)) = (self.total_bytes, total)
            && before != total
        {
            let problem = format!("the blob had {before} bytes and now has {total}");
            return Err(self.asked.wrong(problem));
        }
        if total.or(self.total_bytes) == Some(self.position_bytes) {
            self.total_bytes = Some(self.position_bytes);
            self.ended = true;
            return Ok(());
        }
        let from = self.position_bytes;
        Err(self
            .asked
            .wrong(format!("the blob has nothing from byte {from} on")))
    }

    /// Reads once from the open body.
    fn read_open(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        let Some((body, origin)) = &mut self.body else {
            return Ok(0);
        };
        let early = || io::Error::from(io::ErrorKind::UnexpectedEof);
        match body.read(buffer) {
            Ok(0) => match self.total_bytes {
                Some(total) if self.position_bytes < total => Err(broken(&self.asked, origin, early())),
                _ => {
                    self.ended = true;
                    self.body = None;
                    Ok(0)
                }
            },
            Ok(count) => {
                self.position_bytes += count as u64;
                if self.total_bytes.is_some_and(|total| self.position_bytes > total) {
                    return Err(self.asked.wrong("more arrives than the blob has"));
                }
                self.patience.progress();
                Ok(count)
            }
            Err(error) => Err(broken(&self.asked, origin, error)),
        }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.ended {
                return Ok(0);
            }
            let outcome = match self.body {
                Some(_) => self.read_open(buffer).map(Some),
                None => self.open().map(|()| None),
            };
            match outcome {
                Ok(Some(count)) => return Ok(count),
                Ok(None) => {}
                Err(error) => {
                    self.body = None;
                    self.patience.after(error).map_err(io::Error::other)?;
                }
            }
        }
    }
}

/// The blob's size, out of the range a registry says it gives (`bytes FROM-TO/TOTAL`).
fn part_total(answer: &Answer, from: u64, asked: &Asked) -> Result<u64, RegistryError> {
    let range = answer.header("content-range").unwrap_or_default();
    let wrong = || {
        let shown = crate::registry::error::clean(range);
        asked.wrong(format!(
            "the registry gives the range {shown:?} and was asked for all from {from} on"
        ))
    };
    let (start, end, total) = parse_range(range).ok_or_else(wrong)?;
    let length = answer.body.content_length();
    let whole = start == from && end.checked_add(1) == Some(total);
    let fits = length.is_none_or(|length| Some(length) == (end + 1).checked_sub(start));
    match whole && fits {
        true => Ok(total),
        false => Err(wrong()),
    }
}

fn parse_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, end.parse().ok()?, total.parse().ok()?);
    (start <= end && end < total).then_some((start, end, total))
}

/// Reads and drops.
fn skip(reader: &mut impl Read, count_bytes: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(count_bytes), &mut io::sink())? {
        skipped if skipped == count_bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_parsed() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 9, 10)));
        for wrong in [
            "",
            "bytes */10",
            "bytes 5-9/*",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes -1-5/9",
            "5-9/10",
        ] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_range_panics(text in "(bytes )?[0-9*/-]{0,50}") {
            let _ = parse_range(&text);
        }
    }
}
