//! A layer's exact tar stream, put together from its parts.
//!
//! Every byte that is given out passes a hash; where the digest at the end is not the layer's own, the last read is an
//! error instead of the end. Whoever uses the bytes must therefore read to the end before he relies on them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};
use ufs::index::{ContentId, Index, Place};
use ufs::repository::Repository;

use super::recipe::{RecipeReader, Step};
use crate::digest::Digest;

/// A layer's stream, from its beginning.
pub struct LayerStream {
    repository: Repository,
    diff_id: Digest,
    index: Index,
    pack: File,
    recipe: RecipeReader,
    current: Current,
    hasher: Sha256,
    length_bytes: u64,
    ended: bool,
    /// The object that was used last: the pieces of a sparse file follow each other.
    object: Option<(ContentId, File)>,
}

/// What is being given out.
enum Current {
    /// So many bytes of the recipe itself.
    Literal(u64),
    /// Of the pack: from, to.
    Pack(u64, u64),
    /// Of the object at hand: from, to.
    Object(u64, u64),
}

fn damaged(detail: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.to_string())
}

impl LayerStream {
    /// Opens the parts of a layer.
    pub fn open(repository: &Repository, diff_id: &Digest) -> io::Result<Self> {
        let folder = repository.layer(diff_id.as_bytes());
        let recipe = RecipeReader::open(&folder.join("recipe"))?;
        if recipe.header().diff_id != *diff_id {
            return Err(damaged("the recipe belongs to another layer"));
        }
        Ok(Self {
            repository: repository.clone(),
            diff_id: *diff_id,
            index: Index::open(&folder.join("index")).map_err(damaged)?,
            pack: File::open(folder.join("pack"))?,
            recipe,
            current: Current::Literal(0),
            hasher: Sha256::new(),
            length_bytes: 0,
            ended: false,
            object: None,
        })
    }

    /// The length of the whole stream.
    pub fn size_bytes(&self) -> u64 {
        self.recipe.header().length_bytes
    }

    /// Begins the next step; false at the end of the stream, which is verified.
    fn step(&mut self) -> io::Result<bool> {
        let Some(step) = self.recipe.step()? else {
            return self.verify().map(|()| false);
        };
        self.current = match step {
            Step::Literal(length) => Current::Literal(length),
            Step::Content(content) => {
                let (_, size_bytes) = self.index.content(content).map_err(damaged)?;
                self.part(content, 0, size_bytes)?
            }
            Step::Part(content, from, length) => {
                let (_, size_bytes) = self.index.content(content).map_err(damaged)?;
                let to = from.checked_add(length).filter(|to| *to <= size_bytes);
                self.part(
                    content,
                    from,
                    to.ok_or_else(|| damaged("a step of the recipe leads outside its content"))?,
                )?
            }
        };
        Ok(true)
    }

    /// A part of a content.
    fn part(&mut self, content: ContentId, from: u64, to: u64) -> io::Result<Current> {
        match self.index.content(content).map_err(damaged)?.0 {
            Place::Empty => Err(damaged("a step of the recipe names an empty content")),
            Place::Stream { .. } => Err(damaged("a content lies in a stream")),
            Place::Pack { offset, .. } => {
                let end = offset.checked_add(to);
                let end = end.ok_or_else(|| damaged("a content lies outside the pack"))?;
                Ok(Current::Pack(offset + from, end))
            }
            Place::Object { digest } => {
                if self.object.as_ref().is_none_or(|(known, _)| *known != content) {
                    let path = self.repository.object(digest);
                    let file = File::open(&path).map_err(|error| {
                        io::Error::new(error.kind(), format!("object {}: {error}", path.display()))
                    })?;
                    self.object = Some((content, file));
                }
                Ok(Current::Object(from, to))
            }
        }
    }

    fn verify(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        let found = Digest::from(<[u8; 32]>::from(self.hasher.clone().finalize()));
        if found != self.diff_id || self.length_bytes != self.size_bytes() {
            let text = format!(
                "layer {} is damaged: its parts make a stream with the digest {found}: run `shale system check \
                 --repair`, or remove the image and load it again",
                self.diff_id
            );
            return Err(damaged(text));
        }
        self.ended = true;
        Ok(())
    }
}

fn read_part(file: &File, from: &mut u64, to: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let wanted = buffer
        .len()
        .min(usize::try_from(to - *from).unwrap_or(usize::MAX));
    let count = file.read_at(&mut buffer[..wanted], *from)?;
    if count == 0 {
        return Err(damaged("a content of the layer is cut short"));
    }
    *from += count as u64;
    Ok(count)
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = loop {
            match &mut self.current {
                Current::Literal(left) if *left > 0 => {
                    let count = self.recipe.literal(buffer)?;
                    *left -= count as u64;
                    break count;
                }
                Current::Pack(from, to) if *from < *to => break read_part(&self.pack, from, *to, buffer)?,
                Current::Object(from, to) if *from < *to => {
                    let Some((_, file)) = &self.object else {
                        return Err(damaged("no object is open"));
                    };
                    break read_part(file, from, *to, buffer)?;
                }
                _ => {}
            }
            if self.ended || !self.step()? {
                return Ok(0);
            }
        };
        self.hasher.update(&buffer[..count]);
        self.length_bytes += count as u64;
        Ok(count)
    }
}
