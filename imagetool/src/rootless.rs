//! The user namespace in which a plain user's commands run.
//!
//! ```text
//! shale (uid 1000)
//!   ├─ fork: helper, stays outside ── newuidmap, newgidmap ──► writes the maps of
//!   └─ unshare(user, mount) ──────────────────────────────────► shale, root inside
//!                                     0     → 1000             the caller
//!                                     1 …   → /etc/subuid      where the machine grants more ids
//! ```
//!
//! Without `newuidmap` or a range in `/etc/subuid`, the caller alone is mapped, as root: all files belong to root
//! then, and other owners cannot be kept. The mount namespace is a slave of the machine's: what is mounted there
//! shows up here, nothing goes back.
//!
//! Every command makes a namespace of its own; as the maps are the same, the files of one are those of the next.

mod sys;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, User, getegid, geteuid, pipe};

/// A range of ids granted by `/etc/subuid` or `/etc/subgid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdRange {
    start: u32,
    count: u32,
}

/// Which maps the helper wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapped {
    users: bool,
    groups: bool,
}

/// Moves the program into a user namespace where it is root, when the caller is not root. Called by `main` before
/// any thread exists, for every command that touches the store; returns when the process has the rights it needs.
pub fn enter_user_namespace() -> io::Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let (users, groups) = granted_ranges(uid);
    let (wait, go) = pipe()?;
    let helper = match sys::fork_single_threaded()? {
        ForkResult::Child => {
            drop(go);
            std::process::exit(helper_main(wait, &users, &groups, (uid, gid)));
        }
        ForkResult::Parent { child } => child,
    };
    drop(wait);
    let entered = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    if entered.is_ok() {
        fs::File::from(go).write_all(b"g")?;
    } else {
        drop(go);
    }
    let mapped = helper_result(waitpid(helper, None)?);
    entered.map_err(|errno| io::Error::new(io::Error::from(errno).kind(), refusal(errno)))?;
    write_missing_maps(mapped, uid, gid)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|errno| {
        io::Error::new(
            io::Error::from(errno).kind(),
            format!("make the mounts private: {}", refusal(errno)),
        )
    })?;
    Ok(())
}

/// The ranges of the caller, empty where the programs that grant them are not installed.
fn granted_ranges(uid: u32) -> (Vec<IdRange>, Vec<IdRange>) {
    let found = |program: &str| in_path(program).is_some();
    if !found("newuidmap") || !found("newgidmap") {
        return (Vec::new(), Vec::new());
    }
    let name = User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let read = |path: &str| {
        parse_ranges(
            &fs::read_to_string(path).unwrap_or_default(),
            name.as_deref(),
            uid,
        )
    };
    (read("/etc/subuid"), read("/etc/subgid"))
}

/// A program of the search path.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The lines `NAME|UID:START:COUNT` of a user. Ranges that reach above the last id are passed over.
fn parse_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<IdRange> {
    let number = uid.to_string();
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if Some(owner) != name && owner != number {
            return None;
        }
        let start: u32 = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        (count > 0 && start.checked_add(count).is_some()).then_some(IdRange { start, count })
    };
    text.lines().filter_map(parse).collect()
}

/// The arguments after the process id: root is the caller, the ranges follow one another from 1.
fn map_arguments(own: u32, ranges: &[IdRange]) -> Vec<String> {
    let mut arguments = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut next: u32 = 1;
    for range in ranges {
        let Some(after) = next.checked_add(range.count) else {
            break;
        };
        arguments.extend([next.to_string(), range.start.to_string(), range.count.to_string()]);
        next = after;
    }
    arguments
}

