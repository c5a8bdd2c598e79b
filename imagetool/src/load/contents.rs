//! The files of an archive or layout directory, by path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::describe::Documents;
use crate::archive::compression::{decompress, sniff};
use crate::archive::member::{Kind, Members, TarError};
use crate::error::ImageError;
use crate::manifest::DOCUMENT_LIMIT;
use crate::store::{StagedBlob, Staging};
use crate::unpack::clean_name;

/// Most bytes of documents that are kept in memory.
const DOCUMENTS_LIMIT: u64 = 64 << 20;
/// Most files in an archive of images.
const FILES_LIMIT: usize = 100_000;
/// Most links followed from one name to another.
const LINKS_LIMIT: usize = 8;

/// Where documents and blobs are found.
pub(super) enum Contents {
    /// Read from a tar stream.
    Archive(Archive),
    /// Lying in a directory.
    Directory(PathBuf),
}

/// What a tar stream held.
#[derive(Default)]
pub(super) struct Archive {
    documents: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, StagedBlob>,
    links: BTreeMap<String, String>,
}

impl Contents {
    /// Reads a tar stream to its end, plain or compressed.
    pub(super) fn from_archive(
        staging: &Staging,
        what: &str,
        stream: impl Read + Send,
    ) -> Result<Self, ImageError> {
        let (compression, stream) = sniff(stream).map_err(ImageError::io("read", what))?;
        let plain = decompress(compression, stream).map_err(ImageError::io("decompress", what))?;
        let mut members = Members::new(plain);
        let mut archive = Archive::default();
        let mut documents_bytes = 0;
        let named = |error: TarError| match error {
            TarError::Read(source) => ImageError::Io {
                action: "read",
                what: what.to_owned(),
                source,
            },
            TarError::Truncated(at) => ImageError::Invalid(format!("{what}: archive is truncated {at}")),
            error @ (TarError::Malformed { .. } | TarError::Record(_)) => {
                ImageError::Invalid(format!("{what}: {error}"))
            }
        };
        while let Some(member) = members.next().map_err(named)? {
            let shown = String::from_utf8_lossy(&member.path).into_owned();
            let path = clean_name(&member.path).and_then(|path| String::from_utf8(path).ok());
            let Some(path) = path else {
                return Err(ImageError::Invalid(format!(
                    "{what}: {shown:?} leads outside the archive"
                )));
            };
            if archive.documents.len() + archive.blobs.len() + archive.links.len() >= FILES_LIMIT {
                return Err(ImageError::Invalid(format!(
                    "{what}: more than {FILES_LIMIT} files"
                )));
            }
            match member.kind {
                Kind::Regular if member.segments.is_some() => {
                    return Err(ImageError::Invalid(format!("{what}: {shown:?} is a sparse file")));
                }
                Kind::Regular => archive
                    .take(staging, &path, &mut members, &mut documents_bytes)
                    .map_err(|error| match error {
                        ImageError::Io { action, source, .. } => ImageError::Io {
                            action,
                            what: format!("{what}: {path}"),
                            source,
                        },
                        error => error,
                    })?,
                Kind::Symlink | Kind::HardLink => archive.link(&path, &member.link, member.kind),
                _ => {}
            }
        }
        members.finish().map_err(named)?;
        Ok(Self::Archive(archive))
    }

    /// Uses a layout directory.
    pub(super) fn from_directory(path: &Path) -> Self {
        Self::Directory(path.to_owned())
    }

    /// The staged blob of a file.
    pub(super) fn blob(&self, staging: &Staging, path: &str) -> Result<StagedBlob, ImageError> {
        let missing = || ImageError::Invalid(format!("{path} is not in the archive"));
        match self {
            Self::Archive(archive) => {
                let path = archive.resolve(path);
                if let Some(bytes) = archive.documents.get(&path) {
                    return Ok(staging.add_blob(bytes)?);
                }
                archive.blobs.get(&path).cloned().ok_or_else(missing)
            }
            Self::Directory(root) => {
                let mut file = open_regular(&root.join(path))?.ok_or_else(missing)?;
                let mut blob = staging.new_blob()?;
                io::copy(&mut file, &mut blob).map_err(ImageError::io("copy", path))?;
                Ok(blob.finish()?)
            }
        }
    }
}

impl Documents for Contents {
    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match self {
            Self::Archive(archive) => {
                let path = archive.resolve(path);
                if archive.blobs.contains_key(&path) {
                    let text = format!("{path} is no JSON document, or larger than {DOCUMENT_LIMIT} bytes");
                    return Err(ImageError::Invalid(text));
                }
                Ok(archive.documents.get(&path).cloned())
            }
            Self::Directory(root) => {
                let Some(file) = open_regular(&root.join(path))? else {
                    return Ok(None);
                };
                let mut bytes = Vec::new();
                file.take(DOCUMENT_LIMIT + 1)
                    .read_to_end(&mut bytes)
                    .map_err(ImageError::io("read", path))?;
                if bytes.len() as u64 > DOCUMENT_LIMIT {
                    return Err(ImageError::Invalid(format!(
                        "{path} is larger than {DOCUMENT_LIMIT} bytes"
                    )));
                }
                Ok(Some(bytes))
            }
        }
    }
}

impl Archive {
    /// Takes in a file: a JSON document stays in memory, everything else becomes a staged blob.
    fn take<R: Read>(
        &mut self,
        staging: &Staging,
        path: &str,
        members: &mut Members<R>,
        documents_bytes: &mut u64,
    ) -> Result<(), ImageError> {
        self.links.remove(path);
        let size = members.remaining();
        let mut start = Vec::new();
        if size <= DOCUMENT_LIMIT && *documents_bytes + size <= DOCUMENTS_LIMIT {
            members
                .take(1)
                .read_to_end(&mut start)
                .map_err(ImageError::io("read", path))?;
            if matches!(start.first(), Some(b'{' | b'[')) {
                members
                    .read_to_end(&mut start)
                    .map_err(ImageError::io("read", path))?;
                if serde_json::from_slice::<serde::de::IgnoredAny>(&start).is_ok() {
                    *documents_bytes += size;
                    self.blobs.remove(path);
                    self.documents.insert(path.to_owned(), start);
                    return Ok(());
                }
            }
        }
        let mut blob = staging.new_blob()?;
        io::copy(&mut start.chain(members), &mut blob).map_err(ImageError::io("read", path))?;
        self.documents.remove(path);
        self.blobs.insert(path.to_owned(), blob.finish()?);
        Ok(())
    }

    /// Notes a link: old Docker archives use them for layers that come twice.
    fn link(&mut self, path: &str, target: &[u8], kind: Kind) {
        let from = match (kind, path.rsplit_once('/')) {
            (Kind::Symlink, Some((parent, _))) => format!("{parent}/"),
            _ => String::new(),
        };
        let joined = [from.as_bytes(), target].concat();
        if let Some(target) = clean_name(&joined).and_then(|target| String::from_utf8(target).ok()) {
            self.links.insert(path.to_owned(), target);
        }
    }

    fn resolve(&self, path: &str) -> String {
        let mut path = clean_name(path.as_bytes())
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

/// Opens a regular file; never hangs on a pipe. `None` when it is not there.
fn open_regular(path: &Path) -> Result<Option<File>, ImageError> {
    let shown = path.display().to_string();
    match File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) => {
            let metadata = file
                .metadata()
                .map_err(ImageError::io("look at", shown.clone()))?;
            if !metadata.is_file() {
                return Err(ImageError::Invalid(format!("{shown} is no regular file")));
            }
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("open", shown)(error)),
    }
}
