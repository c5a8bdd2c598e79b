//! Going on where another server died: what it had open, and what it was in the middle of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Fs;
use crate::error::{Result, SetupError};
use crate::idmap::IdMap;
use crate::io_mode::{Backing, Side};
use crate::journal::{Journal, Live, LiveHandle, Record};
use crate::union::Layout;

/// Makes a backing of the number that the kernel knows it by.
pub(crate) type MakeBacking<'a> = dyn Fn(u32) -> Arc<dyn Backing> + 'a;

/// What an earlier server may have done without saying so, by the number of the request.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Exchanges of names: the number of the file that the first name led to.
    exchanges: BTreeMap<u64, u64>,
    /// Handles.
    opens: HashMap<u64, u64>,
}

impl Fs {
    /// Opens the layers and goes on with what is `live`. `orphans` are the deleted files that are still open.
    pub(crate) fn resume(
        layout: &Layout,
        ids: IdMap,
        journal: Journal,
        mut live: Live,
        orphans: HashMap<u64, Arc<OwnedFd>>,
        make_backing: &MakeBacking<'_>,
    ) -> std::result::Result<Self, SetupError> {
        let mut fs = Self::assemble(layout, ids, journal, &mut live, orphans)?;
        fs.unanswered.exchanges = live.exchanges;
        fs.handles.skip_to(live.handle_max);
        let mut backings: HashMap<u64, (Side, Arc<dyn Backing>)> = live
            .backings
            .into_iter()
            .map(|(node, (id, side))| (node, (side, make_backing(id))))
            .collect();
        let mut open = HashSet::new();
        for (number, handle) in live.handles {
            match fs.reopen(number, handle, &backings) {
                Ok(()) => {
                    open.insert(handle.node);
                    fs.unanswered.opens.insert(handle.request, number);
                }
                Err(error) => tracing::warn!(node = handle.node, %error, "an open file is lost"),
            }
        }
        // A server that died between the two left them when it closed the last handle.
        backings.retain(|node, _| !open.contains(node));
        for node in backings.keys() {
            fs.note_backing(*node, None);
        }
        Ok(fs)
    }

    fn reopen(
        &self,
        number: u64,
        handle: LiveHandle,
        backings: &HashMap<u64, (Side, Arc<dyn Backing>)>,
    ) -> Result<()> {
        let node = self.union.node(handle.node)?;
        self.open_again(number, &node, handle.mode)?;
        node.io.lock().resume(backings.get(&handle.node).cloned());
        Ok(())
    }

    /// The number of the file that a name leads to, the same for every server.
    pub(crate) fn number_of(&self, parent: u64, name: &OsStr) -> Result<u64> {
        let parent = self.dir_node(parent)?;
        Ok(self.find(&parent.inode, name)?.ino)
    }

    /// Whether an earlier server has carried out the exchange that is asked for again, of which the first name now
    /// leads to `number`. If not, what it leads to is written down.
    pub(crate) fn is_exchanged(&self, unique: u64, number: u64) -> bool {
        match self.unanswered.exchanges.get(&unique) {
            Some(before) => *before != number,
            None => {
                self.union
                    .nodes
                    .journal
                    .note(&Record::Exchange { unique, number });
                false
            }
        }
    }

    /// The handle that an earlier server opened for this request, which is asked for again: so nobody knows the handle.
    pub(crate) fn unanswered_open(&self, request: u64) -> Option<u64> {
        self.unanswered.opens.get(&request).copied()
    }

    /// Where is written down what a restart must know.
    pub(crate) fn journal(&self) -> &Journal {
        &self.union.nodes.journal
    }

