//! Unpacking a layer's tar stream into a directory in overlayfs' format.
//!
//! ```text
//! members ──► ordinary entry ──► made at once beneath the layer directory
//!        ├──► `.wh.NAME`, `.wh..wh..opq`, device 0:0 ──► kept until the end
//!        ├──► directory's times and mode ─────────────► kept until the end (making entries changes them)
//!        └──► hard link whose target did not come yet ─► kept until the end
//! ```
//!
//! Invariants:
//! - nothing is read or written outside the directory, whatever names, links and types the archive holds;
//! - a marker hides lower layers only, so the order of members does not matter: a whiteout of a name that the layer has
//!   itself makes a directory opaque and is nothing for a file;
//! - of two members with one name the last one counts; directories are merged;
//! - attributes by which overlayfs steers itself never come from an archive.
//!
//! Without the right to do so (in a user namespace) devices are left out and owners that have no id there become the
//! namespace's root; both are told once, with their number. Specification: OCI image-spec, layer.md.

mod finish;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, mkfifoat, symlinkat};
use xattr::FileExt;

use self::tree::{Removed, Tree, create_file, file_type, link_source, path_at};
use crate::archive::member::{Kind, Member, Members, TarError};
use crate::layer::path::{CleanPath, Role, clean, role, split};

/// Size of the buffer through which contents flow.
const BUFFER_BYTES: usize = 256 << 10;
/// Attributes by which this or a neighbouring file system steers itself: never taken from an archive.
const RESERVED_XATTRS: [&[u8]; 6] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"user.fuseoverlayfs.",
    b"trusted.fuseoverlayfs.",
    b"user.containers.",
    b"user.shale.",
];

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry may not or cannot be made.
    #[error("entry {path:?}: {problem}")]
    Entry {
        /// The entry's name in the archive.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An entry could not be made.
    #[error("{action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The entry's name in the archive.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// What came of unpacking.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Sum of the sizes of regular files.
    pub size_bytes: u64,
    /// Whether the archive had its end marker.
    pub end_marker: bool,
    /// Things that were left out, each once with its number.
    pub warnings: Vec<String>,
}

/// Unpacks a tar stream into the existing, empty directory `dir`, and reads the stream to its end.
pub fn unpack<R: Read>(stream: R, dir: &Path) -> Result<Unpacked, UnpackError> {
    let open = |source| UnpackError::Io {
        action: "open",
        path: dir.display().to_string(),
        source,
    };
    let mut unpacker = Unpacker {
        tree: Tree::open(dir).map_err(open)?,
        opaque_name: opaque_name(dir).map_err(open)?,
        directories: BTreeMap::new(),
        links: BTreeMap::new(),
        whiteouts: Vec::new(),
        opaques: Vec::new(),
        warnings: BTreeMap::new(),
        size_bytes: 0,
        buffer: vec![0; BUFFER_BYTES],
    };
    let mut members = Members::new(stream);
    while let Some(member) = members.next()? {
        unpacker.member(member, &mut members)?;
    }
    unpacker.finish()?;
    let (end_marker, _) = members.finish()?;
    let warnings = unpacker
        .warnings
        .into_iter()
        .map(|(text, count)| format!("{text} ({count} times)"))
        .collect();
    Ok(Unpacked {
        size_bytes: unpacker.size_bytes,
        end_marker,
        warnings,
    })
}

/// A member's path, cleaned: relative, without `.` and `..`. `None` when it leads outside.
pub fn clean_name(path: &[u8]) -> Option<Vec<u8>> {
    clean(path)
}

/// Under which name a directory is marked opaque: `trusted.*` needs the right of real root.
pub fn opaque_name(dir: &Path) -> io::Result<&'static str> {
    const TRUSTED: &str = "trusted.overlay.opaque";
    match xattr::set(dir, TRUSTED, b"y") {
        Ok(()) => xattr::remove(dir, TRUSTED).map(|()| TRUSTED),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOTSUP)) => {
            Ok("user.overlay.opaque")
        }
        Err(error) => Err(error),
    }
}

