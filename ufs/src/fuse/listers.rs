//! Who may list a directory into the kernel's memory, on a mount that can change.
//!
//! The kernel can keep a listing and give it to the next program without a request; it notes the version of the
//! directory when a program begins to list it, and drops the listing when the version is another one. Of two programs
//! that list at the same time one may note the version after a change while the other still brings what it read
//! before it (`fuse_readdir_cached` and `fuse_add_dirent_to_cache` in fs/fuse/readdir.c): a name is missing until the
//! next change. So only one open descriptor of a directory at a time is allowed to (`FOPEN_CACHE_DIR`): what it
//! brings is never newer than the version it noted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use fuser::{FileHandle, FopenFlags, INodeNo};
use parking_lot::Mutex;

/// Handle of a descriptor that only looks.
const ONLOOKER: FileHandle = FileHandle(0);

/// The descriptors that may fill the kernel's memory, by directory.
#[derive(Debug, Default)]
pub(super) struct Listers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    handles: HashMap<INodeNo, FileHandle>,
    last: u64,
    stopped: bool,
}

impl Listers {
    /// The answer to an open of a directory.
    pub(super) fn open(&self, dir: INodeNo) -> (FileHandle, FopenFlags) {
        let mut state = self.0.lock();
        if state.stopped {
            return (ONLOOKER, FopenFlags::FOPEN_KEEP_CACHE);
        }
        let next = FileHandle(state.last + 1);
        let handle = match state.handles.entry(dir) {
            Entry::Occupied(_) => ONLOOKER,
            Entry::Vacant(free) => *free.insert(next),
        };
        // Without FOPEN_KEEP_CACHE an onlooker would throw the listing away.
        if handle == ONLOOKER {
            return (ONLOOKER, FopenFlags::FOPEN_KEEP_CACHE);
        }
        state.last += 1;
        (handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR)
    }

    /// From here on nobody may: a server before this one allowed it to somebody who may still be there.
    pub(super) fn stop(&self) {
        self.0.lock().stopped = true;
    }

    /// A descriptor is closed.
    pub(super) fn close(&self, dir: INodeNo, handle: FileHandle) {
        let mut state = self.0.lock();
        if state.handles.get(&dir) == Some(&handle) {
            state.handles.remove(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_descriptor_at_a_time_may_fill() {
        let listers = Listers::default();
        let fills = |flags: FopenFlags| flags.contains(FopenFlags::FOPEN_CACHE_DIR);
        let (first, flags) = listers.open(INodeNo(7));
        assert!(fills(flags));
        let (second, flags) = listers.open(INodeNo(7));
        assert!(!fills(flags) && flags.contains(FopenFlags::FOPEN_KEEP_CACHE));
        let (other, flags) = listers.open(INodeNo(8));
        assert!(fills(flags) && other != first);
        listers.close(INodeNo(7), second);
        assert!(!fills(listers.open(INodeNo(7)).1), "the first is still open");
        listers.close(INodeNo(7), first);
        let (third, flags) = listers.open(INodeNo(7));
        assert!(fills(flags));
        listers.close(INodeNo(7), first);
        assert!(!fills(listers.open(INodeNo(7)).1), "an old handle ends nothing");
        listers.close(INodeNo(7), third);
        assert!(fills(listers.open(INodeNo(7)).1));
        listers.stop();
        assert!(!fills(listers.open(INodeNo(9)).1));
    }
}
