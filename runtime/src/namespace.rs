//! Namespaces: entering those that exist, giving a new user namespace its users, a new time namespace its clocks.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::plan::Namespaces;
use crate::plan::mount::Idmap;
use crate::spec::IdMapping;
use crate::sys::process::{self as sys, Cloned};

/// Enters the namespaces that exist already. All are opened first, since entering one may hide the path of another.
pub fn join(namespaces: &Namespaces) -> Result<()> {
    let open = |(flag, path): &(CloneFlags, std::path::PathBuf)| {
        let file = File::open(path).context(|| format!("open the namespace {}", path.display()))?;
        Ok((*flag, path.clone(), file))
    };
    let opened: Vec<_> = namespaces.join.iter().map(open).collect::<Result<_>>()?;
    for (flag, path, file) in &opened {
        setns(file, *flag).context(|| format!("enter the namespace {}", path.display()))?;
        if *flag == CloneFlags::CLONE_NEWUSER {
            become_root()?;
        }
    }
    Ok(())
}

/// Becomes root of the user namespace that was just entered or made. A namespace with one user may not let us
/// change groups, and needs no change then.
pub fn become_root() -> Result<()> {
    if setgroups_allowed() {
        let _ = sys::set_groups(&[]);
    }
    sys::set_user(0, 0).context(|| "become root of the user namespace (is its user 0 mapped?)")
}

/// Whether this process may change its supplementary groups at all.
pub fn setgroups_allowed() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() == "allow")
}

/// Whether the group exists in this user namespace.
pub fn gid_is_mapped(gid: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/gid_map") else {
        return true;
    };
    map.lines().any(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (
            numbers.next().unwrap_or(0),
            numbers.next(),
            numbers.next().unwrap_or(0),
        );
        (first..first + count).contains(&u64::from(gid))
    })
}

/// Whether this process sees the users of the machine as they are.
pub fn is_initial_user_namespace() -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return true;
    };
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Gives the clocks of the time namespace that the next child will be in their offsets.
pub fn write_time_offsets(namespaces: &Namespaces) -> Result<()> {
    let line = |(clock, offset): &(String, crate::spec::TimeOffset)| {
        format!("{clock} {} {}\n", offset.secs, offset.nanosecs)
    };
    let text: String = namespaces.time_offsets.iter().map(line).collect();
    if text.is_empty() {
        return Ok(());
    }
    std::fs::write("/proc/self/timens_offsets", text).context(|| "set the clocks of the time namespace")
}

/// Gives the new user namespace of `pid` its users and groups, from outside.
///
/// Without the right to write any mapping, newuidmap and newgidmap (which have it, within /etc/subuid) do it.
pub fn write_id_maps(pid: Pid, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    let single = |map: &[IdMapping], own: u32| matches!(map, [one] if one.size == 1 && one.host_id == own);
    let own_group_only = !nix::unistd::geteuid().is_root()
        && single(uids, nix::unistd::geteuid().as_raw())
        && single(gids, nix::unistd::getegid().as_raw());
    if own_group_only {
        write_proc(pid, "setgroups", "deny")?;
    }
    write_id_map(pid, "uid_map", uids, "newuidmap")?;
    write_id_map(pid, "gid_map", gids, "newgidmap")
}

fn write_id_map(pid: Pid, file: &str, map: &[IdMapping], program: &str) -> Result<()> {
    let lines: String = map
        .iter()
        .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size))
        .collect();
    match write_proc(pid, file, &lines) {
        Err(error) if error.is_denied() => run_map_program(program, pid, map)
            .context(|| format!("write {file} ({error}); and with the help of {program}")),
        result => result,
    }
}

fn write_proc(pid: Pid, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, text).context(|| format!("write {path}"))
}

fn run_map_program(program: &str, pid: Pid, map: &[IdMapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for mapping in map {
        command.args([mapping.container_id, mapping.host_id, mapping.size].map(|number| number.to_string()));
    }
    let output = command
        .output()
        .context(|| format!("run {program} (is the package uidmap installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::invalid(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// Maps the owners of a detached mount.
pub fn idmap_mount(tree: BorrowedFd<'_>, idmap: &Idmap, namespaces: &Namespaces) -> Result<()> {
    let pick = |own: &[IdMapping], all: &[IdMapping]| {
        if own.is_empty() {
            all.to_vec()
        } else {
            own.to_vec()
        }
    };
    let uids = pick(&idmap.uid_mappings, &namespaces.uid_mappings);
    let gids = pick(&idmap.gid_mappings, &namespaces.gid_mappings);
    let namespace = if idmap.uid_mappings.is_empty() && namespaces.has(CloneFlags::CLONE_NEWUSER) {
        OwnedFd::from(File::open("/proc/self/ns/user").context(|| "open the user namespace")?)
    } else {
        make_user_namespace(&uids, &gids)?
    };
    crate::sys::mount::set_idmap(tree, namespace.as_fd(), idmap.recursive)
        .context(|| "the file system, or the rights of the runtime, do not allow it")
}

/// A user namespace without a process in it, for its mapping alone.
fn make_user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid(
            "there is no mapping, neither of the mount nor of the container",
        ));
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    match sys::clone_process(CloneFlags::CLONE_NEWUSER).context(|| "make a user namespace")? {
        Cloned::Child => {
            drop(ours);
            // Lives until the other end is closed.
            let _ = std::io::Read::read(&mut &theirs, &mut [0]);
            sys::exit_now(0)
        }
        Cloned::Parent(pid) => {
            drop(theirs);
            let result = write_id_maps(pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                File::open(Path::new(&path)).context(|| format!("open {path}"))
            });
            drop(ours);
            let _ = nix::sys::wait::waitpid(pid, None);
            result.map(OwnedFd::from)
        }
    }
}
