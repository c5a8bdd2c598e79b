//! Blobs into a registry (distribution-spec, "Pushing blobs").
//!
//! ```text
//! POST ─► location ─► PUT location?digest=…           whole
//!                  └► PATCH … PATCH ─► PUT ?digest=…  in parts; a broken one goes on where the registry says it is
//! ```

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::http::Method;

use super::Repository;
use crate::digest::Digest;
use crate::registry::RegistryError;
use crate::registry::error::Asked;
use crate::registry::token::Scope;
use crate::registry::transport::{Answer, Call, Payload};
use crate::registry::url::{Scheme, Url, encode};

/// What a registry answered to the wish to mount a blob from another repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// The blob is there now.
    Done,
    /// The registry did not: the blob is to be uploaded. What the registry began for it is used by
    /// [`Repository::upload_blob`].
    Refused,
}

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upload {
    /// In one request.
    #[default]
    Whole,
    /// In parts of this many bytes, each of which can be repeated.
    Chunked(u64),
}

/// The content of a blob, once per attempt.
type Open<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>;

/// What is sent, and for whom the messages are.
struct Sending<'a> {
    digest: &'a Digest,
    size_bytes: u64,
    open: Open<'a>,
    asked: &'a Asked,
}

impl Repository {
    /// Asks the registry to take a blob over from another of its repositories.
    pub fn mount_blob(&self, digest: &Digest, from: &str) -> Result<Mounted, RegistryError> {
        let asked = self.asked(&format!("mount blob {digest} of {from} into"));
        let rest = format!(
            "blobs/uploads/?mount={}&from={}",
            encode(&digest.to_string()),
            encode(from)
        );
        let url = self.url(&rest, &asked)?;
        let scopes = [Scope::push(&self.name), Scope::pull(from)];
        let answer = self.patience().run(|| {
            let call = Call::new(Method::POST, url.clone(), &asked).payload(Payload::Bytes(&[]));
            self.ask_for(&call, &scopes, &[201, 202])
        });
        let answer = match answer {
            // who may not read there can still upload here
            Err(
                RegistryError::Status {
                    status: 400..=499, ..
                }
                | RegistryError::Denied { .. },
            ) => {
                return Ok(Mounted::Refused);
            }
            other => other?,
        };
        if answer.status == 201 {
            return Ok(Mounted::Done);
        }
        if let Ok(location) = location(&answer, &asked) {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.insert(*digest, location);
        }
        Ok(Mounted::Refused)
    }

    /// Uploads a blob. `open` gives its content from the beginning, once per attempt.
    pub fn upload_blob(
        &self,
        digest: &Digest,
        size_bytes: u64,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
        method: Upload,
    ) -> Result<(), RegistryError> {
        let asked = self.asked(&format!("put blob {digest} into"));
        let sending = Sending {
            digest,
            size_bytes,
            open,
            asked: &asked,
        };
        match method {
            Upload::Chunked(part_bytes) if part_bytes < size_bytes => {
                self.upload_parts(&sending, part_bytes.max(1))
            }
            _ => self.upload_whole(&sending),
        }
    }

    fn upload_whole(&self, sending: &Sending<'_>) -> Result<(), RegistryError> {
        let mut begun = self.take_begun(sending.digest);
        self.patience().run(|| {
            let reused = begun.is_some();
            let url = match begun.take() {
                Some(url) => url,
                None => self.begin(sending.asked)?,
            };
            let payload = Payload::Stream {
                open: sending.open,
                length_bytes: sending.size_bytes,
            };
            match self.finish(sending, &url, payload) {
                // what a mount has begun may be gone meanwhile
                Err(error) if reused && error.is_not_found() => {
                    let url = self.begin(sending.asked)?;
                    let payload = Payload::Stream {
                        open: sending.open,
                        length_bytes: sending.size_bytes,
                    };
                    self.finish(sending, &url, payload)
                }
                other => other,
            }
        })
    }

