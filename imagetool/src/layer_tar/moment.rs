//! Taking a file that others may be writing to, as it was at one moment.
//!
//! ```text
//! stamp ──► wait for a write under way ──► read ──► stamp: the same? ──yes──► that is the file
//!   ▲                                                  │ no, and not for too long yet
//!   └──────────────────────────────────────────────────┘
//! ```
//!
//! A write sets the file's times when it begins, and holds the inode's lock until it ends. So when the times after
//! reading are the ones before, no write began in between; and one that had begun before was waited for, by asking for
//! a hole, which takes the same lock. That needs times that tell two writes apart: since Linux 6.13 the kernel sees to
//! it that a time somebody has looked at is never given again. Before, times are as coarse as the clock's tick, so a
//! file that changed a moment ago is read until two readings agree.
//!
//! What no reader can see is a write through a shared mapping into a page that is already dirty.
//!
//! A file that never rests is taken as it was read last, with a warning.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use ufs::diff::{Change, Node};
use ufs::layer::Merged;

use super::worthwhile;
use crate::archive::member::Member;
use crate::digest::{Digest, Hashing};

/// How often a file that changes while it is read is read again at least …
const TRIES_MIN: u32 = 5;
/// … and for how long, if that is longer. Small files that are rewritten all the time have a gap sooner or later.
const PATIENCE: Duration = Duration::from_millis(500);
/// What changed longer ago than this has a time of its own, however coarse the clock.
const TICK_MAX: Duration = Duration::from_millis(20);

/// What a file was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Its size.
    pub size_bytes: u64,
    /// Where it has data; all of it where the file system cannot tell.
    pub segments: Vec<(u64, u64)>,
    /// Whether it changed while it was read, every time.
    pub restless: bool,
    /// Of a file in use: what else may have changed since the changes were listed.
    now: Option<Now>,
    /// It is a partial copy: it has its attributes from the upper, although some of its content is below.
    is_partial: bool,
}

/// What a file in use was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Now {
    mtime: (i64, u32),
    nlink: u64,
}

/// What tells two versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size_bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size_bytes: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether another change could have the same time.
    fn is_fresh(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let changed = Duration::new(
            u64::try_from(self.ctime.0).unwrap_or(0),
            u32::try_from(self.ctime.1).unwrap_or(0),
        );
        now.checked_sub(changed).is_none_or(|age| age < TICK_MAX)
    }
}

impl Moment {
    /// A file that nobody writes to.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn at_rest(file: &File) -> io::Result<Self> {
        let size_bytes = file.metadata()?.len();
        Ok(Self {
            segments: segments(file, size_bytes)?,
            ..Self::whole(size_bytes)
        })
    }

    /// A content that cannot change, without holes.
    pub fn whole(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            segments: vec![(0, size_bytes)],
            restless: false,
            now: None,
            is_partial: false,
        }
    }

    /// The same of a partial copy, with the pieces of its content.
    #[must_use]
    pub fn of_partial(self, pieces: &[Range<u64>]) -> Self {
        // Such pieces must mean the same to every reader; what was seen at different moments means nothing.
        let is_odd = |at: u64| !at.is_multiple_of(512) && at < self.size_bytes;
        let odd = pieces
            .iter()
            .any(|piece| is_odd(piece.start) || is_odd(piece.end));
        let segments = match odd || self.restless {
            true => vec![(0, self.size_bytes)],
            false => pieces
                .iter()
                .map(|piece| (piece.start, piece.end - piece.start))
                .collect(),
        };
        Self {
            segments,
            is_partial: true,
            ..self
        }
    }

    fn in_use(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            segments: segments(file, metadata.len())?,
            now: Some(Now {
                mtime: (
                    metadata.mtime(),
                    u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
                ),
                nlink: metadata.nlink(),
            }),
            ..Self::whole(metadata.len())
        })
    }

    /// Whether the tar holds nothing of it but its size.
    pub fn is_all_hole(&self) -> bool {
        worthwhile(&self.segments, self.size_bytes).is_some_and(<[_]>::is_empty)
    }

    /// Whether the tar holds it in pieces, without its holes.
    pub fn is_sparse(&self) -> bool {
        worthwhile(&self.segments, self.size_bytes).is_some()
    }

    /// What may differ from the change that was listed; nothing of a file below, which never changes.
    fn now(&self, change: &Change) -> Option<Now> {
        let is_on_top = change.node.as_ref().is_some_and(Node::is_whole_on_top);
        self.now.filter(|_| is_on_top || self.is_partial)
    }

    /// The member as the file was at this moment.
    pub fn apply(&self, member: Member, change: &Change) -> Member {
        let segments = worthwhile(&self.segments, self.size_bytes);
        Member {
            size_bytes: self.size_bytes,
            mtime: self.now(change).map_or(member.mtime, |now| now.mtime),
            segments: segments.map(<[_]>::to_vec),
            ..member
        }
    }

    /// Whether the file still has as many names as when the changes were listed: if not, another file may have taken
    /// the name, and no other name can be said to be the same file.
    pub fn is_same_file(&self, change: &Change) -> bool {
        let links = change.node.as_ref().map(|node| u64::from(node.nlink));
        self.now(change).is_none_or(|now| links == Some(now.nlink))
    }

    /// Tells about a file that never rested.
    pub fn warn(&self, path: &str) {
        if self.restless {
            tracing::warn!("{path}: kept changing while it was read: its content may be of several moments");
        }
    }
}

