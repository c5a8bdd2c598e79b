//! The way to a directory: symbolic links of the layer are followed as they would be inside a container.

use super::tree::{File, ROOT, Tree};
use super::{Meta, entry_error, split};
use crate::attr::FileType;
use crate::index::BuildError;
use crate::index::format::{NONE, type_bits};

/// How many links may stand on one way, as in the kernel.
const LINKS_MAX: usize = 40;

/// Why there is no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWay {
    /// A name that is there is no directory.
    NotADirectory,
    /// A link leads to a name that is not there.
    Dangling,
    /// Links lead in a circle.
    Loop,
}

impl NoWay {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::NotADirectory => "stands below something that is no directory",
            Self::Dangling => "a symbolic link on the way points to nothing in this archive",
            Self::Loop => "too many symbolic links on the way",
        }
    }
}

/// Where a walk stopped.
enum Step {
    /// At the end.
    Arrived(u32),
    /// At a directory where the next name, this part of the way, is missing.
    Missing(u32, std::ops::Range<usize>),
}

/// A way that is still to be gone.
struct Way {
    names: Vec<u8>,
    at: usize,
    /// How many bytes at the end of `names` are the path's own, not a link's.
    own: usize,
    links: usize,
}

impl Way {
    fn new(path: &[u8]) -> Self {
        Self {
            names: path.to_vec(),
            at: 0,
            own: path.len(),
            links: 0,
        }
    }

    /// The next component.
    fn next(&mut self) -> Option<std::ops::Range<usize>> {
        if self.at >= self.names.len() {
            return None;
        }
        let start = self.at;
        let rest = &self.names[start..];
        let length = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        self.at = start + length + 1;
        Some(start..start + length)
    }

    /// Puts a link's target before what is left.
    fn follow(&mut self, target: &[u8]) -> Result<(), NoWay> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(NoWay::Loop);
        }
        let rest = self.names.get(self.at..).unwrap_or_default();
        self.own = self.own.min(rest.len());
        let mut names = Vec::with_capacity(target.len() + 1 + rest.len());
        names.extend_from_slice(target);
        names.push(b'/');
        names.extend_from_slice(rest);
        self.names = names;
        self.at = 0;
        Ok(())
    }
}

impl Tree {
    /// The directory that a path's last component is in, made if it is missing, and that component.
    pub(super) fn enter_parent<'a>(&mut self, path: &'a [u8]) -> Result<(u32, &'a [u8]), BuildError> {
        if path.is_empty() {
            return Err(entry_error(path, "the root of a layer must be a directory"));
        }
        let (dir, name) = split(path);
        match self.enter(dir, path)? {
            Ok(node) => Ok((node, name)),
            Err(problem) => Err(entry_error(path, problem.text())),
        }
    }

    /// The directory at a path, made if it is missing. `member` is for messages.
    pub(super) fn enter(&mut self, dir: &[u8], member: &[u8]) -> Result<Result<u32, NoWay>, BuildError> {
        if dir.is_empty() {
            return Ok(Ok(ROOT));
        }
        if let Some((last, node)) = &self.last
            && last == dir
        {
            return Ok(Ok(*node));
        }
        let mut way = Way::new(dir);
        let mut from = ROOT;
        let node = loop {
            match self.walk(from, &mut way) {
                Err(problem) => return Ok(Err(problem)),
                Ok(Step::Arrived(node)) => break node,
                Ok(Step::Missing(parent, name)) => {
                    if name.start < way.names.len() - way.own {
                        return Ok(Err(NoWay::Dangling));
                    }
                    let name = way.names[name].to_vec();
                    from = self.imply(member, parent, &name)?;
                }
            }
        };
        self.last = Some((dir.to_vec(), node));
        Ok(Ok(node))
    }

    /// The directory at a path; `None` when it is not there.
    pub(super) fn look(&self, dir: &[u8]) -> Result<Option<u32>, NoWay> {
        match self.walk(ROOT, &mut Way::new(dir)) {
            Ok(Step::Arrived(node)) => Ok(Some(node)),
            Ok(Step::Missing(..)) | Err(NoWay::NotADirectory | NoWay::Dangling) => Ok(None),
            Err(problem @ NoWay::Loop) => Err(problem),
        }
    }

    /// Goes from a directory to the end of the way, or to the first name that is missing.
    fn walk(&self, from: u32, way: &mut Way) -> Result<Step, NoWay> {
        let mut dir = from;
        while let Some(range) = way.next() {
            let name = &way.names[range.clone()];
            match name {
                b"" | b"." => continue,
                b".." => {
                    dir = self.nodes[dir as usize].parent;
                    continue;
                }
                _ => {}
            }
            let Some(node) = self.child(dir, name) else {
                return Ok(Step::Missing(dir, range));
            };
            match self.type_of(node) {
                Some(FileType::Directory) => dir = node,
                Some(FileType::Symlink) => {
                    let target = self.link_target(node);
                    if target.first() == Some(&b'/') {
                        dir = ROOT;
                    }
                    way.follow(target)?;
                }
                _ => return Err(NoWay::NotADirectory),
            }
        }
        Ok(Step::Arrived(dir))
    }

    fn link_target(&self, node: u32) -> &[u8] {
        let file = self.files[self.nodes[node as usize].file as usize];
        let start = file.part as usize;
        // lengths of targets are limited far below what memory can address
        let length = usize::try_from(file.size).unwrap_or(0);
        &self.bytes[start..start + length]
    }

    /// Makes a directory that no member described.
    fn imply(&mut self, member: &[u8], parent: u32, name: &[u8]) -> Result<u32, BuildError> {
        let meta = Meta::implied();
        let owner = [
            type_bits(FileType::Directory) | meta.mode,
            meta.uid,
            meta.gid,
            NONE,
        ];
        let file = File {
            size: 0,
            secs: meta.mtime.secs,
            nanos: meta.mtime.nanos,
            owner: self.owner(owner)?,
            part: 0,
            nlink: 0,
        };
        self.make(member, parent, name, file)
    }
}
