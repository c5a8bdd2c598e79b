//! What a server must still know when it was killed and started again: the numbers it told the kernel.
//!
//! The kernel names files and open files by numbers. Files of an index are found by their number alone; of all others
//! the names that lead to them are written down here as they become known, before the kernel hears of the number.
//!
//! ```text
//! record:  length u32 | sum u32 | kind u8 | fields          a torn last one is left out
//! log:     Generation | … | Complete | records as things happen
//! ```
//!
//! The records lie in two files in memory that the supervisor holds open: one is written, and when half of it no longer
//! counts, what still does is copied to the other, which is valid from its `Complete` on and then newer. So a server
//! may be killed at any byte. Names that are written down may be out of date: whoever follows one compares the number
//! of what is found.

mod keeper;
mod live;
mod record;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

pub(crate) use keeper::{Keeper, Kept as KeptFiles};
pub(crate) use live::{Live, LiveHandle, LiveNode};
pub(crate) use record::Record;

use crate::sys::log::{Log, memory_file};

/// A log is not copied below this size.
const COPY_BYTES_MIN: usize = 1 << 20;

/// The two files, as the supervisor keeps them.
#[derive(Debug)]
pub(crate) struct Store([Arc<File>; 2]);

impl Store {
    /// Two files in memory, empty.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self([Arc::new(memory_file()?), Arc::new(memory_file()?)]))
    }

    /// What is written down, from the newer of the two files that is complete.
    pub(crate) fn read(&self) -> io::Result<Live> {
        self.newest().map(|(_, live)| live)
    }

    fn newest(&self) -> io::Result<(usize, Live)> {
        let (first, second) = (Live::replay(&self.0[0])?, Live::replay(&self.0[1])?);
        Ok(if second.is_newer_than(&first) {
            (1, second)
        } else {
            (0, first)
        })
    }
}

/// Writes down what happens. The default keeps nothing.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    writer: Option<Mutex<Writer>>,
    /// The way to the supervisor, who holds deleted files open.
    keeper: Option<Keeper>,
}

#[derive(Debug)]
struct Writer {
    files: [Arc<File>; 2],
    current: usize,
    generation: u64,
    log: Log,
    /// Records of the log.
    records: usize,
    /// How many of them no longer count, about.
    dead: usize,
    /// For the next record.
    buffer: Vec<u8>,
}

impl Journal {
    /// Goes on after what `store` holds, which is answered.
    pub(crate) fn resume(store: &Store, keeper: Option<Keeper>) -> io::Result<(Self, Live)> {
        let (current, live) = store.newest()?;
        let current = 1 - current;
        let generation = live.generation + 1;
        let (log, records) = copied(&store.0[current], generation, &live)?;
        let writer = Writer {
            log,
            files: store.0.clone(),
            current,
            generation,
            records,
            dead: 0,
            buffer: Vec::new(),
        };
        let journal = Self {
            writer: Some(Mutex::new(writer)),
            keeper,
        };
        Ok((journal, live))
    }

    /// Whether anything is kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes one record down. What cannot be written (no memory) is not known after a restart.
    pub(crate) fn note(&self, record: &Record<'_>) {
        let Some(writer) = &self.writer else { return };
        if let Err(error) = writer.lock().append(record) {
            tracing::warn!(%error, "a restart would not know all numbers");
        }
    }
}

impl Journal {
    /// Lets the supervisor hold a file that is about to lose its name.
    pub(crate) fn keep_open(&self, number: u64, file: &OwnedFd) {
        self.tell(number, Some(file));
    }

    /// Lets the supervisor close such a file.
    pub(crate) fn let_go(&self, number: u64) {
        self.tell(number, None);
    }

    fn tell(&self, number: u64, file: Option<&OwnedFd>) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.tell(number, file)
        {
            tracing::warn!(%error, "a deleted file that is open will not be there after a restart");
        }
    }
}

impl Writer {
    fn append(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.buffer.clear();
        record.frame(&mut self.buffer);
        self.log.append(&self.buffer)?;
        self.records += 1;
        self.dead += record.ends();
        if self.log.len_bytes() < COPY_BYTES_MIN || 2 * self.dead < self.records {
            return Ok(());
        }
        // Should there be no memory for the copy, it is tried again when as many more are dead.
        self.dead = 0;
        let live = Live::replay(&self.files[self.current])?;
        let other = 1 - self.current;
        (self.log, self.records) = copied(&self.files[other], self.generation + 1, &live)?;
        self.current = other;
        self.generation += 1;
        Ok(())
    }
}