/// Reads a file until it did not change meanwhile. `read` is called once or more often; it gives the content and its
/// size, and contents that are the same must be equal.
///
/// # Errors
/// When reading fails. A file that was cut short while it was read is read again.
pub fn at_one_moment<T: PartialEq, E: From<io::Error>>(
    file: &File,
    mut read: impl FnMut(&File) -> Result<(T, u64), E>,
    is_cut_short: impl Fn(&E) -> bool,
) -> Result<(T, Moment), E> {
    let begun = Instant::now();
    let mut last: Option<(T, Stamp, Moment)> = None;
    for tries in 1u32.. {
        let before = Stamp::of(file)?;
        wait_for_write(file);
        let mut moment = Moment::in_use(file)?;
        let outcome = read(file);
        let after = Stamp::of(file)?;
        match outcome {
            Ok((value, size_bytes)) => {
                let is_again =
                    |(earlier, stamp, _): &(T, Stamp, Moment)| *stamp == after && *earlier == value;
                let settled = has_fine_times() || !after.is_fresh() || last.as_ref().is_some_and(is_again);
                if before == after && settled {
                    return Ok((value, moment));
                }
                moment.restless = true;
                moment.size_bytes = size_bytes;
                // holes seen at another moment are not to be trusted
                moment.segments = vec![(0, size_bytes)];
                last = Some((value, after, moment));
            }
            Err(error) if is_cut_short(&error) && begun.elapsed() < 10 * PATIENCE => {}
            Err(error) => return Err(error),
        }
        if tries >= TRIES_MIN && begun.elapsed() >= PATIENCE && last.is_some() {
            break;
        }
        if tries % 16 == 0 {
            std::thread::sleep(Duration::from_micros(100)); // fall out of step with the writer
        }
    }
    last.map(|(value, _, moment)| (value, moment))
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// Waits until a write that has begun is over, by a question that needs the inode's lock.
fn wait_for_write(file: &File) {
    let _ = lseek64(file, 0, Whence::SeekData);
}

/// Whether the kernel never gives two changes a time that looks the same (Linux 6.13).
fn has_fine_times() -> bool {
    static FINE: OnceLock<bool> = OnceLock::new();
    *FINE.get_or_init(|| {
        let Ok(system) = nix::sys::utsname::uname() else {
            return false;
        };
        let release = system.release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6u32, 13u32)
    })
}

/// A copy without a name in `folder`, made at one moment, with the file's holes.
///
/// # Errors
/// When the file cannot be read or the copy not be written.
pub fn consistent_copy(file: File, folder: &Path) -> io::Result<(File, Moment)> {
    let mut copy = tempfile::tempfile_in(folder)?;
    let read = |file: &File| -> io::Result<(Digest, u64)> {
        let size_bytes = file.metadata()?.len();
        copy.set_len(0)?;
        let mut hashing = Hashing::new(&copy);
        let mut source = file;
        for (offset, length) in segments(file, size_bytes)? {
            source.seek(SeekFrom::Start(offset))?;
            (&copy).seek(SeekFrom::Start(offset))?;
            if io::copy(&mut Read::by_ref(&mut source).take(length), &mut hashing)? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        copy.set_len(size_bytes)?;
        Ok((hashing.finish().0, size_bytes))
    };
    let cut_short = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    let (_, moment) = at_one_moment(&file, read, cut_short)?;
    copy.seek(SeekFrom::Start(0))?;
    Ok((copy, moment))
}

/// Where a partial copy has data.
///
/// # Errors
/// When it cannot be read.
pub fn pieces(merged: &Merged) -> io::Result<Vec<Range<u64>>> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(piece) = merged.data_from(at, u64::MAX)? {
        at = piece.end;
        match pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => pieces.push(piece),
        }
    }
    Ok(pieces)
}

/// The file of a partial copy, whose times tell when it changes.
///
/// # Errors
/// When there are too many descriptors.
pub fn watched(merged: &Merged) -> io::Result<File> {
    Ok(merged.as_fd().try_clone_to_owned()?.into())
}

