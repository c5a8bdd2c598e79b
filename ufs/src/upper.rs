//! The writable layer: a directory in overlayfs' own format, and the work directory beside it.
//!
//! ```text
//! upper/…            what was changed, under the names of the merged tree; whiteouts are character devices 0:0
//! work/work/#N       being prepared; renamed into the upper when whole, removed at the next mount otherwise
//! work/work/links#N  the same, of a file with several names: the others are given back when it is removed
//! ```
//!
//! Invariant: at every moment, also after a crash, each name in the upper is absent, whole, or a whiteout. Whatever
//! takes more than one system call is done in the work directory and moved by one rename.

pub(crate) mod copy_up;
mod links;
pub(crate) mod partial;

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::attr::{Attr, FileType};
use crate::error::{Doing, Error, Result, SetupError};
use crate::layer::marks::{self, MarkSpace, Marks};
use crate::layer::whiteout;
use crate::sys::{self, XattrOf};
use crate::union::inode::{Inode, ROOT};
use crate::union::nodes::{Copies, can_be_noted};
use partial::Partials;

/// A file that was not written to for so long is likely to stay as it is for a while.
const SEAL_AFTER: Duration = Duration::from_secs(5);

/// Directories of the upper kept open.
const OPEN_DIRECTORIES_MAX: usize = 1024;

/// Files of the upper kept at hand: one for each program that is making files at a time is enough, and they stay open when
/// nobody uses them.
const NAMED_MAX: usize = 4;

/// How often a name is resolved anew when the file under it changes meanwhile.
const RACE_TRIES_MAX: usize = 64;

/// What an upper is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct UpperOptions {
    /// Marks go to `user.overlay.*` even where `trusted.overlay.*` could be written.
    pub user_marks: bool,
    /// A change of metadata copies no data.
    pub metacopy: bool,
    /// Nothing is synced: after a power loss the upper is worthless. As overlayfs' `volatile`.
    pub volatile: bool,
    /// Of files of this length and longer only what is written is copied up. `None`: all files are copied whole.
    pub partial_min_bytes: Option<u64>,
    /// Partial copies are made whole when nobody has written to them for so long. `None`: only when asked for.
    pub seal_after: Option<Duration>,
}

impl UpperOptions {
    /// The length from which on partial copies are worth it.
    pub const PARTIAL_MIN_BYTES: u64 = partial::MIN_BYTES;
}

impl Default for UpperOptions {
    fn default() -> Self {
        Self {
            user_marks: false,
            metacopy: true,
            volatile: false,
            partial_min_bytes: None,
            seal_after: Some(SEAL_AFTER),
        }
    }
}

/// The writable layer of one mount.
#[derive(Debug)]
pub(crate) struct Upper {
    pub(crate) root: Arc<OwnedFd>,
    work: OwnedFd,
    pub(crate) space: MarkSpace,
    pub(crate) options: UpperOptions,
    pub(crate) device: u64,
    /// Cleared when the file system says that it cannot share blocks.
    pub(crate) can_reflink: AtomicBool,
    sequence: AtomicU64,
    pub(crate) copies: Arc<Copies>,
    /// A whiteout in the work directory, to be hard-linked wherever one is needed.
    shared_whiteout: Mutex<Option<OsString>>,
    open_dirs: Mutex<LruCache<u64, Arc<OwnedFd>>>,
    /// Files that were named last, by number in the upper: a new file is often asked for several changes in a row.
    /// A descriptor keeps its file's number from coming back for another one.
    named: Mutex<LruCache<u64, Arc<OwnedFd>>>,
    pub(crate) partials: Partials,
    /// Keeps the work directory locked.
    _lock: OwnedFd,
}

/// How long a new mount waits for the server before it to leave the work directory.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Directories that mount programs keep in a work directory.
const WORK_ENTRIES: [&str; 3] = ["work", "index", "incompat"];

