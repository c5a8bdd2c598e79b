//! The mounts of a container: Docker's defaults, the engine's own files, the caller's (pure).

use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use super::error::BundleError;
use super::volume::{Source, UserMount};
use super::{Network, Settings};

/// All mounts in the order in which they are made. A caller's mount takes the place of a default at the same path.
pub(super) fn all(settings: &Settings) -> Result<Vec<Mount>, BundleError> {
    let mut mounts = defaults(settings)?;
    for (source, destination) in &settings.files {
        // They belong to the root: it is read-only as a whole.
        let access = if settings.read_only { "ro" } else { "rw" };
        mounts.push(mount(
            destination,
            "bind",
            source,
            &["rbind", "rprivate", access],
        )?);
    }
    for user in &settings.mounts {
        mounts.retain(|held| held.destination() != Path::new(&user.destination));
        mounts.push(user_mount(user)?);
    }
    Ok(mounts)
}

fn defaults(settings: &Settings) -> Result<Vec<Mount>, BundleError> {
    let quiet = ["nosuid", "noexec", "nodev"];
    let access = if settings.privileged { "rw" } else { "ro" };
    let with_access = ["nosuid", "noexec", "nodev", access];
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if settings.rights.has_tty_group {
        pts.push("gid=5");
    }
    let sysfs = if settings.rights.in_user_namespace && settings.network == Network::Host {
        // A sysfs shows a network namespace, and mounting one takes rights over it: the machine's own is shown.
        mount(
            "/sys",
            "bind",
            "/sys",
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", access],
        )?
    } else {
        mount("/sys", "sysfs", "sysfs", &with_access)?
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &quiet)?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount("/dev/pts", "devpts", "devpts", &pts)?,
        sysfs,
    ];
    if !settings.rights.in_user_namespace {
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &with_access)?);
    }
    mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &quiet)?);
    mounts.push(mount(
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
    )?);
    Ok(mounts)
}

fn user_mount(user: &UserMount) -> Result<Mount, BundleError> {
    let options: Vec<&str> = user.options.iter().map(String::as_str).collect();
    match &user.source {
        Source::Bind(path) => mount(&user.destination, "bind", path, &options),
        Source::Tmpfs => mount(&user.destination, "tmpfs", "tmpfs", &options),
    }
}

fn mount(
    destination: &str,
    kind: &str,
    source: impl AsRef<Path>,
    options: &[&str],
) -> Result<Mount, BundleError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    Ok(MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source.as_ref())
        .options(options)
        .build()?)
}
