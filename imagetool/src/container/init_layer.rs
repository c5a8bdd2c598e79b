//! The init layer: right above the image's layers, below what the container writes. It makes the places that the
//! engine mounts over, where the image lacks them, so that they never show in a diff or a commit; and it hides the
//! store from a container that sees the host's own files.
//!
//! ```text
//! upper   what the container changed
//! init    etc/hosts (empty file)   proc/ (empty directory)   var/lib/shale/ (opaque: hides what is below)
//! image   etc/ bin/ …
//! ```
//!
//! A place that the image fills with something else, a symbolic link above all, is covered by the plain file or
//! directory that belongs there: then no mount follows a link. Directories that the init layer passes through take
//! the mode, owner, times and attributes of those that they stand before. When `/etc` itself is no directory it is
//! left alone: the runtime resolves the way through it inside the container's root.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use ufs::Lower;
use ufs::attr::FileType;
use ufs::diff::{Node, Snapshot};

use super::ContainerError;

/// Directories that the default mounts cover.
const DIRECTORIES: [&str; 3] = ["dev", "proc", "sys"];

/// Makes the init layer in `init`, an empty directory. `files` are absolute destinations two levels deep, such as
/// /etc/hosts; `hidden` are absolute paths in the view that must appear empty.
pub(super) fn build<'a>(
    init: &Path,
    lowers: &[Lower],
    files: impl Iterator<Item = &'a str>,
    hidden: &[PathBuf],
) -> Result<(), ContainerError> {
    let failed = |path: &Path| {
        let path = init.join(path);
        move |source| ContainerError::Io {
            action: "make the init layer",
            path,
            source,
        }
    };
    let image = Snapshot::merged(lowers)
        .map_err(io::Error::other)
        .map_err(failed(Path::new("")))?;
    if let Some(original) = directory(&image, Path::new("")).map_err(failed(Path::new("")))? {
        take_attributes(&original, init).map_err(failed(Path::new("")))?;
    }
    for name in DIRECTORIES {
        let path = Path::new(name);
        if directory(&image, path).map_err(failed(path))?.is_none() {
            make_directory(&init.join(path)).map_err(failed(path))?;
        }
    }
    for destination in files {
        make_file(init, &image, relative(Path::new(destination))).map_err(failed(Path::new(destination)))?;
    }
    for path in hidden {
        hide(init, &image, relative(path)).map_err(failed(path))?;
    }
    Ok(())
}

/// What the image shows at a path without a symbolic link on the way.
fn find(image: &Snapshot, path: &Path) -> io::Result<Option<Node>> {
    image.find(path.as_os_str()).map_err(io::Error::other)
}

/// The directory that the image shows at a path.
fn directory(image: &Snapshot, path: &Path) -> io::Result<Option<Node>> {
    Ok(find(image, path)?.filter(|node| node.file_type == FileType::Directory))
}

/// An empty file at `path`, unless the image has a plain one, or its directory is none.
fn make_file(init: &Path, image: &Snapshot, path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let is_other = |node: Node| node.file_type != FileType::Directory;
    let is_plain = |node: Node| node.file_type == FileType::Regular;
    if find(image, parent)?.is_some_and(is_other) || find(image, path)?.is_some_and(is_plain) {
        return Ok(());
    }
    make_parents(init, image, parent)?;
    let file = File::create(init.join(path))?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    restore_times(init, image, parent)
}