/// The helper outside: waits until the parent is in its namespace, then has the maps written. Its exit status tells
/// which: 1 the users', 2 the groups', 3 both.
fn helper_main(wait: OwnedFd, users: &[IdRange], groups: &[IdRange], own: (u32, u32)) -> i32 {
    let mut word = [0];
    if fs::File::from(wait).read_exact(&mut word).is_err() || users.is_empty() || groups.is_empty() {
        return 0;
    }
    let parent = nix::unistd::getppid();
    let write = |program: &str, own: u32, ranges: &[IdRange]| {
        let mut command = Command::new(program);
        command.arg(parent.to_string()).args(map_arguments(own, ranges));
        command.status().is_ok_and(|status| status.success())
    };
    let users_written = write("newuidmap", own.0, users);
    let groups_written = users_written && write("newgidmap", own.1, groups);
    i32::from(users_written) + 2 * i32::from(groups_written)
}

fn helper_result(status: WaitStatus) -> Mapped {
    let code = if let WaitStatus::Exited(_, code) = status {
        code
    } else {
        0
    };
    Mapped {
        users: code & 1 != 0,
        groups: code & 2 != 0,
    }
}

/// Maps the caller alone where the helper mapped nothing. A group map by an unprivileged process takes giving up
/// setgroups() first.
fn write_missing_maps(mapped: Mapped, uid: u32, gid: u32) -> io::Result<()> {
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|error| io::Error::new(error.kind(), format!("write {path}: {error}")))
    };
    if !mapped.users {
        write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    }
    if !mapped.groups {
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    Ok(())
}

/// Why the kernel makes no user namespace, and what to do.
fn refusal(errno: Errno) -> String {
    let advice = match errno {
        Errno::EPERM | Errno::EACCES => {
            "plain users may not make user namespaces here: run shale as root, or allow them with `sysctl \
             kernel.unprivileged_userns_clone=1` (Debian) or `sysctl kernel.apparmor_restrict_unprivileged_userns=0` \
             (Ubuntu)"
        }
        Errno::ENOSPC | Errno::EUSERS => {
            "no more user namespaces are allowed: run shale as root, or raise `sysctl user.max_user_namespaces`"
        }
        Errno::ENOSYS | Errno::EINVAL => "this kernel has no user namespaces: run shale as root",
        _ => "run shale as root",
    };
    format!("{errno}: {advice}")
}

/// Whether `id` has a name in the map of the current user namespace (`uid_map` or `gid_map`).
pub fn is_mapped(map: &str, id: u32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/self/{map}")) else {
        return false;
    };
    contains(&text, id)
}

/// Whether a map covers an inner id.
fn contains(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(inner)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (inner..inner.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text =
            "ann:100000:65536\n# no\nbob:1:2\n1000:500000:10\nann:x:1\nann:7\nann:5:0\nann:4294967295:2\n";
        let expected = [
            IdRange {
                start: 100_000,
                count: 65_536,
            },
            IdRange {
                start: 500_000,
                count: 10,
            },
        ];
        assert_eq!(parse_ranges(text, Some("ann"), 1000), expected);
        assert_eq!(parse_ranges(text, None, 1000), [expected[1]]);
        assert_eq!(parse_ranges(text, Some("eve"), 7), []);
    }

    #[test]
    fn ranges_follow_one_another_above_the_caller() {
        let ranges = [
            IdRange {
                start: 100_000,
                count: 65_536,
            },
            IdRange {
                start: 500_000,
                count: 10,
            },
        ];
        assert_eq!(
            map_arguments(1000, &ranges).join(" "),
            "0 1000 1 1 100000 65536 65537 500000 10"
        );
        assert_eq!(map_arguments(1000, &[]).join(" "), "0 1000 1");
        let wild = [
            IdRange {
                start: 0,
                count: u32::MAX,
            },
            IdRange { start: 0, count: 9 },
        ];
        assert_eq!(map_arguments(0, &wild).join(" "), "0 0 1");
    }

    #[test]
    fn maps_are_read() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        for (id, expected) in [(0, true), (5, true), (65_536, true), (65_537, false)] {
            assert_eq!(contains(map, id), expected, "{id}");
        }
        assert!(contains("0 0 4294967295\n", 5));
        assert!(!contains("", 0));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for errno in [Errno::EPERM, Errno::ENOSPC, Errno::ENOSYS, Errno::EIO] {
            assert!(refusal(errno).contains("run shale as root"), "{errno}");
        }
    }
}
