//! What a server keeps when nobody uses the mount any more.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixture::counter;

/// What the threads' buffers and the allocator may hold on to.
const MEMORY_KIB_MAX: u64 = 96 << 10;
/// What a server may keep open beside directories, beyond what it had open at the start.
const DESCRIPTORS_MAX: usize = 8;
/// Directories are kept open, in bounds: 1,024 of the upper, 256 of each lower.
const DIRECTORIES_MAX: usize = 1024 + 256 * super::tree::LAYERS_MAX;
/// The root, and what the test itself looks at.
const NODES_MAX: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors and memory of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Open directories.
    directories: usize,
    /// Everything else that is open.
    descriptors: usize,
    memory_kib: u64,
}

impl Usage {
    pub(super) fn of(pid: i32) -> Usage {
        let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("the server runs")
            .flatten()
            .collect();
        let is_dir = |entry: &&std::fs::DirEntry| entry.path().metadata().is_ok_and(|meta| meta.is_dir());
        let directories = open.iter().filter(is_dir).count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let memory_kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|text| text.trim().trim_end_matches(" kB").trim().parse().ok())
            .unwrap_or(0);
        Usage {
            directories,
            descriptors: open.len() - directories,
            memory_kib,
        }
    }
}

/// Makes the kernel forget what it knows of the mount and compares with what the server needed before.
pub(super) fn check_for_leaks(server: i32, idle: Usage, mount: &Path) {
    let end = Instant::now() + PATIENCE;
    let (nodes, now) = loop {
        // A remount that changes nothing shrinks the name cache of this mount alone; the FORGETs come later.
        let (none, flags) = (None::<&str>, nix::mount::MsFlags::MS_REMOUNT);
        nix::mount::mount(none, mount, none, flags, none).expect("remount");
        let (nodes, now) = (counter(mount, "nodes"), Usage::of(server));
        let kept = now.descriptors.saturating_sub(idle.descriptors);
        if nodes <= NODES_MAX && kept <= DESCRIPTORS_MAX || Instant::now() > end {
            break (nodes, now);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    eprintln!("idle: {idle:?}; afterwards: {now:?}, {nodes} nodes");
    assert!(
        nodes <= NODES_MAX,
        "the server keeps {nodes} nodes that nobody uses"
    );
    assert!(
        now.descriptors <= idle.descriptors + DESCRIPTORS_MAX,
        "descriptors: {idle:?} at the start, {now:?} at the end"
    );
    assert!(
        now.directories <= idle.directories + DIRECTORIES_MAX,
        "directories: {idle:?} at the start, {now:?} at the end"
    );
    assert!(
        now.memory_kib <= idle.memory_kib + MEMORY_KIB_MAX,
        "memory: {idle:?} at the start, {now:?} at the end"
    );
}
