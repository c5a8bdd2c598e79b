//! A mount from its beginning to its end.
//!
//! The file system is mounted by ourselves where the rights allow it (root, also of a user namespace), else by
//! `fusermount3`. The session ends when the mount is taken away, by whomever, or when a signal asks for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::MsFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;

use super::Adapter;
use super::ahead::Giver;
use super::counted::Counted;
use super::handover::{self, Kept};
use super::options::{MountFlags, MountOptions};
use crate::error::SetupError;
use crate::fs::{Background, Closing, Fs};
use crate::io_mode::Backing;
use crate::sys;
use crate::sys::mount::{self, FuseMount};

/// Threads by default: a slow request (a read from a slow layer, a large copy-up) holds one for as long as it takes, and the
/// rest must go on. Those with nothing to do wait beside the device and cost little.
const THREADS_MIN: usize = 16;
const THREADS_DEFAULT_MAX: usize = 32;

/// A mounted file system, about to be served.
pub struct Session {
    inner: fuser::Session<Counted<Adapter>>,
    mountpoint: PathBuf,
    signals: SigSet,
    giver: Option<Giver>,
    fs: Arc<Fs>,
}

impl Session {
    /// Opens the layers, mounts, and shakes hands with the kernel.
    ///
    /// # Errors
    /// [`SetupError`] with what to do about it; nothing stays mounted then.
    pub fn mount(options: &MountOptions, mountpoint: &Path) -> Result<Self, SetupError> {
        check_mountpoint(mountpoint)?;
        // From here on a signal waits until somebody can unmount.
        let signals = block_signals().map_err(|source| SetupError::Io {
            doing: "block signals",
            source,
        })?;
        allow_many_descriptors();
        let fs = Arc::new(Fs::open(&options.layout, options.ids.clone())?);
        // Permission bits of new files are decided by the caller's mask, which comes with each request.
        rustix::process::umask(rustix::fs::Mode::empty());
        let requests = Arc::clone(fs.requests());
        let (adapter, giver) = Adapter::new(Arc::clone(&fs), options.behaviour);
        let notifier = adapter.notifier();
        let served = Counted::new(adapter, requests, threads(options));
        let mountpoint = mountpoint.canonicalize().map_err(|source| SetupError::Io {
            doing: "resolve the mount point",
            source,
        })?;
        let inner = match mount_directly(options, &mountpoint) {
            Ok(device) => {
                let session =
                    fuser::Session::from_fd(served, device, fuser::SessionACL::All, config(options));
                session.map_err(|source| {
                    let _ = mount::detach(&mountpoint);
                    SetupError::Io {
                        doing: "shake hands with the kernel",
                        source,
                    }
                })?
            }
            Err(SetupError::Mount {
                source: Errno::PERM, ..
            }) if fusermount_is_there() => fuser::Session::new(served, &mountpoint, &config(options))
                .map_err(|source| SetupError::Io {
                    doing: "mount by fusermount3",
                    source,
                })?,
            Err(error) => return Err(error),
        };
        // Nothing is answered before the session runs.
        let _ = notifier.set(inner.notifier());
        Ok(Self {
            inner,
            mountpoint,
            signals,
            giver,
            fs,
        })
    }

    /// As [`Session::mount`] on a device that outlives this process, or goes on where another server died: then nothing
    /// is mounted, and the mount point, which leads to this very server, is not touched. `mountpoint` and the paths in
    /// `options` are as [`super::supervisor::prepare`] leaves them.
    ///
    /// # Errors
    /// [`SetupError`]; a mount made here is taken away again.
    pub fn mount_kept(options: &MountOptions, mountpoint: &Path, kept: &Kept) -> Result<Self, SetupError> {
        let failed = |doing| move |source: io::Error| SetupError::Io { doing, source };
        let signals = block_signals().map_err(failed("block signals"))?;
        allow_many_descriptors();
        let (journal, mut live) = kept.journal().map_err(failed("read the journal"))?;
        let init = live.init.take();
        let make_backing = |id| -> Arc<dyn Backing> { Arc::new(sys::fuse::Backing::new(&kept.device, id)) };
        let (layout, orphans) = (&options.layout, kept.files.files());
        let resumed = Fs::resume(layout, options.ids.clone(), journal, live, orphans, &make_backing);
        let fs = Arc::new(resumed?);
        rustix::process::umask(rustix::fs::Mode::empty());
        let (mut adapter, giver) = Adapter::new(Arc::clone(&fs), options.behaviour);
        adapter.keep_backings(&kept.device);
        let notifier = adapter.notifier();
        let served = Counted::new(adapter, Arc::clone(fs.requests()), threads(options));
        let mut config = config(options);
        // Requests that a descriptor of its own has read end with that descriptor, and so with the server.
        config.clone_fd = false;
        let session = match init {
            Some(init) => handover::shake_hands(served, &kept.device, &init, config),
            None => {
                mount_on(&kept.device, options, mountpoint)?;
                handover::receive_init(&kept.device, fs.journal())
                    .and_then(|init| handover::shake_hands(served, &kept.device, &init, config))
                    .inspect_err(|_| {
                        let _ = mount::detach(mountpoint);
                    })
            }
        };
        let inner = session.map_err(failed("shake hands with the kernel"))?;
        // Nothing is answered before the session runs.
        let _ = notifier.set(inner.notifier());
        // A mount that is gone has nothing to ask.
        if let Err(error) = sys::fuse::ask_again(&kept.device) {
            tracing::debug!(%error, "unanswered requests are not asked for again");
        }
        Ok(Self {
            inner,
            mountpoint: mountpoint.to_path_buf(),
            signals,
            giver,
            fs,
        })
    }