impl Upper {
    pub(crate) fn open(
        upper: &Path,
        work: &Path,
        options: UpperOptions,
    ) -> std::result::Result<Self, SetupError> {
        let open = |role, path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::openat(CWD, path, flags, Mode::empty()).map_err(|source| SetupError::Open {
                role,
                path: path.to_path_buf(),
                source,
            })
        };
        let root = open("upperdir", upper)?;
        let lock = open("workdir", work)?;
        check_places(upper, work)?;
        let unfit = |what| {
            move |source| SetupError::UpperUnfit {
                path: upper.to_path_buf(),
                what,
                source,
            }
        };
        let device = sys::stat_fd(&root).map_err(unfit("a directory"))?.dev;
        let same_mount = sys::mount_id(&lock).ok() == sys::mount_id(&root).ok();
        if !same_mount || sys::stat_fd(&lock).map_err(unfit("a directory"))?.dev != device {
            return Err(SetupError::WorkElsewhere {
                work: work.to_path_buf(),
                upper: upper.to_path_buf(),
            });
        }
        lock_work(&lock, work)?;
        links::take_back_unfinished(&root, &lock).map_err(|source| SetupError::Fs {
            doing: "put the upper right after a crash",
            source,
        })?;
        let prepared = prepare_work(&lock, work)?;
        let space = probe_marks(&prepared, options.user_marks).map_err(unfit("extended attributes"))?;
        let upper = Self {
            root: Arc::new(root),
            work: prepared,
            space,
            options,
            device,
            can_reflink: AtomicBool::new(true),
            sequence: AtomicU64::new(0),
            copies: Arc::default(),
            shared_whiteout: Mutex::default(),
            open_dirs: Mutex::new(recently_used(OPEN_DIRECTORIES_MAX)),
            named: Mutex::new(recently_used(NAMED_MAX)),
            partials: Partials::default(),
            _lock: lock,
        };
        upper
            .make_first_whiteout()
            .map_err(|source| SetupError::UpperUnfit {
                path: upper_path(&upper),
                what: "whiteouts",
                source,
            })?;
        Ok(upper)
    }

    /// Makes the whiteout that will be linked wherever one is needed, and tries what every removal needs: that it can
    /// be moved. All in the work directory, since every name in the upper belongs to the user. Made at the start, so
    /// that files can be removed when no inode is left.
    fn make_first_whiteout(&self) -> std::result::Result<(), Errno> {
        let (made, moved) = (self.fresh_name(), self.fresh_name());
        make_whiteout_device(&self.work, &made)?;
        fs::renameat_with(&self.work, &made, &self.work, &moved, RenameFlags::NOREPLACE)?;
        *self.shared_whiteout.lock() = Some(moved);
        Ok(())
    }

    /// A name in the work directory that nothing has.
    pub(crate) fn fresh_name(&self) -> OsString {
        OsString::from(format!("#{:x}", self.sequence.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn work(&self) -> &OwnedFd {
        &self.work
    }

    /// The directory `inode` in the upper, `O_PATH`; `None` when it is not there.
    pub(crate) fn dir(&self, inode: &Inode) -> Result<Option<Arc<OwnedFd>>> {
        let Some(expected) = inode.state.read().upper else {
            return Ok(None);
        };
        if inode.ino == ROOT {
            return Ok(Some(Arc::clone(&self.root)));
        }
        if let Some(dir) = self.open_dirs.lock().get(&inode.ino) {
            return Ok(Some(Arc::clone(dir)));
        }
        let dir = self.find(inode, expected)?;
        self.open_dirs.lock().put(inode.ino, Arc::clone(&dir));
        Ok(Some(dir))
    }

    /// As [`Upper::dir`], for a directory that must be there.
    pub(crate) fn dir_of(&self, inode: &Inode) -> Result<Arc<OwnedFd>> {
        self.dir(inode)?
            .ok_or(Error::Damaged("directory is not in the upper"))
    }

    /// Forgets an open directory whose number may come back for another one.
    pub(crate) fn close_dir(&self, inode: &Inode) {
        self.open_dirs.lock().pop(&inode.ino);
    }

    /// An `O_PATH` descriptor of the file or directory in the upper that `inode` stands for.
    pub(crate) fn name(&self, inode: &Inode) -> Result<Arc<OwnedFd>> {
        if inode.is_dir() {
            return self.dir_of(inode);
        }
        let expected = inode
            .state
            .read()
            .upper
            .ok_or(Error::Damaged("file is not in the upper"))?;
        if let Some(named) = self.named.lock().get(&expected) {
            return Ok(Arc::clone(named));
        }
        let found = self.find(inode, expected)?;
        // What is pushed out is closed with no lock held.
        let before = self.named.lock().push(expected, Arc::clone(&found));
        drop(before);
        self.let_go_if_deleted(inode);
        Ok(found)
    }

    /// A deleted file is held by whoever has it open, so that its space is free when nobody does. To be called when a
    /// name is gone.
    pub(crate) fn let_go_if_deleted(&self, inode: &Inode) {
        let deleted = {
            let state = inode.state.read();
            state.upper.filter(|_| state.links.is_empty())
        };
        if let Some(number) = deleted {
            let named = self.named.lock().pop(&number);
            drop(named);
        }
    }

    /// Resolves the file's names until one leads to the file with number `expected`: a rename may come between.
    fn find(&self, inode: &Inode, expected: u64) -> Result<Arc<OwnedFd>> {
        for _ in 0..RACE_TRIES_MAX {
            let (orphan, links) = {
                let state = inode.state.read();
                (state.orphan.clone(), state.links.clone())
            };
            if let Some(orphan) = orphan {
                return Ok(orphan);
            }
            for link in &links {
                let Ok(Some(dir)) = self.dir(&link.parent) else {
                    continue;
                };
                let Ok(fd) = sys::name_at(&dir, &link.name) else {
                    continue;
                };
                if sys::stat_fd(&fd).doing("read attributes in upper")?.ino == expected {
                    return Ok(Arc::new(fd));
                }
            }
        }
        Err(Error::Stale)
    }

    /// Opens the content of a regular file of the upper.
    pub(crate) fn open_file(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd> {
        let named = self.name(inode)?;
        sys::reopen(&named, flags).doing("open file of upper")
    }

    /// The marks on an entry of an upper directory, and the number that a copy showed before it was copied up.
    pub(crate) fn marks(&self, dir: &OwnedFd, name: &OsStr, attr: &Attr) -> Result<(Marks, Option<u64>)> {
        let of = XattrOf::Entry(dir.as_fd(), name);
        let get = |mark: &OsStr| sys::xattr(of, mark).doing("read mark in upper");
        let names = sys::xattr_names(of).doing("list marks in upper")?;
        let marks = match attr.file_type() {
            FileType::Directory | FileType::Regular => self.space.marks(attr.is_dir(), &names, get)?,
            _ => Marks::default(),
        };
        let noted = self.space.name("shale.ino");
        let number = if names.contains(&noted) {
            let number = get(&noted)?.as_deref().and_then(marks::parse_number);
            number.filter(|number| can_be_noted(*number))
        } else {
            None
        };
        Ok((marks, number))
    }

    /// Whether what the upper has under `name` in `dir` is no file but a mark: a whiteout, or the file `.wh..wh..opq` of
    /// fuse-overlayfs in a directory that is opaque anyway. (Elsewhere that name is the user's, like any other.)
    pub(crate) fn is_mark(&self, dir: &OwnedFd, name: &OsStr, attr: &Attr) -> Result<bool> {
        if whiteout::is_device(attr.mode, attr.rdev) {
            return Ok(true);
        }
        if !whiteout::is_opaque_note(name, attr.mode, attr.size_bytes) {
            return Ok(false);
        }
        let of = XattrOf::Fd(dir.as_fd());
        let names = sys::xattr_names(of).doing("list marks in upper")?;
        let get = |mark: &OsStr| sys::xattr(of, mark).doing("read mark in upper");
        Ok(self.space.marks(true, &names, get)?.opaque)
    }

    /// Sets one of our marks on the file that `fd` names.
    pub(crate) fn set_mark(&self, fd: impl AsFd, mark: &str, value: &[u8]) -> Result<()> {
        sys::set_xattr(fd, &self.space.name(mark), value, XattrFlags::empty()).doing("set mark in upper")
    }

    /// Notes that a directory holds metadata-only copies or merged directories: the kernel's overlayfs shows those under the
    /// number of what is below, and looks it up for listings only in directories with this mark.
    pub(crate) fn note_impure(&self, inode: &Inode, dir: impl AsFd) -> Result<()> {
        if !inode.impure.load(Ordering::Relaxed) {
            self.set_mark(dir, "impure", b"y")?;
            inode.impure.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes that a directory with nothing below may hold a whiteout for a moment. Without this mark the kernel's
    /// overlayfs lists the names in such a directory as they are (`ovl_get_inode`, fs/overlayfs/inode.c: an origin
    /// tells that it may have been merged once), and after a crash would show a name that leads nowhere.
    pub(crate) fn note_whiteouts(&self, dir: impl AsFd) -> Result<()> {
        match sys::set_xattr(dir, &self.space.name("origin"), b"", XattrFlags::CREATE) {
            Err(Errno::EXIST) => Ok(()),
            result => result.doing("set mark in upper"),
        }
    }

    pub(crate) fn remove_mark(&self, fd: impl AsFd, mark: &str) -> Result<()> {
        match sys::remove_xattr(fd, &self.space.name(mark)) {
            Err(Errno::NODATA) => Ok(()),
            result => result.doing("remove mark in upper"),
        }
    }

    /// Puts a whiteout at `name`, which must be free. One whiteout inode serves all, by hard links.
    pub(crate) fn link_whiteout(&self, dir: impl AsFd, name: &OsStr) -> Result<()> {
        let mut shared = self.shared_whiteout.lock();
        if let Some(source) = shared.as_ref() {
            match fs::linkat(&self.work, source, dir.as_fd(), name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::MLINK | Errno::NOENT) => *shared = None,
                // Not every file system links devices: then each whiteout is an inode of its own.
                Err(Errno::PERM) => return make_whiteout_device(dir, name).doing("make whiteout"),
                Err(error) => return Err(error).doing("make whiteout"),
            }
        }
        let source = self.fresh_name();
        make_whiteout_device(&self.work, &source).doing("make whiteout")?;
        let linked = fs::linkat(&self.work, &source, dir.as_fd(), name, AtFlags::empty());
        *shared = Some(source);
        match linked {
            Err(Errno::PERM) => make_whiteout_device(dir, name).doing("make whiteout"),
            linked => linked.doing("make whiteout"),
        }
    }

    /// A whiteout in the work directory, ready to be moved.
    pub(crate) fn prepared_whiteout(&self) -> Result<OsString> {
        let name = self.fresh_name();
        self.link_whiteout(&self.work, &name)?;
        Ok(name)
    }

    /// Removes what `name` in the work directory is, with all it holds.
    pub(crate) fn discard(&self, name: &OsStr) {
        if let Err(error) = remove_tree(&self.work, name) {
            tracing::warn!(name = %name.display(), %error, "cannot clear the work directory");
        }
    }
}

fn upper_path(upper: &Upper) -> PathBuf {
    std::fs::read_link(sys::fd_path(upper.root.as_fd())).unwrap_or_default()
}

/// Upper and work directory must be two, neither within the other.
fn check_places(upper: &Path, work: &Path) -> std::result::Result<(), SetupError> {
    let (Ok(true_upper), Ok(true_work)) = (upper.canonicalize(), work.canonicalize()) else {
        return Ok(());
    };
    if true_upper.starts_with(&true_work) || true_work.starts_with(&true_upper) {
        return Err(SetupError::Overlap {
            upper: upper.to_path_buf(),
            work: work.to_path_buf(),
        });
    }
    Ok(())
}

/// Takes the work directory for this mount alone. A server that was just unmounted still holds it for a moment:
/// umount(2) returns before it has gone.
fn lock_work(lock: &OwnedFd, path: &Path) -> std::result::Result<(), SetupError> {
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => return Err(SetupError::WorkBusy(path.to_path_buf())),
        }
    }
}

/// Refuses foreign files, clears what a crash left, and opens `work/work`.
fn prepare_work(lock: &OwnedFd, path: &Path) -> std::result::Result<OwnedFd, SetupError> {
    let failed = |source| SetupError::Open {
        role: "workdir",
        path: path.to_path_buf(),
        source,
    };
    for entry in sys::list(lock).map_err(failed)? {
        if !WORK_ENTRIES.iter().any(|known| entry.name == *known) {
            let entry = entry.name.to_string_lossy().into_owned();
            return Err(SetupError::WorkForeign {
                path: path.to_path_buf(),
                entry,
            });
        }
    }
    let name = OsStr::new("work");
    match remove_tree(lock, name) {
        Ok(()) => {}
        Err(error) => {
            return Err(SetupError::Fs {
                doing: "clear the work directory",
                source: error,
            });
        }
    }
    fs::mkdirat(lock, name, Mode::from_raw_mode(0o700)).map_err(failed)?;
    let work = sys::open_at(lock, name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
    if !is_ours_alone(&work).map_err(failed)? {
        return Err(SetupError::WorkForeign {
            path: path.to_path_buf(),
            entry: "work".to_owned(),
        });
    }
    Ok(work)
}

/// Whether nobody else can reach into a directory. Who owns the directory above could have put another in its place, and
/// then exchange what is being prepared in it, before it is given an owner, for files from elsewhere.
fn is_ours_alone(dir: &OwnedFd) -> std::result::Result<bool, Errno> {
    let attr = sys::stat_fd(dir)?;
    Ok(attr.uid == rustix::process::geteuid().as_raw() && attr.permissions() & 0o077 == 0)
}

fn recently_used<T>(limit: usize) -> LruCache<u64, T> {
    LruCache::new(NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN))
}

/// Finds the namespace that this server may write marks in.
fn probe_marks(work: &OwnedFd, user_marks: bool) -> std::result::Result<MarkSpace, Errno> {
    let probe = |space: MarkSpace| {
        let name = space.name("shale.probe");
        sys::set_xattr(work, &name, b"y", XattrFlags::empty())?;
        sys::remove_xattr(work, &name).map(|()| space)
    };
    if user_marks {
        return probe(MarkSpace::User);
    }
    probe(MarkSpace::Trusted).or_else(|_| probe(MarkSpace::User))
}

/// Whether this process may write `trusted.*` marks is only known for an upper; for read-only mounts, being root
/// in the first user namespace decides.
pub(crate) fn marks_of_readers(user_marks: bool) -> MarkSpace {
    // Every number stands for itself (user_namespaces(7)).
    let in_first = || {
        std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
    };
    if !user_marks && rustix::process::geteuid().is_root() && in_first() {
        MarkSpace::Trusted
    } else {
        MarkSpace::User
    }
}

fn make_whiteout_device(dir: impl AsFd, name: &OsStr) -> std::result::Result<(), Errno> {
    fs::mknodat(
        dir,
        name,
        fs::FileType::CharacterDevice,
        Mode::empty(),
        whiteout::DEVICE,
    )
}

/// Removes a file or a whole tree, without following links or crossing into another name's place.
fn remove_tree(dir: &OwnedFd, name: &OsStr) -> Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result.doing("remove from work directory"),
    }
    if fs::unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let child = match sys::open_at(dir, name, flags) {
        // A directory without permissions: its owner may still give them.
        Err(Errno::ACCESS) => {
            let named = sys::name_at(dir, name).doing("remove from work directory")?;
            sys::chmod(&named, 0o700).doing("remove from work directory")?;
            sys::reopen(&named, flags).doing("remove from work directory")?
        }
        opened => opened.doing("remove from work directory")?,
    };
    for entry in sys::list(&child).doing("remove from work directory")? {
        remove_tree(&child, &entry.name)?;
    }
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR).doing("remove from work directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_enter_is_not_worked_in() {
        let folder = tempfile::tempdir().unwrap();
        let open = |mode| {
            let path = folder.path().join(format!("{mode:o}"));
            std::fs::create_dir(&path).unwrap();
            let named = sys::name_at(CWD, path.as_os_str()).unwrap();
            sys::chmod(&named, mode).unwrap();
            sys::reopen(&named, OFlags::RDONLY | OFlags::DIRECTORY).unwrap()
        };
        assert!(is_ours_alone(&open(0o700)).unwrap());
        for mode in [0o710, 0o701, 0o770, 0o777, 0o1777] {
            assert!(!is_ours_alone(&open(mode)).unwrap(), "{mode:o}");
        }
        if rustix::process::geteuid().is_root() {
            let theirs = open(0o1700);
            sys::chown(&theirs, Some(4321), None).unwrap();
            assert!(!is_ours_alone(&theirs).unwrap());
        }
    }
}