    /// Sends part after part. After a failure the registry is asked how much it has.
    fn upload_parts(&self, sending: &Sending<'_>, part_bytes: u64) -> Result<(), RegistryError> {
        let mut patience = self.patience();
        let mut url = self.take_begun(sending.digest);
        let (mut sent_bytes, mut furthest_bytes) = (0, 0);
        let content = Content::new(sending.open);
        loop {
            let outcome = self.next_part(sending, &content, part_bytes, &mut url, &mut sent_bytes);
            match outcome {
                Ok(true) => return Ok(()),
                // a part that was sent before is no progress: else this might go on for ever
                Ok(false) if sent_bytes > furthest_bytes => {
                    furthest_bytes = sent_bytes;
                    patience.progress();
                }
                Ok(false) => {}
                Err(error) => {
                    // an upload that the registry forgot, or whose parts it counts otherwise, begins anew
                    let lost = matches!(
                        &error,
                        RegistryError::Status {
                            status: 404 | 416,
                            ..
                        }
                    );
                    match lost && (sent_bytes > 0 || url.is_some()) {
                        true => patience.after(transient(error))?,
                        false => patience.after(error)?,
                    }
                    let known = url.take_if(|_| !lost);
                    (url, sent_bytes) = match known.and_then(|url| self.progress(&url, sending)) {
                        Some((url, has_bytes)) => (Some(url), has_bytes),
                        None => (None, 0),
                    };
                }
            }
        }
    }

    /// One step of an upload in parts; true when it was the last.
    fn next_part(
        &self,
        sending: &Sending<'_>,
        content: &Content<'_>,
        part_bytes: u64,
        url: &mut Option<Url>,
        sent_bytes: &mut u64,
    ) -> Result<bool, RegistryError> {
        let at = match url {
            Some(url) => url.clone(),
            None => self.begin(sending.asked)?,
        };
        *url = Some(at.clone());
        if *sent_bytes >= sending.size_bytes {
            self.finish(sending, &at, Payload::Bytes(&[]))?;
            return Ok(true);
        }
        let from = *sent_bytes;
        let length_bytes = part_bytes.min(sending.size_bytes - from);
        let open = || content.at(from);
        let call = Call::new(Method::PATCH, at, sending.asked)
            .header("content-type", "application/octet-stream")
            .header("content-range", format!("{from}-{}", from + length_bytes - 1))
            .payload(Payload::Stream {
                open: &open,
                length_bytes,
            });
        let answer = self.ask_to_write(&call, &[202])?;
        *url = Some(location(&answer, sending.asked)?);
        let expected = from + length_bytes;
        match answer.header("range").map(received) {
            // a single byte reads as none
            Some(Some(has)) if has != expected && (has, expected) != (0, 1) => {
                let problem = format!("the registry has {has} bytes after {expected} were sent");
                Err(sending.asked.wrong(problem))
            }
            _ => {
                *sent_bytes = expected;
                Ok(false)
            }
        }
    }

    /// How much of an upload the registry has; `None` when it cannot tell.
    fn progress(&self, url: &Url, sending: &Sending<'_>) -> Option<(Url, u64)> {
        let call = Call::get(url.clone(), sending.asked);
        let answer = self.ask_to_write(&call, &[204]).ok()?;
        let has_bytes = received(answer.header("range")?)?;
        let url = location(&answer, sending.asked).unwrap_or_else(|_| url.clone());
        (has_bytes <= sending.size_bytes).then_some((url, has_bytes))
    }

    /// Begins an upload: gives where it goes.
    fn begin(&self, asked: &Asked) -> Result<Url, RegistryError> {
        let url = self.url("blobs/uploads/", asked)?;
        let call = Call::new(Method::POST, url, asked).payload(Payload::Bytes(&[]));
        location(&self.ask_to_write(&call, &[202])?, asked)
    }