/// Begins a log with what still counts. Returns how many records that are, too.
fn copied(file: &Arc<File>, generation: u64, live: &Live) -> io::Result<(Log, usize)> {
    let mut bytes = Vec::new();
    Record::Generation(generation).frame(&mut bytes);
    let mut records = 0;
    for record in live.records() {
        record.frame(&mut bytes);
        records += 1;
    }
    let mut log = Log::over(file, &bytes)?;
    bytes.clear();
    Record::Complete.frame(&mut bytes);
    log.append(&bytes)?;
    Ok((log, records))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::fs::Mode;

    const WRITE: Mode = Mode {
        write: true,
        runs: false,
    };

    fn link(number: u64, parent: u64, name: &str) -> Record<'_> {
        Record::Link {
            number,
            parent,
            name: OsStr::new(name),
        }
    }

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let store = Store::new().unwrap();
        let (journal, live) = Journal::resume(&store, None).unwrap();
        assert!(live.nodes.is_empty() && live.init.is_none());
        journal.note(&Record::Init(b"init"));
        journal.note(&Record::Held {
            number: 7,
            inode: 7,
            is_dir: false,
        });
        journal.note(&link(7, 1, "old"));
        journal.note(&link(7, 1, "new"));
        journal.note(&Record::Unlink {
            number: 7,
            parent: 1,
            name: OsStr::new("old"),
        });
        journal.note(&Record::Open {
            handle: 3,
            node: 7,
            mode: WRITE,
            request: 5,
        });
        drop(journal);
        for _ in 0..3 {
            let (_, live) = Journal::resume(&store, None).unwrap();
            assert_eq!(live.init.as_deref(), Some(&b"init"[..]));
            assert_eq!(live.nodes[&7].links, [(1, "new".into())]);
            assert_eq!(
                live.handles[&3],
                LiveHandle {
                    node: 7,
                    mode: WRITE,
                    request: 5
                }
            );
        }
    }

    #[test]
    fn a_torn_record_and_a_torn_copy_are_left_out() {
        let store = Store::new().unwrap();
        let (journal, _) = Journal::resume(&store, None).unwrap();
        journal.note(&Record::Init(b"init"));
        journal.note(&link(7, 1, "name"));
        let (current, live) = store.newest().unwrap();
        assert_eq!(live.generation, 1);
        let file = &store.0[current];
        let writer = journal.writer.as_ref().unwrap().lock();
        let length = writer.log.len_bytes() as u64;
        drop(writer);
        file.write_all_at(&[0], length - 1).unwrap();
        // A copy that was begun and never completed is newer, but does not count.
        let mut torn = Vec::new();
        Record::Generation(9).frame(&mut torn);
        Record::Init(b"other").frame(&mut torn);
        store.0[1 - current].set_len(0).unwrap();
        store.0[1 - current].write_all_at(&torn, 0).unwrap();
        let live = store.read().unwrap();
        assert_eq!(live.init.as_deref(), Some(&b"init"[..]));
        assert!(!live.nodes.contains_key(&7));
    }

    #[test]
    fn a_long_log_is_copied_and_loses_nothing_that_counts() {
        let store = Store::new().unwrap();
        let (journal, _) = Journal::resume(&store, None).unwrap();
        let held = |number, is_dir| Record::Held {
            number,
            inode: number,
            is_dir,
        };
        journal.note(&held(2, true));
        journal.note(&link(2, 1, "dir"));
        journal.note(&held(3, false));
        journal.note(&link(3, 2, "file"));
        // Forgotten, but the way to one that is held.
        journal.note(&Record::Gone { number: 2 });
        let name = "n".repeat(200);
        for number in 10..20_000 {
            journal.note(&held(number, false));
            journal.note(&link(number, 2, &name));
            journal.note(&Record::Gone { number });
        }
        let live = store.read().unwrap();
        assert!(live.generation > 2, "{}", live.generation);
        assert_eq!(live.nodes[&3].links, [(2, "file".into())]);
        assert_eq!(live.nodes[&2].links, [(1, "dir".into())]);
        let bytes: u64 = store.0.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(bytes < 5 * COPY_BYTES_MIN as u64, "{bytes} bytes");
    }
}
