//! The files of an archive or layout directory, by path.
//!
//! ```text
//! plain archive file ──► documents read, everything else remembered by its place
//! stream ──────────────► documents read, layers taken in, everything else staged
//! directory ───────────► opened by path, nothing outside it
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::describe::Documents;
use crate::archive::compression::{Compression, decompress, sniff};
use crate::archive::directory::Directory;
use crate::archive::member::{Kind, Member, Members, TarError, starts_tar};
use crate::error::ImageError;
use crate::ingest::{Ingested, ingest};
use crate::layer::path::clean;
use crate::manifest::DOCUMENT_LIMIT;
use crate::progress::{Bar, Progress};
use crate::store::{StagedBlob, Staging};

/// Most bytes of documents that are kept in memory.
const DOCUMENTS_LIMIT: u64 = 64 << 20;
/// Most files in an archive of images.
const FILES_LIMIT: usize = 100_000;
/// Most links followed from one name to another.
const LINKS_LIMIT: usize = 8;
/// So much of a file is looked at to know whether it is a layer.
const PEEK_BYTES: u64 = 64 << 10;

/// Where documents and blobs are found.
pub(super) enum Contents {
    /// Read from a tar stream, or lying in an archive file.
    Archive(Archive),
    /// Lying in a directory.
    Directory(Directory),
}

/// What an archive held.
#[derive(Default)]
pub(super) struct Archive {
    documents: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, Held>,
    links: BTreeMap<String, String>,
    documents_bytes: u64,
    /// The archive, when it is a file, and who counts what is read of it.
    lying: Option<(Arc<File>, Bar)>,
}

/// A file of an archive that is no document.
enum Held {
    /// A place in the archive file.
    Range { offset: u64, size_bytes: u64 },
    /// A layer.
    Ingested(Box<Ingested>),
    /// What looked like a layer and was none; the reason counts only when an image needs it.
    Refused(String),
    /// Something else.
    Staged(StagedBlob),
}

