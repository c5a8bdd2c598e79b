//! System calls as somebody else, without another process.

use rustix::process::{Gid, Uid};
use std::path::Path;

/// Runs `act` as user `uid` of group `gid` and of `groups`, with no capability: in a thread of its own, since Linux
/// keeps all of these by thread (credentials(7), "NPTL and process credential changes").
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
            rustix::thread::set_thread_groups(&groups).expect("set groups");
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("set the group");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("set the user");
            act()
        });
        match other.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Lets everybody through the directory that holds a scratch, which is private to root at first.
pub fn let_everybody_in(scratch: &Path) {
    let holder = scratch.parent().expect("a scratch lies in a directory");
    crate::posix::chmod(holder, 0o755).expect("open the scratch to others");
}