/// As [`consistent_copy`], of a partial copy.
///
/// # Errors
/// As there.
pub fn consistent_copy_of_partial(merged: &Merged, folder: &Path) -> io::Result<(File, Moment)> {
    let mut copy = tempfile::tempfile_in(folder)?;
    let mut buffer = vec![0; 256 << 10];
    let mut seen = Vec::new();
    let read = |_: &File| -> io::Result<(Digest, u64)> {
        seen = pieces(merged)?;
        copy.set_len(0)?;
        let mut hashing = Hashing::new(&copy);
        for piece in &seen {
            let mut at = piece.start;
            (&copy).seek(SeekFrom::Start(at))?;
            while at < piece.end {
                let wanted = buffer
                    .len()
                    .min(usize::try_from(piece.end - at).unwrap_or(usize::MAX));
                if merged.read_at(&mut buffer[..wanted], at)? < wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                hashing.write_all(&buffer[..wanted])?;
                at += wanted as u64;
            }
        }
        let size_bytes = ufs::stream::ReadAt::size_bytes(merged);
        copy.set_len(size_bytes)?;
        Ok((hashing.finish().0, size_bytes))
    };
    let cut_short = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    let (_, moment) = at_one_moment(&watched(merged)?, read, cut_short)?;
    copy.seek(SeekFrom::Start(0))?;
    Ok((copy, moment.of_partial(&seen)))
}

/// Where a file has data, in whole blocks but for the file's end; all of it where the file system cannot tell.
fn segments(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut segments = Vec::new();
    let mut at = 0i64;
    let end = i64::try_from(size).unwrap_or(i64::MAX);
    while at < end {
        let data = match lseek64(file, at, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) if at == 0 => return Ok(vec![(0, size)]),
            Err(error) => return Err(error.into()),
        };
        let hole = lseek64(file, data, Whence::SeekHole)?.min(end);
        if hole <= data {
            break;
        }
        if data % 512 != 0 || (hole % 512 != 0 && hole < end) {
            return Ok(vec![(0, size)]); // such pieces do not mean the same to every reader
        }
        segments.push((data.unsigned_abs(), (hole - data).unsigned_abs()));
        at = hole;
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn take(file: &File) -> (Vec<u8>, Moment) {
        let read = |file: &File| -> io::Result<(Vec<u8>, u64)> {
            let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
            file.read_exact_at(&mut bytes, 0)?;
            let size = bytes.len() as u64;
            Ok((bytes, size))
        };
        at_one_moment(file, read, |error| error.kind() == io::ErrorKind::UnexpectedEof).unwrap()
    }

    /// Rewrites a file in place without a pause, each version by one write, while `body` runs.
    fn hammered(version_bytes: usize, body: impl FnOnce(&File)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![0; version_bytes]).unwrap();
        let (file, done) = (File::open(&path).unwrap(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                let mut version = 0u8;
                while !done.load(Ordering::Relaxed) {
                    version = version.wrapping_add(1);
                    file.write_all_at(&vec![version; version_bytes], 0).unwrap();
                }
            });
            body(&file);
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn versions_are_not_mixed() {
        hammered(200_000, |file| {
            let mut versions = std::collections::BTreeSet::new();
            let (mut whole, begun) = (0, Instant::now());
            while (versions.len() < 5 || whole < 20) && begun.elapsed() < Duration::from_secs(60) {
                let (bytes, moment) = take(file);
                if !moment.restless {
                    assert!(
                        bytes.iter().all(|byte| *byte == bytes[0]),
                        "a mixture was taken for whole"
                    );
                    whole += 1;
                    versions.insert(bytes[0]);
                }
            }
            assert!(versions.len() >= 5, "saw {versions:?}");
        });
    }

    #[test]
    fn a_file_at_rest_is_read_once_when_times_are_fine() {
        let folder = tempfile::tempdir().unwrap();
        let (copy, moment) = {
            let path = folder.path().join("file");
            let file = File::create_new(&path).unwrap();
            file.write_all_at(b"x", 8 << 20).unwrap();
            consistent_copy(File::open(&path).unwrap(), folder.path()).unwrap()
        };
        assert_eq!((moment.size_bytes, moment.restless), ((8 << 20) + 1, false));
        assert_eq!(copy.metadata().unwrap().len(), (8 << 20) + 1);
        assert!(
            copy.metadata().unwrap().blocks() * 512 < 1 << 20,
            "the hole was filled"
        );
    }

    #[test]
    fn a_file_that_keeps_changing_is_taken_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let writer = File::create_new(&path).unwrap();
        let mut count = 0u64;
        let read = |_: &File| -> io::Result<(u64, u64)> {
            count += 1;
            writer.write_all_at(b"x", count)?;
            Ok((count, count))
        };
        let (value, moment) = at_one_moment(&File::open(&path).unwrap(), read, |_| false).unwrap();
        assert!(moment.restless);
        assert_eq!((value, moment.size_bytes), (count, count));
    }
}
