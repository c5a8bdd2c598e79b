//! A container's changes become a layer of the store, with no tar archive in between.
//!
//! ```text
//! changes ──► threads: take each content at one moment, hash it, stage it as an object
//!                 │ in order
//!                 └──► caller: tree (index) + pack
//!                              headers, padding ──► recipe ──┐
//!                              contents ─────────────────────┴──► hash of the tar stream: the diff id
//! ```
//!
//! The tar stream is never written: its bytes are hashed as they would be, and the recipe notes how to make it again.
//! What the tree is told of a file is what a reader of that stream would tell it, so that the layer is the same as if it
//! had been saved and loaded. Nothing is moved out of the upper, which stays in use. Memory is bounded: small contents
//! wait for their turn, of large ones only the digest.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use ufs::diff::{Change, Snapshot};
use ufs::index::ContentId;
use ufs::layer::{Content, Merged};
use ufs::sha256::{Sha256, update_both};

use crate::archive::hashed::Hashed;
use crate::archive::member::{Kind, Member};
use crate::archive::write::Writer;
use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::layer::contents::{Contents, Copied, Taken};
use crate::layer::recipe::RecipeWriter;
use crate::layer::writer::LayerWriter;
use crate::layer::{LayerError, members};
use crate::layer_tar::moment::{Moment, at_one_moment, pieces, watched};
use crate::layer_tar::{Entry, Names, entries, open};
use crate::parallel::in_order;
use crate::progress::Bar;
use crate::store::{StagedLayer, Staging};

/// So many files may be taken before it is their turn.
const FILES_AHEAD: usize = 256;
/// Size of the buffer through which large contents are hashed once more.
const BUFFER_BYTES: usize = 256 << 10;

/// A layer with what a manifest says of it.
#[derive(Debug)]
pub(super) struct NewLayer {
    /// The layer, staged.
    pub(super) staged: StagedLayer,
    /// The length of its tar stream.
    pub(super) tar_bytes: u64,
}

/// The tar stream: hashed, and noted in the recipe. What is written is literal bytes.
struct Stream {
    hasher: Sha256,
    recipe: RecipeWriter,
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.recipe.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.recipe.flush()
    }
}

/// What became of an entry's content.
enum Outcome {
    /// It has none of its own.
    None,
    /// The file is gone.
    Gone,
    /// What it holds.
    Taken(Body, Moment),
}

/// What a regular file holds.
enum Body {
    /// Hashed; `None` for an empty file.
    Hashed(Option<Taken>),
    /// Copied, to be hashed together with the stream.
    Copied(Copied),
}

impl Outcome {
    /// The size of the file that it holds.
    fn size_bytes(&self) -> u64 {
        match self {
            Self::None | Self::Gone | Self::Taken(Body::Hashed(None), _) => 0,
            Self::Taken(Body::Hashed(Some(taken)), _) => taken.size_bytes(),
            Self::Taken(Body::Copied(copied), _) => copied.size_bytes(),
        }
    }
}

/// Makes a layer of changes. `in_use`: somebody may be writing to the files.
pub(super) fn make(
    staging: &Staging,
    snapshot: &Snapshot,
    changes: &[Change],
    in_use: bool,
    bar: &Bar,
) -> Result<NewLayer, ImageError> {
    let (layer, recipe) = LayerWriter::new(staging)?;
    let contents = layer.contents().clone();
    let take = |entry: &Entry<'_>| take(snapshot, &contents, entry, in_use);
    let stream = Stream {
        hasher: Sha256::new(),
        recipe,
    };
    let mut maker = Maker {
        layer,
        contents: &contents,
        writer: Writer::new(stream),
        names: Names::default(),
        buffer: vec![0; BUFFER_BYTES],
    };
    let entries = entries(changes)?;
    let mut at = 0;
    in_order(
        &entries,
        FILES_AHEAD,
        |entry| {
            if entry.has_content() {
                take(entry)
            } else {
                Ok(Outcome::None)
            }
        },
        |entry, outcome| -> Result<(), ImageError> {
            let outcome = outcome?;
            bar.add(outcome.size_bytes());
            staging.written(outcome.size_bytes());
            maker.entry(at, entry, outcome, &take)?;
            at += 1;
            Ok(())
        },
    )?;
    maker.finish()
}