/// A layer that was looked for.
pub(super) enum Found<'a> {
    /// It was taken in when it passed.
    Ingested(&'a Ingested),
    /// It could not be.
    Refused(&'a str),
    /// It was kept as it is.
    Staged(&'a StagedBlob),
    /// It can be read.
    Lying(Box<dyn Read + Send + 'a>),
}

/// A stretch of a file; readers of one file do not disturb each other.
struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if count == 0 && wanted > 0 {
            let text = format!("archive is truncated after {} bytes", self.at);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// A closure for `map_err` that names the archive.
fn named(what: &str) -> impl Fn(TarError) -> ImageError {
    move |error| match error {
        TarError::Read(source) => ImageError::Io {
            action: "read",
            what: what.to_owned(),
            source,
        },
        TarError::Truncated(at) => ImageError::Invalid(format!("{what}: archive is truncated {at}")),
        error @ (TarError::Malformed { .. } | TarError::Record(_)) => {
            ImageError::Invalid(format!("{what}: {error}"))
        }
    }
}

impl Contents {
    /// Reads a tar stream to its end, plain or compressed.
    pub(super) fn from_stream(
        staging: &Staging,
        what: &str,
        stream: impl Read + Send,
    ) -> Result<Self, ImageError> {
        let (compression, stream) = sniff(stream).map_err(ImageError::io("read", what))?;
        let plain = decompress(compression, stream).map_err(ImageError::io("decompress", what))?;
        let mut members = Members::new(plain);
        let mut archive = Archive::default();
        while let Some(member) = members.next().map_err(named(what))? {
            let Some(path) = archive.note(what, &member)? else {
                continue;
            };
            let held = archive
                .read(staging, &path, &mut members)
                .map_err(|error| match error {
                    ImageError::Io { action, source, .. } => ImageError::Io {
                        action,
                        what: format!("{what}: {path}"),
                        source,
                    },
                    error => error,
                })?;
            if let Some(held) = held {
                archive.files.insert(path, held);
            }
        }
        members.finish().map_err(named(what))?;
        Ok(Self::Archive(archive))
    }

    /// Looks through an archive that is a file.
    pub(super) fn from_file(
        staging: &Staging,
        what: &str,
        mut file: File,
        progress: &Progress,
    ) -> Result<Self, ImageError> {
        let failed = || ImageError::io("read", what);
        let base = file.stream_position().map_err(failed())?;
        let length = file.metadata().map_err(failed())?.len();
        let bar = progress.bytes("Loading", Some(length.saturating_sub(base)));
        let mut start = [0; 16];
        let known = file.read_at(&mut start, base).map_err(failed())?;
        if Compression::detect(&start[..known]) != Compression::None {
            return Self::from_stream(staging, what, bar.wrap(file));
        }
        let reader = file.try_clone().map_err(failed())?;
        let mut members = Members::new(BufReader::new(reader));
        let mut archive = Archive::default();
        while let Some(member) = members.next().map_err(named(what))? {
            let offset = base + members.offset();
            let size_bytes = members.remaining();
            if let Some(path) = archive.note(what, &member)?
                && archive.document(&path, &mut members)?.is_some()
            {
                archive.files.insert(path, Held::Range { offset, size_bytes });
            }
            members.seek_over().map_err(named(what))?;
        }
        archive.lying = Some((Arc::new(file), bar));
        Ok(Self::Archive(archive))
    }

    /// Uses a layout directory.
    pub(super) fn from_directory(path: &Path) -> Result<Self, ImageError> {
        Ok(Self::Directory(Directory::open(path)?))
    }

    /// A file that serves as a layer.
    pub(super) fn layer(&self, path: &str) -> Result<Found<'_>, ImageError> {
        let missing = || ImageError::Invalid(format!("{path} is not in the archive"));
        match self {
            Self::Archive(archive) => {
                let path = archive.resolve(path);
                if let Some(bytes) = archive.documents.get(&path) {
                    return Ok(Found::Lying(Box::new(bytes.as_slice())));
                }
                Ok(match archive.files.get(&path).ok_or_else(missing)? {
                    Held::Ingested(ingested) => Found::Ingested(ingested),
                    Held::Refused(reason) => Found::Refused(reason),
                    Held::Staged(blob) => Found::Staged(blob),
                    Held::Range { offset, size_bytes } => {
                        let (file, bar) = archive.lying.as_ref().ok_or_else(missing)?;
                        let range = Range {
                            file: Arc::clone(file),
                            at: *offset,
                            end: offset + size_bytes,
                        };
                        Found::Lying(bar.wrap(range))
                    }
                })
            }
            Self::Directory(directory) => {
                let file = directory.file(path)?.ok_or_else(missing)?;
                Ok(Found::Lying(Box::new(file)))
            }
        }
    }
}

impl Documents for Contents {
    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match self {
            Self::Archive(archive) => {
                let path = archive.resolve(path);
                if archive.files.contains_key(&path) {
                    let text = format!("{path} is no JSON document, or larger than {DOCUMENT_LIMIT} bytes");
                    return Err(ImageError::Invalid(text));
                }
                Ok(archive.documents.get(&path).cloned())
            }
            Self::Directory(directory) => directory.document(path),
        }
    }
}

impl Archive {
    /// Takes note of a member; gives the path of a file whose content counts.
    fn note(&mut self, what: &str, member: &Member) -> Result<Option<String>, ImageError> {
        let shown = String::from_utf8_lossy(&member.path);
        let path = clean(&member.path).and_then(|path| String::from_utf8(path).ok());
        let Some(path) = path else {
            return Err(ImageError::Invalid(format!(
                "{what}: {shown:?} leads outside the archive"
            )));
        };
        if self.documents.len() + self.files.len() + self.links.len() >= FILES_LIMIT {
            return Err(ImageError::Invalid(format!(
                "{what}: more than {FILES_LIMIT} files"
            )));
        }
        match member.kind {
            Kind::Regular if member.segments.is_some() => {
                Err(ImageError::Invalid(format!("{what}: {shown:?} is a sparse file")))
            }
            Kind::Regular => {
                self.documents.remove(&path);
                self.files.remove(&path);
                self.links.remove(&path);
                Ok(Some(path))
            }
            Kind::Symlink | Kind::HardLink => {
                self.link(&path, &member.link, member.kind);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Keeps a file in memory when it is a JSON document; otherwise gives what was read of it.
    fn document<R: Read>(
        &mut self,
        path: &str,
        members: &mut Members<R>,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let size = members.remaining();
        let mut start = Vec::new();
        if size > DOCUMENT_LIMIT || self.documents_bytes + size > DOCUMENTS_LIMIT {
            return Ok(Some(start));
        }
        members
            .take(1)
            .read_to_end(&mut start)
            .map_err(ImageError::io("read", path))?;
        if !matches!(start.first(), Some(b'{' | b'[')) {
            return Ok(Some(start));
        }
        members
            .read_to_end(&mut start)
            .map_err(ImageError::io("read", path))?;
        if serde_json::from_slice::<serde::de::IgnoredAny>(&start).is_err() {
            return Ok(Some(start));
        }
        self.documents_bytes += size;
        self.documents.insert(path.to_owned(), start);
        Ok(None)
    }

    /// Takes in a file of a stream: a document stays in memory, a layer is taken in, anything else is staged.
    fn read<R: Read + Send>(
        &mut self,
        staging: &Staging,
        path: &str,
        members: &mut Members<R>,
    ) -> Result<Option<Held>, ImageError> {
        let Some(mut start) = self.document(path, members)? else {
            return Ok(None);
        };
        members
            .take(PEEK_BYTES.saturating_sub(start.len() as u64))
            .read_to_end(&mut start)
            .map_err(ImageError::io("read", path))?;
        let is_layer = looks_like_layer(&start);
        let mut whole = start.chain(members);
        if !is_layer {
            let mut blob = staging.new_blob()?;
            io::copy(&mut whole, &mut blob).map_err(ImageError::io("read", path))?;
            return Ok(Some(Held::Staged(blob.finish()?)));
        }
        match ingest(staging, path, whole) {
            Ok(ingested) => Ok(Some(Held::Ingested(Box::new(ingested)))),
            Err(error @ (ImageError::Store(_) | ImageError::Io { .. })) => Err(error),
            Err(error) => Ok(Some(Held::Refused(told(&error)))),
        }
    }

    /// Notes a link: old Docker archives use them for layers that come twice.
    fn link(&mut self, path: &str, target: &[u8], kind: Kind) {
        let from = match (kind, path.rsplit_once('/')) {
            (Kind::Symlink, Some((parent, _))) => format!("{parent}/"),
            _ => String::new(),
        };
        let joined = [from.as_bytes(), target].concat();
        if let Some(target) = clean(&joined).and_then(|target| String::from_utf8(target).ok()) {
            self.links.insert(path.to_owned(), target);
        }
    }

    fn resolve(&self, path: &str) -> String {
        let mut path = clean(path.as_bytes())
            .and_then(|path| String::from_utf8(path).ok())
            .unwrap_or_default();
        for _ in 0..LINKS_LIMIT {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        path
    }
}

/// Whether a file that starts so is a tar archive, plain or compressed.
fn looks_like_layer(start: &[u8]) -> bool {
    let mut block = [0; 512];
    let compression = Compression::detect(start);
    decompress(compression, start)
        .and_then(|mut plain| plain.read_exact(&mut block))
        .is_ok_and(|()| starts_tar(&block))
}

/// An error with its causes on one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
