//! A union ready for one test: scratch, layers, upper, mount, and the check that no layer changed.

use crate::faults::{Faults, FaultyCalls};
use crate::mount::{Backend, MountGuard, MountSpec};
use crate::posix;
use crate::scratch::Scratch;
use crate::snapshot::Untouched;
use std::path::{Path, PathBuf};

/// A mounted union over layers of the test's making. Dropping it unmounts and compares the layers.
#[derive(Debug)]
pub struct Fixture {
    guard: Option<MountGuard>,
    spec: MountSpec,
    layers: Untouched,
    mount_point: PathBuf,
    backend: Backend,
    scratch: Scratch,
}

impl Fixture {
    /// One lower layer, filled by `fill`.
    #[must_use]
    pub fn new(backend: Backend, fill: impl FnOnce(&Path)) -> Fixture {
        Fixture::with_layers(backend, 1, |layers| fill(&layers[0]))
    }

    /// Several lower layers, top first, filled by `fill`.
    #[must_use]
    pub fn with_layers(backend: Backend, count: usize, fill: impl FnOnce(&[PathBuf])) -> Fixture {
        Fixture::in_scratch(Scratch::new(), backend, count, fill)
    }

    /// As [`Fixture::with_layers`], in a scratch of the caller's choice.
    #[must_use]
    pub fn in_scratch(
        scratch: Scratch,
        backend: Backend,
        count: usize,
        fill: impl FnOnce(&[PathBuf]),
    ) -> Fixture {
        let lowers: Vec<PathBuf> = (0..count).map(|i| scratch.directory(&format!("l{i}"))).collect();
        fill(&lowers);
        let upper = scratch.directory("upper");
        let work = scratch.directory("work");
        Fixture::over(
            scratch,
            backend,
            MountSpec {
                lowers,
                upper: Some((upper, work)),
                extra_options: vec![],
                open_files_limit: None,
            },
        )
    }

    /// Mounts `spec`, whose directories are already filled.
    #[must_use]
    pub fn over(scratch: Scratch, backend: Backend, spec: MountSpec) -> Fixture {
        let mount_point = scratch.directory("merged");
        let layers = Untouched::watch(&spec.lowers);
        let guard = MountGuard::mount(backend, &spec, &mount_point).expect("mount the union");
        Fixture {
            guard: Some(guard),
            spec,
            layers,
            mount_point,
            backend,
            scratch,
        }
    }

    /// Unmounts and mounts again by the same program, whose system calls can from now on be made to fail.
    pub fn remount_faulty(&mut self, calls: FaultyCalls) -> Faults {
        self.unmount();
        let mounted = MountGuard::mount_faulty(self.backend, &self.spec, &self.mount_point, calls);
        let (guard, faults) = mounted.expect("mount the union again");
        self.guard = Some(guard);
        faults
    }

    /// Who serves it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// A path inside the mount.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.mount_point.join(path)
    }

    /// The mount's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.mount_point
    }

    /// A lower layer, 0 is the top one.
    #[must_use]
    pub fn lower(&self, index: usize) -> &Path {
        &self.spec.lowers[index]
    }

    /// The upper directory.
    #[must_use]
    pub fn upper(&self) -> &Path {
        &self.spec.upper.as_ref().expect("the union is writable").0
    }

    /// What is mounted.
    #[must_use]
    pub fn spec(&self) -> &MountSpec {
        &self.spec
    }

    /// The scratch file system that holds it all.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The mount's guard.
    #[must_use]
    pub fn guard(&mut self) -> &mut MountGuard {
        self.guard.as_mut().expect("mounted")
    }

    /// Unmounts and mounts again by the same program.
    pub fn remount(&mut self) {
        self.remount_as(self.backend);
    }

    /// Unmounts and mounts again by another program.
    pub fn remount_as(&mut self, backend: Backend) {
        self.unmount();
        self.backend = backend;
        self.guard =
            Some(MountGuard::mount(backend, &self.spec, &self.mount_point).expect("mount the union again"));
    }

    /// Unmounts; whatever the program did wrong on its way out fails the test.
    pub fn unmount(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.unmount().expect("unmount the union");
        }
    }

    /// Takes down a mount whose server was killed, without asking anything of it.
    pub fn abandon_mount(&mut self) {
        drop(self.guard.take());
    }

    /// Mounts again after the server was killed.
    pub fn remount_after_crash(&mut self) {
        self.abandon_mount();
        let again = MountGuard::mount(self.backend, &self.spec, &self.mount_point);
        self.guard = Some(again.expect("mount the union after a crash"));
    }

    /// Fails when a lower layer is not what it was before the mount.
    pub fn assert_layers_untouched(&self) {
        self.layers.check("while mounted");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // The layers are compared after that.
        self.unmount();
    }
}

/// Writes a file with its parents, for filling layers.
pub fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("make parents");
    std::fs::write(path, content).expect("write a file");
}

/// Makes a directory with its parents, for filling layers.
pub fn put_dir(root: &Path, path: &str) {
    std::fs::create_dir_all(root.join(path)).expect("make directories");
}

/// Makes a whiteout with its parents, for filling layers.
pub fn put_whiteout(root: &Path, path: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("make parents");
    posix::whiteout(&path).expect("make a whiteout");
}

/// Makes a directory that hides what lies below it, for filling layers.
pub fn put_opaque(root: &Path, path: &str) {
    put_dir(root, path);
    let flags = rustix::fs::XattrFlags::empty();
    posix::set_xattr(&root.join(path), "trusted.overlay.opaque", b"y", flags).expect("mark opaque");
}

/// The sorted names in a directory.
#[must_use]
pub fn listed(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = posix::names(path)
        .unwrap_or_else(|error| panic!("list {}: {error}", path.display()))
        .iter()
        .map(|name| name.escape_ascii().to_string())
        .collect();
    names.sort();
    names
}

/// The content as text.
#[must_use]
pub fn text(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One of the server's counters.
#[must_use]
pub fn counter(mount: &Path, name: &str) -> u64 {
    let counters = posix::get_xattr(mount, ufs::fs::COUNTERS).expect("the server's counters");
    let text = String::from_utf8_lossy(&counters).into_owned();
    let number: String = text
        .split_once(&format!("\"{name}\":"))
        .expect("the counter")
        .1
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    number.parse().expect("a number")
}

/// Makes one test per program out of a function that takes a [`Backend`]: the kernel's overlayfs, which
/// shows that the test asks for what overlayfs does, and ours: with passthrough, without, with partial copies, and over an image.
#[macro_export]
macro_rules! for_each_union {
    ($($(#[$meta:meta])* fn $name:ident($backend:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;
            fn body($backend: $crate::mount::Backend) $body

            #[test]
            fn kernel() {
                if $crate::mount::Backend::Kernel.is_available_or_skip() {
                    body($crate::mount::Backend::Kernel);
                }
            }

            #[test]
            fn shale_passthrough() {
                if $crate::mount::Backend::ShalePassthrough.is_available_or_skip() {
                    body($crate::mount::Backend::ShalePassthrough);
                }
            }

            #[test]
            fn shale_plain() {
                if $crate::mount::Backend::ShalePlain.is_available_or_skip() {
                    body($crate::mount::Backend::ShalePlain);
                }
            }

            #[test]
            fn shale_partial() {
                if $crate::mount::Backend::ShalePartial.is_available_or_skip() {
                    body($crate::mount::Backend::ShalePartial);
                }
            }

            #[test]
            fn shale_image() {
                if $crate::mount::Backend::ShaleImage.is_available_or_skip() {
                    body($crate::mount::Backend::ShaleImage);
                }
            }
        }
    )*};
}
