//! Ends of listings that the kernel must not keep.
//!
//! Where all that it keeps of a directory fills its last page to the last byte, it takes a position that it does not find there
//! for the end (`fuse_readdir_cached` in fs/fuse/readdir.c compares the place in the page with a size of 0): a program in the
//! middle of an earlier listing would see no more names. So before the answer that completes such a listing, the pages of what
//! is kept are taken away: who comes next finds them missing, and asks.
//!
//! A thread of its own does this: a program can make it wait for a page into which it has something listed, which a thread that
//! answers requests must never do.

use std::sync::OnceLock;

use crossbeam::channel::{Sender, unbounded};
use fuser::{INodeNo, Notifier};

/// A directory, and the answer to be given then.
type End = (INodeNo, Box<dyn FnOnce() + Send>);

/// The way to the thread, which begins with the first such end.
#[derive(Debug, Default)]
pub(super) struct Ends(OnceLock<Option<Sender<End>>>);

impl Ends {
    /// Answers when the kernel has forgotten what it keeps of the directory's names.
    pub(super) fn answer(&self, notifier: &Notifier, dir: INodeNo, answer: impl FnOnce() + Send + 'static) {
        let ends = self.0.get_or_init(|| start(notifier.clone()));
        match ends {
            // It ends after the last sender.
            Some(ends) => drop(ends.send((dir, Box::new(answer)))),
            None => forget(notifier, dir, answer),
        }
    }
}

fn start(notifier: Notifier) -> Option<Sender<End>> {
    let (sender, ends) = unbounded::<End>();
    let thread = std::thread::Builder::new()
        .name("ends".to_owned())
        .spawn(move || {
            for (dir, answer) in ends {
                forget(&notifier, dir, answer);
            }
        });
    match thread {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!(%error, "no thread for the ends of listings");
            None
        }
    }
}

fn forget(notifier: &Notifier, dir: INodeNo, answer: impl FnOnce()) {
    if let Err(error) = notifier.inval_inode(dir, 0, 0) {
        tracing::debug!(%dir, %error, "a listing may be kept that should not be");
    }
    answer();
}