/// Takes the content of a file.
fn take(
    snapshot: &Snapshot,
    contents: &Contents,
    entry: &Entry<'_>,
    in_use: bool,
) -> Result<Outcome, ImageError> {
    let failed = |error| layer_error(entry.shown(), error);
    let file: File = match open(snapshot, entry.change)? {
        None => return Ok(Outcome::Gone),
        Some(Content::File(file)) => file.into(),
        Some(content @ Content::Source(_)) => {
            let size_bytes = entry.member.size_bytes;
            let taken = contents
                .take(&mut Hashed::new(content.into_reader()), size_bytes, None)
                .map_err(failed)?;
            return Ok(Outcome::Taken(Body::Hashed(taken), Moment::whole(size_bytes)));
        }
        Some(Content::Merged(merged)) => {
            return take_partial(contents, &merged, in_use, &entry.shown()).map_err(failed);
        }
    };
    if !in_use {
        let moment = Moment::at_rest(&file).map_err(|error| failed(LayerError::Read(error)))?;
        let body = if moment.is_all_hole() {
            Body::Hashed(None)
        } else if moment.is_sparse() {
            Body::Hashed(contents.take_file(&file).map_err(failed)?)
        } else {
            let copied = contents.copy(&file).map_err(failed)?;
            copied.map_or(Body::Hashed(None), Body::Copied)
        };
        return Ok(Outcome::Taken(body, moment));
    }
    let read = |file: &File| -> Result<_, LayerError> {
        let unstaged = contents.read_file(file)?;
        let size_bytes = unstaged.as_ref().map_or(0, |unstaged| unstaged.size_bytes());
        Ok((unstaged, size_bytes))
    };
    let (unstaged, moment) = at_one_moment(&file, read, cut_short).map_err(failed)?;
    moment.warn(&entry.shown());
    let unstaged = unstaged.filter(|_| !moment.is_all_hole());
    let taken = unstaged.map(|unstaged| contents.stage(unstaged)).transpose()?;
    Ok(Outcome::Taken(Body::Hashed(taken), moment))
}

/// Takes the content of a partial copy.
fn take_partial(
    contents: &Contents,
    merged: &Merged,
    in_use: bool,
    shown: &str,
) -> Result<Outcome, LayerError> {
    let mut seen = Vec::new();
    let mut read = |_: &File| -> Result<_, LayerError> {
        seen = pieces(merged).map_err(LayerError::Read)?;
        let unstaged = contents.read_file(merged)?;
        let size_bytes = unstaged.as_ref().map_or(0, |unstaged| unstaged.size_bytes());
        Ok((unstaged, size_bytes))
    };
    let file = watched(merged).map_err(LayerError::Read)?;
    let (unstaged, moment) = if in_use {
        at_one_moment(&file, read, cut_short)?
    } else {
        let (unstaged, size_bytes) = read(&file)?;
        (unstaged, Moment::whole(size_bytes))
    };
    let moment = moment.of_partial(&seen);
    moment.warn(shown);
    let unstaged = unstaged.filter(|_| !moment.is_all_hole());
    let taken = unstaged.map(|unstaged| contents.stage(unstaged)).transpose()?;
    Ok(Outcome::Taken(Body::Hashed(taken), moment))
}

fn cut_short(error: &LayerError) -> bool {
    matches!(error, LayerError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof)
}

/// The layer as far as it has come.
struct Maker<'a> {
    layer: LayerWriter,
    contents: &'a Contents,
    writer: Writer<Stream>,
    names: Names,
    buffer: Vec<u8>,
}