    /// Sends the last of an upload and the digest; the registry verifies it.
    fn finish(&self, sending: &Sending<'_>, url: &Url, payload: Payload<'_>) -> Result<(), RegistryError> {
        let url = url.with("digest", &sending.digest.to_string());
        let call = Call::new(Method::PUT, url, sending.asked)
            .header("content-type", "application/octet-stream")
            .payload(payload);
        self.ask_to_write(&call, &[200, 201, 204]).map(|_| ())
    }

    fn take_begun(&self, digest: &Digest) -> Option<Url> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.remove(digest)
    }
}

/// Where an upload goes on.
fn location(answer: &Answer, asked: &Asked) -> Result<Url, RegistryError> {
    let address = answer
        .header("location")
        .ok_or_else(|| asked.wrong("the registry does not say where the upload goes"))?;
    let wrong = |problem: String| {
        asked.wrong(format!(
            "the registry says that the upload goes where it cannot: {problem}"
        ))
    };
    let url = answer.url.join(address).map_err(wrong)?;
    if (answer.url.origin.scheme, url.origin.scheme) == (Scheme::Https, Scheme::Http) {
        return Err(wrong(format!("from HTTPS to plain HTTP ({url})")));
    }
    Ok(url)
}

/// The bytes a registry has, out of `0-LAST`. An upload without any is told as `0-0`, as is one of a single byte: the
/// former is more likely, and sending a byte twice is refused, not wrong.
fn received(range: &str) -> Option<u64> {
    let (start, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    match start.parse::<u64>().ok()? {
        0 if last == 0 => Some(0),
        0 => last.checked_add(1),
        _ => None,
    }
}

/// A failure that a new beginning may heal.
fn transient(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Status {
            asked,
            message,
            status,
            ..
        } => RegistryError::Transport {
            asked,
            problem: format!("{message} (HTTP status {status})"),
            transient: true,
        },
        other => other,
    }
}

/// Content that is read part after part: opened again only to go back.
struct Content<'a> {
    open: Open<'a>,
    place: Arc<Mutex<Option<Place>>>,
}

/// An open content and how much of it is read.
struct Place {
    reader: Box<dyn Read + Send>,
    position_bytes: u64,
}

impl<'a> Content<'a> {
    fn new(open: Open<'a>) -> Self {
        Self {
            open,
            place: Arc::default(),
        }
    }

    /// The content from an offset on.
    fn at(&self, from: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.as_ref().is_none_or(|place| place.position_bytes != from) {
            let mut reader = (self.open)()?;
            let skipped = io::copy(&mut reader.by_ref().take(from), &mut io::sink())?;
            if skipped != from {
                let problem = format!("it ends after {skipped} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
            }
            *place = Some(Place {
                reader,
                position_bytes: from,
            });
        }
        Ok(Box::new(Part(self.place.clone())))
    }
}

/// Reads on where the content is.
struct Part(Arc<Mutex<Option<Place>>>);

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(place) => {
                let count = place.reader.read(buffer)?;
                place.position_bytes += count as u64;
                Ok(count)
            }
            None => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_understood() {
        for (range, bytes) in [
            ("0-0", Some(0)),
            ("0-99", Some(100)),
            ("bytes=0-9", Some(10)),
            ("5-9", None),
            ("x", None),
        ] {
            assert_eq!(received(range), bytes, "{range}");
        }
    }

    #[test]
    fn content_is_opened_anywhere() {
        let opened = std::cell::Cell::new(0);
        let open = || -> io::Result<Box<dyn Read + Send>> {
            opened.set(opened.get() + 1);
            Ok(Box::new(&b"abcdef"[..]))
        };
        let content = Content::new(&open);
        let read = |from, count| {
            content
                .at(from)
                .and_then(|part| io::read_to_string(part.take(count)))
        };
        assert_eq!(read(0, 2).unwrap(), "ab");
        assert_eq!(read(2, 3).unwrap(), "cde");
        assert_eq!(opened.get(), 1);
        assert_eq!(read(4, 9).unwrap(), "ef");
        assert_eq!(opened.get(), 2);
        assert!(read(9, 1).is_err());
    }
}