/// An opaque directory at `path`, where the image has a directory there.
fn hide(init: &Path, image: &Snapshot, path: &Path) -> io::Result<()> {
    let Some(original) = directory(image, path)? else {
        return Ok(());
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    make_parents(init, image, parent)?;
    make_directory(&init.join(path))?;
    take_attributes(&original, &init.join(path))?;
    set_opaque(&init.join(path))?;
    restore_times(init, image, parent)
}

/// Makes `path` and the directories above it in the init layer, each like the image's.
fn make_parents(init: &Path, image: &Snapshot, path: &Path) -> io::Result<()> {
    let mut place = PathBuf::new();
    for component in path.components() {
        place.push(component);
        let made = init.join(&place);
        if made.symlink_metadata().is_ok() {
            continue;
        }
        make_directory(&made)?;
        if let Some(original) = directory(image, &place)? {
            take_attributes(&original, &made)?;
        }
    }
    Ok(())
}

/// Gives `path` and what is above it the image's times again, which making entries has changed.
fn restore_times(init: &Path, image: &Snapshot, path: &Path) -> io::Result<()> {
    for place in path.ancestors() {
        if let Some(original) = directory(image, place)? {
            set_time(original.mtime, &init.join(place))?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // The umask does not count here.
        _ => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
    }
}

/// Gives a directory the attributes of the image's.
fn take_attributes(from: &Node, to: &Path) -> io::Result<()> {
    set_owner(to, from.uid, from.gid)?;
    fs::set_permissions(to, fs::Permissions::from_mode(from.mode))?;
    for (name, value) in &from.xattrs {
        // What the file system or our rights do not allow (a label, an access list in a user namespace) is left out.
        let _ = xattr::set(to, name, value);
    }
    set_time(from.mtime, to)
}

/// Gives a directory the attributes of another one.
pub(super) fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    set_owner(to, metadata.uid(), metadata.gid())?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    for name in xattr::list(from)? {
        let overlays_own = [&b"trusted.overlay."[..], b"user.overlay."]
            .iter()
            .any(|own| name.as_bytes().starts_with(own));
        if !overlays_own && let Ok(Some(value)) = xattr::get(from, &name) {
            let _ = xattr::set(to, &name, &value);
        }
    }
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    set_time((metadata.mtime(), nanos), to)
}

fn set_owner(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    match chown(path, Some(uid), Some(gid)) {
        // In a user namespace, an owner without a name there cannot be given: the union shows it as root anyway.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)) => Err(error),
        _ => Ok(()),
    }
}

/// Sets the time of last modification; that of last access is nobody's interest here.
fn set_time((seconds, nanos): (i64, u32), path: &Path) -> io::Result<()> {
    let modified = TimeSpec::new(seconds, i64::from(nanos));
    Ok(utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &TimeSpec::UTIME_OMIT,
        &modified,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

/// Marks a directory opaque as overlayfs does: the trusted attribute takes the real root.
fn set_opaque(path: &Path) -> io::Result<()> {
    if crate::namespace::is_initial_user_namespace() {
        return xattr::set(path, "trusted.overlay.opaque", b"y");
    }
    xattr::set(path, "user.overlay.opaque", b"y")
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A scratch folder with an empty init layer and these layers, top first.
    struct Scratch {
        folder: tempfile::TempDir,
        lowers: Vec<PathBuf>,
    }

    impl Scratch {
        fn new(layers: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("init")).unwrap();
            let lowers: Vec<_> = (0..layers)
                .map(|layer| folder.path().join(layer.to_string()))
                .collect();
            lowers.iter().for_each(|lower| fs::create_dir(lower).unwrap());
            Self { folder, lowers }
        }

        fn init(&self, path: &str) -> PathBuf {
            self.folder.path().join("init").join(path)
        }

        fn lower(&self, layer: usize, path: &str) -> PathBuf {
            let path = self.lowers[layer].join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn build(&self, hidden: &[&str]) {
            let hidden: Vec<PathBuf> = hidden.iter().map(PathBuf::from).collect();
            let lowers: Vec<Lower> = self.lowers.iter().cloned().map(Lower::Directory).collect();
            build(
                &self.init(""),
                &lowers,
                ["/etc/hosts", "/etc/resolv.conf"].into_iter(),
                &hidden,
            )
            .unwrap();
        }
    }

    #[test]
    fn an_empty_image_gets_all_mount_points() {
        let scratch = Scratch::new(0);
        scratch.build(&["/var/lib/shale"]);
        for directory in ["dev", "proc", "sys", "etc"] {
            assert!(scratch.init(directory).is_dir(), "{directory}");
        }
        for file in ["etc/hosts", "etc/resolv.conf"] {
            assert_eq!(fs::read(scratch.init(file)).unwrap(), b"", "{file}");
        }
        assert!(!scratch.init("var").exists());
    }

    #[test]
    fn a_whole_image_needs_nothing() {
        let scratch = Scratch::new(2);
        for directory in ["dev", "proc", "sys", "etc"] {
            fs::create_dir_all(scratch.lower(1, directory)).unwrap();
        }
        fs::write(scratch.lower(1, "etc/hosts"), "x").unwrap();
        fs::write(scratch.lower(0, "etc/resolv.conf"), "x").unwrap();
        scratch.build(&[]);
        assert_eq!(fs::read_dir(scratch.init("")).unwrap().count(), 0);
    }

    #[test]
    fn links_at_mount_points_are_covered() {
        let scratch = Scratch::new(1);
        symlink("/elsewhere", scratch.lower(0, "proc")).unwrap();
        symlink("../../../outside", scratch.lower(0, "etc/hosts")).unwrap();
        scratch.build(&[]);
        assert!(scratch.init("proc").symlink_metadata().unwrap().is_dir());
        assert!(scratch.init("etc/hosts").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_link_for_etc_is_left_to_the_runtime() {
        let scratch = Scratch::new(1);
        symlink("/outside", scratch.lower(0, "etc")).unwrap();
        scratch.build(&[]);
        assert!(scratch.init("etc").symlink_metadata().is_err());
    }

    #[test]
    fn directories_look_like_the_images() {
        let scratch = Scratch::new(2);
        let etc = scratch.lower(1, "etc");
        fs::create_dir_all(&etc).unwrap();
        fs::set_permissions(&etc, fs::Permissions::from_mode(0o2751)).unwrap();
        let stamp = TimeSpec::new(1_000_000, 5);
        utimensat(
            nix::fcntl::AT_FDCWD,
            &etc,
            &stamp,
            &stamp,
            UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        scratch.build(&[]);
        let metadata = scratch.init("etc").symlink_metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o2751);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000, 5));
    }

    #[test]
    fn whiteouts_and_opaque_directories_end_the_search() {
        let scratch = Scratch::new(2);
        fs::write(scratch.lower(1, "etc/hosts"), "x").unwrap();
        fs::write(scratch.lower(0, "etc/.wh.hosts"), "").unwrap();
        fs::create_dir_all(scratch.lower(1, "proc")).unwrap();
        fs::write(scratch.lower(0, ".wh.proc"), "").unwrap();
        fs::write(scratch.lower(1, "etc/resolv.conf"), "x").unwrap();
        scratch.build(&[]);
        assert!(scratch.init("etc/hosts").is_file() && scratch.init("proc").is_dir());
        assert!(!scratch.init("etc/resolv.conf").exists());
        fs::write(scratch.lower(0, "etc/.wh..wh..opq"), "").unwrap();
        scratch.build(&[]);
        assert!(scratch.init("etc/resolv.conf").is_file());
    }

    #[test]
    fn the_store_is_hidden_by_an_opaque_directory() {
        let scratch = Scratch::new(1);
        fs::write(scratch.lower(0, "var/lib/shale/secret"), "x").unwrap();
        if let Err(error) = xattr::set(scratch.init(""), "user.overlay.probe", b"y") {
            eprintln!(
                "SKIPPED: no extended attributes in {}: {error}",
                scratch.init("").display()
            );
            return;
        }
        scratch.build(&["/var/lib/shale"]);
        let marked = |name: &str| xattr::get(scratch.init("var/lib/shale"), name).unwrap().is_some();
        assert!(marked("trusted.overlay.opaque") || marked("user.overlay.opaque"));
        assert_eq!(fs::read_dir(scratch.init("var/lib/shale")).unwrap().count(), 0);
    }
}