impl Maker<'_> {
    fn entry(
        &mut self,
        at: usize,
        entry: &Entry<'_>,
        outcome: Outcome,
        take: &dyn Fn(&Entry<'_>) -> Result<Outcome, ImageError>,
    ) -> Result<(), ImageError> {
        let failed = |error: io::Error| layer_error(entry.shown(), LayerError::Read(error));
        let outcome = match outcome {
            Outcome::None => {
                if let Some(link) = self.names.link(entry) {
                    self.writer.begin(&link).map_err(failed)?;
                    return self.add(entry, link, None);
                }
                if entry.change.node.is_none() || entry.member.kind != Kind::Regular {
                    self.writer.begin(&entry.member).map_err(failed)?;
                    self.names.written(at, entry);
                    return self.add(entry, entry.member.clone(), None);
                }
                // the name under which its file was to be taken is gone
                take(entry)?
            }
            outcome => outcome,
        };
        let Outcome::Taken(body, moment) = outcome else {
            return Ok(());
        };
        let member = moment.apply(entry.member.clone(), entry.change);
        if moment.is_same_file(entry.change) {
            self.names.written(at, entry);
        }
        let content = match body {
            Body::Hashed(taken) => {
                let content = taken.as_ref().map(|taken| self.layer.add(taken)).transpose()?;
                self.file(&member, taken.as_ref(), content).map_err(failed)?;
                content
            }
            Body::Copied(copied) => Some(self.copied_file(&member, copied, failed)?),
        };
        self.add(entry, member, content)
    }

    /// Writes a regular file to the stream, and hashes it for its name on the way.
    fn copied_file(
        &mut self,
        member: &Member,
        copied: Copied,
        failed: impl Fn(io::Error) -> ImageError,
    ) -> Result<ContentId, ImageError> {
        if copied.size_bytes() != member.size_bytes {
            return Err(failed(io::Error::other(
                "changed while it was read: commit again",
            )));
        }
        let data_bytes = self.writer.begin(member).map_err(&failed)?;
        let stream = self.writer.out();
        let mut content = Sha256::new();
        copied.read(&mut self.buffer, |bytes| {
            update_both(&mut stream.hasher, &mut content, bytes);
        })?;
        let taken = self.contents.name_copied(copied, content.finish())?;
        let content = self.layer.add(&taken)?;
        let noted = stream.recipe.content(content, member.size_bytes);
        noted
            .and_then(|()| self.writer.end(data_bytes))
            .map_err(&failed)?;
        Ok(content)
    }

    /// Tells the tree what a reader of the stream would tell it.
    fn add(
        &mut self,
        entry: &Entry<'_>,
        member: Member,
        content: Option<ContentId>,
    ) -> Result<(), ImageError> {
        members::add(self.layer.tree(), member, content).map_err(|error| layer_error(entry.shown(), error))
    }

    /// Writes a regular file to the stream.
    fn file(&mut self, member: &Member, taken: Option<&Taken>, content: Option<ContentId>) -> io::Result<()> {
        let data_bytes = self.writer.begin(member)?;
        let stream = self.writer.out();
        if let (Some(taken), Some(content)) = (taken, content) {
            let whole = [(0, member.size_bytes)];
            let pieces = member.segments.as_deref().unwrap_or(&whole);
            match taken {
                Taken::Small { bytes, .. } => {
                    for (offset, length) in pieces {
                        stream.hasher.update(part(bytes, *offset, *length)?);
                    }
                }
                Taken::Object { digest, .. } => {
                    let object = self.contents.open_staged(digest).map_err(io::Error::other)?;
                    for (offset, length) in pieces {
                        hash_part(&mut stream.hasher, &object, *offset, *length, &mut self.buffer)?;
                    }
                }
            }
            match &member.segments {
                Some(segments) => stream.recipe.pieces(content, segments)?,
                None => stream.recipe.content(content, member.size_bytes)?,
            }
        }
        self.writer.end(data_bytes)
    }

    fn finish(self) -> Result<NewLayer, ImageError> {
        let what = "the new layer";
        let stream = self.writer.finish().map_err(ImageError::io("write", what))?;
        let diff_id = Digest::from(stream.hasher.finish());
        let tar_bytes = stream.recipe.length_bytes();
        let staged = self.layer.finish(stream.recipe, &diff_id);
        Ok(NewLayer {
            staged: staged.map_err(|error| layer_error(what.to_owned(), error))?,
            tar_bytes,
        })
    }
}

fn part(bytes: &[u8], offset: u64, length: u64) -> io::Result<&[u8]> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    bytes
        .get(from..to)
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn hash_part(
    hasher: &mut Sha256,
    object: &File,
    offset: u64,
    length: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        object.read_exact_at(&mut buffer[..wanted], at)?;
        hasher.update(&buffer[..wanted]);
        at += wanted as u64;
    }
    Ok(())
}

/// The error with the name of what was taken.
fn layer_error(what: String, error: LayerError) -> ImageError {
    match error {
        LayerError::Read(source) => ImageError::Io {
            action: "read",
            what,
            source,
        },
        LayerError::Store(error) => StoreError::into(error),
        source => ImageError::Layer { what, source },
    }
}
