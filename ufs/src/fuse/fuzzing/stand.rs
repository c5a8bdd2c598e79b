//! Directories to serve: layers, a fresh upper for each input, and beside them what nobody may reach.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::feed;
use crate::attr::{FileType, Time};
use crate::fs::Fs;
use crate::idmap::IdMap;
use crate::index::build::{Meta, Tree};
use crate::repository::Repository;
use crate::{Layout, Lower, UpperOptions};

/// What lies outside.
const CANARY: &[u8] = b"CANARY:nobody-may-read-this";

/// Layers that many inputs share.
pub struct Stand {
    root: PathBuf,
    index: PathBuf,
    before: Vec<Seen>,
}

/// What is compared of a file that must not change.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    content: Vec<u8>,
    /// Access (only of what lies outside), change of content, change of attributes.
    times: [(i64, i64); 3],
    links: u64,
    mode: u32,
}

impl Stand {
    /// Fills `root`, an empty directory.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn new(root: &Path) -> io::Result<Self> {
        let lower = root.join("lower");
        fs::create_dir_all(lower.join("dir/sub"))?;
        fs::create_dir(lower.join("empty"))?;
        fs::create_dir(root.join("outside"))?;
        fs::create_dir(root.join("objects"))?;
        fs::write(root.join("outside/secret"), CANARY)?;
        fs::write(lower.join("a"), "a of the lower")?;
        fs::write(lower.join("big"), vec![b'b'; 100_000])?;
        fs::write(lower.join("dir/b"), "b")?;
        fs::hard_link(lower.join("dir/b"), lower.join("dir/sub/c"))?;
        symlink("../outside", lower.join("link"))?;
        symlink(root.join("outside"), lower.join("absolute"))?;
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, lower.join("pipe"), fifo, mode, 0)?;
        let index = write_index(root)?;
        let mut stand = Self {
            root: root.to_owned(),
            index,
            before: Vec::new(),
        };
        stand.before = stand.look()?;
        Ok(stand)
    }

    /// Serves what the first byte says (an upper over a directory, over an index, or an index alone), sends what the
    /// others say, and compares all that must not have changed. Returns how many requests were answered.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    ///
    /// # Panics
    /// When the server fails in one of the ways that [`super`] tells of.
    pub fn run(&self, input: &[u8]) -> io::Result<usize> {
        let (form, script) = input
            .split_first()
            .map_or((0, &[][..]), |(form, rest)| (*form, rest));
        for name in ["upper", "work"] {
            // what an input that failed has left
            match fs::remove_dir_all(self.root.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::create_dir(self.root.join(name))?;
        }
        let index = Lower::Index {
            path: self.index.clone(),
            repository: self.root.clone(),
        };
        let directory = Lower::Directory(self.root.join("lower"));
        let upper = Some((self.root.join("upper"), self.root.join("work")));
        let (lowers, upper) = match form % 4 {
            0 => (vec![directory], upper),
            1 => (vec![index], upper),
            2 => (vec![index, directory], upper),
            _ => (vec![index], None),
        };
        let options = UpperOptions {
            user_marks: true,
            volatile: true,
            ..UpperOptions::default()
        };
        let layout = Layout {
            lowers,
            upper,
            options,
            ..Layout::default()
        };
        let fs = Fs::open(&layout, IdMap::default()).map_err(io::Error::other)?;
        let answers = feed(fs, form & 4 == 0, script, CANARY);
        for name in ["upper", "work"] {
            fs::remove_dir_all(self.root.join(name))?;
        }
        assert_eq!(
            self.look()?,
            self.before,
            "something outside of the upper has changed"
        );
        Ok(answers)
    }

    /// Everything there is but uppers, in the order of the paths.
    fn look(&self) -> io::Result<Vec<Seen>> {
        let mut pending = vec![self.root.clone()];
        let mut seen = Vec::new();
        while let Some(path) = pending.pop() {
            let meta = path.symlink_metadata()?;
            let own = path == self.root;
            let mut times = [
                (meta.atime(), meta.atime_nsec()),
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ];
            // what is read of a layer may show, where the layer cannot be mounted read-only
            if meta.is_dir() || !path.starts_with(self.root.join("outside")) {
                times[0] = (0, 0);
            }
            if meta.is_dir() {
                let entries: io::Result<Vec<_>> = fs::read_dir(&path)?.collect();
                let paths = entries?.into_iter().map(|entry| entry.path());
                pending.extend(paths.filter(|path| !path.ends_with("upper") && !path.ends_with("work")));
            }
            seen.push(Seen {
                content: if meta.is_file() {
                    read_quietly(&path)?
                } else {
                    Vec::new()
                },
                // uppers come and go in it
                times: if own { [(0, 0); 3] } else { times },
                links: if own { 0 } else { meta.nlink() },
                mode: meta.mode(),
                path,
            });
        }
        seen.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(seen)
    }
}

/// Reads without a trace in the time of access.
fn read_quietly(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOATIME).open(path)?;
    { file }.read_to_end(&mut content)?;
    Ok(content)
}

/// A layer of an image with a bit of everything that needs no content of its own.
fn write_index(root: &Path) -> io::Result<PathBuf> {
    let repository = Repository::at(root);
    let layer = [1; 32];
    fs::create_dir_all(repository.layer(&layer))?;
    let mut tree = Tree::new();
    fill(&mut tree).map_err(io::Error::other)?;
    let path = repository.index(&layer);
    tree.finish()
        .map_err(io::Error::other)?
        .write(&layer, &mut File::create(&path)?)?;
    Ok(path)
}

fn fill(tree: &mut Tree) -> Result<(), crate::index::BuildError> {
    let meta = |mode| Meta {
        mode,
        mtime: Time {
            secs: i64::MIN,
            nanos: 999_999_999,
        },
        xattrs: vec![(b"user.a".to_vec(), vec![1])],
        ..Meta::default()
    };
    tree.file(b"a", meta(0o644), 0, None)?;
    tree.file(b"big", meta(0o600), 100_000, None)?;
    tree.file(b"dir/b", meta(0o4755), 5000, None)?;
    tree.hard_link(b"dir/sub/c", b"dir/b")?;
    tree.directory(b"empty", meta(0o1777))?;
    tree.symlink(b"link", meta(0o777), b"../outside")?;
    tree.special(b"pipe", meta(0o666), FileType::Fifo, 0)?;
    tree.special(b"gone", meta(0o666), FileType::CharDevice, 0x0103)
}