    /// Notes that a node is passed through to the backing that the kernel knows by `id`; `None`: no longer.
    pub(crate) fn note_backing(&self, node: u64, backing: Option<(u32, Side)>) {
        self.union.nodes.journal.note(&match backing {
            Some((id, side)) => Record::Backing { node, id, side },
            None => Record::Unbacked { node },
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustix::fs::OFlags;

    use super::*;
    use crate::fs::{OpenFile, ROOT};
    use crate::journal::Store;
    use crate::union::Lower;
    use crate::upper::UpperOptions;

    /// What the servers of one mount have in common.
    struct Mount {
        dir: tempfile::TempDir,
        store: Store,
        /// The numbers of the backings that were made again.
        made: Mutex<Vec<u32>>,
    }

    impl Mount {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["lower", "upper", "work"] {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
            for name in ["a", "b"] {
                std::fs::write(dir.path().join("lower").join(name), name).unwrap();
            }
            Self {
                dir,
                store: Store::new().unwrap(),
                made: Mutex::default(),
            }
        }

        fn server(&self) -> Fs {
            let at = |name: &str| self.dir.path().join(name);
            let layout = Layout {
                lowers: vec![Lower::Directory(at("lower"))],
                upper: Some((at("upper"), at("work"))),
                options: UpperOptions {
                    user_marks: true,
                    ..UpperOptions::default()
                },
                ..Layout::default()
            };
            let (journal, live) = Journal::resume(&self.store, None).unwrap();
            let make = |id| -> Arc<dyn Backing> {
                self.made.lock().unwrap().push(id);
                Arc::new(id)
            };
            Fs::resume(&layout, IdMap::default(), journal, live, HashMap::new(), &make).unwrap()
        }
    }

    fn open(fs: &Fs, name: &str, request: u64) -> (u64, u64) {
        let node = fs.lookup(ROOT, OsStr::new(name)).unwrap().node;
        let handle = fs.open_file(node, OFlags::RDONLY, true).unwrap().handle;
        fs.note_open(handle, request);
        (node, handle)
    }

    #[test]
    fn a_handle_is_known_by_its_request_until_it_is_closed() {
        let mount = Mount::new();
        let first = mount.server();
        let (_, handle) = open(&first, "a", 5);
        let (_, closed) = open(&first, "b", 6);
        first.close(closed);
        drop(first);
        let second = mount.server();
        assert_eq!(second.handles.len(), 1);
        assert_eq!(second.unanswered_open(5), Some(handle));
        assert_eq!(second.unanswered_open(6), None);
        let mut buffer = [0; 2];
        assert_eq!(second.read(OpenFile::Handle(handle), &mut buffer, 0).unwrap(), 1);
        assert_eq!(buffer[0], b'a');
        let (_, new) = open(&second, "b", 8);
        assert!(![handle, closed].contains(&new), "no handle is given twice");
        second.close(handle);
        second.close(new);
        drop(second);
        assert_eq!(mount.server().handles.len(), 0);
    }

    #[test]
    fn a_backing_without_a_handle_is_let_go() {
        let mount = Mount::new();
        let first = mount.server();
        let (node, handle) = open(&first, "a", 5);
        let (closed_node, closed) = open(&first, "b", 6);
        first.note_backing(node, Some((1, Side::Lower)));
        first.note_backing(closed_node, Some((2, Side::Lower)));
        // It dies before it notes that the backing is gone as well.
        first.close(closed);
        drop(first);
        let second = mount.server();
        mount.made.lock().unwrap().sort_unstable();
        assert_eq!(*mount.made.lock().unwrap(), [1, 2]);
        assert_eq!(mount.store.read().unwrap().backings.len(), 1);
        let backing = second.node_of(handle).unwrap().io.lock().close();
        assert!(backing.is_some(), "the other one goes on");
    }

    #[test]
    fn an_exchange_is_done_once() {
        let mount = Mount::new();
        let exchange = |fs: &Fs| {
            let (a, b) = (OsStr::new("a"), OsStr::new("b"));
            let before = fs.number_of(ROOT, a).unwrap();
            if !fs.is_exchanged(9, before) {
                fs.rename(ROOT, a, ROOT, b, crate::fs::RenameFlags::Exchange)
                    .unwrap();
            }
            fs.number_of(ROOT, a).unwrap()
        };
        let first = mount.server();
        let before = first.number_of(ROOT, OsStr::new("a")).unwrap();
        let after = exchange(&first);
        assert_ne!(before, after);
        drop(first);
        for _ in 0..2 {
            assert_eq!(exchange(&mount.server()), after);
        }
    }
}