/// What is set on an entry after it was made.
struct Attributes {
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Unpacker {
    tree: Tree,
    opaque_name: &'static str,
    /// Directories whose attributes are set at the end.
    directories: BTreeMap<CleanPath, Attributes>,
    /// Hard links that wait for their target.
    links: BTreeMap<CleanPath, CleanPath>,
    /// Parent directory and name of what is to be hidden.
    whiteouts: Vec<CleanPath>,
    opaques: Vec<CleanPath>,
    warnings: BTreeMap<&'static str, u64>,
    size_bytes: u64,
    buffer: Vec<u8>,
}

/// A path for a message.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(if path.is_empty() { b"/" } else { path }).into_owned()
}

fn entry_error(path: &[u8], problem: impl Into<String>) -> UnpackError {
    UnpackError::Entry {
        path: shown(path),
        problem: problem.into(),
    }
}

/// A closure for `map_err` that names the action and the entry.
fn failed<E: Into<io::Error>>(action: &'static str, path: &[u8]) -> impl FnOnce(E) -> UnpackError {
    let path = shown(path);
    move |source| UnpackError::Io {
        action,
        path,
        source: source.into(),
    }
}

impl Unpacker {
    /// Makes one member, or keeps it for the end.
    fn member<R: Read>(&mut self, member: Member, content: &mut Members<R>) -> Result<(), UnpackError> {
        let Some(path) = clean(&member.path) else {
            return Err(entry_error(&member.path, "leads outside the archive"));
        };
        match role(&path) {
            Role::Entry => {}
            Role::Ignored => return Ok(()),
            Role::Refused => return Err(entry_error(&path, "is no valid name of a deletion marker")),
            Role::Opaque => {
                self.opaques.push(split(&path).0.to_vec());
                return Ok(());
            }
            Role::Whiteout(name) => {
                let mut hidden = split(&path).0.to_vec();
                if !hidden.is_empty() {
                    hidden.push(b'/');
                }
                hidden.extend_from_slice(name.as_bytes());
                self.whiteouts.push(hidden);
                return Ok(());
            }
        }
        if member.kind == Kind::CharDevice && member.device == (0, 0) {
            self.whiteouts.push(path); // overlayfs' own form of a whiteout
            return Ok(());
        }
        if path.is_empty() {
            if member.kind != Kind::Directory {
                return Err(entry_error(&path, "the root of a layer must be a directory"));
            }
            self.directories.insert(path, attributes(member));
            return Ok(());
        }
        if !self.links.is_empty() {
            self.links.remove(&path);
        }
        let (parent, name) = split(&path);
        let parent = self
            .tree
            .enter(parent)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOTDIR) => entry_error(&path, "stands below something that is no directory"),
                _ => failed("make the directory of", &path)(error),
            })?;
        match member.kind {
            Kind::Directory => self.make_directory(&parent, name, &path, member),
            Kind::Regular => self.make_file(&parent, name, &path, member, content),
            Kind::HardLink => self.make_link(&parent, name, &path, &member),
            _ => self.make_special(&parent, name, &path, member),
        }
    }

    /// Removes what an earlier member put at this name.
    fn replace(&mut self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<(), UnpackError> {
        if self.tree.remove(parent, name).map_err(failed("replace", path))? == Removed::Directory {
            self.directories.remove(path);
            let (mut first, mut end) = (path.to_vec(), path.to_vec());
            first.push(b'/');
            end.push(b'/' + 1);
            let below: Vec<CleanPath> = self
                .directories
                .range(first..end)
                .map(|(path, _)| path.clone())
                .collect();
            for path in below {
                self.directories.remove(&path);
            }
        }
        Ok(())
    }

    /// Runs `make`; when the name is taken, frees it and runs it again.
    fn make<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EEXIST) => {
                self.replace(parent, name, path)?;
                make().map_err(failed("create", path))
            }
            outcome => outcome.map_err(failed("create", path)),
        }
    }

    fn make_directory(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &OsStr,
        path: &[u8],
        member: Member,
    ) -> Result<(), UnpackError> {
        let there = Tree::stat(parent, name).map_err(failed("look at", path))?;
        if there.is_none_or(|stat| file_type(&stat) != SFlag::S_IFDIR) {
            self.make(parent, name, path, || {
                mkdirat(&**parent, name, Mode::from_bits_truncate(0o700))
            })?;
        }
        self.directories.insert(path.to_vec(), attributes(member));
        Ok(())
    }

    fn make_file<R: Read>(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &OsStr,
        path: &[u8],
        member: Member,
        content: &mut Members<R>,
    ) -> Result<(), UnpackError> {
        let mut file = self.make(parent, name, path, || create_file(parent, name))?;
        match &member.segments {
            None => self.copy(content, &mut file, member.size_bytes, path)?,
            Some(segments) => {
                for (offset, length) in segments {
                    file.seek(SeekFrom::Start(*offset))
                        .map_err(failed("write", path))?;
                    self.copy(content, &mut file, *length, path)?;
                }
                file.set_len(member.size_bytes).map_err(failed("write", path))?;
            }
        }
        self.size_bytes = self.size_bytes.saturating_add(member.size_bytes);
        let attributes = attributes(member);
        self.chown(&**parent, name, &attributes, path)?;
        fchmod(&file, Mode::from_bits_truncate(attributes.mode)).map_err(failed("set the mode of", path))?;
        self.set_xattrs(&attributes, path, |name, value| file.set_xattr(name, value))?;
        futimens(&file, &TimeSpec::UTIME_OMIT, &time(attributes.mtime))
            .map_err(failed("set the time of", path))
    }

    /// Copies a number of bytes of the current member.
    fn copy<R: Read>(
        &mut self,
        content: &mut Members<R>,
        file: &mut File,
        length: u64,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let mut left = length;
        while left > 0 {
            let wanted = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match content.read(&mut self.buffer[..wanted]) {
                Ok(0) => return Err(TarError::Truncated(format!("inside {:?}", shown(path))).into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TarError::Read(error).into()),
            };
            file.write_all(&self.buffer[..count])
                .map_err(failed("write", path))?;
            left -= count as u64;
        }
        Ok(())
    }

    /// Makes a hard link, or keeps it when its target did not come yet.
    fn make_link(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &OsStr,
        path: &[u8],
        member: &Member,
    ) -> Result<(), UnpackError> {
        let Some(target) = clean(&member.link).filter(|target| !target.is_empty()) else {
            return Err(entry_error(
                path,
                format!("is a hard link to {:?}, outside the archive", shown(&member.link)),
            ));
        };
        if role(&target) != Role::Entry {
            return Err(entry_error(path, "is a hard link to a deletion marker"));
        }
        if !self.try_link(parent, name, path, &target)? {
            self.replace(parent, name, path)?;
            self.links.insert(path.to_vec(), target);
        }
        Ok(())
    }

    /// Makes a hard link when its target is there.
    fn try_link(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &OsStr,
        path: &[u8],
        target: &[u8],
    ) -> Result<bool, UnpackError> {
        let Some((source, source_name)) =
            link_source(&self.tree, target).map_err(failed("look at", target))?
        else {
            return Ok(false);
        };
        let stat = Tree::stat(&source, source_name).map_err(failed("look at", target))?;
        if stat.is_some_and(|stat| file_type(&stat) == SFlag::S_IFDIR) {
            return Err(entry_error(
                path,
                format!("is a hard link to the directory {:?}", shown(target)),
            ));
        }
        let there = Tree::stat(parent, name).map_err(failed("look at", path))?;
        let same = |a: nix::sys::stat::FileStat, b: nix::sys::stat::FileStat| {
            (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
        };
        if let (Some(stat), Some(there)) = (stat, there)
            && same(stat, there)
        {
            return Ok(true);
        }
        self.make(parent, name, path, || {
            linkat(&source, source_name, &**parent, name, AtFlags::empty())
        })?;
        Ok(true)
    }

    /// Makes a symbolic link, a pipe or a device.
    fn make_special(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &OsStr,
        path: &[u8],
        member: Member,
    ) -> Result<(), UnpackError> {
        let empty = Mode::from_bits_truncate(0o600);
        match member.kind {
            Kind::Symlink => {
                if member.link.is_empty() {
                    return Err(entry_error(path, "is a symbolic link to nothing"));
                }
                let target = OsStr::from_bytes(&member.link);
                self.make(parent, name, path, || symlinkat(target, &**parent, name))?;
            }
            Kind::Fifo => self.make(parent, name, path, || mkfifoat(&**parent, name, empty))?,
            _ => {
                let kind = if member.kind == Kind::CharDevice {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                };
                let device = libc::makedev(member.device.0, member.device.1);
                self.replace(parent, name, path)?;
                match mknodat(&**parent, name, kind, empty, device) {
                    Err(Errno::EPERM) => {
                        self.warn("device left out: making one needs the rights of root");
                        return Ok(());
                    }
                    outcome => outcome.map_err(failed("create", path))?,
                }
            }
        }
        let is_link = member.kind == Kind::Symlink;
        let attributes = attributes(member);
        self.set_by_name(parent, name, path, &attributes, is_link)
    }

    /// Sets the attributes of something that cannot be opened.
    fn set_by_name(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        attributes: &Attributes,
        is_link: bool,
    ) -> Result<(), UnpackError> {
        self.chown(parent, name, attributes, path)?;
        if !is_link {
            let mode = Mode::from_bits_truncate(attributes.mode);
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)
                .map_err(failed("set the mode of", path))?;
        }
        let full = path_at(parent, name);
        self.set_xattrs(attributes, path, |key, value| xattr::set(&full, key, value))?;
        utimensat(
            parent,
            name,
            &TimeSpec::UTIME_OMIT,
            &time(attributes.mtime),
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(failed("set the time of", path))
    }

    fn chown(
        &mut self,
        parent: impl AsFd,
        name: &OsStr,
        attributes: &Attributes,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let (Some(uid), Some(gid)) = (id(attributes.uid), id(attributes.gid)) else {
            let owner = format!("{}:{}", attributes.uid, attributes.gid);
            return Err(entry_error(
                path,
                format!("has the owner {owner}, which is no valid id"),
            ));
        };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::EINVAL | Errno::EPERM) => {
                self.warn("owner has no id in this user namespace, left to the namespace's root");
                Ok(())
            }
            outcome => outcome.map_err(failed("set the owner of", path)),
        }
    }

    /// Sets extended attributes, except reserved ones and those that the file system or the namespace does not allow.
    fn set_xattrs(
        &mut self,
        attributes: &Attributes,
        path: &[u8],
        set: impl Fn(&OsStr, &[u8]) -> io::Result<()>,
    ) -> Result<(), UnpackError> {
        for (name, value) in &attributes.xattrs {
            if RESERVED_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
                self.warn("reserved extended attribute dropped");
                continue;
            }
            match set(OsStr::from_bytes(name), value) {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EPERM | libc::ENOTSUP | libc::EINVAL)
                    ) =>
                {
                    self.warn("extended attribute dropped: not allowed here");
                }
                outcome => outcome.map_err(failed("set an extended attribute of", path))?,
            }
        }
        Ok(())
    }

    fn warn(&mut self, text: &'static str) {
        *self.warnings.entry(text).or_default() += 1;
    }
}

fn attributes(member: Member) -> Attributes {
    let Member {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
        ..
    } = member;
    Attributes {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    }
}

fn time((seconds, nanos): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, i64::from(nanos))
}