    /// Serves until the file system is unmounted. SIGTERM, SIGINT and SIGHUP unmount it.
    ///
    /// # Errors
    /// When the FUSE device fails.
    pub fn serve(self, ready: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mountpoint = self.mountpoint.clone();
        let ours = mount::id_at(&mountpoint);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || watch(&self.signals, &mountpoint, ours))?;
        if let Some(giver) = self.giver {
            let notifier = self.inner.notifier();
            std::thread::Builder::new()
                .name("ahead".to_owned())
                .spawn(move || giver.run(&notifier))?;
        }
        let sealing = Background::start(&self.fs)?;
        let closing = Closing::start(&self.fs)?;
        ready()?;
        let served = match self.inner.run() {
            // With several threads the end of the mount reaches some of them as an abort.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            result => result,
        };
        closing.finish(&self.fs);
        sealing.finish(&self.fs);
        served
    }
}

/// Blocks the signals that unmount, in this thread and those it makes.
fn block_signals() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}

/// Every file that is open in the mount is open in the server: takes all the descriptors that the limits allow.
pub(super) fn allow_many_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}

/// Waits for a signal and takes the mount away, if the mount point still carries ours.
fn watch(signals: &SigSet, mountpoint: &Path, ours: Option<u64>) {
    loop {
        if signals.wait().is_err() {
            continue;
        }
        let there = mount::id_at(mountpoint);
        if ours.is_some()
            && ours == there
            && let Err(error) = mount::detach(mountpoint)
        {
            tracing::error!(mountpoint = %mountpoint.display(), %error, "cannot unmount");
            continue;
        }
        return;
    }
}

/// How many threads serve the mount.
fn threads(options: &MountOptions) -> usize {
    let processors = std::thread::available_parallelism().map_or(THREADS_MIN, std::num::NonZero::get);
    options
        .threads
        .unwrap_or(processors.clamp(THREADS_MIN, THREADS_DEFAULT_MAX))
}

fn config(options: &MountOptions) -> fuser::Config {
    let threads = threads(options);
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = threads > 1;
    config.acl = if options.allow_other {
        fuser::SessionACL::All
    } else {
        fuser::SessionACL::Owner
    };
    // Only for fusermount3: a mount of our own passes flags to mount(2).
    config.mount_options = vec![
        fuser::MountOption::FSName(options.source.clone()),
        fuser::MountOption::Subtype("shale-ufs".to_owned()),
        fuser::MountOption::DefaultPermissions,
        if options.flags.read_only {
            fuser::MountOption::RO
        } else {
            fuser::MountOption::RW
        },
    ];
    config
}

fn mount_directly(options: &MountOptions, mountpoint: &Path) -> Result<std::os::fd::OwnedFd, SetupError> {
    let device = mount::open_device().map_err(|source| SetupError::Device { source })?;
    mount_on(&device, options, mountpoint)?;
    Ok(device)
}

fn mount_on(
    device: &std::os::fd::OwnedFd,
    options: &MountOptions,
    mountpoint: &Path,
) -> Result<(), SetupError> {
    let request = FuseMount {
        source: &options.source,
        allow_other: options.allow_other,
        flags: ms_flags(options.flags),
    };
    mount::mount_fuse(device, mountpoint, &request).map_err(|source| SetupError::Mount {
        path: mountpoint.to_path_buf(),
        source,
    })
}

fn ms_flags(flags: MountFlags) -> MsFlags {
    let mut ms = MsFlags::empty();
    for (set, flag) in [
        (flags.read_only, MsFlags::MS_RDONLY),
        (!flags.dev, MsFlags::MS_NODEV),
        (!flags.suid, MsFlags::MS_NOSUID),
        (!flags.exec, MsFlags::MS_NOEXEC),
        (!flags.atime, MsFlags::MS_NOATIME),
    ] {
        if set {
            ms |= flag;
        }
    }
    ms
}

pub(super) fn check_mountpoint(path: &Path) -> Result<(), SetupError> {
    let open = |source| SetupError::Open {
        role: "mountpoint",
        path: path.to_path_buf(),
        source,
    };
    match std::fs::metadata(path) {
        // Over the root of all, the mount would be seen by nobody, and its end would unmount what lies below.
        Ok(_) if path.canonicalize().is_ok_and(|path| path.parent().is_none()) => Err(open(Errno::BUSY)),
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(open(Errno::NOTDIR)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            Err(SetupError::DeadMount(path.to_path_buf()))
        }
        Err(error) => Err(open(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    }
}

fn fusermount_is_there() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join("fusermount3").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_all_is_no_mountpoint() {
        for path in ["/", "/proc/.."] {
            let refused = check_mountpoint(Path::new(path));
            assert!(matches!(refused, Err(SetupError::Open { .. })), "{path}");
        }
        assert!(check_mountpoint(&std::env::temp_dir()).is_ok());
    }
}
